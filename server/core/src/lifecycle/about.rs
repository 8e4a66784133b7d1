//! What people say of a node changes; and nobody may touch it, or may again.

use super::event::Happening;
use super::{Draft, HAS_JOB, LOCKED, No, Verdict};
use crate::about::{Edit, Lock, REASON_MAX};
use crate::approval::{self, Approval};
use crate::machine::State;

impl Draft {
    pub(super) fn edited(&mut self, edit: &Edit) -> Verdict {
        if !self.machine.node.edit(edit, self.now).map_err(No::Refuse)? {
            return Err(No::Ignore("it is so already"));
        }
        self.happenings.push(Happening::NodeEdited);
        Ok(())
    }

    pub(super) fn locked(&mut self, lock: &Lock) -> Verdict {
        if self.live().is_some() {
            return Err(No::Refuse(HAS_JOB));
        }
        if self.machine.node.state == State::Retired {
            return Err(No::Refuse("a retired node takes no orders as it is"));
        }
        if !(1..=REASON_MAX).contains(&lock.reason.trim().chars().count()) {
            return Err(No::Refuse("a lock needs a reason, of 500 characters at most"));
        }
        let reason = lock.reason.trim().into();
        self.machine.node.lock = Some(Lock { reason, at: self.now, ..lock.clone() });
        self.happenings.push(Happening::NodeLocked);
        Ok(())
    }

    pub(super) fn unlocked(&mut self) -> Verdict {
        match self.machine.node.lock.take() {
            Some(_) => self.happenings.push(Happening::NodeUnlocked),
            None => return Err(No::Ignore("it is not locked")),
        }
        Ok(())
    }

    pub(super) fn approved(&mut self, approval: &Approval) -> Verdict {
        if !approval::is_critical(&self.machine.node) {
            return Err(No::Refuse("the node is not critical: whoever may order on it does so alone"));
        }
        self.machine.node.approval = Some(Approval { at: self.now, ..approval.clone() });
        self.happenings.push(Happening::NodeApproved);
        Ok(())
    }

    /// Refuses what people want of a locked node.
    pub(super) fn is_open(&self) -> Verdict {
        if self.machine.node.lock.is_some() { Err(No::Refuse(LOCKED)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::event::{Event, Move};
    use crate::lifecycle::table::{NOW, idle, job};
    use crate::lifecycle::{Step, step};
    use crate::machine::{JobKind, Machine};
    use alloc::boxed::Box;
    use kaltstart_protocol::time::Millis;

    fn changed(machine: &Machine, event: &Event, now: Millis) -> Machine {
        match step(machine, event, now) {
            Step::Changed { machine, .. } => machine,
            other => panic!("{other:?}"),
        }
    }

    fn edit(text: &str) -> Event {
        Event::Edited(serde_json::from_str(text).expect("an edit"))
    }

    fn lock() -> Event {
        let (reason, by) = (" forensics ".into(), "oncall".into());
        Event::Locked(Lock { reason, by, at: Millis(0), team: None })
    }

    #[test]
    fn p06_a_locked_node_refuses_whatever_people_want_of_it() {
        let locked = changed(&idle(State::Deployed), &lock(), NOW);
        let told = locked.node.lock.as_ref().expect("locked");
        assert_eq!((told.reason.as_str(), told.at), ("forensics", NOW));
        let kinds = [JobKind::Deploy, JobKind::Rebuild, JobKind::Release, JobKind::Rescue, JobKind::BurnIn];
        let orders = kinds.map(|kind| Event::JobOrdered(Box::new(job(kind))));
        let moves = Move::ALL.map(Event::Operator);
        let more = [edit(r#"{"team": "other"}"#), edit(r#"{"labels": {"a": "b"}}"#), lock()];
        let board = Event::BoardAccepted { uuid: "V".into(), approver: "somebody".into() };
        for event in orders.into_iter().chain(moves).chain(more).chain([board]) {
            assert_eq!(step(&locked, &event, NOW), Step::Refused(LOCKED), "{event:?}");
        }
        assert!(matches!(step(&locked, &Event::PowerSeen, NOW), Step::Changed { .. } | Step::Ignored(_)));
        let open = changed(&locked, &Event::Unlocked, NOW);
        changed(&open, &Event::JobOrdered(Box::new(job(JobKind::Rebuild))), NOW);
        assert!(matches!(step(&open, &Event::Unlocked, NOW), Step::Ignored(_)));
    }

    #[test]
    fn p06_a_lock_waits_for_no_job_and_has_a_reason() {
        let ordered =
            changed(&idle(State::Deployed), &Event::JobOrdered(Box::new(job(JobKind::Rebuild))), NOW);
        assert_eq!(step(&ordered, &lock(), NOW), Step::Refused(HAS_JOB));
        for reason in ["", "  ", &"x".repeat(REASON_MAX + 1)] {
            let lock = Lock { reason: reason.into(), by: "me".into(), at: NOW, team: None };
            let step = step(&idle(State::Deployed), &Event::Locked(lock), NOW);
            assert!(matches!(step, Step::Refused(_)), "{reason:?}: {step:?}");
        }
    }

    #[test]
    fn p23_a_node_is_its_team_s_from_the_change_on() {
        let given = changed(&idle(State::Available), &edit(r#"{"team": "payments"}"#), NOW);
        assert_eq!(given.node.team_since, Some(NOW));
        let later = NOW.plus(5);
        let moved = changed(&given, &edit(r#"{"rack": "A12"}"#), later);
        assert_eq!(moved.node.team_since, Some(NOW), "it stays theirs");
        let other = changed(&moved, &edit(r#"{"team": "checkout"}"#), later);
        assert_eq!(other.node.team_since, Some(later));
        assert!(matches!(step(&other, &edit(r#"{"team": "checkout"}"#), later), Step::Ignored(_)));
        let ordered = changed(&other, &Event::JobOrdered(Box::new(job(JobKind::Deploy))), later);
        assert_eq!(step(&ordered, &edit(r#"{"team": null}"#), later), Step::Refused(HAS_JOB));
        changed(&ordered, &edit(r#"{"labels": {"a": "b"}}"#), later);
    }
}
