//! Rules of a node's life besides the golden table.

use super::table::*;
use super::*;
use crate::boot::BootDecision;
use alloc::boxed::Box;
use kaltstart_protocol::agent_api::{DiskUuids, Erased, ReportState};
use kaltstart_protocol::facts::Nic;
use kaltstart_protocol::ids::{Digest, Mac};
use kaltstart_protocol::node_api::BootOrder;
use proptest::prelude::*;

#[test]
fn p17_a_boot_token_works_once_and_a_repeated_hello_is_the_same_session() {
    let order = Event::JobOrdered(Box::new(job(JobKind::Deploy)));
    let script = Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) };
    let machine = apply(idle(State::Expected), &[order, script, hello(Mode::Install)]);
    assert!(
        matches!(step(&machine, &hello(Mode::Install), NOW), Step::Changed { .. }),
        "the answer was lost"
    );
    let Event::AgentHello(mut other) = hello(Mode::Install) else { unreachable!() };
    other.session = Digest::of(b"another agent");
    assert!(matches!(step(&machine, &Event::AgentHello(other), NOW), Step::Refused(_)));
}

#[test]
fn p07_a_task_is_taken_with_a_grant_of_its_job_and_start_alone() {
    let order = Event::JobOrdered(Box::new(job(JobKind::Deploy)));
    let script = Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) };
    let machine = apply(idle(State::Expected), &[order, script, hello(Mode::Install)]);
    let Event::TaskTaken { job, report_token, recall_token, unlock_token, wipe } = task_taken() else {
        unreachable!()
    };
    let right = || wipe[0].clone();
    for wrong in [WipeGrant { job: job_id(2), ..right() }, WipeGrant { attempt: 2, ..right() }] {
        let event = Event::TaskTaken {
            job: job.clone(),
            report_token,
            recall_token,
            unlock_token,
            wipe: Vec::from([right(), wrong]),
        };
        assert!(matches!(step(&machine, &event, NOW), Step::Refused(_)), "{event:?}");
    }
    let taken = apply(machine, &[task_taken(), task_taken()]);
    assert_eq!(taken.node.own, [system_order().uuids], "once");
    assert_eq!(taken.job.map(|job| job.wipe), Some(wipe));
}

#[test]
fn p10_an_erasure_counts_only_with_the_grants_of_its_own_start() {
    let started = |attempt: u32| {
        let mut machine = apply(idle(State::Deployed), &[Event::JobOrdered(Box::new(job(JobKind::Release)))]);
        machine.job.as_mut().expect("ordered").attempt = attempt;
        let script = Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) };
        apply(machine, &[script, hello(Mode::Install)])
    };
    for disks in [0, 1] {
        let outcome = step(&started(1), &erased(disks), NOW);
        assert!(matches!(outcome, Step::Refused(_)), "no task was taken: {outcome:?}");
    }
    let Event::DisksErased(told) = erased(1) else { unreachable!() };
    let mut again = started(2);
    let Event::TaskTaken { wipe, .. } = task_taken() else { unreachable!() };
    again.job.as_mut().expect("ordered").wipe = wipe;
    let outcome = step(&again, &Event::DisksErased(Erased { attempt: 2, ..told }), NOW);
    assert!(matches!(outcome, Step::Refused(_)), "the grants are of the start before: {outcome:?}");
}

#[test]
fn p10_a_repaired_node_is_not_free_while_a_system_of_its_own_may_be_on_it() {
    let repair = |state, own: &[DiskUuids]| {
        let mut machine = idle(state);
        machine.node.own = own.to_vec();
        apply(machine, &[Event::Operator(Move::Break), Event::Operator(Move::Repair)]).node.state
    };
    let own = [system_order().uuids];
    assert_eq!(repair(State::Deployed, &own), State::Deployed, "it is what it was");
    assert_eq!(repair(State::Allocated, &own), State::Allocated);
    assert_eq!(repair(State::Releasing, &own), State::Allocated, "part of it may be erased");
    assert_eq!(repair(State::Available, &[]), State::Discovered);
}

/// A failed job leaves a node that was deployed as it was, as long as no agent was granted to write.
#[test]
fn p05_a_job_that_fails_before_anything_was_granted_takes_no_system_from_its_node() {
    for kind in [JobKind::Rebuild, JobKind::Release] {
        let ordered = apply(idle(State::Deployed), &[Event::JobOrdered(Box::new(job(kind)))]);
        assert_ne!(ordered.node.state, State::Deployed);
        let finding = Finding::new(Code::AmbiguousDisk, "two");
        let failed = apply(ordered.clone(), &[Event::Hindered(finding.clone())]);
        assert_eq!(failed.node.state, State::Deployed, "{kind:?}");
        assert_eq!(failed.job.expect("it had one").state, JobState::Failed);
        let mut granted = ordered.clone();
        let Event::TaskTaken { wipe, .. } = task_taken() else { unreachable!() };
        granted.job.as_mut().expect("ordered").wipe = wipe;
        let failed = apply(granted, &[Event::Hindered(finding)]);
        assert_eq!(failed.node.state, ordered.node.state, "{kind:?}: it may have been written to");
    }
}

/// Its agent has told what it is, though its first job came to nothing.
#[test]
fn an_expected_machine_whose_job_came_to_nothing_was_seen() {
    let ended = |mac: Mac, end: Event| {
        let Event::AgentHello(mut told) = hello(Mode::Install) else { unreachable!() };
        told.facts.nics = Vec::from([Nic { mac, ..Nic::default() }]);
        let order = Event::JobOrdered(Box::new(job(JobKind::Deploy)));
        let script = Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) };
        apply(idle(State::Expected), &[order, script, Event::AgentHello(told), end]).node
    };
    let refused = || Event::Hindered(Finding::new(Code::AmbiguousDisk, "two"));
    for end in [refused(), Event::JobCancelled] {
        let node = ended(MAC, end);
        assert_eq!((node.state, node.facts_at), (State::Available, Some(NOW)));
    }
    let node = ended(Mac([2, 0, 0, 0, 0, 9]), refused());
    assert_eq!(node.state, State::Expected, "another machine was seen");
    let order = Event::JobOrdered(Box::new(job(JobKind::Deploy)));
    let node = apply(idle(State::Expected), &[order, refused()]).node;
    assert_eq!((node.state, node.facts_at), (State::Expected, None), "no agent came");
}

#[test]
fn p17_an_expired_token_is_refused() {
    let order = Event::JobOrdered(Box::new(job(JobKind::Deploy)));
    let script = Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) };
    let machine = apply(idle(State::Expected), &[order, script]);
    assert!(matches!(step(&machine, &hello(Mode::Install), NOW.plus(1)), Step::Refused(_)));
}

#[test]
fn p36_a_machine_that_keeps_resetting_fails_with_a_named_finding() {
    let mut machine = apply(idle(State::Expected), &[Event::JobOrdered(Box::new(job(JobKind::Deploy)))]);
    let dhcp = Event::DhcpSeen { asker: Asker::Firmware };
    for _ in 0..super::ATTEMPTS_MAX {
        machine = apply(machine, core::slice::from_ref(&dhcp));
        machine.node.session = Some(Session {
            secret: session(),
            mode: Mode::Install,
            job: Some(job_id(1)),
            boot_id: "b".into(),
            booted_at: NOW,
            trust: Some(TRUST),
        });
        if let Some(job) = machine.job.as_mut() {
            phases::advance(job, Phase::Image, NOW, &mut Vec::new());
        }
    }
    let machine = apply(machine, &[dhcp]);
    let job = machine.job.expect("it had a job");
    assert_eq!(job.findings[0].code, Code::TooManyAttempts);
    assert_eq!(machine.node.state, State::Expected, "nothing was granted");
}

/// A machine whose agent works on the image.
fn writing() -> Machine {
    let order = Event::JobOrdered(Box::new(job(JobKind::Deploy)));
    let script = Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) };
    let task = task_taken();
    apply(idle(State::Expected), &[order, script, hello(Mode::Install), task])
}

#[test]
fn a_deadline_names_what_is_overdue_or_what_packets_show() {
    let shown = Finding::new(Code::SecureBootRefused, "it was fetched whole");
    for (situation, machine) in situations() {
        let Some(job) = machine.job.as_ref().filter(|job| job.deadline.is_some()) else { continue };
        let (phase, late) = (job.phase, job.deadline.expect("it has one"));
        let failed_with =
            |shown: Option<Finding>| match step(&machine, &Event::DeadlinePassed { shown }, late) {
                Step::Changed { machine, .. } => machine.job.and_then(|job| job.findings.last().cloned()),
                other => panic!("{situation}: {other:?}"),
            };
        let rescue = job.kind == JobKind::Rescue && phase > Phase::Kernel;
        let overdue = match phase {
            _ if rescue => Code::Silent,
            Phase::Queued | Phase::Power | Phase::Firmware => Code::NoDhcp,
            Phase::Dhcp | Phase::Loader => Code::NoBootFile,
            Phase::Restart | Phase::Handoff | Phase::Verify => Code::NotReported,
            _ => Code::Silent,
        };
        let plain = failed_with(None).expect("it failed");
        assert_eq!(plain.code, overdue, "{situation}");
        // An agent that spoke is believed more than packets.
        let expected = if phase <= Phase::Kernel { shown.code } else { overdue };
        let told = failed_with(Some(shown.clone())).expect("it failed");
        assert_eq!(told.code, expected, "{situation}");
        assert!(told.detail.contains(&plain.detail), "{situation}: {told}");
    }
}

#[test]
fn a_report_that_differs_from_the_order_fails_the_job() {
    let (_, waiting) = situations()
        .into_iter()
        .find(|(situation, _)| situation.ends_with("job in handoff"))
        .expect("there is one");
    let after = apply(waiting, &[system_report("another root")]);
    let job = after.job.expect("it had one");
    assert_eq!((job.state, job.findings[0].code), (JobState::Failed, Code::ReportDiffers));
}

#[test]
fn a_boot_order_that_was_changed_is_told_and_the_job_succeeds() {
    let (_, waiting) = situations()
        .into_iter()
        .find(|(situation, _)| situation.ends_with("job in handoff"))
        .expect("there is one");
    let Event::SystemReported(mut report) = system_report("root") else { panic!("another event") };
    report.boot_order = BootOrder::Restored { found: "0003,0000".into() };
    let job = apply(waiting, &[Event::SystemReported(report)]).job.expect("it had one");
    assert_eq!((job.state, job.findings.len()), (JobState::Succeeded, 1));
    assert_eq!(job.findings[0].code, Code::BootOrderChanged);
    assert_eq!(job.findings[0].detail, "it was changed to 0003,0000, and is set again");
}

#[test]
fn p01_an_agent_that_was_not_started_for_the_job_cannot_report_about_it() {
    for (mode, job) in [(Mode::Discover, None), (Mode::Install, Some(job_id(2)))] {
        let mut machine = writing();
        machine.node.session =
            Some(Session { secret: session(), mode, job, boot_id: "b".into(), booted_at: NOW, trust: None });
        for event in [reported(Phase::Image, ReportState::Running), Event::InstallDone(installed(1))] {
            assert!(matches!(step(&machine, &event, NOW), Step::Refused(_)), "{event:?}");
        }
    }
}

#[test]
fn an_agents_words_are_kept_only_up_to_a_limit() {
    let mut machine = writing();
    for round in 0..3 {
        let detail = (0..100).map(|i| (format!("{round}-{i}"), "x".repeat(5000))).collect();
        let Event::PhaseReported { job, attempt, phase, state, progress, .. } =
            reported(Phase::Image, ReportState::Running)
        else {
            unreachable!()
        };
        machine = apply(machine, &[Event::PhaseReported { job, attempt, phase, state, progress, detail }]);
    }
    let finding = Finding::new(Code::ToolFailed, "x".repeat(100_000));
    let machine = apply(machine, &[reported(Phase::Image, ReportState::Failed { finding })]);
    let job = machine.job.expect("it had a job");
    let detail = &job.phases[Phase::Image.index()].detail;
    assert_eq!(detail.len(), super::DETAILS_MAX);
    assert!(detail.values().all(|value| value.len() == super::DETAIL_CHARS_MAX));
    assert_eq!(job.findings[0].detail.len(), super::FINDING_CHARS_MAX);
}

#[test]
fn a_rebuild_that_nobody_began_is_taken_back_and_the_node_stays_guarded() {
    let ordered = apply(idle(State::Deployed), &[Event::JobOrdered(Box::new(job(JobKind::Rebuild)))]);
    let cancelled = apply(ordered, &[Event::JobCancelled]);
    assert_eq!(cancelled.node.state, State::Deployed);
    let again = step(&cancelled, &Event::JobOrdered(Box::new(job(JobKind::Deploy))), NOW);
    assert!(matches!(again, Step::Refused(_)), "an unconfirmed deploy: {again:?}");
    let begun = apply(writing(), &[Event::JobCancelled]);
    assert_eq!(begun.node.state, State::Allocated, "its disk was touched");
}

proptest! {
    #[test]
    fn p01_no_sequence_of_events_lets_an_agent_install_without_its_job(
        start in 0usize..8,
        picks in prop::collection::vec(0usize..64, 0..60),
    ) {
        let events = events();
        let mut machine = idle(State::ALL[start]);
        let mut told: Vec<Happening> = Vec::new();
        for pick in picks {
            let (_, event) = &events[pick % events.len()];
            if let Step::Changed { machine: next, happenings } = step(&machine, event, NOW) {
                if machine.job.as_ref().is_some_and(|job| job.state.ended()) && !matches!(event, Event::JobOrdered(_)) {
                    prop_assert_eq!(&machine.job, &next.job, "an ended job changed by {:?}", event);
                }
                machine = next;
                told.extend(happenings);
            }
            let live = machine.job.as_ref().is_some_and(|job| !job.state.ended());
            prop_assert_eq!(live, machine.node.job.is_some());
            if let BootDecision::Install { .. } = boot::decide(&machine) {
                prop_assert!(live && matches!(machine.node.state, State::Allocated | State::Releasing));
            }
            if let Assignment::Job(job) = assignment(&machine, &TRUST) {
                prop_assert!(live && job.installed.is_none());
                let session = machine.node.session.as_ref().expect("an agent runs");
                prop_assert_eq!(session.mode, job.mode());
            }
            if machine.node.state == State::Deployed && State::ALL[start] != State::Deployed {
                prop_assert!(told.contains(&Happening::JobSucceeded), "deployed without a verified report");
            }
            if let Some(job) = &machine.job {
                prop_assert!(job.attempt <= super::ATTEMPTS_MAX);
                let running = job.phases.iter().filter(|r| r.state == crate::machine::PhaseState::Running).count();
                prop_assert!(running <= 1);
            }
        }
    }
}
