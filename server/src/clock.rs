//! The one place that reads the clock and draws random numbers.

use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place that may")]
pub fn now() -> Millis {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
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
