//! A machine in the hands of a person: its state stays what it is, whatever becomes of the job.

use super::event::Happening;
use super::{Draft, NOT_GRANTED, No, Verdict, phases};
use crate::machine::{Job, JobKind, JobState, State};
use crate::rescue::{Code, RESCUE_MAX_MS, Wrong, held, open};
use kaltstart_protocol::ids::{Digest, JobId};
use kaltstart_protocol::phase::Phase;

const NO_RESCUE: &str = "no rescue waits or runs; order one with `ks rescue`";

/// Why a node in `state` takes no rescue, if it takes none.
pub(super) fn refusal(state: State) -> Option<&'static str> {
    match state {
        State::Available | State::Allocated | State::Deployed | State::Releasing | State::Broken => None,
        State::Expected | State::Discovered => {
            Some("the node was not looked at or not accepted yet; there is nothing of ours to rescue")
        }
        State::Retired => Some("the node is retired"),
    }
}

impl Draft {
    fn rescue(&mut self) -> Option<&mut Job> {
        self.live().filter(|job| job.kind == JobKind::Rescue)
    }

    /// The agent is there and stays: a person may come.
    pub(super) fn hand_over(&mut self) {
        let now = self.now;
        if let Some(job) = self.rescue() {
            job.rescue.until.get_or_insert(now.plus(RESCUE_MAX_MS));
        }
        self.reach(Phase::Handoff);
    }

    /// A new code was made; an older one is void.
    pub(super) fn code_issued(&mut self, code: &Code) -> Verdict {
        let now = self.now;
        let Some(job) = self.rescue() else { return Err(No::Refuse(NO_RESCUE)) };
        job.rescue.code = Some(code.clone());
        if job.rescue.until.is_some() {
            job.rescue.until = Some(now.plus(RESCUE_MAX_MS));
            phases::renew(job, now);
        }
        self.happenings.push(Happening::CodeIssued);
        Ok(())
    }

    /// Somebody tries a code. Wrong ones count, so this changes the machine in any case; whether it was right tell
    /// the happenings.
    pub(super) fn code_tried(&mut self, fingerprint: &Digest) -> Verdict {
        let now = self.now;
        if open(&self.machine).is_none() {
            return Err(No::Refuse("the machine is not there yet, or the rescue is over"));
        }
        let Some(job) = self.rescue() else { return Err(No::Refuse(NO_RESCUE)) };
        match job.rescue.try_code(fingerprint, now) {
            Ok(()) => self.happenings.push(Happening::ShellOpened),
            Err(wrong) => self.happenings.push(Happening::ShellRefused(match wrong {
                Wrong::Other(left) => left,
                Wrong::None => 0,
            })),
        }
        Ok(())
    }

    /// The agent asked for what was typed: it is there.
    pub(super) fn rescue_alive(&mut self, id: &JobId, attempt: u32) -> Verdict {
        let now = self.now;
        if held(&self.machine, id, attempt).is_none() {
            return Err(No::Refuse(NOT_GRANTED));
        }
        let before = self.machine.clone();
        self.heard();
        self.is_news(&before)?;
        if let Some(job) = self.rescue() {
            phases::renew(job, now);
        }
        Ok(())
    }

    /// Nobody works on the machine any more.
    pub(super) fn rescued(&mut self, id: &JobId, attempt: u32) -> Verdict {
        let now = self.now;
        let known =
            |job: &Job| job.id == *id && job.kind == JobKind::Rescue && job.state == JobState::Succeeded;
        if self.machine.job.as_ref().is_some_and(known) {
            return Err(No::Ignore("already known"));
        }
        if held(&self.machine, id, attempt).is_none() {
            return Err(No::Refuse(NOT_GRANTED));
        }
        self.heard();
        if let Some(job) = self.machine.job.as_mut() {
            phases::end(job, now, &mut self.happenings);
        }
        self.close(JobState::Succeeded);
        self.happenings.push(Happening::JobSucceeded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::event::{Asker, Event};
    use crate::lifecycle::table::{NOW, apply, code_issued, session, situations, token};
    use crate::lifecycle::{Step, step};
    use crate::machine::Machine;

    /// The situation of that name.
    fn situation(name: &str) -> Machine {
        let found = situations().into_iter().find(|(situation, _)| situation == name);
        found.unwrap_or_else(|| panic!("no situation {name}")).1
    }

    #[test]
    fn p17_a_code_opens_the_shell_once_and_wrong_ones_void_it() {
        let issued = situation("deployed, rescue in handoff, code issued");
        let told = |machine: &Machine, code| match step(machine, &Event::CodeTried(code), NOW) {
            Step::Changed { machine, happenings } => (machine, happenings),
            other => panic!("{other:?}"),
        };
        let (opened, happenings) = told(&issued, token());
        assert_eq!(happenings, [Happening::ShellOpened]);
        assert_eq!(told(&opened, token()).1, [Happening::ShellRefused(0)], "it was used");
        let mut machine = issued;
        for left in (0..5).rev() {
            let (next, happenings) = told(&machine, session());
            assert_eq!(happenings, [Happening::ShellRefused(left)]);
            machine = next;
        }
        assert_eq!(told(&machine, token()).1, [Happening::ShellRefused(0)], "it is void");
        assert_eq!(told(&apply(machine, &[code_issued()]), token()).1, [Happening::ShellOpened]);
    }

    #[test]
    fn a_rescue_keeps_the_nodes_state_and_ends_by_itself() {
        let held = situation("deployed, rescue in handoff");
        let until = held.job.as_ref().and_then(|job| job.rescue.until).expect("it has an end");
        assert_eq!(until, NOW.plus(RESCUE_MAX_MS));
        let mut last = held.clone();
        last.job.as_mut().expect("held").deadline = Some(until);
        let Step::Changed { machine, .. } = step(&last, &Event::DeadlinePassed { shown: None }, until) else {
            panic!("its time is over")
        };
        let job = machine.job.expect("it had one");
        assert_eq!(
            (job.state, machine.node.state, job.findings.len()),
            (JobState::Cancelled, State::Deployed, 0)
        );
        // Silence is another matter.
        let silent = held.job.as_ref().and_then(|job| job.deadline).expect("it has one");
        assert!(silent < until);
        let later = apply(held.clone(), &[code_issued()]);
        assert_eq!(later.job.expect("held").rescue.until, Some(until));
        // A machine that came back by itself is held again, by the same job.
        let again = apply(held, &[Event::DhcpSeen { asker: Asker::Firmware }]);
        let job = again.job.as_ref().expect("held");
        assert_eq!((job.attempt, job.phase, again.node.state), (2, Phase::Dhcp, State::Deployed));
    }
}
