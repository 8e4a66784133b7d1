//! A syslog datagram: a line is bounded and free of control characters.

#![no_main]

use kaltstart_protocol::syslog::Line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(line) = Line::parse(bytes) else { return };
    assert!(!line.text.chars().any(char::is_control));
    assert!(line.text.chars().count() <= 1_100);
});
