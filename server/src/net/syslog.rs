//! The syslog receiver: what loaders and kernels say before an agent can.
//!
//! Lines are attributed by the sender's address, so whoever has taken a machine's address can
//! speak for it: they are words to read, and nothing is decided by them.

use kaltstart_protocol::syslog::Line;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Bytes of a datagram that are read; the rest of a longer one is lost (RFC 5424 §6.1: 2048).
const DATAGRAM_MAX: usize = 2_048;
/// Lines one sender may send within [`PERIOD`]: a kernel says a thousand while it starts.
const LINES_MAX: u32 = 2_000;
/// Senders whose lines are counted; more than that are not heard until the next period.
const SENDERS_MAX: usize = 4_096;
/// After so long every sender begins anew.
const PERIOD: Duration = Duration::from_secs(60);
/// Lines that are handed on together.
const BATCH_MAX: usize = 256;
/// Pause after a failed receive, so that a broken socket does not keep a core busy.
const RECEIVE_PAUSE: Duration = Duration::from_secs(1);

/// Who takes the lines.
pub trait Listener: Send + Sync + 'static {
    /// Takes lines in their order, with the addresses of their senders.
    fn take(&self, lines: Vec<(Ipv4Addr, Line)>) -> impl Future<Output = ()> + Send;
}

/// Hears lines on `socket` until `stop`.
pub async fn serve<L: Listener>(socket: UdpSocket, listener: L, stop: CancellationToken) {
    let mut buffer = [0; DATAGRAM_MAX];
    let mut quota = Quota::new();
    loop {
        let Some(received) = stop.run_until_cancelled(socket.recv_from(&mut buffer)).await else { return };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "cannot receive syslog messages");
                stop.run_until_cancelled(tokio::time::sleep(RECEIVE_PAUSE)).await;
                continue;
            }
        };
        let mut lines = Vec::new();
        let mut hear = |from: IpAddr, datagram: &[u8]| {
            if let (IpAddr::V4(from), Some(line)) = (from, Line::parse(datagram))
                && quota.has_room(from)
            {
                lines.push((from, line));
            }
        };
        hear(from.ip(), &buffer[..length]);
        // What has arrived meanwhile goes along.
        for _ in 1..BATCH_MAX {
            let Ok((length, from)) = socket.try_recv_from(&mut buffer) else { break };
            hear(from.ip(), &buffer[..length]);
        }
        if !lines.is_empty() {
            listener.take(lines).await;
        }
    }
}

/// How much each sender may still say.
struct Quota {
    since: Instant,
    said: BTreeMap<Ipv4Addr, u32>,
}

impl Quota {
    fn new() -> Self {
        Self { since: Instant::now(), said: BTreeMap::new() }
    }

    fn has_room(&mut self, sender: Ipv4Addr) -> bool {
        if self.since.elapsed() >= PERIOD {
            *self = Self::new();
        }
        if self.said.len() >= SENDERS_MAX && !self.said.contains_key(&sender) {
            return false;
        }
        let said = self.said.entry(sender).or_default();
        *said = said.saturating_add(1);
        *said <= LINES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_chatterer_is_cut_off_for_a_while_and_others_are_heard() {
        let (mut quota, a, b) = (Quota::new(), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert!((0..LINES_MAX).all(|_| quota.has_room(a)) && !quota.has_room(a));
        assert!(quota.has_room(b));
        tokio::time::advance(PERIOD).await;
        assert!(quota.has_room(a));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_senders_takes_no_more_memory_than_it_may() {
        let mut quota = Quota::new();
        for n in 0..u32::try_from(SENDERS_MAX).expect("small") {
            assert!(quota.has_room(Ipv4Addr::from_bits(n)));
        }
        assert!(!quota.has_room(Ipv4Addr::from_bits(u32::MAX)) && quota.has_room(Ipv4Addr::from_bits(0)));
    }
}
