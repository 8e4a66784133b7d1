//! The clock of the ramdisk: files shall bear the right date, and certificates hold for a time.
//!
//! A machine's own clock may stand in 1970, or years ahead. What the kernel command line tells is
//! as good as the fingerprint beside it: whoever could change one could change the other.

use crate::http_date;
use crate::sys::kernel;

/// Longest time from the grant of a start to the agent, in seconds: its token holds no longer.
const START_LIMIT: i64 = 3600;
/// Difference from the server's clock that is corrected, in seconds.
const TOLERANCE: i64 = 60;

/// Sets the clock to the time at which this start was granted, unless it is as late or somewhat
/// later.
pub fn begin(granted: u64) {
    let granted = i64::try_from(granted).unwrap_or(i64::MAX);
    if !is_plausible(kernel::wall_seconds(), granted) {
        set(granted, "the time of the grant");
    }
}

fn is_plausible(own: i64, granted: i64) -> bool {
    (0..=START_LIMIT).contains(&own.saturating_sub(granted))
}

/// Sets the clock when it differs from the server's, from the `Date` of an answer, by more than a
/// minute.
pub fn follow(date: &str) {
    let Some(server) = http_date::parse(date) else { return };
    if (server - kernel::wall_seconds()).abs() > TOLERANCE {
        set(server, "the server's");
    }
}

fn set(seconds: i64, whose: &str) {
    if std::process::id() != 1 {
        // Only in the ramdisk is the clock the agent's to set.
        return;
    }
    let before = kernel::wall_seconds();
    match kernel::set_wall_seconds(seconds) {
        Ok(()) => tracing::info!("clock set to {whose} ({:+} s)", seconds - before),
        Err(error) => tracing::warn!("the clock cannot be set: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_from_the_grant_on_for_as_long_as_its_token_holds() {
        const GRANTED: i64 = 1_800_000_000;
        for (own, plausible) in [
            (0, false),
            (GRANTED - 1, false),
            (GRANTED, true),
            (GRANTED + START_LIMIT, true),
            (GRANTED + START_LIMIT + 1, false),
            (i64::MAX, false),
            (i64::MIN, false),
        ] {
            assert_eq!(is_plausible(own, GRANTED), plausible, "{own}");
        }
    }
}
