//! A set of addresses kept as runs, so that the first address outside it is found at once.

use alloc::collections::BTreeMap;
use core::net::Ipv4Addr;

/// First and last address of each run; runs neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Runs(BTreeMap<u32, u32>);

impl Runs {
    /// The run that holds `number`.
    fn around(&self, number: u32) -> Option<(u32, u32)> {
        let (first, last) = self.0.range(..=number).next_back()?;
        (*last >= number).then_some((*first, *last))
    }

    /// Adds an address.
    pub(super) fn insert(&mut self, address: Ipv4Addr) {
        let number = address.to_bits();
        if self.around(number).is_some() {
            return;
        }
        let below = number.checked_sub(1).and_then(|below| self.around(below));
        let above = number.checked_add(1).and_then(|above| self.around(above));
        if let Some((first, _)) = above {
            self.0.remove(&first);
        }
        let first = below.map_or(number, |(first, _)| first);
        self.0.insert(first, above.map_or(number, |(_, last)| last));
    }

    /// Takes an address away.
    pub(super) fn remove(&mut self, address: Ipv4Addr) {
        let number = address.to_bits();
        let Some((first, last)) = self.around(number) else { return };
        self.0.remove(&first);
        if first < number {
            self.0.insert(first, number - 1);
        }
        if number < last {
            self.0.insert(number + 1, last);
        }
    }

    /// The first address from `from` on that is not in the set.
    pub(super) fn first_outside(&self, from: Ipv4Addr) -> Option<Ipv4Addr> {
        match self.around(from.to_bits()) {
            None => Some(from),
            Some((_, last)) => last.checked_add(1).map(Ipv4Addr::from_bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
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
