//! A job: one run of one kind of work on one node.

use super::{Order, State};
use crate::lifecycle::phases;
use crate::rescue::Rescue;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::agent_api::{Installed, Mode};
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::ids::{Digest, JobId, NodeId};
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::phase::{Phase, Progress};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::WipeGrant;
use serde::{Deserialize, Serialize};

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

/// A request that may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Of whoever sends it, and the key that they chose.
    pub key: Digest,
    /// Of what they want.
    pub body: Digest,
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
    /// Who else has approved it, where one is not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// By what its order is recognised when it is sent again, if it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
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
            approved_by: None,
            request: None,
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

    /// All who approved what it wipes, in one text.
    #[must_use]
    pub fn approvers(&self) -> String {
        match &self.approved_by {
            Some(other) => format!("{}, {other}", self.approver),
            None => self.approver.clone(),
        }
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
