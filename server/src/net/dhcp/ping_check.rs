//! Offers that wait until nobody has answered for their address (RFC 2131 §2.2).

use super::neighbours::Neighbours;
use super::{Answer, Link, Stats};
use crate::net::neighbours;
use kaltstart_core::dhcp::ping_check::Check;
use nix::sys::socket::SockaddrIn;
use nix::sys::socket::{MsgFlags, recvfrom, sendto};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long somebody who has the address may take to answer. Firmware waits longer for an offer.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Addresses that are looked for at once. Each that nobody has takes an entry of the kernel's table
/// of neighbours for seconds, and that has 1,024.
const AT_ONCE_MAX: usize = 256;
/// How long the receiver waits for an answer before it looks what is due.
const RECEIVE_WAIT: Duration = Duration::from_millis(20);
/// Longest answer that is looked at: its head only counts.
const BUFFER: usize = 128;

/// ICMP types of RFC 792.
const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;

/// Asks an address for a sign of life.
pub trait Ping: Send + Sync + 'static {
    /// Sends an echo request, on a wire after asking by ARP.
    ///
    /// # Errors
    /// When it cannot be sent.
    fn ping(&self, address: Ipv4Addr) -> io::Result<()>;

    /// The addresses on wires for which somebody has answered ARP.
    fn on_wires(&self) -> BTreeSet<Ipv4Addr>;
}

/// A raw ICMP socket, and the tables of neighbours.
#[derive(Debug)]
pub struct Pinger {
    socket: Socket,
    /// Tells our echo requests from those of others on this machine.
    identifier: [u8; 2],
    wires: Vec<Neighbours>,
}

impl Pinger {
    /// Opens the sockets, for addresses on the wires of `interfaces` and behind relays. Needs the
    /// capabilities `NET_RAW` and, to forget what ARP told earlier, `NET_ADMIN`.
    ///
    /// # Errors
    /// When the right is missing.
    pub fn open<'a>(identifier: u16, interfaces: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_read_timeout(Some(RECEIVE_WAIT))?;
        let wires = interfaces.into_iter().map(Neighbours::open).collect::<io::Result<_>>()?;
        Ok(Self { socket, identifier: identifier.to_be_bytes(), wires })
    }

    /// The sender of an answer to one of ours; none when none came for a while.
    pub(super) fn receive(&self) -> Option<Ipv4Addr> {
        let mut buffer = [0; BUFFER];
        let (length, from) = recvfrom::<SockaddrIn>(self.socket.as_raw_fd(), &mut buffer).ok()?;
        let answered = is_answer(&buffer[..length], self.identifier);
        from.filter(|_| answered).map(|from| from.ip())
    }
}

impl Ping for Pinger {
    fn ping(&self, address: Ipv4Addr) -> io::Result<()> {
        // Who has had the address may be gone: the kernel must ask anew.
        for wire in &self.wires {
            wire.forget(address)?;
        }
        let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
        let request = echo_request(self.identifier);
        sendto(self.socket.as_raw_fd(), &request, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    fn on_wires(&self) -> BTreeSet<Ipv4Addr> {
        neighbours::all()
    }
}

/// An echo request without data. The identifier says all that has to be known of the answer.
fn echo_request(identifier: [u8; 2]) -> [u8; 8] {
    // RFC 1071: the complement of the sum; all but the type and the identifier is zero.
    let sum = (u32::from(ECHO) << 8) + u32::from(u16::from_be_bytes(identifier));
    let [.., high, low] = (!((sum >> 16) + (sum & 0xffff))).to_be_bytes();
    [ECHO, 0, high, low, identifier[0], identifier[1], 0, 0]
}

/// Whether an IPv4 packet is an answer to an echo request of that identifier.
fn is_answer(packet: &[u8], identifier: [u8; 2]) -> bool {
    let Some(first) = packet.first() else { return false };
    let head = usize::from(first & 0x0f) * 4;
    let message = packet.get(head..head + 8);
    message.is_some_and(|message| message[0] == ECHO_REPLY && message[4..6] == identifier)
}

/// The offers that wait.
pub(super) struct PingChecks {
    pinger: Option<Arc<dyn Ping>>,
    waiting: Mutex<BTreeMap<Ipv4Addr, Waiting>>,
    began: Condvar,
}

/// An offer that waits.
pub(super) struct Waiting {
    due: Instant,
    pub(super) answer: Answer,
    pub(super) link: Arc<dyn Link>,
}

impl PingChecks {
    /// Without a `pinger` nothing is looked for.
    pub(super) fn new(pinger: Option<Arc<dyn Ping>>) -> Self {
        Self { pinger, waiting: Mutex::default(), began: Condvar::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the offers that must wait, and returns the other answers. Where there is no room for one
    /// that must, nobody is answered: the client asks again.
    pub(super) fn hold_back(&self, answers: Vec<Answer>, link: &Arc<dyn Link>, stats: &Stats) -> Vec<Answer> {
        let Some(pinger) = &self.pinger else { return answers };
        let mut waiting = self.waiting();
        let mut ready = Vec::with_capacity(answers.len());
        for answer in answers {
            let Some(address) = answer.offers() else {
                ready.push(answer);
                continue;
            };
            if let Some(one) = waiting.get_mut(&address) {
                // The client repeats itself; its last word counts.
                one.answer = answer;
            } else if answer.check == Check::None {
                ready.push(answer);
            } else if waiting.len() < AT_ONCE_MAX && pinger.ping(address).is_ok() {
                let due = Instant::now() + ANSWER_MAX;
                waiting.insert(address, Waiting { due, answer, link: link.clone() });
                self.began.notify_one();
            } else if answer.check == Check::Must {
                stats.dropped("unchecked");
            } else {
                ready.push(answer);
            }
        }
        ready
    }

    /// Waits for the first offer that waits, but not for ever; says whether there is one.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let none = |waiting: &mut BTreeMap<_, _>| waiting.is_empty();
        let began = self.began.wait_timeout_while(self.waiting(), limit, none);
        !began.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Takes out the offer of an address.
    pub(super) fn take(&self, address: Ipv4Addr) -> Option<Waiting> {
        self.waiting().remove(&address)
    }

    /// Takes out the offers that have waited until `now` without an answer to the echo request, and says
    /// whether somebody on a wire has the address.
    pub(super) fn due(&self, now: Instant) -> Vec<(Ipv4Addr, Waiting, bool)> {
        let due: Vec<_> = self.waiting().extract_if(.., |_, one| one.due <= now).collect();
        let on_wires = self.pinger.iter().filter(|_| !due.is_empty()).flat_map(|pinger| pinger.on_wires());
        let on_wires: BTreeSet<_> = on_wires.collect();
        due.into_iter().map(|(address, one)| (address, one, on_wires.contains(&address))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_sums_up_to_nothing() {
        for identifier in [[0, 0], [0x12, 0x34], [0xf7, 0xff], [0xf8, 0], [0xff, 0xff]] {
            let request = echo_request(identifier);
            let words = request.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
            let sum: u32 = words.sum();
            assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "{request:?}");
        }
    }

    #[test]
    fn only_answers_to_our_own_requests_count() {
        let mut packet = vec![0x46; 24];
        packet.extend([ECHO_REPLY, 0, 0, 0, 1, 2, 0, 0]);
        assert!(is_answer(&packet, [1, 2]), "behind a head with options");
        assert!(!is_answer(&packet, [1, 3]));
        packet[24] = ECHO;
        assert!(!is_answer(&packet, [1, 2]), "a request");
        for length in 0..packet.len() {
            assert!(!is_answer(&packet[..length], [1, 2]), "cut off at {length}");
        }
    }
}
