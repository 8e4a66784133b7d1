mod odd;
mod ping_checks;
mod protocol;
mod rules;

use super::bootfile::LocalAnswer;
use super::host::Rules;
use super::lease::{Lease, LeaseState, OFFER_MS, Pool};
use super::subnet::Network;
use super::*;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use kaltstart_protocol::dhcp::options::{Options, code};
use parameters::Parameters;
use ping_check::Looking;

const SERVER: Ipv4Addr = ip(1);
const OTHER: Ipv4Addr = ip(2);
/// The port that messages come from.
const ASKED_FROM: u16 = 6767;
const HOUR: u64 = 3_600_000;
const START: Millis = Millis(1_000_000_000_000);

const fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

const fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, n])
}

fn subnet() -> Subnet {
    let mut options = Options::default();
    options.set_addresses(code::ROUTERS, &[ip(254)]);
    options.set_addresses(code::NAME_SERVERS, &[ip(53), ip(54)]);
    options.set(code::DOMAIN_NAME, *b"example.org");
    Subnet {
        network: Network { address: ip(0), prefix: 24 },
        server: SERVER,
        http: "http://10.77.0.1:8080".into(),
        direct: true,
        relays: vec![],
        pools: vec![Pool { first: ip(10), last: ip(12) }],
        parameters: Parameters { options, ..Parameters::default() },
        rules: Arc::default(),
        local: LocalAnswer::NoBootFile,
        looking: Looking::default(),
    }
}

/// A server without I/O: applies every change at once.
pub(super) struct Server {
    pub(super) subnets: Vec<Subnet>,
    pub(super) table: LeaseTable,
    /// What would survive a crash.
    pub(super) stored: BTreeMap<Ipv4Addr, Lease>,
    pub(super) reserved: BTreeSet<Ipv4Addr>,
    pub(super) node: Known,
    pub(super) now: Millis,
    pub(super) storable: bool,
    restored: Option<Millis>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            subnets: vec![subnet()],
            table: LeaseTable::default(),
            stored: BTreeMap::new(),
            reserved: BTreeSet::new(),
            node: Known { boot: BootDecision::Discover, ..Known::STRANGER },
            now: START,
            storable: true,
            restored: None,
        }
    }

    pub(super) fn ask(&mut self, message: &Message) -> Result<Option<Reply>, Drop> {
        // By way of bytes, as on the wire.
        let message = Message::decode(&message.encode()).expect("what is written can be read");
        let seen = triage(&self.subnets, message, SERVER)?;
        let decision = decide(&seen, self.view());
        if let Some(write) = decision.write {
            if write.is_durable() {
                self.stored.insert(write.address, write.lease.clone());
            }
            self.table.apply(write);
        }
        decision.reply
    }

    fn view(&self) -> View<'_> {
        let Self { table, reserved, node, now, storable, restored, .. } = self;
        View {
            table,
            reserved,
            node,
            role: Role::Authoritative,
            now: *now,
            running_ms: now.since(START),
            restored_ms: restored.map(|at| now.since(at)),
            port: ASKED_FROM,
            storable: *storable,
        }
    }

    fn answer(&mut self, message: &Message) -> Reply {
        self.ask(message).expect("not dropped").expect("a reply")
    }

    fn offered(&mut self, n: u8) -> Ipv4Addr {
        let offer = self.answer(&discover(n));
        assert_eq!(offer.kind, MessageType::Offer);
        offer.message.yiaddr
    }

    fn acked(&mut self, message: &Message) -> Ipv4Addr {
        let ack = self.answer(message);
        assert_eq!(ack.kind, MessageType::Ack, "{ack:?}");
        ack.message.yiaddr
    }

    fn refused(&mut self, message: &Message) -> Reply {
        let nak = self.answer(message);
        assert_eq!(nak.kind, MessageType::Nak);
        nak
    }

    fn bind(&mut self, n: u8) -> Ipv4Addr {
        let address = self.offered(n);
        assert_eq!(self.acked(&selecting(n, SERVER, address)), address);
        address
    }

    fn state(&self, address: Ipv4Addr) -> Option<LeaseState> {
        self.table.get(address).filter(|lease| lease.is_live(self.now)).map(|lease| lease.state)
    }
}

pub(super) fn discover(n: u8) -> Message {
    Message::request(MessageType::Discover, 7, mac(n))
}

pub(super) fn selecting(n: u8, server: Ipv4Addr, address: Ipv4Addr) -> Message {
    let mut message = rebooting(n, address);
    message.options.set_addresses(code::SERVER_ID, &[server]);
    message
}

pub(super) fn rebooting(n: u8, address: Ipv4Addr) -> Message {
    let mut message = Message::request(MessageType::Request, 7, mac(n));
    message.options.set_addresses(code::REQUESTED_ADDRESS, &[address]);
    message
}

pub(super) fn extending(n: u8, address: Ipv4Addr) -> Message {
    let mut message = Message::request(MessageType::Request, 7, mac(n));
    message.ciaddr = address;
    message
}

pub(super) fn declining(n: u8, address: Ipv4Addr) -> Message {
    let mut message = selecting(n, SERVER, address);
    message.options.set(code::MESSAGE_TYPE, [MessageType::Decline as u8]);
    message
}

pub(super) fn releasing(n: u8, address: Ipv4Addr) -> Message {
    let mut message = extending(n, address);
    message.options.set(code::MESSAGE_TYPE, [MessageType::Release as u8]);
    message.options.set_addresses(code::SERVER_ID, &[SERVER]);
    message
}

#[test]
fn p30_offer_and_ack_carry_what_table_3_asks_for() {
    let mut server = Server::new();
    server.node.hostname = Some("node1".into());
    let mut ask = discover(1);
    ask.broadcast = true;
    ask.options.set(code::CLIENT_ID, *b"\x00id");
    ask.options.set(code::RELAY_INFO, [9, 2, 7, 7, 1, 1, 5]);
    let offer = server.answer(&ask);
    let mut take = selecting(1, SERVER, ip(10));
    take.options.set(code::CLIENT_ID, *b"\x00id");
    let ack = server.answer(&take);
    assert_eq!((offer.kind, ack.kind), (MessageType::Offer, MessageType::Ack));
    for Reply { message, .. } in [&offer, &ack] {
        let options = &message.options;
        assert_eq!((message.xid, message.mac(), message.yiaddr), (7, Some(mac(1)), ip(10)));
        assert_eq!(message.server_id(), Some(SERVER));
        assert_eq!(message.client_id(), Some(&b"\x00id"[..]));
        assert_eq!(options.address(code::SUBNET_MASK), Some(Ipv4Addr::new(255, 255, 255, 0)));
        assert_eq!(options.addresses(code::ROUTERS), [ip(254)]);
        assert_eq!(options.addresses(code::NAME_SERVERS), [ip(53), ip(54)]);
        let times =
            [code::LEASE_TIME, code::RENEWAL_TIME, code::REBINDING_TIME].map(|code| options.u32(code));
        assert_eq!(times, [Some(3_600), Some(1_800), Some(3_150)]);
        assert_eq!(options.text(code::HOST_NAME), Some("node1"));
        assert_eq!(options.text(code::DOMAIN_NAME), Some("example.org"));
    }
    assert!(offer.message.broadcast);
    // Relay information is the last option, byte for byte.
    assert_eq!(offer.message.options.iter().last(), Some((code::RELAY_INFO, &[9, 2, 7, 7, 1, 1, 5][..])));
}

#[test]
fn p30_replies_go_where_section_4_1_says() {
    let mut server = Server::new();
    let mut relayed = discover(1);
    relayed.giaddr = ip(200);
    assert_eq!(server.answer(&relayed).destination, Destination::Relay(ip(200)));
    let mut deaf = discover(1);
    deaf.broadcast = true;
    assert_eq!(server.answer(&deaf).destination, Destination::Broadcast);
    let to = |n: u8, address| Destination::Hardware(address, mac(n));
    assert_eq!(server.answer(&discover(1)).destination, to(1, ip(10)));
    let address = server.bind(1);
    assert_eq!(server.answer(&extending(1, address)).destination, Destination::Unicast(address));
    assert_eq!(server.refused(&extending(2, address)).destination, Destination::Broadcast);
    let mut relayed = rebooting(2, Ipv4Addr::new(10, 1, 1, 1));
    relayed.giaddr = ip(200);
    let nak = server.refused(&relayed);
    assert_eq!((nak.destination, nak.message.broadcast), (Destination::Relay(ip(200)), true));
    // Table 3: a NAK carries no addresses and no parameters.
    let allowed = [code::MESSAGE_TYPE, code::SERVER_ID, code::TEXT];
    assert_eq!(nak.message.options.iter().map(|(code, _)| code).collect::<Vec<_>>(), allowed);
    assert!(nak.message.yiaddr.is_unspecified() && nak.message.siaddr.is_unspecified());
}

#[test]
fn p30_offers_are_kept_and_not_given_twice() {
    let mut server = Server::new();
    assert_eq!([server.offered(1), server.offered(2), server.offered(3)], [ip(10), ip(11), ip(12)]);
    assert_eq!(server.offered(1), ip(10), "asking again gives the same");
    assert_eq!(server.ask(&discover(4)), Err(Drop::PoolExhausted));
    server.now = server.now.plus(OFFER_MS);
    assert_eq!(server.offered(4), ip(10), "the longest free");
    assert_eq!(server.refused(&selecting(1, SERVER, ip(10))).kind, MessageType::Nak);
}

#[test]
fn p30_a_client_that_chose_another_server_is_left_alone_and_our_offer_forgotten() {
    let mut server = Server::new();
    let address = server.offered(1);
    assert_eq!(server.ask(&selecting(1, OTHER, ip(99))), Err(Drop::OtherServer(OTHER)));
    assert_eq!(server.state(address), None);
    // A lease is no offer: it stays.
    let bound = server.bind(2);
    assert_eq!(server.ask(&selecting(2, OTHER, ip(99))), Err(Drop::OtherServer(OTHER)));
    assert_eq!(server.state(bound), Some(LeaseState::Bound));
}

#[test]
fn p30_selecting_survives_a_restart_but_not_another_owner() {
    let mut server = Server::new();
    assert_eq!(server.acked(&selecting(1, SERVER, ip(11))), ip(11), "the offer was forgotten");
    server.refused(&selecting(2, SERVER, ip(11)));
    server.refused(&selecting(2, SERVER, ip(99)));
    server.reserved.insert(ip(12));
    server.refused(&selecting(2, SERVER, ip(12)));
}

#[test]
fn p30_init_reboot() {
    let mut server = Server::new();
    let address = server.bind(1);
    assert_eq!(server.acked(&rebooting(1, address)), address);
    server.refused(&rebooting(1, ip(12)));
    server.refused(&rebooting(1, Ipv4Addr::new(192, 168, 0, 5)));
    server.refused(&rebooting(2, Ipv4Addr::new(192, 168, 0, 5)));
    server.refused(&rebooting(2, address));
    assert_eq!(server.ask(&rebooting(2, ip(12))), Err(Drop::NoRecord), "no record: silence");
    server.now = server.now.plus(2 * HOUR);
    assert_eq!(server.acked(&rebooting(1, address)), address, "expired, but still its own");
    server.node.reservation = Some(ip(50));
    server.refused(&rebooting(1, address));
    assert_eq!(server.acked(&rebooting(1, ip(50))), ip(50));
}

#[test]
fn p30_renewing_and_rebinding() {
    let mut server = Server::new();
    let address = server.bind(1);
    server.now = server.now.plus(HOUR / 2);
    assert_eq!(server.acked(&extending(1, address)), address);
    let lease = server.table.get(address).expect("bound");
    assert_eq!(lease.expires, server.now.plus(HOUR));
    server.refused(&extending(2, address));
    server.refused(&extending(1, ip(99)));
    assert_eq!(server.ask(&extending(2, ip(99))), Err(Drop::NoRecord));
    assert_eq!(server.acked(&extending(2, ip(12))), ip(12), "a lost record comes back");
    server.refused(&extending(3, Ipv4Addr::new(192, 168, 0, 5)));
    server.reserved.insert(address);
    server.refused(&extending(1, address));
    let mut nothing = extending(1, address);
    nothing.ciaddr = Ipv4Addr::UNSPECIFIED;
    assert_eq!(server.ask(&nothing), Err(Drop::Incomplete));
}

#[test]
fn p30_decline_rests_the_address_and_only_its_holder_may() {
    let mut server = Server::new();
    let address = server.bind(1);
    assert_eq!(server.ask(&declining(2, address)), Err(Drop::NoRecord));
    assert_eq!(server.ask(&declining(2, ip(99))), Err(Drop::NoRecord));
    assert_eq!(server.ask(&declining(1, address)), Ok(None));
    assert_eq!(server.state(address), Some(LeaseState::Declined));
    assert_eq!(server.offered(1), ip(11), "not even to the same client");
    server.refused(&rebooting(2, address));
    server.now = server.now.plus(lease::DECLINED_MS);
    assert_eq!(server.acked(&rebooting(1, ip(11))), ip(11));
    assert_eq!([server.offered(2), server.offered(3)], [ip(12), address]);
}

#[test]
fn p30_release_frees_the_address_but_remembers_the_client() {
    let mut server = Server::new();
    let address = server.bind(1);
    let mut for_other = releasing(1, address);
    for_other.options.set_addresses(code::SERVER_ID, &[OTHER]);
    assert_eq!(server.ask(&for_other), Err(Drop::OtherServer(OTHER)));
    assert_eq!(server.ask(&releasing(2, address)), Err(Drop::NoRecord));
    assert_eq!(server.state(address), Some(LeaseState::Bound));
    assert_eq!(server.ask(&releasing(1, address)), Ok(None));
    assert_eq!(server.state(address), None);
    assert_eq!(server.offered(2), ip(11), "one never given comes first");
    assert_eq!(server.offered(1), address);
}

#[test]
fn p30_inform_gives_parameters_and_no_lease() {
    let mut server = Server::new();
    let mut inform = extending(1, ip(99)); // An address that is not from here.
    inform.options.set(code::MESSAGE_TYPE, [MessageType::Inform as u8]);
    let reply = server.answer(&inform);
    assert_eq!((reply.kind, reply.destination), (MessageType::Ack, Destination::Unicast(ip(99))));
    assert!(reply.message.yiaddr.is_unspecified());
    assert_eq!(reply.message.lease_seconds(), None);
    assert_eq!(reply.message.options.addresses(code::ROUTERS), [ip(254)]);
    assert_eq!(server.table, LeaseTable::default());
    inform.ciaddr = Ipv4Addr::new(192, 168, 0, 5);
    assert_eq!(server.ask(&inform), Err(Drop::UnknownSubnet), "nor from a network of ours");
    inform.ciaddr = Ipv4Addr::UNSPECIFIED;
    assert_eq!(server.ask(&inform), Err(Drop::Incomplete));
}

#[test]
fn p30_what_no_client_sends_is_dropped() {
    let mut server = Server::new();
    let mut message = discover(1);
    message.operation = Operation::Reply;
    assert_eq!(server.ask(&message), Err(Drop::FromServer));
    for kind in [0, 2, 5, 6, 9, 255] {
        message = discover(1);
        message.options.set(code::MESSAGE_TYPE, [kind]);
        assert_eq!(server.ask(&message), Err(Drop::Type));
    }
    assert_eq!(server.ask(&Message::request(MessageType::Discover, 1, Mac([0; 6]))), Err(Drop::Identity));
    message = discover(1);
    message.options.set(code::CLIENT_ID, vec![1; 256]);
    assert_eq!(server.ask(&message), Err(Drop::Identity));
}

#[test]
fn p34_only_served_networks_and_their_relays_are_answered() {
    let mut server = Server::new();
    let mut far = subnet();
    far.network = Network { address: Ipv4Addr::new(10, 88, 0, 0), prefix: 16 };
    far.pools = vec![Pool { first: Ipv4Addr::new(10, 88, 1, 0), last: Ipv4Addr::new(10, 88, 1, 9) }];
    server.subnets.push(far);
    let mut relayed = discover(1);
    relayed.giaddr = Ipv4Addr::new(192, 168, 0, 1);
    assert_eq!(server.ask(&relayed), Err(Drop::UnknownSubnet));
    relayed.giaddr = Ipv4Addr::new(10, 88, 0, 1);
    assert_eq!(server.answer(&relayed).message.yiaddr, Ipv4Addr::new(10, 88, 1, 0));
    // RFC 3527: the relay's address is not the client's network; and not everybody is a relay of ours.
    relayed.giaddr = Ipv4Addr::new(192, 168, 0, 1);
    relayed.options.set(code::RELAY_INFO, [1, 1, 9, 5, 4, 10, 88, 0, 0]);
    assert_eq!(server.ask(&relayed), Err(Drop::UnknownRelay(relayed.giaddr)));
    server.subnets[1].relays.push(Network { address: relayed.giaddr, prefix: 32 });
    let reply = server.answer(&relayed);
    assert_eq!(reply.destination, Destination::Relay(relayed.giaddr));
    // Without the relay, as renewing clients do.
    assert_eq!(server.acked(&extending(1, reply.message.yiaddr)), reply.message.yiaddr);
    server.subnets.clear();
    assert_eq!(server.ask(&discover(1)), Err(Drop::UnknownSubnet));
}

#[test]
fn p32_reserved_addresses_are_for_their_machines_even_when_the_pool_is_used_up() {
    let mut server = Server::new();
    server.reserved.extend([ip(10), ip(50)]);
    assert_eq!([server.bind(1), server.bind(2)], [ip(11), ip(12)]);
    assert_eq!(server.ask(&discover(3)), Err(Drop::PoolExhausted));
    server.node.reservation = Some(ip(50));
    assert_eq!(server.bind(4), ip(50));
    // Firmware, loader and system of one machine use different identifiers.
    let mut system = discover(4);
    system.options.set(code::CLIENT_ID, *b"\xffsystemd");
    assert_eq!(server.answer(&system).message.yiaddr, ip(50));
    assert_eq!(server.state(ip(50)), Some(LeaseState::Bound), "an offer does not undo the lease");
    // A reservation in another network counts as none.
    server.node.reservation = Some(Ipv4Addr::new(192, 168, 0, 5));
    assert_eq!(server.offered(1), ip(11));
}

#[test]
fn p31_while_nothing_can_be_stored_only_what_is_stored_is_promised() {
    let mut server = Server::new();
    let address = server.bind(1);
    server.now = START.plus(HOUR / 2);
    server.storable = false;
    let stored = server.stored.clone();
    // The rest of the stored lease, to its holder alone.
    let renewed = server.answer(&extending(1, address));
    assert_eq!((renewed.kind, renewed.message.lease_seconds()), (MessageType::Ack, Some(1_800)));
    assert_eq!(server.answer(&discover(1)).message.lease_seconds(), Some(1_800));
    assert_eq!(server.acked(&rebooting(1, address)), address);
    assert_eq!(server.ask(&releasing(1, address)), Err(Drop::NotStored));
    assert_eq!(server.ask(&discover(2)), Err(Drop::NotStored));
    assert_eq!(server.ask(&selecting(2, SERVER, ip(12))), Err(Drop::NotStored));
    assert_eq!(server.answer(&extending(2, address)).kind, MessageType::Nak);
    // What is reserved needs no lease.
    server.reserved.insert(ip(50));
    server.node.reservation = Some(ip(50));
    assert_eq!(server.answer(&discover(3)).message.yiaddr, ip(50));
    let taken = server.answer(&selecting(3, SERVER, ip(50)));
    assert_eq!((taken.kind, taken.message.lease_seconds()), (MessageType::Ack, Some(3_600)));
    assert_eq!(server.stored, stored);
    // The lease's time is over, and the address stays his as soon as it can be stored.
    server.node.reservation = None;
    server.now = START.plus(HOUR);
    assert_eq!(server.ask(&extending(1, address)), Err(Drop::NotStored));
    server.storable = true;
    assert_eq!(server.acked(&extending(1, address)), address);
}

#[test]
fn an_address_reserved_while_another_client_holds_it_stays_with_that_client() {
    let mut server = Server::new();
    let address = server.bind(1);
    server.reserved.insert(address);
    server.node.reservation = Some(address);
    assert_eq!(server.offered(2), ip(11));
    server.now = server.now.plus(HOUR);
    assert_eq!(server.offered(2), address, "once it is free");
}

#[test]
fn boot_files_are_in_header_and_options_and_local_starts_get_none() {
    let mut server = Server::new();
    let mut pxe = discover(1);
    pxe.options.set(code::VENDOR_CLASS, *b"PXEClient:Arch:00007:UNDI:003000");
    pxe.options.set(code::ARCHITECTURE, [0, 7]);
    let reply = server.answer(&pxe).message;
    assert_eq!((reply.siaddr, reply.file.as_slice()), (SERVER, &b"snponly.efi"[..]));
    assert_eq!(reply.options.text(code::BOOT_FILE), Some("snponly.efi"));
    assert_eq!(reply.options.text(code::TFTP_SERVER), Some("10.77.0.1"));
    assert_eq!(reply.vendor_class(), Some("PXEClient"));
    assert_eq!(reply.options.get(code::VENDOR_SPECIFIC), Some(&[6, 1, 8, 255][..]));
    let mut http = pxe.clone();
    http.options.set(code::VENDOR_CLASS, *b"HTTPClient:Arch:00016:UNDI:003000");
    let reply = server.answer(&http).message;
    assert_eq!(reply.vendor_class(), Some("HTTPClient"));
    assert_eq!(reply.options.text(code::BOOT_FILE), Some("http://10.77.0.1:8080/boot/files/snponly.efi"));
    assert_eq!(reply.options.get(code::VENDOR_SPECIFIC), None);
    let mut ipxe = pxe.clone();
    ipxe.options.set(code::USER_CLASS, *b"iPXE");
    let reply = server.answer(&ipxe).message;
    assert_eq!(reply.file, b"http://10.77.0.1:8080/boot/52:54:00:00:00:01/script.ipxe");
    assert_eq!((reply.vendor_class(), reply.options.get(code::IPXE)), (None, Some(&[176, 1, 1][..])));
    let plain = |reply: &Message| {
        let boot = [code::VENDOR_CLASS, code::VENDOR_SPECIFIC, code::TFTP_SERVER, code::BOOT_FILE];
        reply.siaddr.is_unspecified()
            && reply.file.is_empty()
            && boot.iter().all(|code| reply.options.get(*code).is_none())
    };
    assert!(plain(&server.answer(&discover(1)).message));
    server.node.boot = BootDecision::Local;
    for message in [&pxe, &http, &ipxe] {
        assert!(plain(&server.answer(message).message));
    }
    server.subnets[0].local = LocalAnswer::MissingFile;
    assert_eq!(server.answer(&pxe).message.file, bootfile::MISSING_FILE.as_bytes());
    server.subnets[0].local = LocalAnswer::NoOffer;
    assert_eq!(server.ask(&pxe), Err(Drop::LocalStart));
    assert_eq!(server.answer(&discover(1)).kind, MessageType::Offer);
}

#[test]
fn contacts_say_who_got_what_or_why_not() {
    let (server, table) = (Server::new(), LeaseTable::default());
    let mut message = discover(1);
    message.options.set(code::HOST_NAME, *b"node1");
    let contact = |message: Message, server: &Server| {
        let seen = triage(&server.subnets, message, SERVER).expect("a client's message");
        decide(&seen, View { table: &table, ..server.view() }).contact
    };
    let seen = contact(message, &server);
    assert_eq!(
        (seen.mac, seen.address, seen.hostname.as_deref()),
        (Some(mac(1)), Some(ip(10)), Some("node1"))
    );
    let seen = contact(selecting(1, OTHER, ip(10)), &server);
    assert_eq!((seen.address, seen.unanswered), (None, Some(Drop::OtherServer(OTHER))));
}

#[test]
fn network_masks() {
    for (prefix, mask) in [(0, [0; 4]), (8, [255, 0, 0, 0]), (32, [255; 4]), (200, [255; 4])] {
        assert_eq!(Network { address: ip(0), prefix }.mask(), Ipv4Addr::from_octets(mask));
    }
}

#[test]
fn an_undone_lease_was_never_there() {
    let mut server = Server::new();
    let address = server.bind(1);
    let before = server.table.clone();
    let lease = |n: u8| Lease {
        key: ClientKey::of(&discover(n)).expect("short"),
        mac: Some(mac(n)),
        state: LeaseState::Bound,
        since: START,
        expires: START.plus(HOUR),
    };
    let writes = [(address, 2), (ip(12), 1), (address, 1), (ip(11), 2)];
    let undo: Vec<_> = writes
        .into_iter()
        .map(|(address, n)| server.table.apply(LeaseWrite { address, lease: lease(n) }))
        .collect();
    assert_ne!(server.table, before);
    undo.into_iter().rev().for_each(|undo| server.table.undo(undo));
    assert_eq!(server.table, before);
}
