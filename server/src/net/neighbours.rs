//! The kernel's neighbour table: which hardware address answered for an address on the wire.
//!
//! Whoever sends us an IPv4 packet from the same network has asked for our hardware address
//! before, and the kernel notes who asked (RFC 826).

use kaltstart_protocol::ids::Mac;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The table as text; it belongs to this process' network namespace.
const TABLE: &str = "/proc/net/arp";
/// Flag of complete entries (`ATF_COM`, linux/if_arp.h).
const COMPLETE: u32 = 2;

/// Who has `address`; none when nobody on the wire does, or the table cannot be read.
#[must_use]
pub fn who_has(address: Ipv4Addr) -> Option<Mac> {
    complete(&std::fs::read_to_string(TABLE).ok()?).find_map(|(of, mac)| (of == address).then_some(mac))
}

/// All addresses that somebody on a wire has; none when the table cannot be read.
#[must_use]
pub fn all() -> BTreeSet<Ipv4Addr> {
    let table = std::fs::read_to_string(TABLE).unwrap_or_default();
    complete(&table).map(|(address, _)| address).collect()
}

/// The complete ones of lines of `address, type, flags, hardware address, mask, interface`.
fn complete(table: &str) -> impl Iterator<Item = (Ipv4Addr, Mac)> {
    table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (address, flags, mac) = (words.next()?, words.nth(1)?, words.next()?);
        let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
        if flags & COMPLETE == 0 {
            return None;
        }
        Some((address.parse().ok()?, mac.parse().ok()?))
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
        let found: Vec<_> = complete(table).collect();
        assert_eq!(found, [(Ipv4Addr::new(10, 77, 0, 50), Mac([0x52, 0x54, 0, 0, 0, 1]))]);
    }
}
