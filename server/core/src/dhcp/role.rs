//! How a subnet is served: what was configured.

use core::fmt;
use serde::{Deserialize, Serialize};

/// How a subnet shall be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Addresses and boot files come from here.
    #[default]
    Authoritative,
    /// Nothing: another DHCP server names our boot files.
    Off,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authoritative => "authoritative",
            Self::Off => "off",
        })
    }
}
