//! Relays, reservations, lease times and options: what the configuration and the standards around
//! RFC 2131 add.

use super::*;
use core::net::SocketAddrV4;
use host::{Host, HostKey};
use parameters::Class;

const RELAY: Ipv4Addr = ip(200);

/// `message` by way of a relay in the subnet that adds `information`.
fn relayed(mut message: Message, information: &[&[u8]]) -> Message {
    message.giaddr = RELAY;
    if !information.is_empty() {
        message.options.set(code::RELAY_INFO, information.concat());
    }
    message
}

fn sub_option(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(value.len()).expect("short")], value].concat()
}

/// Adds a machine to the rules, and keeps its address.
fn know(server: &mut Server, key: HostKey, n: u8) {
    let mut rules = Rules::clone(&server.subnets[0].rules);
    let parameters = Parameters { lease_seconds: Some(900), ..Parameters::default() };
    rules.add(
        [key],
        Host { name: alloc::format!("host{n}"), address: Some(ip(n)), parameters, ..Host::default() },
    );
    server.subnets[0].rules = Arc::new(rules);
}

#[test]
fn p30_rfc5107_clients_of_a_relay_that_stands_for_the_server_know_it_by_that_address() {
    let mut server = Server::new();
    let stands = sub_option(11, &RELAY.octets());
    let offer = server.answer(&relayed(discover(1), &[&stands]));
    assert_eq!((offer.message.server_id(), offer.destination), (Some(RELAY), Destination::Relay(RELAY)));
    let address = offer.message.yiaddr;
    assert_eq!(server.acked(&relayed(selecting(1, RELAY, address), &[&stands])), address);
    // Without that relay's word it is another server.
    assert_eq!(server.ask(&relayed(selecting(1, RELAY, address), &[])), Err(Drop::OtherServer(RELAY)));
    let mut direct = selecting(2, SERVER, ip(11));
    direct.options.set(code::RELAY_INFO, stands.clone());
    assert_eq!(server.answer(&direct).message.server_id(), Some(SERVER), "a client cannot say so itself");
    assert_eq!(server.ask(&relayed(releasing(1, address), &[&stands])), Err(Drop::OtherServer(SERVER)));
    let mut release = releasing(1, address);
    release.options.set_addresses(code::SERVER_ID, &[RELAY]);
    assert_eq!(server.ask(&relayed(release, &[&stands])), Ok(None));
}

#[test]
fn p30_rfc8357_a_relay_that_asks_from_a_port_of_its_own_is_answered_there() {
    let mut server = Server::new();
    let (own_port, circuit) = (sub_option(19, &[]), sub_option(1, b"port 7"));
    let its_port = Destination::Asker(SocketAddrV4::new(RELAY, ASKED_FROM));
    let offer = server.answer(&relayed(discover(1), &[&circuit, &own_port]));
    assert_eq!(offer.destination, its_port);
    assert_eq!(offer.message.relay_info(), Some(&[circuit.clone(), own_port.clone()].concat()[..]), "echoed");
    let address = server.acked(&relayed(selecting(1, SERVER, offer.message.yiaddr), &[&own_port]));
    let nak = server.refused(&relayed(rebooting(2, address), &[&own_port]));
    assert_eq!((nak.destination, nak.message.broadcast), (its_port, true));
    // Who does not say so listens at the port of servers, from wherever it asks.
    assert_eq!(server.answer(&relayed(discover(1), &[&circuit])).destination, Destination::Relay(RELAY));
    let mut direct = discover(1);
    direct.options.set(code::RELAY_INFO, own_port);
    let destination = server.answer(&direct).destination;
    assert_eq!(destination, Destination::Hardware(address, mac(1)), "a client cannot say so itself");
}

#[test]
fn p30_rfc3011_a_client_may_select_its_subnet_and_is_told_that_it_counted() {
    let mut server = Server::new();
    let mut far = subnet();
    far.network = Network { address: Ipv4Addr::new(10, 88, 0, 0), prefix: 16 };
    far.pools = vec![Pool { first: Ipv4Addr::new(10, 88, 1, 0), last: Ipv4Addr::new(10, 88, 1, 9) }];
    (far.direct, far.server) = (false, SERVER);
    server.subnets.push(far);
    let selected = |network: [u8; 4]| {
        let mut message = discover(1);
        message.options.set(code::SUBNET_SELECTION, network);
        message
    };
    for message in [selected([10, 88, 0, 0]), relayed(selected([10, 88, 0, 0]), &[])] {
        let offer = server.answer(&message).message;
        assert_eq!(offer.yiaddr, Ipv4Addr::new(10, 88, 1, 0));
        assert_eq!(offer.options.get(code::SUBNET_SELECTION), Some(&[10, 88, 0, 0][..]));
    }
    assert_eq!(server.ask(&selected([10, 99, 0, 0])), Err(Drop::UnknownSubnet));
    // RFC 3527 §3: what the relay says comes before what the client says.
    let both = relayed(selected([10, 88, 0, 0]), &[&sub_option(5, &[10, 77, 0, 0])]);
    assert_eq!(server.answer(&both).message.yiaddr, ip(10));
}

#[test]
fn p34_a_subnet_behind_relays_hears_nobody_directly_and_is_refused_nothing_by_broadcast() {
    let mut server = Server::new();
    server.subnets[0].direct = false;
    assert_eq!(server.ask(&discover(1)), Err(Drop::UnknownSubnet));
    let offer = server.answer(&relayed(discover(1), &[]));
    let address = offer.message.yiaddr;
    assert_eq!(server.acked(&relayed(selecting(1, SERVER, address), &[])), address);
    // Renewing goes past the relay, and so does its end.
    let renewed = server.answer(&extending(1, address));
    assert_eq!((renewed.kind, renewed.destination), (MessageType::Ack, Destination::Unicast(address)));
    let refused = server.refused(&extending(2, address));
    assert_eq!(refused.destination, Destination::Unicast(address));
}

#[test]
fn p30_a_relay_is_known_by_its_network_or_by_name() {
    let mut server = Server::new();
    let far = Ipv4Addr::new(192, 168, 9, 1);
    let mut message = discover(1);
    message.giaddr = far;
    assert_eq!(server.ask(&message), Err(Drop::UnknownSubnet));
    server.subnets[0].relays = vec![Network { address: far, prefix: 24 }];
    let offer = server.answer(&message);
    assert_eq!((offer.message.yiaddr, offer.destination), (ip(10), Destination::Relay(far)));
}

#[test]
fn p30_reservations_by_each_key_and_the_strongest_decides_alone() {
    let uuid = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    let turned = [4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16];
    let some = |text: &[u8]| Some(text.to_vec());
    let mut server = Server::new();
    // The weakest first, so that each one added takes over.
    let [as_written, as_stored] = HostKey::of_uuid(uuid);
    let keys = [
        HostKey::Port(None, some(b"switch")),
        HostKey::Port(some(b"eth7"), None),
        HostKey::Port(some(b"eth7"), some(b"switch")),
        as_written,
        HostKey::ClientId(b"\x00id".into()),
        HostKey::Mac(mac(1)),
    ];
    let mut ask = relayed(discover(1), &[&sub_option(1, b"eth7"), &sub_option(2, b"switch")]);
    ask.options.set(code::MACHINE_ID, [&[0], &uuid[..]].concat());
    ask.options.set(code::CLIENT_ID, *b"\x00id");
    assert_eq!(server.answer(&ask).message.yiaddr, ip(10), "nobody in particular");
    for (n, key) in (50..).zip(keys) {
        let by_mac = matches!(key, HostKey::Mac(_));
        know(&mut server, key, n);
        if by_mac {
            // Its address is the node's, wherever that was declared.
            server.node.reservation = Some(ip(n));
            server.node.hostname = Some(alloc::format!("host{n}"));
        }
        let offer = server.answer(&ask).message;
        let name = alloc::format!("host{n}");
        assert_eq!((offer.yiaddr, offer.options.text(code::HOST_NAME)), (ip(n), Some(name.as_str())));
        assert_eq!(offer.lease_seconds(), Some(900));
    }
    // A node with a reservation that was declared elsewhere is that node.
    know(&mut server, as_stored, 60);
    server.node.reservation = Some(ip(61));
    server.node.hostname = Some("declared".into());
    let mut other = discover(2);
    other.options.set(code::MACHINE_ID, [&[0], &turned[..]].concat());
    let offer = server.answer(&other).message;
    assert_eq!((offer.yiaddr, offer.options.text(code::HOST_NAME)), (ip(61), Some("declared")));
    server.node.reservation = None;
    assert_eq!(server.answer(&other).message.yiaddr, ip(60), "a UUID with its fields turned around");
}

#[test]
fn p31_the_next_machine_on_a_switch_port_gets_the_address_when_the_last_one_is_gone() {
    let mut server = Server::new();
    know(&mut server, HostKey::Port(Some(b"eth7".into()), None), 50);
    let on_port = |message| relayed(message, &[&sub_option(1, b"eth7")]);
    let offer = server.answer(&on_port(discover(1))).message;
    assert_eq!(server.acked(&on_port(selecting(1, SERVER, offer.yiaddr))), ip(50));
    let second = server.answer(&on_port(discover(2))).message;
    assert_eq!(second.yiaddr, ip(10), "two machines on one port share no address");
    server.refused(&on_port(selecting(2, SERVER, ip(50))));
    assert_eq!(server.acked(&extending(1, ip(50))), ip(50), "a renewal goes past the relay");
    server.refused(&extending(2, ip(50)));
    assert_eq!(server.ask(&on_port(releasing(1, ip(50)))), Ok(None));
    assert_eq!(server.answer(&on_port(discover(2))).message.yiaddr, ip(50));
    // With no room on the disk the port says too little: the next machine could be given the same.
    server.storable = false;
    assert_eq!(server.ask(&on_port(discover(2))), Err(Drop::NotStored));
    server.storable = true;
    // Elsewhere it is nobody's.
    server.refused(&relayed(selecting(3, SERVER, ip(50)), &[&sub_option(1, b"eth8")]));
}

#[test]
fn p30_lease_times_are_as_asked_within_limits_and_t1_t2_fit_them() {
    // (usual, longest, T1, T2), asked → (lease, T1, T2)
    let table = [
        ((None, None, None, None), None, (3600, 1800, 3150)),
        ((None, None, None, None), Some(600), (600, 300, 525)),
        ((None, None, None, None), Some(1), (60, 30, 53)),
        ((None, None, None, None), Some(u32::MAX), (3600, 1800, 3150)),
        ((Some(600), Some(7200), None, None), None, (600, 300, 525)),
        ((Some(600), Some(7200), None, None), Some(u32::MAX), (7200, 3600, 6300)),
        ((Some(600), None, Some(100), Some(200)), None, (600, 100, 200)),
        ((Some(600), None, Some(100), Some(200)), Some(150), (150, 100, 132)),
        ((Some(600), None, Some(100), Some(200)), Some(60), (60, 30, 53)),
        ((Some(u32::MAX), None, None, None), None, (u32::MAX, u32::MAX / 2, u32::MAX - u32::MAX / 8)),
    ];
    for ((usual, longest, t1, t2), asked, (lease, renew, rebind)) in table {
        let mut server = Server::new();
        let parameters = &mut server.subnets[0].parameters;
        parameters.lease_seconds = usual;
        parameters.max_lease_seconds = longest;
        (parameters.renew_seconds, parameters.rebind_seconds) = (t1, t2);
        let mut message = discover(1);
        asked.into_iter().for_each(|asked| message.options.set_u32(code::LEASE_TIME, asked));
        let offer = server.answer(&message).message;
        let told = [code::LEASE_TIME, code::RENEWAL_TIME, code::REBINDING_TIME]
            .map(|code| offer.options.u32(code).expect("a time"));
        assert_eq!(told, [lease, renew, rebind], "{usual:?} {longest:?} {t1:?} {t2:?} {asked:?}");
        let mut take = selecting(1, SERVER, offer.yiaddr);
        asked.into_iter().for_each(|asked| take.options.set_u32(code::LEASE_TIME, asked));
        let ack = server.answer(&take).message;
        assert_eq!(ack.lease_seconds(), Some(lease));
        let held = server.table.get(ack.yiaddr).expect("bound");
        assert_eq!(held.expires, server.now.plus(u64::from(lease) * 1_000), "what is told is what is kept");
    }
}

/// An option 200 with this value, and another one that nobody else sets.
fn says(value: u8, own: u8) -> Parameters {
    let mut options = Options::default();
    options.set(200, [value]);
    options.set(own, [value]);
    Parameters { options, lease_seconds: Some(u32::from(value) * 100), ..Parameters::default() }
}

#[test]
fn p30_the_nearest_level_decides_about_each_option() {
    let mut server = Server::new();
    server.subnets[0].parameters = says(1, 201).or(&says(9, 209));
    let class = |vendor: &str, value, own| Class {
        vendor_class: Some(vendor.into()),
        parameters: says(value, own),
        ..Class::default()
    };
    let mut rules = Rules::default();
    rules.classes.extend([class("Ph", 2, 202), class("Phone", 3, 203)]);
    rules.add([HostKey::Mac(mac(2))], Host { parameters: says(4, 204), ..Host::default() });
    server.subnets[0].rules = Arc::new(rules);
    let mut told = |n: u8, vendor: &str| {
        let mut message = discover(n);
        message.options.set(code::VENDOR_CLASS, vendor);
        let offer = server.answer(&message).message;
        let own = [201, 202, 203, 204, 209].map(|code| offer.options.get(code).is_some());
        (offer.options.u8(200), offer.lease_seconds(), own)
    };
    assert_eq!(told(1, "x"), (Some(1), Some(100), [true, false, false, false, true]));
    assert_eq!(told(1, "Phone 7"), (Some(2), Some(200), [true, true, true, false, true]));
    assert_eq!(told(2, "Phone 7"), (Some(4), Some(400), [true, true, true, true, true]));
}

#[test]
fn p30_classes_fit_by_all_that_is_given() {
    let network = |address, prefix| Some(Network { address, prefix });
    let fits = |class: &Class| {
        let server = Server::new();
        let mut message = relayed(discover(1), &[]);
        message.options.set(code::VENDOR_CLASS, *b"PXEClient:Arch:00007");
        message.options.set(code::USER_CLASS, *b"\x03abc\x02de");
        message.options.set(code::ARCHITECTURE, [0, 6, 0, 7]);
        class.fits(&triage(&server.subnets, message, SERVER).expect("a client"))
    };
    let any = Class::default;
    for (class, expected) in [
        (any(), true),
        (Class { vendor_class: Some("PXEClient".into()), ..any() }, true),
        (Class { vendor_class: Some("HTTPClient".into()), ..any() }, false),
        (Class { user_class: Some("de".into()), ..any() }, true),
        (Class { user_class: Some("d".into()), ..any() }, false),
        (Class { architecture: Some(7), ..any() }, true),
        (Class { architecture: Some(0), ..any() }, false),
        (Class { mac: vec![0x52, 0x54], ..any() }, true),
        (Class { mac: vec![0x54], ..any() }, false),
        (Class { relay: network(RELAY, 32), ..any() }, true),
        (Class { relay: network(ip(0), 25), ..any() }, false),
        (Class { architecture: Some(7), mac: vec![0x54], ..any() }, false),
    ] {
        assert_eq!(fits(&class), expected, "{class:?}");
    }
}

#[test]
fn p01_configured_options_start_nothing_on_a_machine_that_shall_start_from_its_disk() {
    let mut server = Server::new();
    let options = &mut server.subnets[0].parameters.options;
    for code in [code::VENDOR_SPECIFIC, code::TFTP_SERVER, code::BOOT_FILE, 150, 209, 210, 211] {
        assert!(parameters::is_settable(code));
        options.set(code, *b"evil");
    }
    server.node.boot = BootDecision::Local;
    let has = |reply: &Message| reply.options.iter().any(|(_, value)| value == b"evil");
    assert!(has(&server.answer(&discover(1)).message), "a telephone may be told");
    for (class, user) in [("PXEClient", ""), ("HTTPClient", ""), ("", "iPXE")] {
        let mut message = discover(2);
        message.options.set(code::VENDOR_CLASS, class);
        message.options.set(code::USER_CLASS, user);
        assert!(!has(&server.answer(&message).message), "{class}{user}");
    }
}

#[test]
fn p30_a_shrunken_pool_ends_its_leases_at_renewal_and_gives_them_to_nobody_meanwhile() {
    let mut server = Server::new();
    let (kept, lost) = (server.bind(1), server.bind(2));
    server.subnets[0].pools = vec![Pool { first: kept, last: kept }];
    assert_eq!(server.acked(&extending(1, kept)), kept);
    server.refused(&extending(2, lost));
    server.refused(&rebooting(2, lost));
    assert_eq!(server.ask(&discover(3)), Err(Drop::PoolExhausted));
    // The pool as it was: the address is still its own.
    server.subnets[0].pools = vec![Pool { first: kept, last: lost }];
    assert_eq!(server.ask(&discover(3)), Err(Drop::PoolExhausted));
    assert_eq!(server.acked(&extending(2, lost)), lost);
}

#[test]
fn p30_several_pools_are_used_one_after_another() {
    let mut server = Server::new();
    server.subnets[0].pools = vec![
        Pool { first: ip(10), last: ip(11) },
        Pool { first: ip(20), last: ip(20) },
        Pool { first: ip(30), last: ip(31) },
    ];
    server.reserved.insert(ip(30));
    let given: Vec<_> = (1..=4).map(|n| server.bind(n)).collect();
    assert_eq!(given, [ip(10), ip(11), ip(20), ip(31)]);
    assert_eq!(server.ask(&discover(5)), Err(Drop::PoolExhausted));
    assert_eq!(server.ask(&rebooting(5, ip(15))), Err(Drop::NoRecord), "between the pools");
}

#[test]
fn p30_a_short_reply_has_the_lease_and_what_the_client_asked_for_first() {
    let mut server = Server::new();
    for code in 200..220 {
        server.subnets[0].parameters.options.set(code, vec![code; 60]);
    }
    let ask = |size: Option<u16>, wished: &[u8]| {
        let mut message = discover(1);
        message.options.set(code::PARAMETER_LIST, wished);
        size.into_iter().for_each(|size| message.options.set(code::MAX_MESSAGE_SIZE, size.to_be_bytes()));
        message
    };
    let wished = [219, 218, 217, 216, 3];
    for (size, longest) in
        [(None, 548), (Some(0), 548), (Some(576), 548), (Some(1000), 972), (Some(9000), 1472)]
    {
        let bytes = server.answer(&ask(size, &wished)).encode();
        assert!(bytes.len() <= longest, "{size:?}");
        let reply = Message::decode(&bytes).expect("a message");
        for code in [code::LEASE_TIME, code::SERVER_ID, code::SUBNET_MASK].into_iter().chain(wished) {
            assert!(reply.options.get(code).is_some(), "{size:?}: {code}");
        }
        assert_eq!(reply.options.get(215).is_some(), longest == 1472, "{size:?}");
    }
    // A boot file is worth more than what was asked for, and its field holds no options.
    let mut firmware = ask(None, &wished);
    firmware.options.set(code::VENDOR_CLASS, *b"PXEClient:Arch:00007");
    let reply = Message::decode(&server.answer(&firmware).encode()).expect("a message");
    assert_eq!(reply.options.text(code::BOOT_FILE).map(str::as_bytes), Some(reply.file.as_slice()));
    assert!(!reply.file.is_empty() && reply.options.get(219).is_some() && reply.options.get(216).is_none());
}
