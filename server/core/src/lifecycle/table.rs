//! Every (state, event) pair, written out and compared with `golden/lifecycle.txt`.
//!
//! `KALTSTART_GOLDEN=write cargo test -p kaltstart-core` writes the file anew; its diff is the
//! change of behaviour to review.

use super::event::{Asker, Event, Hello, Move, SystemReport};
use super::{Step, step};
use crate::about::{Edit, LabelValue, Lock};
use crate::approval::Approval;
use crate::boot;
use crate::machine::{
    ADMINISTRATOR, BurnInOrder, Grant, Job, JobKind, JobState, Machine, Node, Order, ReleaseOrder,
    RescueOrder, State, SystemOrder,
};
use crate::recall::Via;
use crate::rescue::Code as OneTimeCode;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use kaltstart_protocol::agent_api::{DiskRule, DiskUuids, Erased, Installed, Mode, ReportState};
use kaltstart_protocol::contents::Contents;
use kaltstart_protocol::erasure::{EraseMethod, Erasure, Reach};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::{Digest, JobId, Mac, NodeId, PublicKey};
use kaltstart_protocol::layout::Layout;
use kaltstart_protocol::node_api::BootOrder;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{DiskIdentity, GrantTrust, HostIdentity, WipeGrant};
use std::format;

pub(crate) const NOW: Millis = Millis(1_000_000);
pub(crate) const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
pub(crate) const EPOCH: u64 = 2;
pub(crate) const TRUST: GrantTrust = GrantTrust { key: PublicKey([1; 32]), epoch: EPOCH };

pub(super) fn token() -> Digest {
    Digest::of(b"boot token")
}

pub(super) fn recall_token() -> Digest {
    Digest::of(b"recall token")
}

pub(super) fn key_refused() -> Finding {
    Finding::new(Code::KeyRefused, "another machine")
}

fn key_asked(address: IpAddr, refused: Option<Finding>, useless: bool) -> Event {
    Event::KeyAsked { address, host: HostIdentity::default(), refused, useless }
}

pub(super) fn session() -> Digest {
    Digest::of(b"session")
}

pub(crate) fn job_id(n: u128) -> JobId {
    JobId::new(Millis(1), n)
}

pub(crate) fn system_order() -> SystemOrder {
    SystemOrder {
        profile: "p".into(),
        image: "i".into(),
        image_digest: Digest::of(b"image"),
        layout: Layout { name: "l".into(), partitions: Vec::new(), ..Layout::default() },
        disk: DiskRule::default(),
        authorized_keys: Vec::new(),
        uuids: DiskUuids {
            disk: String::new(),
            partitions: Vec::new(),
            root: "root".into(),
            further: Vec::new(),
            esp: 1,
        },
        restart: Restart::default(),
        via: Via::default(),
        recall: true,
        erase: BTreeMap::new(),
        keep: BTreeSet::new(),
    }
}

pub(crate) fn job(kind: JobKind) -> Job {
    let order = match kind {
        JobKind::Deploy | JobKind::Rebuild => Order::System(Box::new(system_order())),
        JobKind::Release => Order::Release(ReleaseOrder::default()),
        JobKind::Rescue => Order::Rescue(RescueOrder::default()),
        JobKind::BurnIn => Order::BurnIn(BurnInOrder { minutes: 10 }),
    };
    let node = NodeId::new(Millis(1), 1);
    Job {
        approver: ADMINISTRATOR.into(),
        epoch: EPOCH,
        ..Job::queued(job_id(1), node, State::Expected, kind, order, Millis(0))
    }
}

pub(crate) fn installed(attempt: u32) -> Installed {
    Installed {
        job: job_id(1),
        attempt,
        disk: "d".into(),
        ssh_host_keys: Vec::new(),
        machine_id: "m".into(),
        boot_entry: true,
        restart: Restart::default(),
    }
}

pub(crate) fn hello(mode: Mode) -> Event {
    Event::AgentHello(Hello {
        token: token(),
        session: session(),
        mode,
        boot_id: "b".into(),
        running_ms: 10,
        uptime_ms: 20,
        facts: Box::default(),
    })
}

pub(crate) fn task_taken() -> Event {
    let wipe = WipeGrant {
        job: job_id(1),
        attempt: 1,
        host: HostIdentity::default(),
        disk: DiskIdentity::default(),
        contents: Contents::default(),
        keep: Vec::new(),
        approver: ADMINISTRATOR.into(),
        epoch: EPOCH,
        issued: NOW,
        expires: NOW.plus(1),
    };
    let (job, report_token, recall_token) = (job_id(1), Some(token()), Some(recall_token()));
    let unlock_token = Some(Digest::of(b"unlock token"));
    Event::TaskTaken { job, report_token, recall_token, unlock_token, wipe: Vec::from([wipe]) }
}

/// So many disks are erased, the first of them that of [`task_taken`].
pub(super) fn erased(disks: u64) -> Event {
    let erasure = |size| Erasure {
        disk: DiskIdentity { size, ..DiskIdentity::default() },
        method: EraseMethod::Overwrite,
        reach: Reach::Sectors,
        duration_ms: 1,
        samples: 1,
        changed: 0,
        instead_of: Vec::new(),
    };
    Event::DisksErased(Erased { job: job_id(1), attempt: 1, disks: (0..disks).map(erasure).collect() })
}

pub(crate) fn grant(mode: Mode, job: Option<JobId>) -> Grant {
    Grant { token: token(), mode, job, expires_at: NOW.plus(1), trust: Some(TRUST) }
}

pub(super) fn reported(phase: Phase, state: ReportState) -> Event {
    let (job, attempt) = (job_id(1), 1);
    Event::PhaseReported { job, attempt, phase, state, progress: None, detail: BTreeMap::new() }
}

/// The parts of the machine are at work.
fn reported_progress() -> Event {
    let (job, attempt, phase) = (job_id(1), 1, Phase::Inventory);
    let progress = Some(Progress { done: 1, total: 600, unit: Unit::Items });
    Event::PhaseReported {
        job,
        attempt,
        phase,
        state: ReportState::Running,
        progress,
        detail: BTreeMap::new(),
    }
}

pub(crate) fn system_report(root: &str) -> Event {
    Event::SystemReported(SystemReport {
        hostname: "n1.example".into(),
        kernel: "k".into(),
        root_device: "/dev/vda3".into(),
        root_uuid: root.into(),
        os: "os".into(),
        machine_id: "m".into(),
        ssh_host_keys: Vec::new(),
        boot_order: BootOrder::Kept,
    })
}

/// Every event, with the name the table uses.
pub(crate) fn events() -> Vec<(String, Event)> {
    let address = IpAddr::from([10, 0, 0, 9]);
    let failed = ReportState::Failed { finding: Finding::new(Code::NoDisk, "none") };
    let mut all: Vec<(String, Event)> = [
        ("power seen", Event::PowerSeen),
        ("dhcp by firmware", Event::DhcpSeen { asker: Asker::Firmware }),
        ("dhcp by system", Event::DhcpSeen { asker: Asker::System }),
        ("address to firmware", Event::AddressGiven { asker: Asker::Firmware, address }),
        ("address to system", Event::AddressGiven { asker: Asker::System, address }),
        ("script to discover", Event::ScriptServed { grant: grant(Mode::Discover, None) }),
        ("script to install", Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) }),
        ("script to rescue", Event::ScriptServed { grant: grant(Mode::Rescue, Some(job_id(1))) }),
        ("system asked", Event::SystemAsked),
        ("system recalled", Event::Recalled { grant: grant(Mode::Install, Some(job_id(1))) }),
        ("recall failed", Event::RecallFailed("locked down".into())),
        ("key released", key_asked(address, None, false)),
        ("key refused", key_asked(address, Some(key_refused()), false)),
        ("key useless", key_asked(address, None, true)),
        ("board accepted", Event::BoardAccepted { uuid: "V".into(), approver: ADMINISTRATOR.into() }),
        ("ramdisk served", Event::RamdiskServed { bytes: 9 }),
        ("hello to discover", hello(Mode::Discover)),
        ("hello to install", hello(Mode::Install)),
        ("hello to rescue", hello(Mode::Rescue)),
        ("neighbours heard", Event::NeighboursHeard(BTreeMap::new())),
        ("task taken", task_taken()),
        ("report disk running", reported(Phase::Disk, ReportState::Running)),
        ("report image running", reported(Phase::Image, ReportState::Running)),
        ("report image done", reported(Phase::Image, ReportState::Done)),
        ("report image failed", reported(Phase::Image, failed)),
        ("install done", Event::InstallDone(installed(1))),
        ("install done, old attempt", Event::InstallDone(installed(0))),
        ("system report", system_report("root")),
        ("system report, other root", system_report("other")),
        ("deploy ordered", Event::JobOrdered(Box::new(job(JobKind::Deploy)))),
        ("rebuild ordered", Event::JobOrdered(Box::new(job(JobKind::Rebuild)))),
        ("recall ordered", recall_ordered()),
        ("release ordered", Event::JobOrdered(Box::new(job(JobKind::Release)))),
        ("rescue ordered", Event::JobOrdered(Box::new(job(JobKind::Rescue)))),
        ("burn-in ordered", Event::JobOrdered(Box::new(job(JobKind::BurnIn)))),
        ("report inventory", reported_progress()),
        ("report inventory done", reported(Phase::Inventory, ReportState::Done)),
        ("disks erased", erased(1)),
        ("disks erased, not all", erased(0)),
        ("disks erased, and another", erased(2)),
        ("code issued", code_issued()),
        ("right code tried", Event::CodeTried(token())),
        ("wrong code tried", Event::CodeTried(session())),
        ("rescue alive", Event::RescueAlive { job: job_id(1), attempt: 1 }),
        ("shell left", Event::Rescued { job: job_id(1), attempt: 1 }),
        ("shell left, old attempt", Event::Rescued { job: job_id(1), attempt: 0 }),
        ("job cancelled", Event::JobCancelled),
        ("server hindered", Event::Hindered(Finding::new(Code::ImageMissing, "gone"))),
        ("deadline passed", Event::DeadlinePassed { shown: None }),
        ("server started", Event::ServerStarted),
        ("edited", Event::Edited(Edit { team: Some("t".parse().ok()), ..Edit::default() })),
        ("locked", locked()),
        ("unlocked", Event::Unlocked),
        ("approved", approved()),
    ]
    .map(|(name, event)| (name.to_string(), event))
    .into();
    all.extend(Move::ALL.map(|wanted| (format!("operator: {}", wanted.name()), Event::Operator(wanted))));
    all
}

fn approved() -> Event {
    let (profile, by) = (Some("p".into()), "somebody else".into());
    Event::Approved(Approval { kind: JobKind::Rebuild, profile, by, at: NOW })
}

fn critical() -> Event {
    let label = ("critical".parse().expect("a word"), Some(LabelValue::default()));
    Event::Edited(Edit { labels: BTreeMap::from([label]), ..Edit::default() })
}

fn locked() -> Event {
    Event::Locked(Lock { reason: "forensics".into(), by: ADMINISTRATOR.into(), at: NOW, team: None })
}

pub(super) fn code_issued() -> Event {
    Event::CodeIssued(OneTimeCode::new(token(), NOW))
}

/// An order that calls the installed system back.
pub(super) fn recall_ordered() -> Event {
    let mut rebuild = job(JobKind::Rebuild);
    rebuild.order = Order::System(Box::new(SystemOrder { via: Via::Kexec, ..system_order() }));
    Event::JobOrdered(Box::new(rebuild))
}

/// A deployed machine whose system asks whether a job calls it back.
pub(super) fn asking() -> Machine {
    let mut machine = idle(State::Deployed);
    machine.node.recall = Some(recall_token());
    machine
}

/// A machine in `state` without a job.
pub(crate) fn idle(state: State) -> Machine {
    let mut node = Node::new(NodeId::new(Millis(1), 1), "n1".into(), MAC, true);
    node.state = state;
    Machine { node, job: None }
}

pub(crate) fn apply(machine: Machine, events: &[Event]) -> Machine {
    events.iter().fold(machine, |machine, event| match step(&machine, event, NOW) {
        Step::Changed { machine, .. } => machine,
        other => panic!("{event:?}: {other:?}"),
    })
}

/// Every situation a machine can be in: all states without a job, and a job in each phase.
pub(crate) fn situations() -> Vec<(String, Machine)> {
    let mut all: Vec<(String, Machine)> =
        State::ALL.map(|state| (state.name().to_string(), idle(state))).into();
    all.push(("deployed and locked".into(), apply(idle(State::Deployed), &[locked()])));
    let deployed_and_critical = apply(idle(State::Deployed), &[critical()]);
    all.push(("critical and approved".into(), apply(deployed_and_critical.clone(), &[approved()])));
    all.push(("deployed and critical".into(), deployed_and_critical));
    let address = IpAddr::from([10, 0, 0, 9]);
    let path = [
        Event::JobOrdered(Box::new(job(JobKind::Deploy))),
        Event::PowerSeen,
        Event::DhcpSeen { asker: Asker::Firmware },
        Event::AddressGiven { asker: Asker::Firmware, address },
        Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) },
        Event::RamdiskServed { bytes: 9 },
        hello(Mode::Install),
        task_taken(),
        reported(Phase::Image, ReportState::Running),
        reported(Phase::Configure, ReportState::Running),
        Event::InstallDone(installed(1)),
        Event::DhcpSeen { asker: Asker::System },
        system_report("root"),
    ];
    let mut machine = idle(State::Expected);
    for event in path {
        let granted = matches!(event, Event::ScriptServed { .. });
        machine = apply(machine, &[event]);
        let (state, job) = (machine.node.state, machine.job.as_ref().expect("a job was ordered"));
        let suffix = if granted { ", granted" } else { "" };
        let name = match job.state {
            JobState::Succeeded => format!("{state}, job succeeded"),
            _ => format!("{state}, job in {}{suffix}", job.phase.name()),
        };
        all.push((name, machine.clone()));
    }
    let failed = apply(idle(State::Available), &[Event::JobOrdered(Box::new(job(JobKind::Deploy)))]);
    all.push(("allocated, job cancelled".into(), apply(failed, &[Event::JobCancelled])));
    let started = [
        Event::JobOrdered(Box::new(job(JobKind::Release))),
        Event::ScriptServed { grant: grant(Mode::Install, Some(job_id(1))) },
        hello(Mode::Install),
        task_taken(),
    ];
    let releasing = apply(idle(State::Deployed), &started[..1]);
    all.push(("releasing, job release in queued".into(), releasing.clone()));
    let erasing = apply(releasing, &started[1..]);
    all.push(("releasing, job release in disk".into(), erasing.clone()));
    all.push(("available, job release succeeded".into(), apply(erasing, &[erased(1)])));
    all.extend(rescues());
    all.extend(burn_ins());
    all
}

/// A free machine whose parts work.
fn burn_ins() -> Vec<(String, Machine)> {
    one_after_another(
        State::Available,
        [
            ("burn-in in queued", Event::JobOrdered(Box::new(job(JobKind::BurnIn)))),
            ("burn-in in loader, granted", granted_rescue()),
            ("burn-in in inventory", hello(Mode::Rescue)),
            ("burn-in at work", reported_progress()),
            ("burn-in succeeded", reported(Phase::Inventory, ReportState::Done)),
        ],
    )
}

/// A deployed machine that is held for a person.
fn rescues() -> Vec<(String, Machine)> {
    one_after_another(
        State::Deployed,
        [
            ("rescue in queued", Event::JobOrdered(Box::new(job(JobKind::Rescue)))),
            ("rescue in loader, granted", granted_rescue()),
            ("rescue in inventory", hello(Mode::Rescue)),
            ("rescue in handoff", rescue_begun()),
            ("rescue in handoff, code issued", code_issued()),
            ("rescue in handoff, shell open", Event::CodeTried(token())),
            ("rescue succeeded", Event::Rescued { job: job_id(1), attempt: 1 }),
        ],
    )
}

/// What each event in turn makes of a node in `state`, with a name for it.
fn one_after_another<const N: usize>(state: State, events: [(&str, Event); N]) -> Vec<(String, Machine)> {
    let mut machine = idle(state);
    let step = |(name, event)| {
        machine = apply(machine.clone(), &[event]);
        (format!("{state}, {name}"), machine.clone())
    };
    events.into_iter().map(step).collect()
}

fn granted_rescue() -> Event {
    Event::ScriptServed { grant: grant(Mode::Rescue, Some(job_id(1))) }
}

fn rescue_begun() -> Event {
    Event::TaskTaken {
        job: job_id(1),
        report_token: None,
        recall_token: None,
        unlock_token: None,
        wipe: Vec::new(),
    }
}

/// A deployed machine whose system asks, and is called back: what doors give it is as for any other job.
pub(super) fn recalls() -> Vec<(String, Machine)> {
    let mut all = Vec::new();
    let recalled = Event::Recalled { grant: grant(Mode::Install, Some(job_id(1))) };
    let mut machine = asking();
    for (name, event) in [
        ("allocated, recall in queued", recall_ordered()),
        ("allocated, recall in loader", recalled),
        ("allocated, recall in kernel", Event::RamdiskServed { bytes: 9 }),
        ("allocated, recall in inventory", hello(Mode::Install)),
        ("allocated, recall in disk", task_taken()),
    ] {
        machine = apply(machine, &[event]);
        all.push((name.into(), machine.clone()));
    }
    all
}

pub(super) fn describe(outcome: &Step) -> String {
    match outcome {
        Step::Ignored(why) => format!("ignored: {why}"),
        Step::Refused(why) => format!("REFUSED: {why}"),
        Step::Changed { machine, happenings } => {
            let decision = boot::decide(machine);
            let netboot = decision.name();
            let told: Vec<String> = happenings
                .iter()
                .map(|h| match h.phase() {
                    Some(phase) => format!("{} {}", h.kind(), phase.name()),
                    None => h.kind().to_string(),
                })
                .collect();
            format!("{}, boots {netboot}; {}", machine.node.state, told.join(", "))
        }
    }
}

#[test]
fn every_state_and_event_is_as_the_golden_table_says() {
    let mut table = String::new();
    for (situation, machine) in situations().into_iter().chain(recalls()) {
        table.push_str(&format!("\n[{situation}]\n"));
        for (name, event) in events() {
            let outcome = describe(&step(&machine, &event, NOW));
            table.push_str(format!("{name:<26} {outcome}").trim_end_matches([' ', ';']));
            table.push('\n');
        }
    }
    compare("lifecycle.txt", &table);
}

/// Compares `text` with a golden file, or writes it.
pub(crate) fn compare(file: &str, text: &str) {
    let path = format!("{}/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("KALTSTART_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden file is written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    for (i, (got, want)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(got, want, "line {} of {path}", i + 1);
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}
