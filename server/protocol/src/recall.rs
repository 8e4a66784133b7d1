//! What an installed system asks that can be called back for a job: JSON body of
//! `POST /node/v1/recall`, over TLS 1.3 to the server of the authority it was installed by.
//!
//! Its token allows nothing but this question. The answer lets it start the agent of a job that was
//! ordered for it, as a start over the network would.

use crate::ids::{Digest, JobId};
use crate::secret::Secret;
use alloc::boxed::Box;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Where the agent leaves what the system asks with, as [`crate::node_api::ReportConfig`].
pub const RECALL_CONFIG: &str = "/var/lib/kaltstart/recall.json";

/// Is there a job for which this system shall make room?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecallQuestion {
    /// Says which system asks.
    pub token: Secret,
    /// The job that laid the system down; none of one that was laid down before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Why the start that was given last cannot be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "recall", rename_all = "snake_case")]
pub enum Recall {
    /// Nothing: ask again.
    Stay {
        /// Longest pause before the next question, in seconds.
        seconds: u64,
        /// Fingerprint of the authority to believe from now on.
        authority: Digest,
    },
    /// Start this by kexec.
    Start(Box<RecallStart>),
}

/// The agent of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecallStart {
    /// Its kernel.
    pub kernel: BootFile,
    /// Its ramdisk.
    pub ramdisk: BootFile,
    /// The kernel's arguments, with the one-time boot token among them.
    pub arguments: Secret,
}

/// A file that may be read on the way, as its digest is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFile {
    /// Where it is had: absolute URL.
    pub url: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
}
