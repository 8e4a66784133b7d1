//! What is known of a machine besides packets: how its last job failed, and what its node carries.

use super::{Case, Cause, Likelihood};
use crate::hardware;
use crate::machine::{Job, JobState};
use alloc::format;
use alloc::vec::Vec;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::phase::Phase;

/// Causes that need no packet. A job that is queued or running speaks for itself: then there is none.
pub(super) fn causes(case: &Case<'_>) -> Vec<Cause> {
    let Some(machine) = case.machine else { return Vec::new() };
    if machine.job.as_ref().is_some_and(|job| !job.state.ended()) {
        return Vec::new();
    }
    let node = &machine.node;
    let last_seen = node.last_seen.unwrap_or(case.now);
    let locked = node.shut_out.iter().map(|locked| {
        let Finding { code, detail } = &locked.finding;
        Cause::new(*code, Likelihood::High).seen(last_seen, detail.as_str())
    });
    let failed = machine.job.as_ref().and_then(failed);
    // What the job failed with is told once.
    let is_new = |found: &Finding| {
        let same = |told: &&Cause| {
            told.code == found.code && told.proof.iter().any(|it| it.text.ends_with(&found.detail))
        };
        failed.iter().find(same).is_none()
    };
    let faults = hardware::findings(node).into_iter().filter(is_new).map(|Finding { code, detail }| {
        Cause::new(code, Likelihood::Low).seen(node.facts_at.unwrap_or(last_seen), detail)
    });
    let faults: Vec<Cause> = faults.collect();
    failed.into_iter().chain(locked).chain(faults).collect()
}

/// How a job failed: surely if its agent could say so, while packets show more of one whose agent never ran.
fn failed(job: &Job) -> Option<Cause> {
    let Finding { code, detail } = job.findings.last().filter(|_| job.state == JobState::Failed)?;
    let sure = if job.phase < Phase::Inventory { Likelihood::Low } else { Likelihood::High };
    let (kind, phase) = (job.kind.name(), job.phase.name());
    let text = format!("its last job, {kind} {}, failed in phase {phase}: {detail}", job.id);
    Some(Cause::new(*code, sure).seen(job.ended_at?, text))
}

#[cfg(test)]
mod tests {
    use crate::hardware;
    use crate::lifecycle::event::Event;
    use crate::lifecycle::table::{apply, idle, job};
    use crate::machine::{JobKind, Machine, State};
    use crate::why::{Likelihood, Site, why};
    use alloc::boxed::Box;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use kaltstart_protocol::facts::{Disk, Facts, Health, Verdict};
    use kaltstart_protocol::finding::{Code, Finding};
    use kaltstart_protocol::phase::Phase;
    use kaltstart_protocol::time::Millis;

    fn told(machine: &Machine) -> Vec<(Code, Likelihood)> {
        let site = Site { networks: Vec::new(), prefixes: Vec::new(), loaders: BTreeMap::new(), in_use: 0 };
        let causes = why(&[], Some(machine), &site, Millis(2_000_000)).causes;
        causes.iter().map(|cause| (cause.code, cause.likelihood)).collect()
    }

    #[test]
    fn a_disk_for_which_the_last_job_failed_is_told_once() {
        let disk = |serial: &str| Disk {
            serial: serial.into(),
            health: Some(Health { verdict: Verdict::Failing, ..Health::default() }),
            ..Disk::default()
        };
        let mut machine = apply(idle(State::Available), &[Event::JobOrdered(Box::new(job(JobKind::Deploy)))]);
        machine.job.as_mut().expect("ordered").phase = Phase::Disk;
        machine.node.facts = Some(Facts { disks: Vec::from([disk("a"), disk("b")]), ..Facts::default() });
        let finding = hardware::failing(&disk("a")).expect("it fails");
        machine = apply(machine, &[Event::Hindered(finding)]);
        let expected = [(Code::DiskFailing, Likelihood::High), (Code::DiskFailing, Likelihood::Low)];
        assert_eq!(told(&machine), expected, "the other one besides");
    }

    #[test]
    fn the_last_job_s_failure_is_told_until_there_is_another_job() {
        let order = || Event::JobOrdered(Box::new(job(JobKind::Deploy)));
        let ambiguous = Event::Hindered(Finding::new(Code::AmbiguousDisk, "two"));
        let mut ordered = apply(idle(State::Available), &[order()]);
        assert_eq!(told(&ordered), []);
        let silent = apply(ordered.clone(), core::slice::from_ref(&ambiguous));
        assert_eq!(told(&silent), [(Code::AmbiguousDisk, Likelihood::Low)]);
        ordered.job.as_mut().expect("ordered").phase = Phase::Disk;
        let failed = apply(ordered.clone(), &[ambiguous]);
        assert_eq!(told(&failed), [(Code::AmbiguousDisk, Likelihood::High)]);
        assert_eq!(told(&apply(failed, &[order()])), [], "another job");
        assert_eq!(told(&apply(ordered, &[Event::JobCancelled])), [], "nothing went wrong");
        assert_eq!(told(&idle(State::Available)), [], "it never had a job");
    }
}
