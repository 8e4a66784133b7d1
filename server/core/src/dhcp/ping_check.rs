//! Whether a free address is looked for on the network before it is offered (RFC 2131 §2.2).

use serde::{Deserialize, Serialize};

/// When free addresses are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PingCheck {
    /// Never: the table of leases is believed.
    Never,
    /// Until every lease has ended that this server may have given before it started and does not
    /// know of, since its database was lost or an older copy was restored.
    #[default]
    AfterStart,
    /// Always: also for addresses that somebody set by hand.
    Always,
}

impl PingCheck {
    /// For how long after the server's start, ms, if no lease is longer than `longest_seconds`.
    #[must_use]
    pub fn period(self, longest_seconds: u32) -> u64 {
        match self {
            Self::Never => 0,
            Self::AfterStart => u64::from(longest_seconds) * 1_000,
            Self::Always => u64::MAX,
        }
    }
}
