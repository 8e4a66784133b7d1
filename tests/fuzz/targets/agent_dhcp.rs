//! What DHCP servers answer to the agent: its lease is one that can be used and renewed.

#![no_main]

// The agent's own file without the agent, whose TLS and decompressors would take minutes to build.
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/dhcp_client.rs"]
mod dhcp_client;

use dhcp_client::{Client, Step};
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::ids::Mac;
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const XID: u32 = 7;

// Packets, each behind the seconds it takes and its length.
fuzz_target!(|bytes: &[u8]| {
    let mut client = Client::new(MAC, XID, Duration::ZERO);
    let (mut now, mut rest) = (Duration::ZERO, bytes);
    while let [seconds, high, low, tail @ ..] = rest {
        now += Duration::from_secs(u64::from(*seconds) * 64);
        let (packet, tail) = tail.split_at(tail.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        rest = tail;
        if let Step::Send { packet, .. } = client.poll(now, XID) {
            Message::decode(&packet).expect("our own question");
        }
        let mut packet = packet.to_vec();
        if let Some(fields) = packet.get_mut(..34) {
            // An answer to this client: what is for others is never looked at.
            fields[4..8].copy_from_slice(&XID.to_be_bytes());
            fields[28..].copy_from_slice(&MAC.0);
        }
        client.receive(&packet, now, XID);
        let Some(lease) = client.lease() else { continue };
        assert!(!lease.address.is_unspecified() && lease.since <= now);
        assert!(Duration::ZERO < lease.renew && lease.renew <= lease.rebind && lease.rebind <= lease.end);
        let harmless = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        assert!(lease.domain.chars().all(harmless), "it goes into a configuration file");
    }
});
