//! A machine as the server knows it: the node, and the job that is running on it.

mod order;

pub use order::{BurnInOrder, Order, ReleaseOrder, RescueOrder, SystemOrder};

use crate::about::{self, About, Edit, Lock, Word};
use crate::boot::UefiLoader;
use crate::hardware::Part;
use crate::lifecycle::{self, phases};
use crate::rescue::Rescue;
use crate::unlock::Locked;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use kaltstart_protocol::agent_api::{DiskUuids, Installed, Mode};
use kaltstart_protocol::erasure::Erasure;
use kaltstart_protocol::facts::Facts;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::ids::{Digest, JobId, Mac, NodeId};
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::phase::{Phase, Progress};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{GrantTrust, HostIdentity, WipeGrant};
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

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Lay down a profile on a machine that holds nothing of ours.
    Deploy,
    /// The same on a deployed machine.
    Rebuild,
    /// Erase all its disks.
    Release,
    /// Hold the machine for a person.
    Rescue,
    /// Let its parts work for a while.
    BurnIn,
}

impl JobKind {
    /// The word in API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Rebuild => "rebuild",
            Self::Release => "release",
            Self::Rescue => "rescue",
            Self::BurnIn => "burn_in",
        }
    }
}

/// Who orders with the one token there is; so whoever ordered before this was noted was that too.
pub const ADMINISTRATOR: &str = "administrator";

fn administrator() -> String {
    ADMINISTRATOR.into()
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its machine.
    Queued,
    /// Its machine was heard.
    Running,
    /// Done and verified.
    Succeeded,
    /// Ended with a finding.
    Failed,
    /// Ended by an operator.
    Cancelled,
}

impl JobState {
    /// The word in API and database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job has ended.
    #[must_use]
    pub const fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// One run of one kind of work on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Never changes.
    pub id: JobId,
    /// Whose.
    pub node: NodeId,
    /// What kind.
    pub kind: JobKind,
    /// What was ordered.
    pub order: Order,
    /// Who ordered it, and so approved what it wipes.
    #[serde(default = "administrator")]
    pub approver: String,
    /// The server's epoch when it was ordered.
    #[serde(default)]
    pub epoch: u64,
    /// What the node was before: it is that again when the job is cancelled untouched.
    pub from: State,
    /// How it stands.
    pub state: JobState,
    /// Starts of the machine for this job, from 1.
    pub attempt: u32,
    /// The current phase; the last one reached when the job has ended.
    pub phase: Phase,
    /// The thirteen phases, in order.
    pub phases: Vec<PhaseRecord>,
    /// When the current phase has taken too long.
    pub deadline: Option<Millis>,
    /// When it was ordered.
    pub created_at: Millis,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// What went wrong.
    pub findings: Vec<Finding>,
    /// What it was granted to lose, when its agent took the task last.
    #[serde(default, deserialize_with = "grants")]
    pub wipe: Vec<WipeGrant>,
    /// When its machine was last ordered, or its agent last granted, to lose what is there; see [`losses`](crate::losses).
    #[serde(default)]
    pub loses_at: Option<Millis>,
    /// Fingerprint of the token with which the installed system reports.
    pub report_token: Option<Digest>,
    /// Fingerprint of the token with which it will ask whether a job calls it back, if it shall.
    #[serde(default)]
    pub recall_token: Option<Digest>,
    /// Fingerprint of the token with which it asks for the key of its disks, if they are encrypted.
    #[serde(default)]
    pub unlock_token: Option<Digest>,
    /// The disk is complete and bootable: the grant is used up, and the machine starts from it.
    pub installed: Option<Installed>,
    /// Of a rescue: its code and its end.
    #[serde(default)]
    pub rescue: Rescue,
}

impl Job {
    /// Work that has just been ordered at `now` for a node that is `from` until then; on the word of the administrator
    /// and in the first epoch, unless told otherwise.
    #[must_use]
    pub fn queued(id: JobId, node: NodeId, from: State, kind: JobKind, order: Order, now: Millis) -> Self {
        Self {
            id,
            node,
            kind,
            order,
            approver: administrator(),
            epoch: 0,
            from,
            state: JobState::Queued,
            attempt: 1,
            phase: Phase::Queued,
            phases: phases::queued(now),
            deadline: None,
            created_at: now,
            ended_at: None,
            findings: Vec::new(),
            wipe: Vec::new(),
            loses_at: None,
            report_token: None,
            recall_token: None,
            unlock_token: None,
            installed: None,
            rescue: Rescue::default(),
        }
    }

    /// The record of a phase.
    #[must_use]
    pub fn record(&self, phase: Phase) -> Option<&PhaseRecord> {
        self.phases.get(phase.index())
    }

    /// What it keeps, as its agent last found it.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        self.wipe.iter().flat_map(|grant| &grant.keep).cloned().collect()
    }

    /// What its agent may do.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        match self.kind {
            JobKind::Deploy | JobKind::Rebuild | JobKind::Release => Mode::Install,
            JobKind::Rescue | JobKind::BurnIn => Mode::Rescue,
        }
    }

    /// How its machine goes to its system: as it was ordered, until the agent tells what it does.
    #[must_use]
    pub fn restart(&self) -> Restart {
        let ordered = self.order.system().map_or(Restart::Firmware, |order| order.restart);
        self.installed.as_ref().map_or(ordered, |installed| installed.restart)
    }
}

/// Documents that were written before jobs had several grants hold one, or none.
fn grants<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<WipeGrant>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Grants {
        All(Vec<WipeGrant>),
        One(Option<alloc::boxed::Box<WipeGrant>>),
    }
    Ok(match Grants::deserialize(from)? {
        Grants::All(grants) => grants,
        Grants::One(grant) => grant.map(|grant| *grant).into_iter().collect(),
    })
}

/// How a phase stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseState {
    /// Not reached.
    #[default]
    Pending,
    /// Going on.
    Running,
    /// Over.
    Done,
    /// Ended the job.
    Failed,
    /// Passed over, or not seen.
    Skipped,
}

/// When a phase ran and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// How it stands.
    pub state: PhaseState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Millis>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Keys and values worth showing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

impl PhaseRecord {
    /// Milliseconds it took, or has taken so far.
    #[must_use]
    pub fn duration(&self, now: Millis) -> Option<u64> {
        self.started_at.map(|start| self.ended_at.unwrap_or(now).since(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::table::job;

    #[test]
    fn p37_jobs_of_before_there_were_releases_are_read() {
        let deploy = job(JobKind::Deploy);
        let mut text = serde_json::to_value(&deploy).expect("JSON");
        for none in [serde_json::Value::Null, serde_json::json!([])] {
            text["wipe"] = none;
            assert_eq!(serde_json::from_value::<Job>(text.clone()).expect("read"), deploy);
        }
        let grant = serde_json::json!({
            "job": deploy.id, "attempt": 1, "host": {"uuid": "", "serial": "", "macs": []},
            "disk": {"wwn": "", "serial": "s", "model": "", "size": 1, "path": ""}, "contents": [],
            "issued": 1, "expires": 2,
        });
        text["wipe"] = grant;
        let read: Job = serde_json::from_value(text.clone()).expect("one grant");
        assert_eq!(read.wipe.iter().map(|grant| grant.disk.serial.as_str()).collect::<Vec<_>>(), ["s"]);
        text["order"].as_object_mut().expect("an object").remove("uuids");
        assert!(serde_json::from_value::<Job>(text).is_err(), "half a system is no release");
    }
}
