//! Parts of a disk that are never written: partitions that keep their data.

use std::ops::Range;

/// Such parts, in bytes from the start of the disk.
#[derive(Debug, Clone, Default)]
pub struct Spared(Vec<Range<u64>>);

impl Spared {
    /// Those at `places`, given as first byte and bytes.
    pub fn new(places: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut parts: Vec<Range<u64>> =
            places.into_iter().map(|(start, length)| start..start.saturating_add(length)).collect();
        parts.retain(|part| !part.is_empty());
        parts.sort_by_key(|part| part.start);
        Self(parts)
    }

    /// These and those at `places`.
    #[must_use]
    pub fn and(&self, places: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let own = self.0.iter().map(|part| (part.start, part.end - part.start));
        Self::new(own.chain(places))
    }

    /// Whether `length` bytes from `start` on meet one of them.
    #[must_use]
    pub fn meets(&self, start: u64, length: u64) -> bool {
        let end = start.saturating_add(length);
        start < end && self.0.iter().any(|part| part.start < end && start < part.end)
    }

    /// What is left of `length` bytes from `start` on without them: first byte and bytes of each piece.
    #[must_use]
    pub fn without(&self, start: u64, length: u64) -> Vec<(u64, u64)> {
        let (mut at, end) = (start, start.saturating_add(length));
        let mut pieces = Vec::new();
        for part in &self.0 {
            let until = part.start.clamp(at, end.max(at));
            pieces.push((at, until - at));
            at = at.max(part.end);
        }
        pieces.push((at, end.saturating_sub(at)));
        pieces.retain(|(_, length)| *length > 0);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Byte by byte on a small disk.
        #[test]
        fn p05_what_is_left_is_all_but_what_is_spared(
            places in proptest::collection::vec((0_u64..60, 0_u64..30), 0..4),
            (start, length) in (0_u64..60, 0_u64..60),
        ) {
            let spared = Spared::new(places.iter().copied());
            let within = |at: u64, (start, length): (u64, u64)| start <= at && at < start + length;
            let pieces = spared.without(start, length);
            for at in 0..130 {
                let is_spared = places.iter().any(|&place| within(at, place));
                prop_assert_eq!(spared.meets(at, 1), is_spared, "{}", at);
                let left = pieces.iter().filter(|&&piece| within(at, piece)).count();
                prop_assert_eq!(left, usize::from(within(at, (start, length)) && !is_spared), "{}", at);
            }
            prop_assert_eq!(
                spared.meets(start, length),
                (start..start + length).any(|at| places.iter().any(|&place| within(at, place)))
            );
            prop_assert!(pieces.iter().all(|&(start, length)| !spared.meets(start, length)));
        }
    }
}
