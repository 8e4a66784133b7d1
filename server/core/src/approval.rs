//! Two people for a critical node: what may write to its disks is ordered by one, and was approved by another before.

use crate::machine::{Job, JobKind, Node};
use alloc::string::String;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// The label that makes a node critical, whatever its value.
pub const LABEL: &str = "critical";

/// How long an approval may be used, in milliseconds.
pub const LIFETIME_MS: u64 = 3_600_000;

/// Somebody agrees that somebody else orders such a job, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// What kind.
    pub kind: JobKind,
    /// What is laid down by it, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Who agrees.
    pub by: String,
    /// Since when.
    pub at: Millis,
}

/// Whether nobody alone may order anything that writes to the node's disks.
#[must_use]
pub fn is_critical(node: &Node) -> bool {
    node.about.labels.keys().any(|label| label.as_str() == LABEL)
}

/// Who has approved the job besides whoever orders it; nobody where nobody has to.
///
/// # Errors
/// What is missing, in words for whoever orders.
pub fn approved(node: &Node, job: &Job, now: Millis) -> Result<Option<String>, &'static str> {
    if !is_critical(node) || !job.order.writes() {
        return Ok(None);
    }
    let profile = job.order.system().map(|order| order.profile.as_str());
    match &node.approval {
        None => Err("the node is critical: somebody else must approve this first (`ks approve`)"),
        Some(approval) if now.since(approval.at) >= LIFETIME_MS => Err(
            "the node is critical, and what was approved had to be ordered within an hour; let it be approved again (`ks approve`)",
        ),
        Some(approval) if approval.kind != job.kind || approval.profile.as_deref() != profile => {
            Err("the node is critical, and another order was approved; `ks node show` tells which")
        }
        Some(approval) if approval.by == job.approver => {
            Err("the node is critical: whoever approves an order does not order it too")
        }
        Some(approval) => Ok(Some(approval.by.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::about::Edit;
    use crate::lifecycle::event::Event;
    use crate::lifecycle::table::{NOW, idle, job};
    use crate::lifecycle::{Step, step};
    use crate::machine::{Machine, Order, RescueOrder, State};
    use alloc::boxed::Box;
    use alloc::vec;

    fn critical() -> Machine {
        let mut machine = idle(State::Deployed);
        let edit: Edit = serde_json::from_str(r#"{"labels": {"critical": ""}}"#).expect("an edit");
        assert!(machine.node.edit(&edit, NOW).expect("good"));
        machine
    }

    fn approval(kind: JobKind, profile: Option<&str>, by: &str) -> Event {
        Event::Approved(Approval { kind, profile: profile.map(Into::into), by: by.into(), at: NOW })
    }

    fn after(machine: &Machine, event: &Event) -> Machine {
        match step(machine, event, NOW) {
            Step::Changed { machine, .. } => machine,
            other => panic!("{other:?}"),
        }
    }

    fn ordered(machine: &Machine, kind: JobKind, by: &str, now: Millis) -> Result<Job, &'static str> {
        let order = Job { approver: by.into(), ..job(kind) };
        match step(machine, &Event::JobOrdered(Box::new(order)), now) {
            Step::Changed { machine, .. } => Ok(machine.job.expect("a job")),
            Step::Refused(why) => Err(why),
            Step::Ignored(why) => panic!("{why}"),
        }
    }

    #[test]
    fn p09_a_critical_node_wants_two_people_for_what_may_write_to_it() {
        let node = critical();
        for kind in [JobKind::Rebuild, JobKind::Release] {
            assert!(ordered(&node, kind, "a", NOW).expect_err("alone").contains("critical"));
        }
        let approved = after(&node, &approval(JobKind::Rebuild, Some("p"), "b"));
        for (kind, by, now) in [
            (JobKind::Rebuild, "b", NOW),
            (JobKind::Release, "a", NOW),
            (JobKind::Rebuild, "a", NOW.plus(LIFETIME_MS)),
        ] {
            assert!(ordered(&approved, kind, by, now).is_err(), "{kind:?} by {by} at {now:?}");
        }
        let other = after(&node, &approval(JobKind::Rebuild, Some("q"), "b"));
        assert!(ordered(&other, JobKind::Rebuild, "a", NOW).is_err(), "another profile");
        let job = ordered(&approved, JobKind::Rebuild, "a", NOW.plus(LIFETIME_MS - 1)).expect("two people");
        assert_eq!((job.approver.as_str(), job.approved_by.as_deref()), ("a", Some("b")));
        assert_eq!(job.approvers(), "a, b");
    }

    #[test]
    fn p09_an_approval_is_used_once() {
        let approved = after(&critical(), &approval(JobKind::Release, None, "b"));
        let order = Event::JobOrdered(Box::new(Job { approver: "a".into(), ..job(JobKind::Release) }));
        let released = after(&approved, &order);
        assert_eq!(released.node.approval, None);
        let open = after(&released, &Event::JobCancelled);
        assert!(step(&open, &order, NOW) != step(&approved, &order, NOW));
        assert!(ordered(&open, JobKind::Release, "a", NOW).is_err());
    }

    #[test]
    fn what_writes_nothing_is_ordered_by_one_and_nobody_approves_what_needs_no_approval() {
        let node = critical();
        assert!(ordered(&node, JobKind::Rescue, "a", NOW).is_ok(), "disks are read-only");
        let writable = RescueOrder { writable: vec!["s".into()], ..RescueOrder::default() };
        let rescue = Job { order: Order::Rescue(writable), ..job(JobKind::Rescue) };
        assert!(matches!(step(&node, &Event::JobOrdered(Box::new(rescue)), NOW), Step::Refused(_)));
        let step = step(&idle(State::Deployed), &approval(JobKind::Release, None, "b"), NOW);
        assert!(matches!(step, Step::Refused(_)), "{step:?}");
    }
}
