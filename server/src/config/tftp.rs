//! `[tftp]`

use serde::Deserialize;
use std::net::SocketAddrV4;

/// `[tftp]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tftp {
    /// Address and port; firmware always asks port 69.
    pub listen: SocketAddrV4,
}
