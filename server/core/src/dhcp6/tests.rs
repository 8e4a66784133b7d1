mod model;

use super::*;
use crate::boot::BootDecision;
use crate::dhcp::bootfile::LocalAnswer;
use crate::dhcp::host::{Host, HostKey, Rules};
use crate::dhcp::lease::{DECLINED_MS, Lease, LeaseState, LeaseTable, Pool};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use kaltstart_protocol::dhcp6::options::{Options, with_length};
use kaltstart_protocol::dhcp6::{Address, Identity, Message, Relay, Status};
use std::format;
use std::string::{String, ToString as _};
use subnet::Prefix;

const START: Millis = Millis(1_000_000_000_000);
const SERVER: Ipv6Addr = ip(1);
const DUID: [u8; 18] = [0, 4, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
const RESERVED: Ipv6Addr = ip(0x50);

const fn ip(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last)
}

const fn far(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last)
}

const fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, n])
}

/// The link-local address that firmware makes of its hardware address.
const fn link_local(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe00, n as u16)
}

fn subnets() -> Vec<Subnet> {
    let mut rules = Rules::default();
    rules.add([HostKey::Mac(mac(50))], Host { address6: Some(RESERVED), ..Host::default() });
    rules.add(HostKey::of_uuid([51; 16]), Host { address6: Some(ip(0x51)), ..Host::default() });
    rules.add([HostKey::Duid(vec![0, 2, 52])], Host { address6: Some(ip(0x52)), ..Host::default() });
    let near = Subnet {
        prefix: Prefix { address: ip(0), length: 64 },
        server: SERVER,
        http: "http://[fd77::1]:8080".into(),
        direct: true,
        relays: vec![],
        pools: vec![Pool { first: ip(0x10), last: ip(0x12) }],
        lease_seconds: 3_600,
        renew_seconds: None,
        rebind_seconds: None,
        rapid_commit: false,
        name_servers: vec![ip(0x53)],
        domains: subnet::encode_domains(["example.org"]),
        rules: Arc::new(rules),
        local: LocalAnswer::MissingFile,
    };
    let behind_relays = Subnet {
        prefix: Prefix { address: far(0), length: 64 },
        direct: false,
        relays: vec![Prefix { address: Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 1), length: 128 }],
        pools: vec![Pool { first: far(0x10), last: far(0x1f) }],
        ..near.clone()
    };
    vec![near, behind_relays]
}

/// A server without I/O: applies every change at once.
struct Server {
    subnets: Vec<Subnet>,
    table: LeaseTable<Ipv6Addr>,
    /// What would survive a crash.
    stored: BTreeMap<Ipv6Addr, Lease>,
    node: Known,
    now: Millis,
    storable: bool,
    /// Whether the last message found the pools empty.
    exhausted: bool,
}

impl Server {
    fn new() -> Self {
        let node = Known { boot: BootDecision::Discover, ..Known::STRANGER };
        let (table, stored) = (LeaseTable::default(), BTreeMap::new());
        Self { subnets: subnets(), table, stored, node, now: START, storable: true, exhausted: false }
    }

    fn ask_as(&mut self, packet: Packet, arrival: Arrival) -> Result<Reply, Drop> {
        // By way of bytes, as on the wire.
        let packet = Packet::decode(&packet.encode()).expect("what is written can be read");
        let seen = triage(&self.subnets, &DUID, packet, arrival)?;
        let view = View { node: &self.node, now: self.now, storable: self.storable };
        let before = self.table.clone();
        let Decision { reply, writes, undo, exhausted, .. } = decide(&seen, view, &mut self.table);
        self.exhausted = exhausted;
        let after = self.table.clone();
        // All of it can be undone.
        undo.into_iter().rev().for_each(|undo| self.table.undo(undo));
        assert_eq!(self.table, before);
        self.table = after;
        assert!(self.storable || writes.is_empty(), "nothing is to be stored");
        self.stored.extend(writes.into_iter().map(|write| (write.address, write.lease)));
        reply
    }

    /// Asks on the wire, as the machine with that number.
    fn ask(&mut self, n: u8, message: Message) -> Result<Reply, Drop> {
        let arrival = Arrival { source: link_local(n), address: SERVER, multicast: true };
        self.ask_as(Packet { relays: vec![], message }, arrival)
    }

    fn answer(&mut self, n: u8, message: Message) -> Message {
        let reply = self.ask(n, message).expect("answered");
        assert_eq!((reply.to, reply.port()), (link_local(n), 546));
        reply.packet.message
    }

    /// Solicits and requests.
    fn bind(&mut self, n: u8) -> Ipv6Addr {
        let advertised = given(&self.answer(n, solicit(n))).expect("an address").address;
        let reply = self.answer(n, request(n, advertised));
        assert_eq!(given(&reply).expect("an address").address, advertised);
        advertised
    }
}

fn message(kind: MessageType, n: u8) -> Message {
    let mut message = Message::new(kind, [7, 7, n]);
    message.options.push(code::CLIENT_ID, duid::of_uuid([n; 16]));
    message.options.push(code::OPTION_REQUEST, [0, 23, 0, 24, 0, 59]);
    message
}

fn with_identity(mut message: Message, id: u32, addresses: &[Ipv6Addr]) -> Message {
    let mut identity = Identity::new(id);
    for address in addresses {
        identity.push(&Address { address: *address, preferred: 0, valid: 0 });
    }
    message.options.push(code::IA_NA, identity.encode());
    message
}

fn solicit(n: u8) -> Message {
    with_identity(message(MessageType::Solicit, n), 1, &[])
}

fn to_server(kind: MessageType, n: u8, address: Ipv6Addr) -> Message {
    let mut message = with_identity(message(kind, n), 1, &[address]);
    message.options.push(code::SERVER_ID, DUID);
    message
}

fn request(n: u8, address: Ipv6Addr) -> Message {
    to_server(MessageType::Request, n, address)
}

fn firmware(mut message: Message, class: &str, architecture: u8) -> Message {
    message.options.push(code::CLIENT_ARCHITECTURE, [0, architecture]);
    let class = [&343_u32.to_be_bytes()[..], &with_length(class.as_bytes())].concat();
    message.options.push(code::VENDOR_CLASS, class);
    message
}

fn given(reply: &Message) -> Option<Address> {
    reply.identities().next()?.addresses().next()
}

fn identity_status(reply: &Message) -> Option<Status> {
    reply.identities().next()?.status()
}

fn status(reply: &Message) -> Option<Status> {
    Status::decode(reply.options.get(code::STATUS)?)
}

#[test]
fn p30_four_messages_give_an_address_and_what_was_asked_for() {
    let mut server = Server::new();
    let advertise = server.answer(1, solicit(1));
    assert_eq!(advertise.kind, MessageType::Advertise);
    assert_eq!((advertise.server_id(), advertise.transaction), (Some(&DUID[..]), [7, 7, 1]));
    assert!(server.stored.is_empty(), "an offer may be forgotten");
    let reply = server.answer(1, request(1, given(&advertise).expect("an address").address));
    assert_eq!(reply.kind, MessageType::Reply);
    let identity = reply.identities().next().expect("one");
    assert_eq!((identity.id, identity.renew, identity.rebind), (1, 1_800, 2_880));
    let address = Address { address: ip(0x10), preferred: 3_600, valid: 3_600 };
    assert_eq!(given(&reply), Some(address));
    assert_eq!(reply.client_id(), Some(&duid::of_uuid([1; 16])[..]));
    assert_eq!(reply.options.get(code::NAME_SERVERS), Some(&ip(0x53).octets()[..]));
    assert_eq!(reply.options.get(code::DOMAINS), Some(&b"\x07example\x03org\x00"[..]));
    assert_eq!(server.stored[&ip(0x10)].state, LeaseState::Bound);
    assert_eq!(server.stored[&ip(0x10)].mac, Some(mac(1)));
    // Another gets another, a third the last, a fourth none.
    assert_eq!((server.bind(2), server.bind(3)), (ip(0x11), ip(0x12)));
    let none = server.answer(4, solicit(4));
    assert_eq!((given(&none), identity_status(&none)), (None, Some(Status::NoAddresses)));
    assert!(server.exhausted);
    // Who had one has it again.
    assert_eq!(server.bind(2), ip(0x11));
}

#[test]
fn p30_nothing_is_told_that_was_not_asked_for() {
    let mut bare = Message::new(MessageType::Solicit, [1; 3]);
    bare.options.push(code::CLIENT_ID, duid::of_mac(mac(1)));
    let bare = firmware(with_identity(bare, 1, &[]), "PXEClient:Arch:00007:UNDI:003000", 7);
    let advertise = Server::new().answer(1, bare);
    for code in [code::NAME_SERVERS, code::DOMAINS, code::BOOT_FILE_URL, code::VENDOR_CLASS] {
        assert!(!advertise.options.has(code), "{code}");
    }
}

#[test]
fn p30_invalid_messages_are_not_answered() {
    use MessageType::{
        Advertise, Confirm, Decline, InformationRequest, Rebind, Reconfigure, Release, Renew, Reply, Request,
        Solicit,
    };
    // RFC 8415 §16: without and with the server's identifier.
    for (kind, without, with) in [
        (Solicit, None, Some(Drop::Invalid)),
        (Confirm, None, Some(Drop::Invalid)),
        (Rebind, None, Some(Drop::Invalid)),
        (Request, Some(Drop::Invalid), None),
        (Renew, Some(Drop::Invalid), None),
        (Decline, Some(Drop::Invalid), None),
        (Release, Some(Drop::Invalid), None),
        (InformationRequest, Some(Drop::Invalid), Some(Drop::Invalid)),
        (Advertise, Some(Drop::FromServer), Some(Drop::FromServer)),
        (Reply, Some(Drop::FromServer), Some(Drop::FromServer)),
        (Reconfigure, Some(Drop::FromServer), Some(Drop::FromServer)),
    ] {
        let mut server = Server::new();
        let plain = with_identity(message(kind, 1), 1, &[ip(0x10)]);
        let mut named = plain.clone();
        named.options.push(code::SERVER_ID, DUID);
        assert_eq!(server.ask(1, plain.clone()).err(), without, "{kind}");
        assert_eq!(server.ask(1, named.clone()).err(), with, "{kind}");
        let mut other = plain;
        other.options.push(code::SERVER_ID, [0, 4, 1]);
        let expected = if without == Some(Drop::Invalid) && with.is_none() {
            Drop::OtherServer
        } else {
            with.unwrap_or(Drop::Invalid)
        };
        assert_eq!(server.ask(1, other).err(), Some(expected), "{kind}");
    }
    let mut server = Server::new();
    let nobody = with_identity(Message::new(MessageType::Solicit, [0; 3]), 1, &[]);
    assert_eq!(server.ask(1, nobody).err(), Some(Drop::Invalid));
    for length in [0, 2, 131] {
        let mut odd = Message::new(MessageType::Solicit, [0; 3]);
        odd.options.push(code::CLIENT_ID, vec![1; length]);
        assert_eq!(server.ask(1, odd).err(), Some(Drop::Identity), "{length}");
    }
}

#[test]
fn p30_who_sends_to_this_server_alone_is_told_to_use_the_group() {
    use MessageType::{Confirm, InformationRequest, Rebind, Release, Renew, Request, Solicit};
    let mut server = Server::new();
    let address = server.bind(1);
    let arrival = Arrival { source: link_local(1), address: SERVER, multicast: false };
    for kind in [Request, Renew, Release] {
        let packet = Packet { relays: vec![], message: to_server(kind, 1, address) };
        let reply = server.ask_as(packet, arrival).expect("answered").packet.message;
        assert_eq!((status(&reply), given(&reply)), (Some(Status::UseMulticast), None), "{kind}");
    }
    assert_eq!(server.stored[&address].state, LeaseState::Bound);
    for kind in [Solicit, Confirm, Rebind, InformationRequest] {
        let packet = Packet { relays: vec![], message: message(kind, 1) };
        assert_eq!(server.ask_as(packet, arrival).err(), Some(Drop::Unicast), "{kind}");
    }
}

#[test]
fn p30_reservations_go_by_hardware_address_uuid_and_duid() {
    let mut server = Server::new();
    assert_eq!(server.bind(50), RESERVED);
    // Another program of the same machine, by another DUID and another identity.
    let mut system = Message::new(MessageType::Solicit, [2; 3]);
    system.options.push(code::CLIENT_ID, [0, 2, 1, 2, 3]);
    let advertise = server.answer(50, with_identity(system, 99, &[]));
    assert_eq!(given(&advertise).map(|it| it.address), Some(RESERVED));
    // By UUID; of two identities one has the reserved address.
    let both = with_identity(solicit(51), 2, &[]);
    let addresses: Vec<_> = server
        .answer(51, both)
        .identities()
        .map(|identity| identity.addresses().next().expect("an address").address)
        .collect();
    assert_eq!(addresses, [ip(0x51), ip(0x10)]);
    let mut by_duid = Message::new(MessageType::Solicit, [2; 3]);
    by_duid.options.push(code::CLIENT_ID, [0, 2, 52]);
    assert_eq!(given(&server.answer(9, with_identity(by_duid, 1, &[]))).map(|it| it.address), Some(ip(0x52)));
    // Nobody else gets one, whatever it wishes.
    let wish = with_identity(message(MessageType::Solicit, 1), 1, &[RESERVED]);
    assert_ne!(given(&server.answer(1, wish)).map(|it| it.address), Some(RESERVED));
}

#[test]
fn p30_one_packet_takes_few_addresses() {
    let mut server = Server::new();
    server.subnets[0].pools = vec![Pool { first: ip(0x10), last: ip(0xff) }];
    let greedy = (2..40).fold(solicit(1), |message, id| with_identity(message, id, &[]));
    let advertise = server.answer(1, greedy);
    let given = advertise.identities().filter(|identity| identity.status().is_none()).count();
    assert_eq!((given, advertise.identities().count()), (IDENTITIES_MAX, 39));
    assert!(!server.exhausted, "the pool has more");
}

#[test]
fn p30_what_is_not_given_here_is_refused() {
    let mut server = Server::new();
    let mut asking = solicit(1);
    asking.options.push(code::IA_PD, [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
    asking.options.push(code::IA_TA, [0, 0, 0, 6]);
    let advertise = server.answer(1, asking);
    assert!(given(&advertise).is_some());
    let pd = advertise.options.get(code::IA_PD).expect("answered");
    assert_eq!(
        (&pd[..4], Options::decode(&pd[12..]).expect("options").get(code::STATUS).and_then(Status::decode)),
        (&[0, 0, 0, 5][..], Some(Status::NoPrefix))
    );
    let ta = advertise.options.get(code::IA_TA).expect("answered");
    assert_eq!(
        (&ta[..4], Options::decode(&ta[4..]).expect("options").get(code::STATUS).and_then(Status::decode)),
        (&[0, 0, 0, 6][..], Some(Status::NoAddresses))
    );
}

#[test]
fn p30_addresses_of_another_link_are_refused() {
    let mut server = Server::new();
    let reply = server.answer(1, request(1, far(9)));
    assert_eq!((given(&reply), identity_status(&reply)), (None, Some(Status::NotOnLink)));
    for (addresses, expected) in [
        (&[ip(0x99)][..], Ok(Status::Success)),
        (&[ip(0x99), far(9)], Ok(Status::NotOnLink)),
        (&[far(9)], Ok(Status::NotOnLink)),
        (&[], Err(Drop::Invalid)),
    ] {
        let confirm = with_identity(message(MessageType::Confirm, 1), 1, addresses);
        let answer = server.ask(1, confirm).map(|reply| status(&reply.packet.message).expect("a status"));
        assert_eq!(answer, expected, "{addresses:?}");
    }
}

#[test]
fn p30_leases_are_extended_released_and_declined() {
    use MessageType::{Decline, Rebind, Release, Renew};
    let mut server = Server::new();
    let address = server.bind(1);
    server.now = START.plus(1_000_000);
    for renewing in [to_server(Renew, 1, address), with_identity(message(Rebind, 1), 1, &[address])] {
        assert_eq!(given(&server.answer(1, renewing)).map(|it| it.valid), Some(3_600));
        assert_eq!(server.stored[&address].expires, server.now.plus(3_600_000));
        server.now = server.now.plus(1_000);
    }
    // Somebody else's: it cannot go on using it.
    let theft = server.answer(2, to_server(Renew, 2, address));
    assert_eq!(
        (given(&theft).map(|it| it.valid), identity_status(&theft)),
        (Some(0), Some(Status::NoBinding))
    );
    let elsewhere = with_identity(message(Rebind, 2), 1, &[far(9)]);
    assert_eq!(given(&server.answer(2, elsewhere)).map(|it| it.valid), Some(0));
    // Of this link, but nobody's: another server may know.
    let unknown = with_identity(message(Rebind, 2), 1, &[ip(0x99)]);
    assert_eq!(server.ask(2, unknown).err(), Some(Drop::NoRecord));
    // Only the holder may give it up.
    for kind in [Release, Decline] {
        let reply = server.answer(2, to_server(kind, 2, address));
        assert_eq!(
            (identity_status(&reply), status(&reply)),
            (Some(Status::NoBinding), Some(Status::Success))
        );
        assert_eq!(server.stored[&address].state, LeaseState::Bound);
    }
    assert_eq!(status(&server.answer(1, to_server(Release, 1, address))), Some(Status::Success));
    assert_eq!(server.stored[&address].state, LeaseState::Released);
    assert_eq!(server.bind(1), address, "it can have it again");
    server.answer(1, to_server(Decline, 1, address));
    assert_eq!(server.stored[&address].state, LeaseState::Declined);
    assert_ne!(server.bind(1), address);
    server.now = server.now.plus(DECLINED_MS);
    let wish = with_identity(message(MessageType::Solicit, 3), 1, &[address]);
    assert_eq!(given(&server.answer(3, wish)).map(|it| it.address), Some(address));
}

#[test]
fn p30_two_messages_are_enough_where_both_want_it() {
    let mut rapid = solicit(1);
    rapid.options.push(code::RAPID_COMMIT, []);
    let mut server = Server::new();
    assert_eq!(server.answer(1, rapid.clone()).kind, MessageType::Advertise);
    server.subnets[0].rapid_commit = true;
    assert_eq!(server.answer(2, solicit(2)).kind, MessageType::Advertise);
    let reply = server.answer(1, rapid);
    assert!(reply.kind == MessageType::Reply && reply.options.has(code::RAPID_COMMIT));
    assert_eq!(server.stored[&given(&reply).expect("an address").address].state, LeaseState::Bound);
}

#[test]
fn p30_parameters_without_addresses() {
    let mut server = Server::new();
    let mut inform = Message::new(MessageType::InformationRequest, [3; 3]);
    inform.options.push(code::OPTION_REQUEST, [0, 23, 0, 59]);
    let inform = firmware(inform, "HTTPClient:Arch:00016:UNDI:003000", 16);
    let reply = server.answer(1, inform);
    assert!(reply.kind == MessageType::Reply && !reply.options.has(code::CLIENT_ID));
    assert!(reply.options.has(code::NAME_SERVERS) && reply.options.has(code::BOOT_FILE_URL));
    assert!(server.stored.is_empty());
}

fn url(server: &mut Server, n: u8, message: Message) -> (Option<String>, Option<Vec<u8>>) {
    let reply = server.answer(n, message);
    let text = |code| reply.options.get(code).map(|value| String::from_utf8_lossy(value).into_owned());
    (text(code::BOOT_FILE_URL), reply.options.get(code::VENDOR_CLASS).map(Vec::from))
}

#[test]
fn p30_each_client_is_told_the_url_it_can_start() {
    let mut server = Server::new();
    let class = [&343_u32.to_be_bytes()[..], &with_length(b"HTTPClient")].concat();
    let pxe = firmware(solicit(1), "PXEClient:Arch:00007:UNDI:003000", 7);
    let expected = (Some("tftp://[fd77::1]/snponly.efi".into()), None);
    assert_eq!(url(&mut server, 1, pxe.clone()), expected);
    let http = firmware(solicit(1), "HTTPClient:Arch:00016:UNDI:003000", 16);
    let expected = (Some("http://[fd77::1]:8080/boot/files/snponly.efi".into()), Some(class));
    assert_eq!(url(&mut server, 1, http.clone()), expected);
    let mut ipxe = firmware(solicit(1), "PXEClient:Arch:00007:UNDI:003010", 7);
    ipxe.options.push(code::USER_CLASS, with_length(b"iPXE"));
    let script = format!("http://[fd77::1]:8080/boot/{}/script.ipxe", mac(1));
    assert_eq!(url(&mut server, 1, ipxe.clone()), (Some(script), None));
    assert_eq!(url(&mut server, 1, solicit(1)), (None, None), "a system starts nothing");

    server.node = Known::STRANGER;
    let missing = "tftp://[fd77::1]/start-from-local-disk";
    assert_eq!(url(&mut server, 1, pxe).0.as_deref(), Some(missing));
    let missing = "http://[fd77::1]:8080/boot/files/start-from-local-disk";
    assert_eq!(url(&mut server, 1, http).0.as_deref(), Some(missing));
    assert_eq!(url(&mut server, 1, ipxe), (None, None));
}

#[test]
fn p30_the_packets_of_real_firmware_are_understood() {
    macro_rules! packet {
        ($name:literal) => {
            include_bytes!(concat!("../../../../tests/fuzz/seeds/dhcp6/", $name)).as_slice()
        };
    }
    for (bytes, client) in [
        (packet!("solicit-uefi"), "pxe/uefi-x64"),
        (packet!("request-uefi"), "pxe/uefi-x64"),
        (packet!("solicit-ipxe"), "ipxe/uefi-x64"),
        (packet!("relay-forward"), "pxe/uefi-x64"),
        (packet!("release"), "os"),
    ] {
        let packet = Packet::decode(bytes).expect("a packet");
        let source = if packet.relays.is_empty() { link_local(1) } else { ip(2) };
        assert_eq!(Client::of_v6(&packet.message).to_string(), client);
        assert!(
            packet.message.identities().next().is_some()
                && duid::uuid(packet.message.client_id().expect("a DUID")).is_some()
        );
        assert_eq!(hardware_address(&packet, source), Some(mac(1)), "{client}");
    }
}

fn relay(link: Ipv6Addr, peer: Ipv6Addr, interface: &[u8]) -> Relay {
    let mut options = Options::default();
    options.push(code::INTERFACE_ID, interface);
    Relay { hops: 0, link, peer, options }
}

#[test]
fn p30_answers_go_back_through_the_relays_they_came_by() {
    let mut server = Server::new();
    let inner = relay(far(1), link_local(7), b"eth 7");
    let outer = relay(Ipv6Addr::UNSPECIFIED, far(1), b"up");
    let relays = vec![outer, inner];
    let source = far(0xfe);
    let arrival = Arrival { source, address: SERVER, multicast: false };
    let reply =
        server.ask_as(Packet { relays: relays.clone(), message: solicit(7) }, arrival).expect("answered");
    assert_eq!((reply.to, reply.port()), (source, 547));
    assert_eq!(Packet::decode_reply(&reply.packet.encode_reply()), Ok(reply.packet.clone()));
    assert_eq!(reply.packet.relays, relays);
    assert_eq!(reply.address(), Some(far(0x10)), "the relay next to the client says where it is");

    let from = |server: &mut Server, source, link| {
        let arrival = Arrival { source, address: SERVER, multicast: true };
        let relays = vec![relay(link, link_local(7), b"")];
        server.ask_as(Packet { relays, message: solicit(7) }, arrival).map(|reply| reply.address())
    };
    let trusted = Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 1);
    let stranger = Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 2);
    assert_eq!(from(&mut server, trusted, far(1)), Ok(Some(far(0x10))));
    assert_eq!(from(&mut server, stranger, far(1)), Err(Drop::UnknownRelay(stranger)));
    assert_eq!(from(&mut server, trusted, stranger), Err(Drop::UnknownSubnet));
    // A switch on our wire that does not know addresses (RFC 6221).
    assert_eq!(from(&mut server, link_local(9), Ipv6Addr::UNSPECIFIED), Ok(Some(ip(0x10))));
}

#[test]
fn p30_the_hardware_address_is_found_where_something_tells_it() {
    let seen = |source, duid: Vec<u8>, relays| {
        let mut message = Message::new(MessageType::Solicit, [1; 3]);
        message.options.push(code::CLIENT_ID, duid);
        let subnets = subnets();
        let arrival = Arrival { source, address: SERVER, multicast: true };
        triage(&subnets, &DUID, Packet { relays, message }, arrival).expect("served").mac
    };
    let private = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4);
    assert_eq!(seen(link_local(1), vec![0, 2, 1], vec![]), Some(mac(1)));
    assert_eq!(seen(private, duid::of_mac(mac(2)), vec![]), Some(mac(2)));
    assert_eq!(seen(link_local(1), duid::of_mac(mac(2)), vec![]), Some(mac(1)), "the wire counts more");
    assert_eq!(seen(private, vec![0, 2, 1], vec![]), None);
    let mut told = relay(ip(1), link_local(3), b"");
    assert_eq!(seen(ip(9), vec![0, 2, 1], vec![told.clone()]), Some(mac(3)));
    told.options.push(code::CLIENT_LINK_LAYER, [&[0, 1][..], &mac(4).0].concat());
    assert_eq!(seen(ip(9), vec![0, 2, 1], vec![told]), Some(mac(4)), "its relay saw it");
}

#[test]
fn p31_while_nothing_can_be_stored_only_what_is_stored_is_given() {
    let mut server = Server::new();
    let address = server.bind(1);
    server.now = START.plus(1_000_000);
    server.storable = false;
    assert_eq!(server.bind(50), RESERVED);
    let renewed = server.answer(1, to_server(MessageType::Renew, 1, address));
    assert_eq!(given(&renewed).map(|it| it.valid), Some(2_600), "the rest of its time");
    assert_eq!(server.ask(2, solicit(2)).err(), Some(Drop::NotStored));
    assert_eq!(server.ask(2, request(2, ip(0x11))).err(), Some(Drop::NotStored));
    assert_eq!(server.ask(1, to_server(MessageType::Release, 1, address)).err(), Some(Drop::NotStored));
}
