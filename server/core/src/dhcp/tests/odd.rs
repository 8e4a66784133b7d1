//! Clients that are not as the book says: each gets an answer, or a silence with a name.

use super::*;

/// A DISCOVER of these header bytes and options, as it is on the wire.
fn packet(hardware: (u8, u8), address: &[u8], options: &[&[u8]], end: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, hardware.0, hardware.1, 0, 0, 0, 0, 7];
    bytes.resize(28, 0);
    bytes.extend_from_slice(address);
    bytes.resize(236, 0);
    bytes.extend_from_slice(&[99, 130, 83, 99]);
    options.iter().for_each(|option| bytes.extend_from_slice(option));
    bytes.extend_from_slice(end);
    bytes
}

fn outcome(bytes: &[u8]) -> Result<MessageType, Drop> {
    let message = Message::decode(bytes).expect("a message");
    Server::new().ask(&message).map(|reply| reply.expect("a reply").kind)
}

#[test]
fn p30_odd_clients_get_an_answer_or_a_named_silence() {
    const ETHERNET: (u8, u8) = (1, 6);
    const DISCOVER: &[u8] = &[53, 1, 1];
    const END: &[u8] = &[255];
    let address = mac(1).0;
    let long = [&[61, 255][..], &[1; 255]].concat();
    let both = [&long[..], &long].concat();
    let offer = Ok(MessageType::Offer);
    let table: [(&str, Vec<u8>, Result<MessageType, Drop>); 16] = [
        ("no client identifier", packet(ETHERNET, &address, &[DISCOVER], END), offer),
        ("no end", packet(ETHERNET, &address, &[DISCOVER], &[]), offer),
        (
            "padding before, between, behind",
            packet(ETHERNET, &address, &[&[0, 0], DISCOVER, &[0]], &[255, 0, 0]),
            offer,
        ),
        ("garbage behind the end", packet(ETHERNET, &address, &[DISCOVER], &[255, 61, 200, 1]), offer),
        (
            "empty options",
            packet(ETHERNET, &address, &[DISCOVER, &[12, 0, 61, 0, 55, 0, 60, 0, 82, 0, 93, 0]], END),
            offer,
        ),
        ("the longest identifier", packet(ETHERNET, &address, &[DISCOVER, &long], END), offer),
        (
            "an identifier in two parts, too long",
            packet(ETHERNET, &address, &[DISCOVER, &both], END),
            Err(Drop::Identity),
        ),
        (
            "a name of control characters",
            packet(ETHERNET, &address, &[DISCOVER, &[12, 3, 1, 2, 3]], END),
            offer,
        ),
        ("a wish of three bytes", packet(ETHERNET, &address, &[DISCOVER, &[50, 3, 10, 77, 0]], END), offer),
        ("a type of two bytes", packet(ETHERNET, &address, &[&[53, 2, 1, 1]], END), Err(Drop::Type)),
        ("BOOTP", packet(ETHERNET, &address, &[], END), Err(Drop::Type)),
        ("no hardware address", packet((1, 0), &[], &[DISCOVER], END), Err(Drop::Identity)),
        (
            "no hardware address, but an identifier",
            packet((32, 0), &[], &[DISCOVER, &[61, 2, 0, 7]], END),
            offer,
        ),
        (
            "sixteen bytes of hardware address",
            packet((1, 16), &[2; 16], &[DISCOVER], END),
            Err(Drop::Identity),
        ),
        ("InfiniBand", packet((32, 6), &address, &[DISCOVER], END), Err(Drop::Identity)),
        (
            "a group's hardware address",
            packet(ETHERNET, &[1, 0, 0x5e, 0, 0, 1], &[DISCOVER], END),
            Err(Drop::Identity),
        ),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(outcome(&bytes), expected, "{what}");
    }
}

#[test]
fn p30_a_name_that_is_none_is_not_passed_on() {
    for (claimed, heard) in [
        (&b"node1"[..], Some("node1")),
        (b"node1\0", Some("node1")),
        (b"\x01\x02", None),
        (b"\xff\xfe", None),
        (b"\0", None),
    ] {
        let server = Server::new();
        let mut message = discover(1);
        message.options.set(code::HOST_NAME, claimed);
        let seen = triage(&server.subnets, message, SERVER).expect("a client's message");
        let decision = decide(&seen, server.view());
        assert_eq!(decision.contact.hostname.as_deref(), heard, "{claimed:?}");
        let reply = decision.reply.expect("an answer").expect("an offer");
        assert_eq!(reply.message.options.get(code::HOST_NAME), None, "nobody's name is echoed");
    }
}

/// RFC 2131 §4.1: giaddr, ciaddr, broadcast flag, kind of the answer → where it goes.
#[test]
fn p30_every_row_of_section_4_1() {
    let relay = ip(200);
    let (none, own) = (Ipv4Addr::UNSPECIFIED, ip(10));
    let frame = Destination::Hardware(own, mac(1));
    for (giaddr, ciaddr, broadcast, refused, expected) in [
        (none, none, false, false, frame),
        (none, none, true, false, Destination::Broadcast),
        (none, own, false, false, Destination::Unicast(own)),
        (none, own, true, false, Destination::Unicast(own)),
        (none, none, false, true, Destination::Broadcast),
        (none, none, true, true, Destination::Broadcast),
        (none, ip(99), false, true, Destination::Broadcast),
        (relay, none, false, false, Destination::Relay(relay)),
        (relay, none, true, false, Destination::Relay(relay)),
        (relay, own, false, false, Destination::Relay(relay)),
        (relay, none, false, true, Destination::Relay(relay)),
    ] {
        let mut server = Server::new();
        server.bind(1);
        let mut message = match (ciaddr == none, refused) {
            (true, false) => rebooting(1, own),
            (true, true) => rebooting(1, ip(12)),
            (false, _) => extending(1, ciaddr),
        };
        (message.giaddr, message.broadcast) = (giaddr, broadcast);
        let reply = server.answer(&message);
        let kind = if refused { MessageType::Nak } else { MessageType::Ack };
        assert_eq!((reply.kind, reply.destination), (kind, expected), "{giaddr} {ciaddr} {broadcast}");
        // A relay must broadcast a refusal (§4.3.2).
        assert_eq!(reply.message.broadcast, broadcast || refused && giaddr == relay);
    }
}

#[test]
fn p30_p31_clients_without_hardware_address_are_told_apart_by_their_identifiers() {
    let mut server = Server::new();
    let ask = |server: &mut Server, id: u8, options: &[&[u8]]| {
        let id = [61, 2, 255, id];
        let options = [&[&[53, 1, 1][..], &id], options].concat();
        let message = Message::decode(&packet((32, 0), &[], &options, &[255])).expect("a message");
        server.answer(&message)
    };
    let firmware: &[&[u8]] =
        &[&[60, 9, b'P', b'X', b'E', b'C', b'l', b'i', b'e', b'n', b't'], &[93, 2, 0, 7]];
    let [first, second] = [7, 8].map(|id| ask(&mut server, id, firmware));
    assert_ne!(first.message.yiaddr, second.message.yiaddr);
    assert_eq!(ask(&mut server, 7, &[]).message.yiaddr, first.message.yiaddr);
    assert_eq!(first.destination, Destination::Broadcast, "there is no address for a frame");
    assert!(first.message.file.is_empty(), "nobody's machine");
    server.node.reservation = Some(ip(50));
    assert_eq!(ask(&mut server, 7, &[]).message.yiaddr, ip(50));
    assert_ne!(ask(&mut server, 8, &[]).message.yiaddr, ip(50), "the place is taken");
}
