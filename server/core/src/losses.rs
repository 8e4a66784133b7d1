//! How many machines may lose data in an hour: what a script orders by mistake, or a thief of the token, shall
//! not empty a site before somebody looks.
//!
//! Machines count, not disks: what fails together is a machine. One counts from the order if that says that
//! something is lost, and again from each grant for a disk that is not blank
//! ([`Job::loses_at`](crate::machine::Job::loses_at)).

use crate::machine::{JobKind, Machine, Order};
use alloc::format;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::wipe::WipeGrant;

/// How long a machine counts, in milliseconds.
pub const WINDOW_MS: u64 = 3_600_000;

/// Whether an order of that kind says by itself that something is lost.
#[must_use]
pub fn is_ordered(kind: JobKind, order: &Order) -> bool {
    matches!(kind, JobKind::Rebuild | JobKind::Release) || order.gives_up()
}

/// Whether something is lost by these grants, as far as it can be seen.
#[must_use]
pub fn is_granted(grants: &[WipeGrant]) -> bool {
    grants.iter().any(|grant| !grant.contents.is_blank())
}

/// Whether a machine that becomes `after` is let lose data by that.
#[must_use]
pub fn begins(before: &Machine, after: &Machine) -> bool {
    let at = |machine: &Machine| machine.job.as_ref().and_then(|job| job.loses_at);
    at(after).is_some() && at(after) != at(before)
}

/// Whether one more machine may lose data, besides `others` within the window.
///
/// # Errors
/// [`Code::TooManyLosses`] when those are all that may.
pub fn admit(others: u64, max: u32) -> Result<(), Finding> {
    if others < u64::from(max) {
        return Ok(());
    }
    let detail =
        format!("{others} others are losing data within an hour, and `wipe.machines_per_hour` is {max}");
    Err(Finding::new(Code::TooManyLosses, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::event::Event;
    use crate::lifecycle::table::{apply, grant, hello, idle, job, job_id, task_taken};
    use crate::machine::{Job, State};
    use alloc::boxed::Box;
    use alloc::collections::BTreeMap;
    use kaltstart_protocol::agent_api::Mode;
    use kaltstart_protocol::contents::{Area, Contents};

    #[test]
    fn p09_orders_that_say_so_lose_data_and_others_only_when_something_is_found() {
        let says = |job: &Job| is_ordered(job.kind, &job.order);
        assert!(says(&job(JobKind::Rebuild)) && says(&job(JobKind::Release)));
        let mut deploy = job(JobKind::Deploy);
        assert!(!says(&deploy));
        let Order::System(order) = &mut deploy.order else { panic!("a release") };
        order.erase = BTreeMap::from([("S1".into(), Contents::default().fingerprint())]);
        assert!(says(&deploy));
    }

    #[test]
    fn p09_as_many_machines_as_are_configured_and_not_one_more() {
        assert!(admit(0, 1).is_ok() && admit(49, 50).is_ok());
        for (others, max) in [(0, 0), (1, 1), (50, 50), (51, 50), (u64::MAX, u32::MAX)] {
            let finding = admit(others, max).expect_err("too many");
            assert_eq!(finding.code, Code::TooManyLosses);
            assert!(finding.detail.contains(&format!("machines_per_hour` is {max}")), "{finding}");
        }
    }

    #[test]
    fn p09_a_machine_counts_from_its_order_or_its_grant_until_it_is_known_to_lose_nothing() {
        let counts = |machine: &Machine| machine.job.as_ref().is_some_and(|job| job.loses_at.is_some());
        let begun = |kind| {
            let order = Event::JobOrdered(Box::new(job(kind)));
            let script = Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) };
            apply(idle(State::Allocated), &[order, script, hello(Mode::Install)])
        };
        let granted = |areas: usize| {
            let Event::TaskTaken { job, report_token, recall_token, unlock_token, mut wipe } = task_taken()
            else {
                unreachable!()
            };
            let area = || Area { partition: None, kind: "ext4".into(), id: "A".into(), label: "".into() };
            wipe[0].contents = Contents::new((0..areas).map(|_| area()).collect());
            Event::TaskTaken { job, report_token, recall_token, unlock_token, wipe }
        };
        let deploy = begun(JobKind::Deploy);
        assert!(!counts(&deploy));
        let blank = apply(deploy.clone(), &[granted(0)]);
        assert!(!counts(&blank) && !begins(&deploy, &blank), "the disk is blank");
        let wiping = apply(deploy.clone(), &[granted(1)]);
        assert!(begins(&deploy, &wiping) && !begins(&wiping, &wiping) && !begins(&wiping, &deploy));
        // Cleared by then, and granted again after an interruption.
        for machine in
            [apply(wiping.clone(), &[granted(0)]), apply(wiping.clone(), &[Event::JobCancelled]), wiping]
        {
            assert!(counts(&machine));
        }
        let release = begun(JobKind::Release);
        assert!(counts(&release) && begins(&idle(State::Allocated), &release));
        assert!(!counts(&apply(release, &[Event::JobCancelled])), "nothing was granted");
    }
}
