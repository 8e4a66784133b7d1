//! May a machine start from the network, and into what?
//!
//! [`decide`] says it for a machine, [`offer`] for each door that the machine can come to. Every
//! door asks and obeys.

pub mod arguments;
mod door;
mod file;
pub mod repeats;
mod served;

pub use door::{Door, Offer, Policy, Why, doors, offer};
pub use file::{File, Loader, UefiLoader};
pub use served::{Served, served};

use crate::machine::{JobKind, Machine, State};
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::ids::JobId;

/// What a machine that asks the network may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootDecision {
    /// Its own disk: it gets an address, and no boot file.
    Local,
    /// The agent, which looks and never writes.
    Discover,
    /// The agent, for a granted job.
    Install {
        /// The job.
        job: JobId,
    },
    /// The agent, which stays for a person.
    Rescue {
        /// The job.
        job: JobId,
    },
}

impl BootDecision {
    /// Whether the machine is given something to start over the network.
    #[must_use]
    pub const fn is_network(&self) -> bool {
        !matches!(self, Self::Local)
    }

    /// The word in API and tables.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Discover => "discover",
            Self::Install { .. } => "install",
            Self::Rescue { .. } => "rescue",
        }
    }

    /// The mode of the agent that is started, and its job.
    #[must_use]
    pub fn agent(&self) -> Option<(Mode, Option<&JobId>)> {
        match self {
            Self::Local => None,
            Self::Discover => Some((Mode::Discover, None)),
            Self::Install { job } => Some((Mode::Install, Some(job))),
            Self::Rescue { job } => Some((Mode::Rescue, Some(job))),
        }
    }
}

/// What `machine` may start from the network.
#[must_use]
pub fn decide(machine: &Machine) -> BootDecision {
    judge(machine).0
}

/// The same, and why.
///
/// The default is its own disk. A job opens the network until its disk is complete; a machine
/// of which nothing is known yet may be looked at.
#[must_use]
pub fn judge(machine: &Machine) -> (BootDecision, &'static str) {
    match &machine.job {
        Some(job) if !job.state.ended() && job.mode() == Mode::Rescue => {
            let why = match job.kind {
                JobKind::BurnIn => "its job is its burn-in",
                _ => "its job holds it for a person",
            };
            return (BootDecision::Rescue { job: job.id.clone() }, why);
        }
        Some(job) if !job.state.ended() && job.installed.is_none() => {
            return (BootDecision::Install { job: job.id.clone() }, "its job has work on its disks");
        }
        Some(job) if !job.state.ended() => {
            return (BootDecision::Local, "its disk is complete, and its job waits for the system's report");
        }
        Some(_) | None => {}
    }
    let local = |why| (BootDecision::Local, why);
    match machine.node.state {
        State::Expected | State::Discovered if machine.node.facts.is_none() => {
            (BootDecision::Discover, "nothing is known of its hardware yet")
        }
        State::Expected => local("it was looked at, and has no job"),
        State::Discovered => local("it was looked at, and nobody has accepted it"),
        State::Available => local("it is free, and has no job"),
        State::Allocated => local("its last job has ended without a system; order again"),
        State::Deployed => local("it is deployed"),
        State::Releasing => local("it is being released"),
        State::Broken => local("it is broken; `ks node repair` it"),
        State::Retired => local("it is retired"),
    }
}
