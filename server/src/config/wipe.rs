//! `[wipe]`

use serde::Deserialize;

/// About a rack: more at once is worth a look before.
const MACHINES_PER_HOUR: u32 = 50;

/// `[wipe]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wipe {
    /// Machines that may lose data within an hour; 0 stops all that would.
    #[serde(default = "machines_per_hour")]
    pub machines_per_hour: u32,
}

const fn machines_per_hour() -> u32 {
    MACHINES_PER_HOUR
}

impl Default for Wipe {
    fn default() -> Self {
        Self { machines_per_hour: MACHINES_PER_HOUR }
    }
}
