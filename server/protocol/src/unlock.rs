//! What a system with encrypted partitions asks when it starts: JSON body of `POST /node/v1/unlock`, over TLS 1.3 to
//! the server of the authority it was installed by.
//!
//! Its token allows nothing but this question, and only the machine that it was given to is answered with the key.

use crate::ids::{Digest, JobId, Mac};
use crate::node_api::ReportConfig;
use crate::secret::Secret;
use crate::wipe::HostIdentity;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Where what opens the partitions finds its orders in the first ramdisk, as [`UnlockConfig`].
pub const UNLOCK_CONFIG: &str = "/etc/kaltstart/unlock.json";

/// What opens the partitions of a system, and which.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnlockConfig {
    /// How it asks the server.
    pub ask: ReportConfig,
    /// Hardware address of the interface that is tried first.
    pub mac: Mac,
    /// UUIDs in the headers of its encrypted partitions.
    pub partitions: Vec<String>,
}

/// May I have the key?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnlockQuestion {
    /// Says which system asks.
    pub token: Secret,
    /// The job that laid the system down; none of one that was laid down before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The machine that it runs on.
    pub host: HostIdentity,
    /// Fingerprint of the key that it was given before and that opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub useless: Option<Digest>,
}

/// Here it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnlockAnswer {
    /// The passphrase of all encrypted partitions.
    pub key: Secret,
    /// Fingerprint of the authority that servers will show.
    pub authority: Digest,
}
