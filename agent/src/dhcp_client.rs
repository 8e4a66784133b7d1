//! A DHCP client as values: packets and time go in, packets and a lease come out (RFC 2131 §4.4).
//!
//! The client identifies itself by its hardware address alone, as the boot loader did, so that it
//! is given the same address.

use std::net::Ipv4Addr;
use std::time::Duration;

use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::dhcp::{Message, MessageType, Operation};
use kaltstart_protocol::ids::Mac;

/// Vendor class (option 60) of the agent.
pub const VENDOR_CLASS: &str = "kaltstart-agent";
/// Limits of the waits between repetitions while no address is known, in seconds: quick at first,
/// because the switch port may just have come up.
const WAITS: [u64; 4] = [1, 2, 4, 8];
/// Repetitions of a request before the offer is given up.
const REQUESTS: u32 = 4;
/// Shortest wait between repetitions of a renewal (RFC 2131 §4.4.5).
const RENEW_WAIT: Duration = Duration::from_secs(60);
/// Lease time taken when a server names none.
const DEFAULT_LEASE: u32 = 3600;
/// What the client would like to know (option 55).
const WISHES: [u8; 8] = [
    code::SUBNET_MASK,
    code::ROUTERS,
    code::NAME_SERVERS,
    code::DOMAIN_NAME,
    code::LEASE_TIME,
    code::SERVER_ID,
    code::RENEWAL_TIME,
    code::REBINDING_TIME,
];

/// What a server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Its netmask.
    pub netmask: Ipv4Addr,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain, may be empty.
    pub domain: String,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// When it was asked for, since the kernel's start.
    pub since: Duration,
    /// When to renew, counted from `since`.
    pub renew: Duration,
    /// When to ask any server, counted from `since`.
    pub rebind: Duration,
    /// When it ends, counted from `since`.
    pub end: Duration,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this to port 67 of `to`, then ask again.
    Send {
        /// The packet.
        packet: Vec<u8>,
        /// A server, or the broadcast address.
        to: Ipv4Addr,
    },
    /// Nothing before this time, unless a packet comes.
    WaitUntil(Duration),
}

#[derive(Debug)]
enum State {
    /// Looking for servers.
    Selecting,
    /// Asking for an offered address.
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    /// Using an address, renewing it in time.
    Bound(Lease),
}

/// One client on one interface.
#[derive(Debug)]
pub struct Client {
    mac: Mac,
    xid: u32,
    state: State,
    /// When the present exchange began.
    begun: Duration,
    /// When it last sent.
    sent_at: Duration,
    /// Packets sent in this state.
    sent: u32,
    /// When to send next.
    next: Duration,
}

impl Client {
    /// A client that begins at `now`; `xid` is random.
    #[must_use]
    pub fn new(mac: Mac, xid: u32, now: Duration) -> Self {
        Self { mac, xid, state: State::Selecting, begun: now, sent_at: now, sent: 0, next: now }
    }

    /// The lease in use, if there is one.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(lease) => Some(lease),
            _ => None,
        }
    }

    /// Whether there is something to send at `now`.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.next
    }

    /// What to do at `now`; `random` becomes jitter and transaction ids.
    pub fn poll(&mut self, now: Duration, random: u32) -> Step {
        if let State::Bound(lease) = &self.state
            && now >= lease.since + lease.end
        {
            self.restart(now, random);
        }
        if now < self.next {
            return Step::WaitUntil(self.next);
        }
        if matches!(self.state, State::Requesting { .. }) && self.sent >= REQUESTS {
            self.restart(now, random);
        }
        let (message, to) = self.message(now);
        let packet = message.encode();
        self.next = self.wait_after_sending(now, random);
        self.sent += 1;
        self.sent_at = now;
        Step::Send { packet, to }
    }

    /// Takes a received packet; true when there is a new or renewed [`Client::lease`].
    ///
    /// Packets for others, of other transactions, or that fit no open question change nothing.
    pub fn receive(&mut self, packet: &[u8], now: Duration, random: u32) -> bool {
        let Ok(reply) = Message::decode(packet) else { return false };
        let to_me =
            reply.operation == Operation::Reply && reply.xid == self.xid && reply.mac() == Some(self.mac);
        let (Some(kind), true, true) = (reply.kind(), to_me, self.sent > 0) else { return false };
        let server = reply.server_id();
        match (&self.state, kind) {
            (State::Selecting, MessageType::Offer) => {
                if let (Some(server), false) = (server, reply.yiaddr.is_unspecified()) {
                    self.state = State::Requesting { address: reply.yiaddr, server };
                    (self.sent, self.next) = (0, now);
                }
                false
            }
            (State::Requesting { address, server: asked }, MessageType::Ack) => {
                let asked = *asked;
                let fits = reply.yiaddr == *address && server == Some(asked);
                fits && self.bind(&reply, asked)
            }
            (State::Bound(lease), MessageType::Ack) if reply.yiaddr == lease.address => {
                let server = server.unwrap_or(lease.server);
                self.bind(&reply, server)
            }
            (
                State::Requesting { server: asked, .. } | State::Bound(Lease { server: asked, .. }),
                MessageType::Nak,
            ) if server == Some(*asked) => {
                self.restart(now, random);
                // A server that refuses what it offered would refuse at once again.
                self.next = now + jittered(Duration::from_secs(1), random);
                false
            }
            _ => false,
        }
    }

    fn restart(&mut self, now: Duration, random: u32) {
        *self = Self::new(self.mac, random, now);
    }

    fn bind(&mut self, reply: &Message, server: Ipv4Addr) -> bool {
        let seconds = reply.lease_seconds().unwrap_or(DEFAULT_LEASE).max(60);
        let part = |number, default: u32| {
            let given = reply.options.u32(number).filter(|given| *given > 0 && *given < seconds);
            Duration::from_secs(u64::from(given.unwrap_or(default)))
        };
        let renew = part(code::RENEWAL_TIME, seconds / 2);
        let lease = Lease {
            address: reply.yiaddr,
            netmask: reply.options.address(code::SUBNET_MASK).unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
            router: reply.options.addresses(code::ROUTERS).first().copied(),
            dns: reply.options.addresses(code::NAME_SERVERS),
            domain: domain(reply.options.text(code::DOMAIN_NAME).unwrap_or_default()),
            server,
            since: self.sent_at,
            renew,
            rebind: part(code::REBINDING_TIME, seconds - seconds / 8).max(renew),
            end: Duration::from_secs(u64::from(seconds)),
        };
        (self.begun, self.sent, self.next) = (lease.since + renew, 0, lease.since + renew);
        self.state = State::Bound(lease);
        // The renewal is a transaction of its own in time, but may keep its number: what is late
        // of the first one says the same.
        true
    }

    /// What to send in this state, and to whom.
    fn message(&self, now: Duration) -> (Message, Ipv4Addr) {
        let kind = match self.state {
            State::Selecting => MessageType::Discover,
            State::Requesting { .. } | State::Bound(_) => MessageType::Request,
        };
        let mut message = Message::request(kind, self.xid, self.mac);
        message.secs = u16::try_from(now.saturating_sub(self.begun).as_secs()).unwrap_or(u16::MAX);
        // Without an address the kernel drops unicast answers.
        message.broadcast = self.lease().is_none();
        let mut to = Ipv4Addr::BROADCAST;
        match &self.state {
            State::Selecting => {}
            State::Requesting { address, server } => {
                message.options.set_addresses(code::REQUESTED_ADDRESS, &[*address]);
                message.options.set_addresses(code::SERVER_ID, &[*server]);
            }
            State::Bound(lease) => {
                message.ciaddr = lease.address;
                if now < lease.since + lease.rebind {
                    to = lease.server;
                }
            }
        }
        message.options.set(code::VENDOR_CLASS, VENDOR_CLASS);
        message.options.set(code::PARAMETER_LIST, WISHES);
        (message, to)
    }

    fn wait_after_sending(&self, now: Duration, random: u32) -> Duration {
        match &self.state {
            State::Selecting | State::Requesting { .. } => {
                let index = usize::try_from(self.sent).unwrap_or(usize::MAX).min(WAITS.len() - 1);
                now + jittered(Duration::from_secs(WAITS[index]), random)
            }
            State::Bound(lease) => {
                // Half of what remains until the next milestone (RFC 2131 §4.4.5).
                let rebind = lease.since + lease.rebind;
                let milestone = if now < rebind { rebind } else { lease.since + lease.end };
                let half = milestone.saturating_sub(now) / 2;
                (now + half.max(RENEW_WAIT)).min(milestone.max(now + Duration::from_secs(1)))
            }
        }
    }
}

/// What of a domain name may be written to a configuration file: nothing, if any of it may not.
fn domain(text: &str) -> String {
    let clean = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if clean { text.into() } else { String::new() }
}

/// `limit`, less up to a quarter of it.
fn jittered(limit: Duration, random: u32) -> Duration {
    limit - limit.mul_f64(0.25 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What a server answers to `query`.
    fn answer(query: &[u8], kind: MessageType, lease: u32) -> Vec<u8> {
        let mut reply = Message::decode(query).expect("a message").reply(kind);
        reply.yiaddr = ADDRESS;
        reply.options.set_addresses(code::SERVER_ID, &[SERVER]);
        reply.options.set_u32(code::LEASE_TIME, lease);
        reply.options.set(code::SUBNET_MASK, [255, 255, 255, 0]);
        reply.options.set_addresses(code::ROUTERS, &[SERVER]);
        reply.options.set_addresses(code::NAME_SERVERS, &[SERVER, ADDRESS]);
        reply.options.set(code::DOMAIN_NAME, "lab.example");
        reply.encode()
    }

    fn sent(step: Step) -> (Vec<u8>, Ipv4Addr) {
        match step {
            Step::Send { packet, to } => (packet, to),
            Step::WaitUntil(time) => panic!("waits until {time:?}"),
        }
    }

    fn kind_of(packet: &[u8]) -> Option<MessageType> {
        Message::decode(packet).expect("a message").kind()
    }

    fn bound() -> Client {
        let mut client = Client::new(MAC, 7, at(3));
        let (discover, _) = sent(client.poll(at(3), 0));
        assert!(!client.receive(&answer(&discover, MessageType::Offer, 800), at(3), 0));
        let (request, _) = sent(client.poll(at(3), 0));
        assert!(client.receive(&answer(&request, MessageType::Ack, 800), at(4), 0));
        client
    }

    #[test]
    fn discover_offer_request_ack() {
        let mut client = Client::new(MAC, 0x0102_0304, at(3));
        let (discover, to) = sent(client.poll(at(3), 0));
        assert_eq!(
            (kind_of(&discover), to, discover.len()),
            (Some(MessageType::Discover), Ipv4Addr::BROADCAST, 300)
        );
        assert_eq!(discover[10], 0x80, "asks for broadcast");
        let message = Message::decode(&discover).expect("a message");
        assert_eq!(message.client_id(), None, "the boot loader's lease is wanted");
        assert_eq!(message.vendor_class(), Some(VENDOR_CLASS));
        client.receive(&answer(&discover, MessageType::Offer, 800), at(4), 0);
        let (request, to) = sent(client.poll(at(4), 0));
        assert_eq!((kind_of(&request), to), (Some(MessageType::Request), Ipv4Addr::BROADCAST));
        assert!(client.receive(&answer(&request, MessageType::Ack, 800), at(4), 0));
        let lease = client.lease().expect("bound");
        assert_eq!((lease.address, lease.router, lease.dns.len()), (ADDRESS, Some(SERVER), 2));
        assert_eq!((lease.domain.as_str(), lease.renew, lease.rebind), ("lab.example", at(400), at(700)));
        assert_eq!(client.poll(at(5), 0), Step::WaitUntil(at(404)));
    }

    #[test]
    fn p36_silence_is_answered_by_repeating_slower() {
        let mut client = Client::new(MAC, 7, at(0));
        let (mut now, mut waits) = (at(0), Vec::new());
        for _ in 0..6 {
            sent(client.poll(now, 0));
            let Step::WaitUntil(next) = client.poll(now, 0) else { panic!("sends twice") };
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 8, 8]);
        assert_eq!(jittered(at(8), u32::MAX), at(6));
    }

    #[test]
    fn a_lost_ack_leads_to_repetition_and_then_back_to_the_start() {
        let mut client = Client::new(MAC, 7, at(0));
        let (discover, _) = sent(client.poll(at(0), 0));
        client.receive(&answer(&discover, MessageType::Offer, 800), at(0), 0);
        for i in 0..u64::from(REQUESTS) {
            assert_eq!(kind_of(&sent(client.poll(at(100 * i), 0)).0), Some(MessageType::Request));
        }
        let (packet, _) = sent(client.poll(at(900), 99));
        assert_eq!(
            (kind_of(&packet), &packet[4..8]),
            (Some(MessageType::Discover), [0, 0, 0, 99].as_slice())
        );
    }

    #[test]
    fn a_nak_starts_over_after_a_pause() {
        let mut client = Client::new(MAC, 7, at(0));
        let (discover, _) = sent(client.poll(at(0), 0));
        client.receive(&answer(&discover, MessageType::Offer, 800), at(0), 0);
        let (request, _) = sent(client.poll(at(0), 0));
        client.receive(&answer(&request, MessageType::Nak, 800), at(0), 0);
        assert_eq!(client.poll(at(0), 0), Step::WaitUntil(at(1)));
        assert_eq!(kind_of(&sent(client.poll(at(1), 0)).0), Some(MessageType::Discover));
    }

    #[test]
    fn renewal_asks_the_server_then_anyone_then_starts_over() {
        let mut client = bound();
        let (renew, to) = sent(client.poll(at(403), 0));
        assert_eq!(
            (kind_of(&renew), to, &renew[12..16]),
            (Some(MessageType::Request), SERVER, ADDRESS.octets().as_slice())
        );
        assert_eq!(renew[10], 0, "has an address: unicast will do");
        assert_eq!(client.poll(at(404), 0), Step::WaitUntil(at(403 + 150)));
        let (_, to) = sent(client.poll(at(704), 0));
        assert_eq!(to, Ipv4Addr::BROADCAST);
        assert_eq!(kind_of(&sent(client.poll(at(804), 5)).0), Some(MessageType::Discover));
        assert!(client.lease().is_none());

        let mut client = bound();
        let (renew, _) = sent(client.poll(at(403), 0));
        assert!(client.receive(&answer(&renew, MessageType::Ack, 800), at(404), 0));
        assert_eq!(client.lease().expect("bound").since, at(403));
    }

    #[test]
    fn p29_foreign_and_broken_packets_change_nothing() {
        let mut client = Client::new(MAC, 7, at(0));
        let (discover, _) = sent(client.poll(at(0), 0));
        let good = answer(&discover, MessageType::Offer, 800);
        for (index, value) in [(0, 1), (2, 255), (4, 9), (28, 9), (236, 0)] {
            let mut bad = good.clone();
            bad[index] = value;
            client.receive(&bad, at(0), 0);
        }
        for length in 0..good.len() {
            client.receive(&good[..length.min(240)], at(0), 0);
        }
        client.receive(&discover, at(0), 0);
        client.receive(&answer(&discover, MessageType::Ack, 800), at(0), 0);
        assert!(matches!(client.state, State::Selecting) && client.lease().is_none());
    }
}
