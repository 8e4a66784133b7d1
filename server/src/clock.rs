//! The one place that reads the clock and draws random numbers.

use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Another world to live in: its time, and its random numbers.
pub trait World: Send + Sync {
    /// The clock on the wall, which somebody may set.
    fn wall(&self) -> Millis;

    /// The time since a moment that stays the same; it only grows.
    fn elapsed(&self) -> Duration;

    /// Draws random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// The world this process lives in, if it is not the real one.
static WORLD: OnceLock<Box<dyn World>> = OnceLock::new();

/// Lets this process live in `world`, whose random numbers its secrets are made of: for servers that are simulated,
/// and for them alone. Once; a later call changes nothing.
pub fn live_in(world: Box<dyn World>) {
    drop(WORLD.set(world));
}

/// Now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place that may")]
pub fn now() -> Millis {
    if let Some(world) = WORLD.get() {
        return world.wall();
    }
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// A clock that was set once, and follows no jump of the one on the wall.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    start: Millis,
    at: Duration,
}

impl Steady {
    /// A clock that shows `start` now.
    #[must_use]
    pub fn new(start: Millis) -> Self {
        Self { start, at: elapsed() }
    }

    /// What it showed when it was set.
    #[must_use]
    pub const fn start(&self) -> Millis {
        self.start
    }

    /// What it shows now.
    #[must_use]
    pub fn now(&self) -> Millis {
        let since = elapsed().saturating_sub(self.at);
        self.start.plus(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

fn elapsed() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    WORLD.get().map_or_else(|| START.elapsed(), |world| world.elapsed())
}

/// Now, as the standard library tells it.
#[must_use]
pub fn system_now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(now().0)
}

/// `N` random bytes of the kernel.
///
/// # Panics
/// When the kernel has no source of randomness: nothing secret can be made then.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(world) = WORLD.get() {
        world.fill(&mut bytes);
        return bytes;
    }
    getrandom::fill(&mut bytes).expect("the kernel's source of randomness works");
    bytes
}

/// 128 random bits.
#[must_use]
pub fn random_bits() -> u128 {
    u128::from_be_bytes(random())
}

/// A token nobody can guess.
#[must_use]
pub fn token(prefix: &str) -> Secret {
    Secret::from_random(prefix, &random())
}

/// A random UUID (RFC 9562 version 4), as text.
#[must_use]
pub fn uuid() -> String {
    let bits = random_bits() & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_have_version_and_variant() {
        let uuid = super::uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]));
    }
}
