//! The kernel's neighbour table: which hardware address answered for an address on the wire.
//!
//! Whoever sends us an IPv4 packet from the same network has asked for our hardware address
//! before, and the kernel notes who asked (RFC 826).

use kaltstart_protocol::ids::Mac;
use std::net::Ipv4Addr;

/// The table as text; it belongs to this process' network namespace.
const TABLE: &str = "/proc/net/arp";
/// Flag of complete entries (`ATF_COM`, linux/if_arp.h).
const COMPLETE: u32 = 2;

/// Who has `address`; none when nobody on the wire does, or the table cannot be read.
#[must_use]
pub fn who_has(address: Ipv4Addr) -> Option<Mac> {
    find(&std::fs::read_to_string(TABLE).ok()?, address)
}

/// Looks into lines of `address, type, flags, hardware address, mask, interface`.
fn find(table: &str, address: Ipv4Addr) -> Option<Mac> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (of, flags, mac) = (words.next()?, words.nth(1)?, words.next()?);
        let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
        (flags & COMPLETE != 0 && of.parse() == Ok(address)).then(|| mac.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_entries_are_found() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.77.0.50       0x1         0x2         52:54:00:00:00:01     *        br0\n\
                     10.77.0.51       0x1         0x0         00:00:00:00:00:00     *        br0\n";
        let who = |last| find(table, Ipv4Addr::new(10, 77, 0, last));
        assert_eq!(who(50), Some(Mac([0x52, 0x54, 0, 0, 0, 1])));
        assert_eq!((who(51), who(52)), (None, None));
    }
}
