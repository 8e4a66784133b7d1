//! `[syslog]`

use serde::Deserialize;
use std::net::SocketAddrV4;

/// `[syslog]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// Address and port; loaders always send to port 514.
    pub listen: SocketAddrV4,
}

impl Syslog {
    pub(super) fn problems(&self, all: &mut Vec<String>) {
        if self.listen.ip().is_unspecified() {
            all.push("syslog.listen: loaders must be told an address, not 0.0.0.0".into());
        }
    }
}
