//! How long to wait before trying again: capped exponential growth with full jitter.
//!
//! A thousand machines that lose their server at one moment must not come back at one moment, so
//! each waits a random part of its limit ("full jitter"), and the limit doubles up to a cap.

use std::time::Duration;

/// A retry policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Limit of the first wait.
    pub first: Duration,
    /// Limit of all later waits.
    pub cap: Duration,
}

/// Calls to the server: quick at first, and after some minutes of outage one every 15 s on average.
pub const SERVER: Policy = Policy { first: Duration::from_millis(500), cap: Duration::from_secs(30) };

impl Policy {
    /// The wait after `failures` failures in a row (from 1), drawn with `random`.
    ///
    /// Never less than a tenth of the limit, so that no machine asks without any pause.
    #[must_use]
    pub fn delay(self, failures: u32, random: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let limit = self.first.saturating_mul(1 << doublings).min(self.cap);
        let part = 0.1 + 0.9 * f64::from(random) / f64::from(u32::MAX);
        limit.mul_f64(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p36_waits_grow_to_the_cap_and_stay_there() {
        let limits: Vec<u128> = (1..=9).map(|n| SERVER.delay(n, u32::MAX).as_millis()).collect();
        assert_eq!(limits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(SERVER.delay(u32::MAX, u32::MAX), SERVER.cap);
        assert_eq!(SERVER.delay(1, 0), Duration::from_millis(50));
    }

    #[test]
    fn p36_a_thousand_agents_do_not_come_back_in_one_second() {
        // Random numbers spread evenly stand for a thousand machines after a long outage.
        let mut per_second = [0_u32; 31];
        for i in 0..1000_u32 {
            let wait = SERVER.delay(20, i * (u32::MAX / 1000));
            per_second[usize::try_from(wait.as_secs()).expect("small")] += 1;
        }
        assert!(per_second.iter().all(|count| *count <= 50), "{per_second:?}");
    }
}
