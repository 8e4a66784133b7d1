//! `[boot]`

use super::yes;
use serde::Deserialize;
use std::path::PathBuf;

/// `[boot]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The agent's kernel.
    pub kernel: PathBuf,
    /// The agent's ramdisk.
    pub ramdisk: PathBuf,
    /// Directory with the first-stage loaders: `undionly.kpxe`, `snponly.efi`, `snponly-arm64.efi`.
    pub loaders: PathBuf,
    /// Kernel arguments for the agent, besides its own.
    #[serde(default)]
    pub cmdline: String,
    /// Whether machines nobody declared are looked at.
    #[serde(default = "yes")]
    pub discover_unknown: bool,
}

impl Boot {
    pub(super) fn problems(&self, all: &mut Vec<String>) {
        if self.cmdline.chars().any(char::is_control) {
            all.push("boot.cmdline: is one line of kernel arguments, without control characters".into());
        }
    }
}
