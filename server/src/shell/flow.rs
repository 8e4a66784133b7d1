//! Bytes on their way, counted from the first one on: who asks again is given the same ones.

use std::collections::VecDeque;

/// A stretch of a stream of bytes: the newest of them, up to a limit.
#[derive(Debug)]
pub(super) struct Flow {
    /// Number of the first byte that is kept.
    first: u64,
    bytes: VecDeque<u8>,
    max: usize,
}

impl Flow {
    /// Nothing yet, and never more than `max` bytes.
    pub(super) const fn new(max: usize) -> Self {
        Self { first: 0, bytes: VecDeque::new(), max }
    }

    /// Number of the byte that comes next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }

    /// Number of the first byte that is kept.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    /// How many bytes still fit without losing others.
    pub(super) fn room(&self) -> usize {
        self.max - self.bytes.len()
    }

    /// Takes more bytes; the oldest are lost if there are too many.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(self.max);
        self.bytes.drain(..surplus);
        self.first += surplus as u64;
    }

    /// At most `max` bytes from number `from` on, or from the first that is kept, and where they begin.
    pub(super) fn since(&self, from: u64, max: usize) -> (u64, Vec<u8>) {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let bytes = self.bytes.iter().skip(skipped).take(max).copied().collect();
        (from.clamp(self.first, self.next()), bytes)
    }

    /// Forgets what comes before number `to`: it has arrived.
    pub(super) fn forget(&mut self, to: u64) {
        let arrived = usize::try_from(to.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let arrived = arrived.min(self.bytes.len());
        self.bytes.drain(..arrived);
        self.first += arrived as u64;
    }

    /// Counts from number `from` on, as somebody else has counted before.
    pub(super) const fn count_from(&mut self, from: u64) {
        self.first = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn p29_what_is_kept_is_the_end_of_what_came(
            pushes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..8),
            from in 0_u64..80,
            to in 0_u64..80,
        ) {
            let mut flow = Flow::new(16);
            let mut all: Vec<u8> = Vec::new();
            for push in pushes {
                flow.push(&push);
                all.extend(push);
            }
            prop_assert_eq!(flow.next(), all.len() as u64);
            prop_assert!(flow.room() <= 16);
            let (first, bytes) = flow.since(from, 7);
            let at = usize::try_from(first).expect("small");
            prop_assert_eq!(&bytes[..], &all[at..(at + bytes.len())]);
            prop_assert!(first >= flow.first() && bytes.len() <= 7);
            flow.forget(to);
            prop_assert_eq!(flow.next(), all.len() as u64);
            prop_assert!(flow.first() >= to.min(flow.next()));
        }
    }
}
