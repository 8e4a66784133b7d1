//! How a disk was erased: by what, how far that reaches, and what was seen afterwards.

use crate::wipe::DiskIdentity;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// How a disk was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// The disk.
    pub disk: DiskIdentity,
    /// How.
    pub method: EraseMethod,
    /// What that reaches.
    #[serde(default)]
    pub reach: Reach,
    /// What all of it took, reading back and methods that failed included, in milliseconds.
    pub duration_ms: u64,
    /// Blocks that were read back from all over the disk, and held nothing of before.
    pub samples: u64,
    /// Those of `samples` that are not empty, but differ everywhere from before: the disk has thrown away
    /// the key of what was there.
    #[serde(default)]
    pub changed: u64,
    /// Better methods that the disk has, and why it was not one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instead_of: Vec<Unused>,
}

/// A method that a disk has, and that did not erase it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// Which.
    pub method: EraseMethod,
    /// Why.
    pub why: String,
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method, self.why)
    }
}

/// A way to erase a disk, the best one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseMethod {
    /// NVMe's `Sanitize` by block erase: the cells themselves are emptied.
    SanitizeBlock,
    /// NVMe's `Sanitize` by crypto erase: the key that everything was encrypted with is changed.
    SanitizeCrypto,
    /// NVMe's `Format NVM` of the one namespace, with all user data erased.
    FormatErase,
    /// The same, with the namespace's key changed.
    FormatCrypto,
    /// ATA's `SECURITY ERASE UNIT` in enhanced mode.
    SecureEraseEnhanced,
    /// ATA's `SECURITY ERASE UNIT` in normal mode: the disk writes zeros to all its sectors.
    SecureErase,
    /// Zeros were written to every sector, by the disk itself where it can.
    Overwrite,
}

impl EraseMethod {
    /// How far it reaches, as the standards say.
    #[must_use]
    pub const fn reach(self) -> Reach {
        match self {
            Self::SanitizeBlock
            | Self::SanitizeCrypto
            | Self::FormatErase
            | Self::FormatCrypto
            | Self::SecureEraseEnhanced => Reach::Everything,
            Self::SecureErase | Self::Overwrite => Reach::Sectors,
        }
    }

    /// Whether zeros are all that may be read afterwards. The other methods leave to the disk what it shows.
    #[must_use]
    pub const fn leaves_zeros(self) -> bool {
        matches!(self, Self::SecureErase | Self::Overwrite)
    }
}

impl fmt::Display for EraseMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SanitizeBlock => "sanitize (block erase)",
            Self::SanitizeCrypto => "sanitize (crypto erase)",
            Self::FormatErase => "format (user data erase)",
            Self::FormatCrypto => "format (crypto erase)",
            Self::SecureEraseEnhanced => "secure erase (enhanced)",
            Self::SecureErase => "secure erase",
            Self::Overwrite => "overwrite",
        })
    }
}

/// How far an erasure reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// What can be read. Sectors that were replaced, and what flash keeps besides, are not reached.
    #[default]
    Sectors,
    /// Also what the disk keeps beside its sectors: replaced ones, spare blocks, caches. The standard demands
    /// it; that the disk does it is its maker's word.
    Everything,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_erasure_that_was_stored_by_an_older_server_is_still_read() {
        let stored = r#"{"disk":{"wwn":"","serial":"S1","model":"","size":1,"path":""},"method":"overwrite",
            "duration_ms":5,"samples":66}"#;
        let erasure: Erasure = serde_json::from_str(stored).expect("read");
        assert_eq!((erasure.method, erasure.reach), (EraseMethod::Overwrite, Reach::Sectors));
        assert_eq!((erasure.changed, erasure.instead_of.len()), (0, 0));
    }
}
