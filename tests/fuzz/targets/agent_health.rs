//! What disks answer when they are asked how they are.

#![no_main]

// As in `agent_dhcp`.
#[path = "../../../agent/src/health.rs"]
mod health;

use kaltstart_protocol::facts::Verdict;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(health) = health::of_nvme(bytes) {
        assert_eq!(health.verdict == Verdict::Failing, bytes[0] & 0x1d != 0);
    }
    if let Some(identity) = health::identity(bytes) {
        assert!(!identity.firmware.chars().any(char::is_control));
    }
    if let [middle, high, data @ ..] = bytes {
        let verdict = health::ata_verdict(*middle, *high).unwrap_or_default();
        assert_eq!(health::of_ata(verdict, data).verdict, verdict);
    }
});
