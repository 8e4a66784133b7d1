//! How a machine goes from the agent to its installed system.

use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// How a machine goes from the agent to its installed system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Through its firmware, as at power-on.
    #[default]
    Firmware,
    /// The agent's kernel starts the system's, and the firmware's self-test is left out.
    Kexec,
}

impl Restart {
    /// The word in API, configuration and client.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Firmware => "firmware",
            Self::Kexec => "kexec",
        }
    }
}

impl FromStr for Restart {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Firmware, Self::Kexec];
        all.into_iter().find(|one| one.name() == text).ok_or("is \"firmware\" or \"kexec\"")
    }
}
