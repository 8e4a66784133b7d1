//! What a list of nodes tells of each: kept in memory, as a site has thousands.

use kaltstart_core::about::{About, Lock, Word, owner};
use kaltstart_core::class::{self, Class};
use kaltstart_core::machine::{Job, JobKind, JobState, Machine, State};
use kaltstart_core::recall::Via;
use kaltstart_protocol::facts::{Facts, text};
use kaltstart_protocol::ids::{JobId, Mac, NodeId};
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// A node in brief.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Never changes.
    pub id: NodeId,
    /// Host name.
    pub name: String,
    /// What it is.
    pub state: State,
    /// What it is and does, for people.
    pub headline: String,
    /// Hardware addresses.
    pub macs: Vec<Mac>,
    /// Address it was given last.
    pub address: Option<IpAddr>,
    /// Reserved address.
    pub reservation: Option<Ipv4Addr>,
    /// Its job, while one is queued or running.
    pub job: Option<JobId>,
    /// The job that ended last.
    pub last_job: Option<JobId>,
    /// When it was heard last.
    pub last_seen: Option<Millis>,
    /// What people say of it.
    #[serde(flatten)]
    pub about: About,
    /// Since when it is its team's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_since: Option<Millis>,
    /// Why nobody may touch it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// What its agent saw that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
}

/// What a machine says that it is (SMBIOS): claimed by it, and only text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Maker.
    pub vendor: String,
    /// Model.
    pub product: String,
    /// Serial number.
    pub serial: String,
}

impl Hardware {
    fn of(facts: &Facts) -> Self {
        // Cut again: an agent may be anybody, and this is kept in memory.
        let [vendor, product, serial] = [&facts.system.vendor, &facts.system.product, &facts.system.serial]
            .map(|told| text(told.as_bytes()));
        Self { vendor, product, serial }
    }
}

impl NodeSummary {
    /// The team that owns it, and since when.
    #[must_use]
    pub fn owner(&self) -> Option<(&Word, Millis)> {
        owner(&self.about, self.team_since)
    }

    /// Its class, of those of the configuration.
    #[must_use]
    pub fn class<'a>(&self, classes: &'a [Class]) -> Option<&'a Class> {
        let model = self.hardware.as_ref().map(|hardware| (&*hardware.vendor, &*hardware.product));
        class::of(classes, &self.name, model)
    }

    /// Where it is reached: the address that is reserved for it, else the one it was given last.
    #[must_use]
    pub fn reached_at(&self) -> Option<IpAddr> {
        self.reservation.map(IpAddr::from).or(self.address)
    }

    /// The node of that machine.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let node = &machine.node;
        Self {
            id: node.id.clone(),
            name: node.name.clone(),
            state: node.state,
            headline: headline(machine) + if node.lock.is_some() { " · locked" } else { "" },
            macs: node.macs.clone(),
            address: node.address,
            reservation: node.reservation,
            job: node.job.clone(),
            last_job: node.last_job.clone(),
            last_seen: node.last_seen,
            about: node.about.clone(),
            team_since: node.team_since,
            lock: node.lock.clone(),
            hardware: node.facts.as_ref().map(Hardware::of),
        }
    }
}

/// What a node is and does, for people.
pub(crate) fn headline(machine: &Machine) -> String {
    let node = &machine.node;
    let why = |job: &Job| {
        let last = job.findings.last();
        last.map_or_else(String::new, |finding| format!(" · {} {}", finding.code, finding.code.title()))
    };
    match &machine.job {
        Some(job) if job.state == JobState::Queued => match job.order.via() {
            Via::Kexec => "waiting for its system to ask".to_owned(),
            Via::Network => "waiting for the machine".to_owned(),
        },
        Some(job) if job.kind == JobKind::Rescue => match job.state.ended() {
            false => format!("{} · rescue · {}", node.state, job.phase.name()),
            true => node.state.to_string(),
        },
        Some(job) if job.kind == JobKind::BurnIn => match job.state {
            JobState::Queued | JobState::Running => {
                format!("{} · burn-in · {}", node.state, job.phase.name())
            }
            JobState::Failed => format!("{} · burn-in failed{}", node.state, why(job)),
            JobState::Succeeded | JobState::Cancelled => node.state.to_string(),
        },
        Some(job) if !job.state.ended() && job.kind == JobKind::Release => {
            format!("releasing · {}", job.phase.name())
        }
        Some(job) if !job.state.ended() => format!("deploying · {}", job.phase.name()),
        Some(job) if job.state == JobState::Failed => {
            let failed = match (node.state, job.kind) {
                (State::Allocated, _) => "deploy failed",
                (State::Releasing, JobKind::Release) => "release failed",
                // It is what it was before.
                _ => return format!("{} · {} failed{}", node.state, job.kind.name(), why(job)),
            };
            format!("{failed}{}", why(job))
        }
        _ => node.state.to_string(),
    }
}
