//! A DHCP datagram: read, understood, decided, answered. Nothing panics, and an answer can be read.

#![no_main]

use kaltstart_core::boot::BootDecision;
use kaltstart_core::dhcp::lease::{LeaseTable, Pool};
use kaltstart_core::dhcp::parameters::Parameters;
use kaltstart_core::dhcp::role::Role;
use kaltstart_core::dhcp::subnet::{Network, Subnet};
use kaltstart_core::dhcp::{Known, View, decide, triage};
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::time::Millis;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    Message::decode(&message.encode()).expect("what was read can be said again");
    let subnets = [Subnet {
        network: Network { address: ip(0), prefix: 24 },
        server: ip(1),
        http: "http://10.77.0.1:8080".into(),
        direct: true,
        relays: vec![],
        pools: vec![Pool { first: ip(10), last: ip(12) }],
        parameters: Parameters::default(),
        rules: Default::default(),
        local: Default::default(),
        looking: Default::default(),
    }];
    let Ok(seen) = triage(&subnets, message, ip(1)) else { return };
    let (mut table, reserved) = (LeaseTable::default(), BTreeSet::new());
    let node = Known { boot: BootDecision::Discover, ..Known::STRANGER };
    // Twice: the second time it is known.
    for now in [Millis(1), Millis(2)] {
        let role = Role::Authoritative;
        let view = View { table: &table, reserved: &reserved, node: &node, role, now, running_ms: 0, restored_ms: None, port: 68, storable: true };
        let decision = decide(&seen, view);
        if let Ok(Some(reply)) = &decision.reply {
            Message::decode(&reply.message.encode()).expect("our own answer");
        }
        if let Some(write) = decision.write {
            table.apply(write);
        }
    }
});
