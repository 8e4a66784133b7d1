//! The time of the simulated world, by which the server lives, too.
//!
//! True time only grows. The server's clock on the wall shows it from [`START`] on, but for what somebody has set it
//! forward or back.

use crate::rng::Rng;
use kaltstart_protocol::time::Millis;
use kaltstart_server::clock::{World, live_in};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the wall clock shows when a world begins.
const START: u64 = 1_800_000_000_000;

struct State {
    /// Milliseconds since the world began.
    elapsed: u64,
    /// By how much the wall clock was set forward or back.
    offset: i64,
    /// The server's random numbers.
    rng: Option<Rng>,
}

static STATE: Mutex<State> = Mutex::new(State { elapsed: 0, offset: 0, rng: None });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Simulated;

impl World for Simulated {
    fn wall(&self) -> Millis {
        wall()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(now())
    }

    fn fill(&self, bytes: &mut [u8]) {
        state().rng.get_or_insert_with(|| Rng::new(0, 0)).fill(bytes);
    }
}

/// A new world begins. There is one at a time.
pub(crate) fn begin(seed: u64) {
    live_in(Box::new(Simulated));
    *state() = State { elapsed: 0, offset: 0, rng: Some(Rng::new(seed, 1)) };
}

/// True time, in milliseconds since the world began.
pub(crate) fn now() -> u64 {
    state().elapsed
}

/// What the server's clock on the wall shows.
pub(crate) fn wall() -> Millis {
    let state = state();
    Millis((START + state.elapsed).saturating_add_signed(state.offset))
}

/// Time goes on to `elapsed`.
pub(crate) fn advance(elapsed: u64) {
    let mut state = state();
    assert!(elapsed >= state.elapsed, "true time only grows");
    state.elapsed = elapsed;
}

/// Somebody sets the server's clock.
pub(crate) fn set_wall_clock(by: i64) {
    state().offset += by;
}
