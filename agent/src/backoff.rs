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

/// Calls to the server: quick at first, and after some minutes of outage one every 33 s on average, so that of
/// all that wait no more than a thirtieth asks in the second in which the server is back.
pub const SERVER: Policy = Policy { first: Duration::from_millis(500), cap: Duration::from_secs(60) };

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
        assert_eq!(limits, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(SERVER.delay(u32::MAX, u32::MAX), SERVER.cap);
        assert_eq!(SERVER.delay(1, 0), Duration::from_millis(50));
    }

    #[test]
    fn p36_an_hour_without_the_server_ends_with_no_second_in_which_many_of_a_thousand_agents_ask() {
        const OUTAGE_MS: u128 = 3_600_000;
        let mut random = (0_u64..).map(|n| {
            // SplitMix64: any numbers without a pattern.
            let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z >> 32) as u32
        });
        let mut per_second = vec![0_u32; 3_660];
        for _ in 0..1000 {
            // All lose it at the same moment.
            let (mut now, mut failures) = (0, 0);
            while now < OUTAGE_MS {
                failures += 1;
                now += SERVER.delay(failures, random.next().expect("endless")).as_millis();
                // In the first minutes pauses are short, and each of them is another one.
                if now >= 180_000 {
                    per_second[usize::try_from(now / 1000).expect("small")] += 1;
                }
            }
        }
        let most = per_second.iter().max().expect("seconds");
        assert!(*most <= 60, "{most} of a thousand ask in one second of the outage");
        let after = &per_second[3_600..];
        assert!(after.iter().all(|count| *count <= 50), "{after:?}");
        assert_eq!(after.iter().sum::<u32>(), 1000, "all are back within the cap");
    }
}
