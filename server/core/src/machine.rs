//! A machine as the server knows it: the node, and the job that is running on it.

mod job;
mod order;

pub use job::{ADMINISTRATOR, Job, JobKind, JobState, PhaseRecord, PhaseState, Request};
pub use order::{BurnInOrder, Order, ReleaseOrder, RescueOrder, SystemOrder};

use crate::about::{self, About, Edit, Lock, Word};
use crate::approval::Approval;
use crate::boot::UefiLoader;
use crate::hardware::Part;
use crate::lifecycle;
use crate::unlock::Locked;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use kaltstart_protocol::agent_api::{DiskUuids, Mode};
use kaltstart_protocol::erasure::Erasure;
use kaltstart_protocol::facts::Facts;
use kaltstart_protocol::ids::{Digest, JobId, Mac, NodeId};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{GrantTrust, HostIdentity};
use serde::{Deserialize, Serialize};

/// What is loaded, decided upon and stored as one: a node and its current job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The node.
    pub node: Node,
    /// Its current job (queued or running), or the one that has just ended.
    pub job: Option<Job>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Declared, never seen. Left by the first report of an agent.
    Expected,
    /// Seen, not accepted. Left by `accept` or `reject`.
    Discovered,
    /// Clean, known, free. Left by an order.
    Available,
    /// Has a purpose, but no verified system; also while deploying and after a failed deploy.
    Allocated,
    /// Verified in production. Left by a rebuild or a release.
    Deployed,
    /// Its purpose is gone, its disks are not proven clean.
    Releasing,
    /// Somebody said that the hardware is bad. Left by `repair`.
    Broken,
    /// Gone; kept for the record.
    Retired,
}

impl State {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Expected,
        Self::Discovered,
        Self::Available,
        Self::Allocated,
        Self::Deployed,
        Self::Releasing,
        Self::Broken,
        Self::Retired,
    ];

    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Discovered => "discovered",
            Self::Available => "available",
            Self::Allocated => "allocated",
            Self::Deployed => "deployed",
            Self::Releasing => "releasing",
            Self::Broken => "broken",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A machine, physical or virtual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Never changes.
    pub id: NodeId,
    /// Host name, one label; unique.
    pub name: String,
    /// Hardware addresses; each belongs to one node.
    pub macs: Vec<Mac>,
    /// Reserved address.
    pub reservation: Option<Ipv4Addr>,
    /// Whether somebody declared it; what was only seen is not accepted by itself.
    pub declared: bool,
    /// How it is started if it has UEFI; none: as the site says.
    #[serde(default)]
    pub uefi_loader: Option<UefiLoader>,
    /// What it is.
    pub state: State,
    /// What it was when somebody called it broken; none of one that was called so before this was noted.
    #[serde(default)]
    pub broken_from: Option<State>,
    /// Its job, while one is queued or running.
    pub job: Option<JobId>,
    /// The job that ended last.
    pub last_job: Option<JobId>,
    /// What the agent saw last.
    pub facts: Option<Facts>,
    /// When that agent said hello first; none of one that did before this was noted.
    #[serde(default)]
    pub facts_at: Option<Millis>,
    /// Parts it had once and has no more.
    #[serde(default)]
    pub missing: Vec<Part>,
    /// Address it was given last.
    pub address: Option<IpAddr>,
    /// When it was heard last, by any door.
    pub last_seen: Option<Millis>,
    /// A network start that was promised and not yet used.
    pub grant: Option<Grant>,
    /// The agent that runs on it.
    pub session: Option<Session>,
    /// What is installed on it.
    pub system: Option<System>,
    /// Fingerprint of the token with which that system asks whether a job calls it back, if it does.
    #[serde(default)]
    pub recall: Option<Digest>,
    /// Fingerprint of the token with which that system asks for the key of its disks, if they are encrypted.
    #[serde(default)]
    pub unlock: Option<Digest>,
    /// Its system that could not open its disks when it was heard last.
    #[serde(default, rename = "locked")]
    pub shut_out: Option<Locked>,
    /// What the machine is since somebody has accepted another board for its system, until an agent looks at it.
    #[serde(default)]
    pub board: Option<HostIdentity>,
    /// How its disks were erased when it was released last.
    #[serde(default)]
    pub erasure: Option<ErasureRecord>,
    /// UUIDs of its installations that may be on its disks, the newest last: the verified one, and
    /// those that were begun since.
    #[serde(default)]
    pub own: Vec<DiskUuids>,
    /// What people say of it.
    #[serde(default)]
    pub about: About,
    /// Since when it is its team's.
    #[serde(default)]
    pub team_since: Option<Millis>,
    /// Why nobody may touch it; while it is there, there is no job.
    #[serde(default)]
    pub lock: Option<Lock>,
    /// What somebody agreed to that somebody else orders.
    #[serde(default)]
    pub approval: Option<Approval>,
}

impl Node {
    /// A node that was seen on the network (`declared` = false) or declared by somebody.
    #[must_use]
    pub fn new(id: NodeId, name: String, mac: Mac, declared: bool) -> Self {
        Self {
            id,
            name,
            macs: Vec::from([mac]),
            reservation: None,
            uefi_loader: None,
            declared,
            state: if declared { State::Expected } else { State::Discovered },
            broken_from: None,
            job: None,
            last_job: None,
            facts: None,
            facts_at: None,
            missing: Vec::new(),
            address: None,
            last_seen: None,
            grant: None,
            session: None,
            system: None,
            recall: None,
            unlock: None,
            shut_out: None,
            board: None,
            erasure: None,
            own: Vec::new(),
            about: About::default(),
            team_since: None,
            lock: None,
            approval: None,
        }
    }

    /// Says something else of it at `now`; whether that changes anything.
    ///
    /// # Errors
    /// What stands against it.
    pub fn edit(&mut self, edit: &Edit, now: Millis) -> Result<bool, &'static str> {
        let about = edit.applied_to(&self.about)?;
        if about.team != self.about.team {
            if self.job.is_some() {
                return Err(lifecycle::HAS_JOB);
            }
            self.team_since = Some(now);
        }
        let changed = about != self.about;
        self.about = about;
        Ok(changed)
    }

    /// The team that owns it, and since when.
    #[must_use]
    pub fn owner(&self) -> Option<(&Word, Millis)> {
        about::owner(&self.about, self.team_since)
    }
}

/// The right to start an agent over the network once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Fingerprint of the boot token.
    pub token: Digest,
    /// What the agent may do.
    pub mode: Mode,
    /// The job it is for; none when it only looks.
    pub job: Option<JobId>,
    /// Not valid from here on.
    pub expires_at: Millis,
    /// Whose wipe grants the agent is told to take; none in those that were given before this was noted.
    #[serde(default)]
    pub trust: Option<GrantTrust>,
}

/// An agent that has proved its grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Fingerprint of its secret.
    pub secret: Digest,
    /// What it may do.
    pub mode: Mode,
    /// The job it was started for.
    pub job: Option<JobId>,
    /// The kernel's boot id it told.
    pub boot_id: String,
    /// When its kernel started, by the server's clock: turns its uptimes into times.
    pub booted_at: Millis,
    /// Whose wipe grants it takes.
    #[serde(default)]
    pub trust: Option<GrantTrust>,
}

/// The installed system, as it reported itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// When it reported.
    pub reported_at: Millis,
    /// Image that was laid down.
    pub image: Digest,
    /// Host name.
    pub hostname: String,
    /// `PRETTY_NAME`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Device of the root file system.
    pub root_device: String,
    /// UUID of the root file system.
    pub root_uuid: String,
    /// Machine id.
    pub machine_id: String,
    /// Public SSH host keys.
    pub ssh_host_keys: Vec<String>,
}

/// All disks of a node were erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRecord {
    /// The job.
    pub job: JobId,
    /// When its agent told so.
    pub at: Millis,
    /// Disk by disk.
    pub disks: Vec<Erasure>,
}
