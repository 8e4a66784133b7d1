//! `[http]`

use serde::Deserialize;
use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port of plain HTTP: what firmware and boot loaders fetch. Machines are told
    /// this address.
    pub listen: SocketAddrV4,
    /// Address and port of TLS, for agents, installed systems and `/v1`.
    tls_listen: Option<SocketAddrV4>,
    /// Further host names and addresses of this server, for its certificate.
    #[serde(default)]
    pub names: Vec<String>,
    /// Seconds a client may keep the server waiting: for a whole request, or without taking
    /// anything of an answer.
    #[serde(default = "Http::default_timeout_seconds")]
    pub timeout_seconds: u32,
}

/// Port of TLS when none is given.
pub(super) const TLS_PORT: u16 = 8443;

impl Http {
    /// Address and port of TLS: the address of plain HTTP, and port 8443, unless told otherwise.
    #[must_use]
    pub fn tls_listen(&self) -> SocketAddrV4 {
        self.tls_listen.unwrap_or(SocketAddrV4::new(*self.listen.ip(), TLS_PORT))
    }

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
        let tls = self.tls_listen();
        if tls.ip().is_unspecified() || tls.port() == 0 {
            all.push("http.tls_listen: machines must be told an address and a port, not 0.0.0.0 or 0".into());
        }
        if tls == self.listen {
            all.push(format!("http.tls_listen: {tls} is http.listen already; give it another port"));
        }
        for name in &self.names {
            let is_address = name.parse::<IpAddr>().is_ok();
            if !is_address && !name.split('.').all(super::is_host_name) {
                all.push(format!("http.names: {name:?} is neither an address nor a host name"));
            }
        }
        if !(1..=600).contains(&self.timeout_seconds) {
            all.push("http.timeout_seconds: must be 1 to 600".into());
        }
    }
}
