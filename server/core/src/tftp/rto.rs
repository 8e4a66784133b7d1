//! How long to wait for an answer before sending again.

/// The wait, adapted to the measured round trips as in RFC 6298, but with a floor fit for a
/// local network: one lost packet shall not cost a second.
#[derive(Debug, Clone)]
pub(super) struct Rto {
    min_ms: u64,
    max_ms: u64,
    current_ms: u64,
    /// Smoothed round trip and its variation, in eighths of a millisecond.
    smoothed: Option<(u64, u64)>,
}

/// From so many milliseconds on an answer may be to nothing that was sent: clients repeat their last
/// acknowledgement by themselves, after whole seconds (RFC 2349 §2).
const CLIENT_REPEATS_MS_MIN: u64 = 1_000;

impl Rto {
    pub(super) fn new(initial_ms: u64, min_ms: u64, max_ms: u64) -> Self {
        // A wait of nothing would send without end.
        let min_ms = min_ms.max(1);
        let max_ms = max_ms.max(min_ms);
        Self { min_ms, max_ms, current_ms: initial_ms.clamp(min_ms, max_ms), smoothed: None }
    }

    pub(super) const fn current_ms(&self) -> u64 {
        self.current_ms
    }

    /// The smoothed round trip.
    pub(super) fn round_trip_ms(&self) -> Option<u64> {
        self.smoothed.map(|(mean, _)| mean / 8)
    }

    /// Takes the round trip of something that was sent once, unless it is so long that it may be a
    /// client's own wait.
    pub(super) fn measure(&mut self, round_trip_ms: u64) {
        if round_trip_ms >= CLIENT_REPEATS_MS_MIN {
            return;
        }
        let sample = round_trip_ms * 8;
        let (mean, variation) = match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, variation)) => ((7 * mean + sample) / 8, (3 * variation + mean.abs_diff(sample)) / 4),
        };
        self.smoothed = Some((mean, variation));
        self.current_ms = ((mean + 4 * variation) / 8).clamp(self.min_ms, self.max_ms);
    }

    /// Doubles the wait. It stays doubled until a round trip is measured again.
    pub(super) fn back_off(&mut self) {
        self.current_ms = self.current_ms.saturating_mul(2).min(self.max_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_round_trips_and_doubles_on_silence() {
        let mut rto = Rto::new(250, 20, 2_000);
        assert_eq!(rto.current_ms(), 250);
        rto.measure(0);
        assert_eq!(rto.current_ms(), 20);
        (0..10).for_each(|_| rto.back_off());
        assert_eq!(rto.current_ms(), 2_000);
        (0..50).for_each(|_| rto.measure(100));
        assert!((100..150).contains(&rto.current_ms()), "{rto:?}");
        (0..10).for_each(|_| rto.back_off());
        for repeated_ms in [1_000, 5_001, u64::MAX] {
            rto.measure(repeated_ms);
            assert_eq!(rto.current_ms(), 2_000, "a client that repeats itself measures nothing");
        }
        rto.measure(0);
        assert!(rto.current_ms() < 250, "{rto:?}");
    }
}
