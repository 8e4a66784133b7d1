//! A TFTP datagram: what is read and said again means the same.

#![no_main]

use kaltstart_protocol::tftp::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = Packet::decode(bytes) else { return };
    let said = packet.encode();
    let again = Packet::decode(&said).expect("what was read can be said again");
    assert_eq!(again, packet);
});
