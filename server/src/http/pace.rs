//! How fast images leave the server: all of them together, and each of them as fast as the others.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Turns a second that whoever sends gets at most: between two there is room for what nobody waits long for.
const TURNS: u64 = 200;
/// Bytes of the smallest turn; smaller ones cost more than they are worth.
const TURN_MIN: u64 = 64 << 10;
/// Bytes of the largest one.
const TURN_MAX: u64 = 2 << 20;
/// How late a turn may be taken: on a busy machine nobody wakes up in time.
const LATE_MAX: Duration = Duration::from_millis(50);

/// Gives turns to send to all who send images, one after another, so that together they keep to a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When the next turn begins, if that is not over.
    next: Mutex<Instant>,
}

impl Pace {
    /// Keeps to `mbit` million bits a second.
    pub(crate) fn new(mbit: NonZeroU32) -> Self {
        let bytes_per_second = u64::from(mbit.get()) * 1_000_000 / 8;
        Self { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Bytes of a turn of whoever has `left` to send.
    fn turn(&self, left: u64) -> u64 {
        (self.bytes_per_second / TURNS).clamp(TURN_MIN, TURN_MAX).min(left)
    }

    /// A turn for whoever has `left` bytes to send: how many may go, and when. Turns that nobody took for [`LATE_MAX`] are
    /// lost.
    pub(super) fn reserve(&self, left: u64) -> (u64, Instant) {
        let bytes = self.turn(left);
        let lasts = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let begins = (*next).max(now.checked_sub(LATE_MAX).unwrap_or(now));
        *next = begins + lasts;
        (bytes, begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mbit: u32) -> Pace {
        Pace::new(NonZeroU32::new(mbit).expect("a rate"))
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_send_keep_to_the_rate_together_and_share_it_evenly() {
        // 10 MB/s.
        let pace = at(80);
        let began = Instant::now();
        let mut sent = [0_u64; 4];
        let mut last = began;
        for turn in 0..400 {
            let (bytes, begins) = pace.reserve(u64::MAX);
            assert!(begins >= last, "turns come one after another");
            last = begins;
            sent[turn % 4] += bytes;
        }
        assert!(sent.iter().all(|bytes| *bytes == sent[0]));
        let total: u64 = sent.iter().sum();
        let (took, due) = ((last - began).as_secs_f64(), total as f64 / 10e6);
        assert!((took - due).abs() < 0.01 * due, "{total} bytes in {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_nobody_took_are_not_made_up_for() {
        let pace = at(80);
        tokio::time::advance(Duration::from_secs(60)).await;
        let (bytes, begins) = pace.reserve(u64::MAX);
        assert_eq!((bytes, begins), (TURN_MIN, Instant::now() - LATE_MAX), "but for a moment");
        assert!(pace.reserve(10).1 > begins);
        assert_eq!(pace.reserve(10).0, 10);
        // A fast one has longer turns, and none is without an end.
        assert_eq!(at(8_000).turn(u64::MAX), TURN_MAX);
        assert_eq!(at(1).turn(u64::MAX), TURN_MIN);
    }
}
