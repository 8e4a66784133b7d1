//! What is worth a line of the log, but not one for every packet.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the log repeats the same: in a flood every packet finds it out.
const EVERY: Duration = Duration::from_secs(60);

/// Clients or relays in that time; whoever sends from more addresses is told of no further.
const KEYS_MAX: usize = 64;

/// Remembers of whom the log was told lately.
#[derive(Debug)]
pub(crate) struct Rarely<K>(Mutex<BTreeMap<K, Instant>>);

impl<K> Default for Rarely<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> Rarely<K> {
    /// Whether the log is to be told of `key` now; it counts as told then.
    pub(crate) fn is_due(&self, key: K, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.duration_since(*at) < EVERY);
        if told.len() >= KEYS_MAX || told.contains_key(&key) {
            return false;
        }
        told.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_of_once_a_minute_and_a_flood_of_names_is_bounded() {
        let (rarely, start) = (Rarely::default(), Instant::now());
        assert!(rarely.is_due(0, start) && rarely.is_due(1, start));
        assert!(!rarely.is_due(0, start + EVERY - Duration::from_millis(1)));
        assert!(rarely.is_due(0, start + EVERY));
        let told = (0..10_000).filter(|key| rarely.is_due(*key, start + EVERY)).count();
        assert_eq!(told, KEYS_MAX - 1);
    }
}
