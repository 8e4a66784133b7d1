//! Waiting for a state: always with a limit, and the last status in the error.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks: short beside any phase of a machine, long beside a look's cost.
const PAUSE: Duration = Duration::from_millis(100);

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether a wait has ended with an error because of that: what waits from then on cleans up.
static CLEANING_UP: AtomicBool = AtomicBool::new(false);

/// What one look found.
#[derive(Debug)]
pub enum Poll<T> {
    /// The awaited state, with its value.
    Ready(T),
    /// Not yet: how it stands, for the error message.
    Pending(String),
}

impl<T> Poll<T> {
    /// Not yet.
    pub fn pending(status: impl Into<String>) -> Self {
        Self::Pending(status.into())
    }
}

/// Looks until `poll` is ready, fails, or `limit` is over; then the error holds the last status.
pub fn wait_for<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let status = match poll()? {
            Poll::Ready(value) => return Ok(value),
            Poll::Pending(status) => status,
        };
        if interrupted() && !CLEANING_UP.swap(true, Ordering::Relaxed) {
            bail!("interrupted while waiting for {what}");
        }
        if start.elapsed() >= limit {
            bail!("waited {} s for {what}; last seen: {status}", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// Makes Ctrl-C and SIGTERM end the current [`wait_for`] with an error, so that owners clean up.
pub fn stop_on_signals() -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

/// Whether a signal asked to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Seconds as a [`Duration`], to keep limits readable.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_holds_the_last_status() {
        let mut looks = 0;
        let error = wait_for("rain", Duration::from_millis(150), || {
            looks += 1;
            Ok(Poll::<()>::pending(format!("cloud {looks}")))
        });
        let text = error.expect_err("it never rains").to_string();
        assert!(text.contains("rain") && text.contains(&format!("cloud {looks}")), "{text}");
    }
}
