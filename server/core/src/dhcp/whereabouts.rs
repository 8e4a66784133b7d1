//! Which machine has an address that another DHCP server gave it.
//!
//! Doors know a client's address, decisions are about machines. Where addresses are ours, the
//! lease table says whose they are. Elsewhere the kernel's neighbour table does for machines on
//! the wire; for those behind a relay, this memory of what they told DHCP servers does.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::Ipv4Addr;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;

/// Addresses remembered; the one not heard of for longest makes room.
pub const ADDRESSES_MAX: usize = 65_536;
/// How long what a client said counts, ms: a lease's usual length.
pub const TOLD_MS: u64 = 24 * 60 * 60 * 1_000;

/// What clients said.
#[derive(Debug, Clone, Default)]
pub struct Whereabouts {
    told: BTreeMap<Ipv4Addr, (Mac, Millis)>,
    /// The same by time.
    by_time: BTreeSet<(Millis, Ipv4Addr)>,
}

impl Whereabouts {
    /// `mac` said that it takes or has `address`.
    pub fn note(&mut self, address: Ipv4Addr, mac: Mac, now: Millis) {
        if let Some((_, before)) = self.told.insert(address, (mac, now)) {
            self.by_time.remove(&(before, address));
        }
        self.by_time.insert((now, address));
        if self.told.len() > ADDRESSES_MAX
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.told.remove(&oldest);
        }
    }

    /// Who has `address`.
    #[must_use]
    pub fn who_has(&self, address: Ipv4Addr, now: Millis) -> Option<Mac> {
        let (mac, told) = self.told.get(&address)?;
        (now.since(*told) < TOLD_MS).then_some(*mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SECOND: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn the_last_word_counts_for_a_day() {
        let (mut book, address) = (Whereabouts::default(), Ipv4Addr::new(10, 77, 0, 20));
        assert_eq!(book.who_has(address, Millis(0)), None);
        book.note(address, FIRST, Millis(0));
        book.note(address, SECOND, Millis(5));
        assert_eq!(book.who_has(address, Millis(6)), Some(SECOND));
        assert_eq!(book.who_has(address, Millis(5 + TOLD_MS)), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut book = Whereabouts::default();
        let all = ADDRESSES_MAX as u32 + 10;
        for n in 0..all {
            book.note(Ipv4Addr::from_bits(n), FIRST, Millis(u64::from(n)));
        }
        assert_eq!((book.told.len(), book.by_time.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
        assert_eq!(book.who_has(Ipv4Addr::from_bits(9), Millis(0)), None);
        assert_eq!(book.who_has(Ipv4Addr::from_bits(10), Millis(0)), Some(FIRST));
    }
}
