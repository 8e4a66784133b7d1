//! How a subnet is served: what was configured, and what is done now.

use core::fmt;
use serde::{Deserialize, Serialize};

/// How a subnet shall be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Addresses and boot files come from here.
    #[default]
    Authoritative,
    /// Boot files come from here, addresses from another server (PXE 2.1 §2.2.3, proxyDHCP).
    Proxy,
    /// Authoritative while no other DHCP server is there, else proxy.
    Auto,
    /// Nothing: another DHCP server names our boot files.
    Off,
}

/// How a subnet is served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// With addresses and boot files.
    #[default]
    Authoritative,
    /// With boot files only.
    Proxy,
    /// Not yet: other servers are still looked for.
    Checking,
    /// Not at all: another DHCP server answered when this one was about to begin.
    Refused,
    /// Not at all, as configured.
    Off,
}

impl Mode {
    /// Its word in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authoritative => "authoritative",
            Self::Proxy => "proxy",
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Authoritative, Self::Proxy, Self::Checking, Self::Refused, Self::Off];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authoritative => "authoritative",
            Self::Proxy => "proxy",
            Self::Checking => "checking",
            Self::Refused => "refused",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
