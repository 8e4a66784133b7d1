//! What the agent that runs on a machine is told to do.

use crate::boot;
use crate::machine::{Job, Machine, PhaseState};
use kaltstart_protocol::wipe::GrantTrust;

/// What an agent with this session shall do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// Nothing: ask again.
    Wait,
    /// Start again over the network: there is a job for which it was not started, or it takes no grants of this
    /// server any more.
    Reboot,
    /// Carry out the job.
    Job(alloc::boxed::Box<Job>),
}

/// What the agent of `machine` shall do now that the server's grants are those of `trust`.
#[must_use]
pub fn assignment(machine: &Machine, trust: &GrantTrust) -> Assignment {
    let session = machine.node.session.as_ref();
    let takes_grants = session.is_some_and(|session| session.trust.as_ref() == Some(trust));
    match (boot::decide(machine).agent(), &machine.job) {
        (Some((mode, Some(wanted))), Some(job)) => {
            let failed = job.phases.iter().any(|record| record.state == PhaseState::Failed);
            let started = session.is_some_and(|s| s.mode == mode && s.job.as_ref() == Some(wanted));
            if started && takes_grants && !failed {
                Assignment::Job(alloc::boxed::Box::new(job.clone()))
            } else {
                Assignment::Reboot
            }
        }
        _ => Assignment::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::event::Event;
    use crate::lifecycle::table::{TRUST, apply, grant, hello, idle, job, job_id, task_taken};
    use crate::machine::{JobKind, State};
    use alloc::boxed::Box;
    use kaltstart_protocol::agent_api::Mode;
    use kaltstart_protocol::ids::PublicKey;

    #[test]
    fn p03_an_agent_that_would_refuse_the_servers_grants_starts_again() {
        let started = [
            Event::JobOrdered(Box::new(job(JobKind::Deploy))),
            Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) },
            hello(Mode::Install),
        ];
        let machine = apply(idle(State::Expected), &started);
        let granted = apply(machine.clone(), &[task_taken()]);
        let others =
            [GrantTrust { key: PublicKey([2; 32]), ..TRUST }, GrantTrust { epoch: TRUST.epoch + 1, ..TRUST }];
        for machine in [machine, granted] {
            assert!(matches!(assignment(&machine, &TRUST), Assignment::Job(_)));
            for other in others {
                assert_eq!(assignment(&machine, &other), Assignment::Reboot, "{other:?}");
            }
            let mut before = machine;
            before.node.session.as_mut().expect("an agent runs").trust = None;
            assert_eq!(assignment(&before, &TRUST), Assignment::Reboot, "it was not told");
        }
    }
}
