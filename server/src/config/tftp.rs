//! `[tftp]`

use crate::net::tftp::{BLKSIZE_RANGE, TransferLimits, WINDOWSIZE_RANGE};
use serde::Deserialize;
use std::net::SocketAddrV4;

/// `[tftp]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tftp {
    /// Address and port; firmware always asks port 69.
    pub listen: SocketAddrV4,
    /// Most bytes of a block, whatever a client asks for. Without it, what fits an Ethernet frame.
    #[serde(default = "Tftp::default_blksize_max")]
    pub blksize_max: u16,
    /// Most blocks per acknowledgement.
    #[serde(default = "Tftp::default_windowsize_max")]
    pub windowsize_max: u16,
}

impl Tftp {
    fn default_blksize_max() -> u16 {
        TransferLimits::default().blksize_max
    }

    fn default_windowsize_max() -> u16 {
        TransferLimits::default().windowsize_max
    }

    /// What a client may have.
    pub(crate) fn transfer_limits(&self) -> TransferLimits {
        TransferLimits {
            blksize_max: self.blksize_max,
            windowsize_max: self.windowsize_max,
            ..TransferLimits::default()
        }
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        for (key, value, range) in [
            ("blksize_max", self.blksize_max, BLKSIZE_RANGE),
            ("windowsize_max", self.windowsize_max, WINDOWSIZE_RANGE),
        ] {
            if !range.contains(&value) {
                all.push(format!("tftp.{key}: must be {} to {}", range.start(), range.end()));
            }
        }
    }
}
