//! A DHCPv6 datagram, with or without relays: read, understood, decided, answered. Nothing panics, an
//! answer can be read, and what was done to the lease table can be undone.

#![no_main]

use kaltstart_core::boot::BootDecision;
use kaltstart_core::dhcp::Known;
use kaltstart_core::dhcp::lease::{LeaseTable, Pool};
use kaltstart_core::dhcp6::subnet::{Prefix, Subnet};
use kaltstart_core::dhcp6::{Arrival, View, decide, triage};
use kaltstart_protocol::dhcp6::Packet;
use kaltstart_protocol::time::Millis;
use libfuzzer_sys::fuzz_target;
use std::net::Ipv6Addr;

const fn ip(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = Packet::decode(bytes) else { return };
    Packet::decode(&packet.encode()).expect("what was read can be said again");
    let subnets = [Subnet {
        prefix: Prefix { address: ip(0), length: 64 },
        server: ip(1),
        http: "http://[fd77::1]:8080".into(),
        direct: true,
        relays: vec![],
        pools: vec![Pool { first: ip(10), last: ip(12) }],
        lease_seconds: 3_600,
        renew_seconds: None,
        rebind_seconds: None,
        rapid_commit: true,
        name_servers: vec![ip(53)],
        domains: vec![],
        rules: Default::default(),
        local: Default::default(),
    }];
    let (server, node) = ([0, 4, 9], Known { boot: BootDecision::Discover, ..Known::STRANGER });
    // From an address of ours, so that relays are trusted; sent to the group, or to us alone.
    for multicast in [true, false] {
        let arrival = Arrival { source: ip(2), address: ip(1), multicast };
        let Ok(seen) = triage(&subnets, &server, packet.clone(), arrival) else { continue };
        let mut table = LeaseTable::default();
        // Twice: the second time it is known.
        for now in [Millis(1), Millis(2)] {
            let before = table.clone();
            let view = View { node: &node, now, storable: true };
            let decision = decide(&seen, view, &mut table);
            if let Ok(reply) = &decision.reply {
                Packet::decode_reply(&reply.packet.encode_reply()).expect("our own answer");
            }
            let after = table.clone();
            decision.undo.into_iter().rev().for_each(|undo| table.undo(undo));
            assert_eq!(table, before);
            table = after;
        }
    }
});
