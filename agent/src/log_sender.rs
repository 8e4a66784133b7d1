//! Hands the log to the server, from the first line on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backoff::SERVER;
use crate::link::{CallError, Link};
use crate::log::{RING, Ring};
use crate::sys::kernel::random_u32;

/// Longest wait for a first line before looking whether to be quiet.
const TURN: Duration = Duration::from_millis(500);
/// How long lines gather before they travel together.
const GATHER: Duration = Duration::from_millis(250);
/// Longest wait for the last lines to arrive.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// Whether the log is held back.
static QUIET: AtomicBool = AtomicBool::new(false);
/// Whether somebody sends the log at all.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Sends the log for ever, or until the session is not known any more. Run on its own thread.
pub fn run(link: &Link) {
    let mut failures = 0;
    RUNNING.store(true, Ordering::Relaxed);
    loop {
        std::thread::sleep(GATHER);
        if QUIET.load(Ordering::Relaxed) {
            continue;
        }
        match send(link, &RING, TURN) {
            Ok(()) => failures = 0,
            Err(CallError::Unauthorized(_)) => {
                RUNNING.store(false, Ordering::Relaxed);
                return;
            }
            Err(_) => {
                // Not logged: that would be one more line for each line that cannot be sent.
                failures += 1;
                std::thread::sleep(SERVER.delay(failures, random_u32()));
            }
        }
    }
}

/// Sends one batch, if there is one within `limit`.
fn send(link: &Link, ring: &Ring, limit: Duration) -> Result<(), CallError> {
    let Some(batch) = ring.wait(limit) else { return Ok(()) };
    match link.log(&batch) {
        // Lines the server refuses would block all later ones.
        Ok(()) | Err(CallError::Refused { .. }) => {
            ring.acknowledged(batch.first + batch.lines.len() as u64);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Waits shortly until the server has all lines, then holds back later ones: after the last word
/// of a job nothing more may be said.
pub fn flush_and_hold_back() {
    if RUNNING.load(Ordering::Relaxed) {
        RING.drained(FLUSH_LIMIT);
    }
    QUIET.store(true, Ordering::Relaxed);
}

/// Goes on sending.
pub fn go_on() {
    QUIET.store(false, Ordering::Relaxed);
}
