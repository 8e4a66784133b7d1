//! May a machine start from the network, and into what?
//!
//! Every door (DHCP, TFTP, HTTP, iPXE, UEFI HTTP boot) asks [`decide`] and obeys its answer.

use crate::machine::{Machine, State};
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
}

impl BootDecision {
    /// Whether the machine is given something to start over the network.
    #[must_use]
    pub const fn is_network(&self) -> bool {
        !matches!(self, Self::Local)
    }

    /// The mode of the agent that is started, and its job.
    #[must_use]
    pub fn agent(&self) -> Option<(Mode, Option<&JobId>)> {
        match self {
            Self::Local => None,
            Self::Discover => Some((Mode::Discover, None)),
            Self::Install { job } => Some((Mode::Install, Some(job))),
        }
    }
}

/// What `machine` may start from the network.
///
/// The default is its own disk. A job opens the network until its disk is complete; a machine
/// of which nothing is known yet may be looked at.
#[must_use]
pub fn decide(machine: &Machine) -> BootDecision {
    match &machine.job {
        Some(job) if !job.state.ended() && job.installed.is_none() => {
            return BootDecision::Install { job: job.id.clone() };
        }
        Some(job) if !job.state.ended() => return BootDecision::Local,
        Some(_) | None => {}
    }
    match machine.node.state {
        State::Expected | State::Discovered if machine.node.facts.is_none() => BootDecision::Discover,
        State::Expected
        | State::Discovered
        | State::Available
        | State::Allocated
        | State::Deployed
        | State::Releasing
        | State::Broken
        | State::Retired => BootDecision::Local,
    }
}
