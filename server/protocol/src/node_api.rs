//! What the installed system says: JSON body of `POST /node/v1/report`.

use crate::finding::{Code, Finding};
use crate::ids::{Digest, JobId};
use crate::secret::Secret;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Where the agent leaves [`ReportConfig`] in the installed system; removed once acknowledged.
pub const REPORT_CONFIG: &str = "/var/lib/kaltstart/report.json";
/// Where the agent leaves itself in the installed system; `agent report` sends the report.
pub const REPORTER: &str = "/usr/lib/kaltstart/agent";

/// What an installed system needs to know to talk to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportConfig {
    /// Absolute URLs, `https://…`: one for each server of the site, in the order in which they are asked.
    pub urls: Vec<String>,
    /// Says which system it is; that of the report is valid for one job only.
    pub token: Secret,
    /// The job that laid the system down; none of one that was laid down before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Fingerprint of the authority whose certificate the server shows.
    pub authority: Digest,
    /// The server's clock at the installation, in seconds since 1970: the system's own may stand
    /// still in the past, where every certificate lies in the future.
    pub not_before: u64,
}

/// First report of an installed system, repeated until it is answered with 2xx (stored) or
/// 401/404/410 (nobody waits for it).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeReport {
    /// Proves the report.
    pub token: Secret,
    /// The job that laid the system down; none of one that was laid down before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// Device of the root file system.
    pub root_device: String,
    /// UUID of the root file system.
    pub root_uuid: String,
    /// `PRETTY_NAME` of os-release, empty without.
    pub os: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// Public SSH host keys.
    pub ssh_host_keys: Vec<String>,
    /// How the boot order was found.
    #[serde(default)]
    pub boot_order: BootOrder,
}

/// How a machine's boot order was found that an installation has written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BootOrder {
    /// Nobody has written one: a BIOS has its own, and some firmware refuses.
    #[default]
    None,
    /// As it was written.
    Kept,
    /// Something has changed it.
    Changed {
        /// The numbers of the entries, as they were found.
        found: String,
    },
    /// Something had changed it; it was set again.
    Restored {
        /// The numbers of the entries, as they were found.
        found: String,
    },
    /// Something has changed it, and it cannot be set again.
    Lost {
        /// Why not.
        why: String,
    },
}

impl BootOrder {
    /// What is wrong with it, or was.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        match self {
            Self::None | Self::Kept => None,
            changed => Some(Finding::new(Code::BootOrderChanged, alloc::format!("{changed}"))),
        }
    }
}

impl fmt::Display for BootOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nobody has written one"),
            Self::Kept => f.write_str("as it was written"),
            Self::Changed { found } => write!(f, "it was changed to {found}"),
            Self::Restored { found } => write!(f, "it was changed to {found}, and is set again"),
            Self::Lost { why } => write!(f, "it was changed, and cannot be set again: {why}"),
        }
    }
}
