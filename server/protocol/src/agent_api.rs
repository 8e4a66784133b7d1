//! What agent and server say to each other: JSON bodies of `POST /agent/v1/…`.
//!
//! | path | body | answer |
//! |---|---|---|
//! | `hello` | [`Hello`] | [`Welcome`] |
//! | `task` | [`TaskRequest`] | [`Task`]; held back until there is one or the wait is over |
//! | `report` | [`Report`] | [`Directive`] |
//! | `neighbours` | [`Neighbours`] | 204; whenever a switch says something new after the hello |
//! | `log` | [`LogBatch`] | 204 |
//! | `installed` | [`Installed`] | [`Directive`]; `Continue` = stored, restart now |
//! | `erased` | [`Erased`] | [`Directive`]; `Continue` = stored, stay up |
//! | `shell/…`, `rescued` | | see [`crate::rescue`] |
//!
//! All of it over TLS 1.3, and only to a server of the authority in [`ARG_PIN`].
//!
//! All but `hello` carry `Authorization: Bearer SESSION`. The session secret is made by the agent
//! and becomes valid when the server accepts it together with the one-time boot token, so a
//! repeated `hello` (its answer was lost) is harmless and no secret travels in an answer.
//! Status 401 means that the session is not known (any more): say hello again is useless, the
//! token is used up, so restart. 5xx and transport errors are tried again for ever.

use crate::burn_in::BurnInTask;
use crate::erasure::Erasure;
use crate::facts::{Facts, Neighbour};
use crate::finding::Finding;
use crate::ids::{JobId, Mac, NodeId};
use crate::image::SignedManifest;
use crate::layout::Layout;
use crate::node_api::ReportConfig;
use crate::phase::{Phase, Progress};
use crate::rescue::RescueTask;
use crate::restart::Restart;
use crate::secret::Secret;
use crate::wipe::{DiskIdentity, SignedGrant};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Kernel argument: base address of the server, `https://10.77.0.1:8443`.
pub const ARG_SERVER: &str = "kaltstart.server";
/// Kernel argument: fingerprint of the authority whose certificate the server shows, `sha256:…`.
pub const ARG_PIN: &str = "kaltstart.pin";
/// Kernel argument: the key that signs wipe grants, `ed25519:…`.
pub const ARG_KEY: &str = "kaltstart.key";
/// Kernel argument: the server's epoch ([`GrantTrust`](crate::wipe::GrantTrust)), in milliseconds since 1970.
pub const ARG_EPOCH: &str = "kaltstart.epoch";
/// Kernel argument: the server's clock when it granted this start, in seconds since 1970. Without
/// a clock of its own a machine could not tell whether a certificate is valid.
pub const ARG_TIME: &str = "kaltstart.time";
/// Kernel argument: the public keys of minisign whose images are laid down, separated by commas.
pub const ARG_IMAGE_KEYS: &str = "kaltstart.image_keys";
/// Kernel argument: images that were signed before are refused, in seconds since 1970.
pub const ARG_IMAGES_SINCE: &str = "kaltstart.images_since";
/// Kernel argument: the one-time boot token.
pub const ARG_TOKEN: &str = "kaltstart.token";
/// Kernel argument: [`Mode`] of this start.
pub const ARG_MODE: &str = "kaltstart.mode";
/// Kernel argument: hardware address of the interface the boot loader used.
pub const ARG_BOOT_MAC: &str = "kaltstart.mac";

/// What an agent may do after this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Look, never write: disks are set read-only before anything else.
    Discover,
    /// Carry out the granted job.
    Install,
    /// Stay for a person, or for a burn-in: disks are set read-only as for [`Discover`](Self::Discover), until a
    /// person's task names those that may be written to.
    Rescue,
}

impl Mode {
    /// The word in kernel arguments, API and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Install => "install",
            Self::Rescue => "rescue",
        }
    }
}

/// First words of an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// The boot token of the kernel command line.
    pub token: Secret,
    /// The secret this agent will use from now on.
    pub session: Secret,
    /// The mode it was started in.
    pub mode: Mode,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Milliseconds since the kernel started, at the start of the agent.
    pub started_uptime_ms: u64,
    /// Milliseconds since the kernel started, now.
    pub uptime_ms: u64,
    /// What it measured.
    pub facts: Facts,
}

/// The server knows this agent from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Who the machine is.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where people find it: an absolute URL; empty from a server that names none.
    #[serde(default)]
    pub page: String,
    /// What each phase of its job usually takes, in milliseconds; empty without a job.
    #[serde(default)]
    pub usual: BTreeMap<Phase, u64>,
}

/// What shall I do?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRequest {
    /// Seconds the answer may be held back, at most 60.
    pub wait_seconds: u32,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Task {
    /// Nothing now: ask again.
    Wait,
    /// Restart the machine: it will be given a job at its next network boot.
    Reboot {
        /// Why, for the console.
        reason: String,
    },
    /// The job cannot be carried out; it has ended. Show why, and ask again.
    Failed {
        /// Why.
        finding: Finding,
    },
    /// Lay down an image.
    Install(Box<InstallTask>),
    /// Erase all disks.
    Erase(Box<EraseTask>),
    /// Stay for a person.
    Rescue(Box<RescueTask>),
    /// Let all parts of the machine work.
    BurnIn(BurnInTask),
}

/// Everything needed to lay down an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstallTask {
    /// The job this is for.
    pub job: JobId,
    /// Which start of the machine for this job, from 1.
    pub attempt: u32,
    /// Which disk, or which disks where the layout has arrays.
    pub disk: DiskRule,
    /// What may be lost on each of them.
    pub grants: Vec<DiskGrant>,
    /// How it shall look.
    pub layout: Layout,
    /// What is written.
    pub image: SignedManifest,
    /// Where it is had: absolute URL; supports `Range`. It may be read on the way, as its digest is
    /// known from `image`.
    pub image_url: String,
    /// Where the list of its chunks is had, of an image that comes in chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks_url: Option<String>,
    /// Caches that are asked for both before the server is, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<ImagePlace>,
    /// The site's other servers, which are asked when this one does not answer, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<ImagePlace>,
    /// UUIDs for table and file systems, so that repeating gives the same disk.
    pub uuids: DiskUuids,
    /// Who the system shall be.
    pub identity: Identity,
    /// How it shall be started.
    #[serde(default)]
    pub restart: Restart,
    /// What its encrypted partitions are opened with, if the layout has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// Where a cache or another server has the files of an image, if it has them: absolute URLs of plain HTTP. No credentials
/// go there, and nothing that comes from there is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePlace {
    /// As [`InstallTask::image_url`].
    pub image_url: String,
    /// As [`InstallTask::chunks_url`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks_url: Option<String>,
}

/// What encrypted partitions are opened with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Encryption {
    /// The passphrase of all of them.
    pub key: Secret,
    /// How the system asks for it whenever it starts.
    pub unlock: ReportConfig,
}

/// Everything needed to erase the disks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseTask {
    /// The job this is for.
    pub job: JobId,
    /// Which start of the machine for this job, from 1.
    pub attempt: u32,
    /// The disks, each with the grant for what may be lost on it. There must be no others that can be
    /// written.
    pub disks: Vec<DiskGrant>,
}

/// A disk that is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskGrant {
    /// Which.
    pub disk: DiskIdentity,
    /// What may be lost on it.
    pub grant: SignedGrant,
}

/// Which disk: all given fields must hold, and exactly one disk must remain, or as many as the layout has.
///
/// Removable and read-only disks never take part. An empty rule fits every other disk, so it
/// chooses only where there are no others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskRule {
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World-wide name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Model, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Transport: one of [`crate::facts::TRANSPORTS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Spinning or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Smallest size in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_gib: Option<u64>,
    /// Largest size in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_gib: Option<u64>,
    /// Where it is plugged, as [`Disk::path`](crate::facts::Disk::path).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of the disks for which all else holds, the one of this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
}

/// Which of several disks, by their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// The smallest.
    Smallest,
    /// The largest.
    Largest,
}

/// UUIDs of one installation, as text (8-4-4-4-12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUuids {
    /// The partition table.
    pub disk: String,
    /// Partitions, in the layout's order; the encrypted ones have it in their header, too.
    pub partitions: Vec<String>,
    /// The root file system.
    pub root: String,
    /// What else lies in partitions, in the layout's order; only those of [`Role::Boot`], [`Role::Data`] and
    /// [`Role::Swap`] count.
    ///
    /// [`Role::Boot`]: crate::layout::Role::Boot
    /// [`Role::Data`]: crate::layout::Role::Data
    /// [`Role::Swap`]: crate::layout::Role::Swap
    #[serde(default)]
    pub further: Vec<String>,
    /// The FAT volume id of the EFI system partition.
    pub esp: u32,
}

impl DiskUuids {
    /// Those of disk `index` of several, from 0: what lies on each disk by itself has another there. Arrays, and
    /// what lies in them, have those of the first: the UUID of an array is that of its partition on the first disk.
    #[must_use]
    pub fn on_disk(&self, index: u32) -> Self {
        if index == 0 {
            return self.clone();
        }
        let [a, b, c, d, ..] = derived(&format!("{:08x}", self.esp), index);
        Self {
            disk: another(&self.disk, index),
            partitions: self.partitions.iter().map(|uuid| another(uuid, index)).collect(),
            esp: u32::from_be_bytes([a, b, c, d]),
            ..self.clone()
        }
    }
}

/// A UUID made of another and a number (RFC 9562 §5.8: version 8).
fn another(uuid: &str, index: u32) -> String {
    let mut bytes = derived(uuid, index);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn derived(text: &str, index: u32) -> [u8; 16] {
    let hash = Sha256::new().chain_update(text).chain_update(index.to_be_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes
}

/// Who the installed system shall be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Host name, one label.
    pub hostname: String,
    /// Domain, may be empty.
    pub domain: String,
    /// Interface to configure, by hardware address; it uses DHCP.
    pub mac: Mac,
    /// Lines of root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// How the installed system reports.
    pub report: ReportConfig,
    /// How it asks whether a job calls it back, if it shall.
    #[serde(default)]
    pub recall: Option<ReportConfig>,
}

/// State of a phase, at least once a second while one runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// The attempt this agent works on.
    pub attempt: u32,
    /// The phase.
    pub phase: Phase,
    /// How it stands.
    pub state: ReportState,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Keys and values worth showing: `disk`, `file_systems`, `rate_bytes_per_second`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

/// How a reported phase stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ReportState {
    /// It runs.
    Running,
    /// It is done.
    Done,
    /// It failed; the agent stays up and does no more.
    Failed {
        /// Why.
        finding: Finding,
    },
}

/// What the agent shall do after a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "directive", rename_all = "snake_case")]
pub enum Directive {
    /// Go on.
    Continue,
    /// Stop writing, stay up, ask for a task again.
    Stop {
        /// Why: cancelled, failed, superseded.
        reason: String,
    },
}

/// The disk is complete, verified, synced and bootable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Identity of the disk ([`crate::facts::Disk::identity`]); of several, between commas.
    pub disk: String,
    /// Public SSH host keys, one `authorized_keys`-style line each.
    pub ssh_host_keys: Vec<String>,
    /// Machine id given to the system (32 hexadecimal digits).
    pub machine_id: String,
    /// Whether a UEFI boot entry was written.
    pub boot_entry: bool,
    /// How the system is started now: through the firmware where the order asked for more than the
    /// machine can do.
    #[serde(default)]
    pub restart: Restart,
}

/// All disks are erased, and were read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// One record for each disk of the task.
    pub disks: Vec<Erasure>,
}

/// Which switch and port each interface is plugged into, by the interface's name in this start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// All that was heard so far.
    pub heard: BTreeMap<String, Neighbour>,
}

/// Lines of the agent's log, from its start on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBatch {
    /// Number of the first line since this agent started, from 0: a repeated batch is recognised.
    pub first: u64,
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// `error`, `warn`, `info`, `debug`.
    pub level: String,
    /// The text, without line break.
    pub text: String,
}
