//! `[http]`

use serde::Deserialize;
use std::net::SocketAddrV4;
use std::time::Duration;

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port of boot files, images, agent API and `/v1`. Machines are told this address.
    pub listen: SocketAddrV4,
    /// Seconds a client may keep the server waiting: for a whole request, or without taking
    /// anything of an answer.
    #[serde(default = "Http::default_timeout_seconds")]
    pub timeout_seconds: u32,
}

impl Http {
    /// Longer than boot loaders pause between two requests and links are lost for a moment,
    /// shorter than an attacker's patience.
    const fn default_timeout_seconds() -> u32 {
        30
    }

    /// Longest a client may keep the server waiting.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        if self.listen.ip().is_unspecified() || self.listen.port() == 0 {
            all.push("http.listen: machines must be told an address and a port, not 0.0.0.0 or 0".into());
        }
        if !(1..=600).contains(&self.timeout_seconds) {
            all.push("http.timeout_seconds: must be 1 to 600".into());
        }
    }
}
