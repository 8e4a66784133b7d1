//! What switches say to the agent.

#![no_main]

// As in `agent_dhcp`.
#[path = "../../../agent/src/lldp.rs"]
mod lldp;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(found) = lldp::read(bytes) {
        assert!(!found.chassis.is_empty() && !found.port.is_empty());
        assert!(!found.to_string().chars().any(char::is_control));
        assert!(found.vlan.is_none_or(|vlan| (1..4095).contains(&vlan)));
    }
});
