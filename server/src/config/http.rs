//! `[http]`

use serde::Deserialize;
use std::net::SocketAddrV4;

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port of boot files, images, agent API and `/v1`. Machines are told this address.
    pub listen: SocketAddrV4,
}

impl Http {
    pub(super) fn problems(&self, all: &mut Vec<String>) {
        if self.listen.ip().is_unspecified() || self.listen.port() == 0 {
            all.push("http.listen: machines must be told an address and a port, not 0.0.0.0 or 0".into());
        }
    }
}
