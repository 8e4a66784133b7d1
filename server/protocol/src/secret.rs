//! Values that prove a right: never shown, never compared byte by byte.

use crate::ids::Digest;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

/// A token that whoever holds it may use.
///
/// `Debug` hides the value, there is no `Display`, comparison takes the same time whatever
/// the difference, and its memory is overwritten when it goes. Servers keep only its [`fingerprint`](Secret::fingerprint).
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Bytes of randomness in a token.
    pub const RANDOM_BYTES: usize = 32;

    /// Takes over a token's text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Makes a token of `prefix` and the hexadecimal form of the caller's random bytes.
    #[must_use]
    pub fn from_random(prefix: &str, random: &[u8; Self::RANDOM_BYTES]) -> Self {
        use fmt::Write as _;
        let mut text = String::from(prefix);
        for byte in random {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The value itself, for the one place that sends or stores it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What may be stored: proves the token without containing it.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// Whether this token is the one with that fingerprint.
    #[must_use]
    pub fn matches(&self, fingerprint: &Digest) -> bool {
        self.fingerprint().matches(fingerprint)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn p22_a_secret_never_shows_in_debug_output() {
        let secret = Secret::from_random("kst_", &[7; 32]);
        assert!(!format!("{secret:?}").contains("07"));
        assert!(secret.matches(&secret.fingerprint()));
        assert!(!Secret::new("kst_".into()).matches(&secret.fingerprint()));
    }
}
