//! Counters of the DHCP service.

use kaltstart_protocol::dhcp::MessageType;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Reasons for which a message is not answered, or an answer not sent: those of
/// [`Drop`](kaltstart_core::dhcp::Drop) and those of the service itself.
const REASONS: [&str; 19] = [
    "malformed",
    "from-server",
    "type",
    "identity",
    "unknown-subnet",
    "unknown-relay",
    "other-server",
    "no-record",
    "incomplete",
    "pool-exhausted",
    "local-start",
    "not-stored",
    "restored",
    "proxy",
    "no-boot-file",
    "not-served",
    "send",
    "in-use",
    "unchecked",
];

/// How many messages of which kind were received, sent and dropped.
#[derive(Debug, Default)]
pub struct Stats {
    received: [AtomicU64; MessageType::ALL.len()],
    sent: [AtomicU64; MessageType::ALL.len()],
    dropped: [AtomicU64; REASONS.len()],
    /// Whether leases cannot be stored.
    failing: AtomicBool,
}

impl Stats {
    /// All counters: direction (`received`, `sent`, `dropped`), type or reason, count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let types = || MessageType::ALL.into_iter().map(MessageType::name);
        let read = |direction| {
            move |(name, count): (_, &AtomicU64)| (direction, name, count.load(Ordering::Relaxed))
        };
        let received = types().zip(&self.received).map(read("received"));
        let sent = types().zip(&self.sent).map(read("sent"));
        received.chain(sent).chain(REASONS.into_iter().zip(&self.dropped).map(read("dropped")))
    }

    /// Whether leases can be stored, as far as the last commit tells.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    /// Remembers whether leases can be stored; says whether that is news.
    pub(super) fn set_storing(&self, storing: bool) -> bool {
        self.failing.swap(!storing, Ordering::Relaxed) == storing
    }

    pub(super) fn received(&self, kind: MessageType) {
        count(&self.received[kind.index()]);
    }

    pub(super) fn sent(&self, kind: MessageType) {
        count(&self.sent[kind.index()]);
    }

    pub(super) fn dropped(&self, reason: &str) {
        if let Some(at) = REASONS.iter().position(|name| *name == reason) {
            count(&self.dropped[at]);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_core::dhcp::Drop;
    use std::net::Ipv4Addr;

    #[test]
    fn every_reason_is_counted() {
        let drops = [
            Drop::FromServer,
            Drop::Type,
            Drop::Identity,
            Drop::UnknownSubnet,
            Drop::UnknownRelay(Ipv4Addr::LOCALHOST),
            Drop::OtherServer(Ipv4Addr::LOCALHOST),
            Drop::NoRecord,
            Drop::Incomplete,
            Drop::PoolExhausted,
            Drop::LocalStart,
            Drop::NotStored,
            Drop::Restored,
            Drop::Proxy,
            Drop::NoBootFile,
            Drop::NotServed,
        ];
        let stats = Stats::default();
        drops.iter().for_each(|why| stats.dropped(why.name()));
        assert_eq!(stats.counts().filter(|(_, _, count)| *count == 1).count(), drops.len());
    }
}
