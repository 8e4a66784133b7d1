//! What the agent that runs on a machine is told to do.

use crate::boot::{self, BootDecision};
use crate::machine::{Job, Machine, PhaseState};

/// What an agent with this session shall do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// Nothing: ask again.
    Wait,
    /// Start again over the network: there is a job for which it was not started.
    Reboot,
    /// Carry out the job.
    Job(alloc::boxed::Box<Job>),
}

/// What the agent of `machine` shall do now.
#[must_use]
pub fn assignment(machine: &Machine) -> Assignment {
    let started_for = machine.node.session.as_ref().and_then(|session| session.job.as_ref());
    match (boot::decide(machine), &machine.job) {
        (BootDecision::Install { job: wanted }, Some(job)) => {
            let failed = job.phases.iter().any(|record| record.state == PhaseState::Failed);
            if started_for == Some(&wanted) && !failed {
                Assignment::Job(alloc::boxed::Box::new(job.clone()))
            } else {
                Assignment::Reboot
            }
        }
        _ => Assignment::Wait,
    }
}
