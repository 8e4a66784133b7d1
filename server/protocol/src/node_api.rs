//! What the installed system says: JSON body of `POST /node/v1/report`.

use crate::ids::Digest;
use crate::secret::Secret;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Where the agent leaves [`ReportConfig`] in the installed system; removed once acknowledged.
pub const REPORT_CONFIG: &str = "/var/lib/kaltstart/report.json";
/// Where the agent leaves itself in the installed system; `agent report` sends the report.
pub const REPORTER: &str = "/usr/lib/kaltstart/agent";

/// What the reporter needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportConfig {
    /// Absolute URL, `https://…`.
    pub url: String,
    /// Proves the report; valid for one job only.
    pub token: Secret,
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
}
