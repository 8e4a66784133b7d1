//! The table in which firmware describes processors and memory modules, as the agent reads it.

#![no_main]

// As in `agent_dhcp`.
#[path = "../../../agent/src/smbios.rs"]
mod smbios;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let found = smbios::read(bytes);
    assert!(found.modules.iter().all(|module| module.size > 0));
    assert!(found.processors.iter().all(|processor| !processor.model.chars().any(char::is_control)));
});
