//! A set of addresses kept as runs, so that the first address outside it is found at once.

use super::lease::Address;
use alloc::collections::BTreeMap;

/// First and last address of each run; runs neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runs<A>(BTreeMap<A, A>);

impl<A> Default for Runs<A> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<A: Address> Runs<A> {
    /// The run that holds `address`.
    fn around(&self, address: A) -> Option<(A, A)> {
        let (first, last) = self.0.range(..=address).next_back()?;
        (*last >= address).then_some((*first, *last))
    }

    /// Adds an address.
    pub(super) fn insert(&mut self, address: A) {
        if self.around(address).is_some() {
            return;
        }
        let below = address.previous().and_then(|below| self.around(below));
        let above = address.next().and_then(|above| self.around(above));
        if let Some((first, _)) = above {
            self.0.remove(&first);
        }
        let first = below.map_or(address, |(first, _)| first);
        self.0.insert(first, above.map_or(address, |(_, last)| last));
    }

    /// Takes an address away.
    pub(super) fn remove(&mut self, address: A) {
        let Some((first, last)) = self.around(address) else { return };
        self.0.remove(&first);
        if let Some(before) = address.previous().filter(|before| first <= *before) {
            self.0.insert(first, before);
        }
        if let Some(after) = address.next().filter(|after| *after <= last) {
            self.0.insert(after, last);
        }
    }

    /// The first address from `from` on that is not in the set.
    pub(super) fn first_outside(&self, from: A) -> Option<A> {
        match self.around(from) {
            None => Some(from),
            Some((_, last)) => last.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_a_set(
            ends in any::<bool>(),
            steps in prop::collection::vec((any::<bool>(), 0..20_u32), 0..80),
            from in 0..20_u32,
        ) {
            // Near either end of the numbers there are.
            let number = |n: u32| if ends { u32::MAX - n } else { n };
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for (insert, n) in steps {
                let address = Ipv4Addr::from_bits(number(n));
                if insert {
                    runs.insert(address);
                    set.insert(address);
                } else {
                    runs.remove(address);
                    set.remove(&address);
                }
            }
            let mut next = Some(number(from));
            while next.is_some_and(|n| set.contains(&Ipv4Addr::from_bits(n))) {
                next = next.and_then(|n| n.checked_add(1));
            }
            prop_assert_eq!(runs.first_outside(Ipv4Addr::from_bits(number(from))), next.map(Ipv4Addr::from_bits));
        }
    }
}
