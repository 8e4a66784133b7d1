//! Identifiers: each parses from and displays as one stable text form.

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

/// Why a text is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not six colon- or dash-separated hexadecimal bytes.
    #[error("not a MAC address (six hexadecimal bytes, as 52:54:00:12:34:56): {0:?}")]
    Mac(String),
    /// Not a prefix and so many hexadecimal digits.
    #[error("not {what} ({prefix}{digits} hexadecimal digits): {text:?}")]
    Hex {
        /// What it was taken for.
        what: &'static str,
        /// What stands before the digits.
        prefix: &'static str,
        /// How many there must be.
        digits: usize,
        /// What was given.
        text: String,
    },
    /// Prefix or alphabet does not fit.
    #[error("not an identifier starting with {prefix:?}: {text:?}")]
    Prefixed {
        /// What it must start with.
        prefix: &'static str,
        /// What was given.
        text: String,
    },
}

/// An Ethernet hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether one interface can have it: it is neither zero nor a group's (IEEE 802-2014 §8.2.2).
    #[must_use]
    pub const fn is_individual(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Mac(text.to_string());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

/// Bytes of one meaning, written as a prefix and lower-case hexadecimal digits.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let bad = || IdError::Hex {
                    what: $what,
                    prefix: $prefix,
                    digits: 2 * $bytes,
                    text: text.to_string(),
                };
                let hex = text.strip_prefix($prefix).ok_or_else(bad)?;
                if hex.len() != 2 * $bytes || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(bad());
                }
                let mut bytes = [0; $bytes];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

hex_id!(
    /// The SHA-256 of some bytes, written `sha256:` and 64 digits.
    Digest, 32, "sha256:", "a digest"
);
hex_id!(
    /// What tells the contents of a disk from others, short enough to be typed
    /// ([`Contents::fingerprint`](crate::contents::Contents::fingerprint)).
    Fingerprint, 8, "", "a fingerprint"
);

hex_id!(
    /// An ed25519 public key (RFC 8032), written `ed25519:` and 64 digits.
    PublicKey, 32, "ed25519:", "a public key"
);
hex_id!(
    /// An ed25519 signature.
    Signature, 64, "", "a signature"
);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Whether it is that one; the time this takes tells nothing of either.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Serialises a type through its text form.
macro_rules! serde_as_text {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

/// An identifier of one kind: a prefix and 26 characters that sort by time of making.
macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// What the text form starts with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an identifier from milliseconds since the epoch and 80 random bits; both
            /// come from the caller, who alone has a clock and a source of randomness.
            #[must_use]
            pub fn new(now: crate::time::Millis, random: u128) -> Self {
                let bits = (u128::from(now.0) << 80) | (random & ((1 << 80) - 1));
                let mut text = String::from($prefix);
                for i in (0..26).rev() {
                    text.push(char::from(CROCKFORD[((bits >> (5 * i)) & 31) as usize]));
                }
                Self(text)
            }

            /// The text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.strip_prefix($prefix) {
                    Some(rest) if rest.len() == 26 && rest.bytes().all(|b| CROCKFORD.contains(&b)) => {
                        Ok(Self(text.to_string()))
                    }
                    _ => Err(IdError::Prefixed { prefix: $prefix, text: text.to_string() }),
                }
            }
        }

        serde_as_text!($name);
    };
}

/// Crockford's base 32: sorts as its value does, has no look-alike letters.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

serde_as_text!(Mac, Digest, Fingerprint, PublicKey, Signature);
prefixed_id!(
    /// A machine, physical or virtual.
    NodeId,
    "node_"
);
prefixed_id!(
    /// One run of one kind of work on one node.
    JobId,
    "job_"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Millis;
    use std::format;

    #[test]
    fn texts_round_trip_and_bad_ones_are_refused() {
        let mac: Mac = "52:54:00:AB-cd:ef".parse().expect("mixed separators and case");
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        for bad in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:00", "5:54:00:ab:cd:ef", "+2:54:00:ab:cd:ef"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!(format!("{digest}0").parse::<Digest>().is_err());
    }

    #[test]
    fn prefixed_ids_sort_by_time() {
        let early = NodeId::new(Millis(1_000), u128::MAX);
        let late = NodeId::new(Millis(1_001), 0);
        assert!(early < late);
        assert_eq!(early.to_string().parse::<NodeId>(), Ok(early));
        assert!("job_0".parse::<JobId>().is_err());
        assert!(late.as_str().parse::<JobId>().is_err());
    }
}
