//! A job on modelled disks: admitted by the agent's own gate, write by write, and cut at any of them.

use crate::disk::{Write, erasure, installation, machine_id};
use crate::firmware::{Url, split};
use crate::invariants::Begun;
use crate::machine::{Body, Line, Timer};
use crate::mutants::Mutant;
use crate::server::Answer;
use kaltstart_agent::gate::Gate;
use kaltstart_agent::image::fetch::Retry;
use kaltstart_agent::work::JobTask;
use kaltstart_protocol::agent_api::{DiskGrant, Erased, Installed, Report, ReportState};
use kaltstart_protocol::erasure::{EraseMethod, Erasure, Reach};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::select::fixed;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::DiskIdentity;
use std::collections::{BTreeMap, VecDeque};

/// What came out of it.
pub(crate) enum Done {
    Installed(Installed),
    Erased(Erased),
}

impl Done {
    /// What a mutant does once the server has taken note.
    pub(crate) fn again(&self, body: &mut Body<'_>) {
        let Self::Installed(installed) = self else { return };
        if body.mutant == Some(Mutant::InstalledTwice) {
            let index = body.hardware.disks.iter().position(|disk| disk.serial == installed.disk);
            let Some(index) = index else { return };
            body.hardware.disks[index].write(&Write::FirstSector, None);
            body.audit.writes(&body.hardware.name, body.boot, &installed.disk, &installed.job, false);
        }
    }
}

/// A task that is being carried out.
pub(crate) struct Work {
    task: JobTask,
    /// What is still to be written, and to which disk.
    writes: VecDeque<(usize, Write)>,
    /// Which of the servers is asked for the image, and how often all were in vain.
    at: usize,
    failures: u32,
    /// Whether the image's next piece is there.
    fetched: bool,
    failed: bool,
    stopped: bool,
}

impl Work {
    /// Holds the grants against the disks as they are now; tells the first reports, too.
    pub(crate) fn begin(task: JobTask, gate: &Gate, now: Millis, body: &mut Body<'_>) -> (Self, Vec<Report>) {
        let disks = body.hardware.facts().disks;
        let admitted = match &task {
            JobTask::Install(task) => gate.admit(task, &disks, now),
            JobTask::Erase(task) => gate.admit_all(task, &disks, now),
            JobTask::Rescue(_) | JobTask::BurnIn(_) => Ok(Vec::new()),
        };
        let mut work = Self {
            task,
            writes: VecDeque::new(),
            at: 0,
            failures: 0,
            fetched: false,
            failed: false,
            stopped: false,
        };
        let mut reports = vec![work.report(Phase::Disk, ReportState::Running)];
        let chosen: Vec<Disk> = match admitted {
            Ok(permits) => permits.iter().map(|permit| permit.disk().clone()).collect(),
            Err(_) if body.mutant == Some(Mutant::GateSkipped) => work.unchecked(&disks),
            Err(finding) => {
                body.say(format!("refuses to write: {finding}"));
                reports.push(work.fail(Phase::Disk, finding));
                return (work, reports);
            }
        };
        let (grants, writes) = match &work.task {
            JobTask::Install(task) => (&task.grants[..], installation()),
            JobTask::Erase(task) => (&task.disks[..], erasure()),
            JobTask::Rescue(_) | JobTask::BurnIn(_) => (&[][..], Vec::new()),
        };
        for disk in &chosen {
            let index = disks.iter().position(|other| other.serial == disk.serial).unwrap_or_default();
            let begun = Begun {
                node: &body.hardware.name,
                boot: body.boot,
                host: &gate.host,
                disk,
                start: work.task.start(),
                grant: grant_of(grants, disk),
            };
            body.audit.begins(&begun);
            let mut writes = writes.clone();
            if body.mutant == Some(Mutant::BootableFirst) {
                writes.insert(writes.len() / 2, Write::Bootable);
            }
            work.writes.extend(writes.into_iter().map(|write| (index, write)));
        }
        body.say(format!("begins {} attempt {}", work.task.start().0, work.task.start().1));
        work.wait(body);
        (work, reports)
    }

    /// The disks that a mutant takes without asking.
    fn unchecked(&self, disks: &[Disk]) -> Vec<Disk> {
        match &self.task {
            JobTask::Install(_) => fixed(disks).take(1).cloned().collect(),
            _ => fixed(disks).cloned().collect(),
        }
    }

    fn report(&self, phase: Phase, state: ReportState) -> Report {
        let (job, attempt) = self.task.start();
        Report { job: job.clone(), attempt, phase, state, progress: None, detail: BTreeMap::new() }
    }

    fn fail(&mut self, phase: Phase, finding: Finding) -> Report {
        self.failed = true;
        self.report(phase, ReportState::Failed { finding })
    }

    /// Where the image has to be fetched before anything more is written, if it has to: from the server that gave the
    /// task, or another.
    pub(crate) fn place(&self) -> Option<Url> {
        let (JobTask::Install(task), Some((_, Write::Piece(_)))) = (&self.task, self.writes.front()) else {
            return None;
        };
        let mut urls = [&task.image_url].into_iter().chain(task.others.iter().map(|place| &place.image_url));
        urls.nth(self.at).filter(|_| !self.fetched).and_then(|url| split(url))
    }

    /// A piece of the image came, or none did: then the next server is asked at once, and all after a pause.
    ///
    /// As the agent's `image::fetch` and `http_source` have it, told again as those wait for their answers.
    pub(crate) fn fetched(&mut self, answer: Option<&Answer>, body: &mut Body<'_>) -> Vec<Report> {
        let JobTask::Install(task) = &self.task else { return Vec::new() };
        if answer.is_some_and(Answer::is_good) {
            (self.fetched, self.failures) = (true, 0);
            self.wait(body);
            return Vec::new();
        }
        if self.at < task.others.len() {
            self.at += 1;
            body.timer(0, Timer::Resend(Line::Image));
            return Vec::new();
        }
        let Retry { failures_max, first, cap } = Retry::default();
        (self.at, self.failures) = (0, self.failures + 1);
        if self.failures >= failures_max {
            self.writes.clear();
            return vec![self.fail(Phase::Image, Finding::new(Code::ImageUnfetched, "nobody gives it"))];
        }
        let most = first.saturating_mul(1 << (self.failures - 1).min(16)).min(cap).as_millis();
        let wait = body.rng.below(u64::try_from(most).unwrap_or(u64::MAX) + 1);
        body.timer(wait, Timer::Resend(Line::Image));
        Vec::new()
    }

    /// The time that the next write takes, if all that it needs is there.
    fn wait(&self, body: &mut Body<'_>) {
        if self.place().is_some() {
            return;
        }
        let most = match self.writes.front() {
            Some((_, Write::Piece(_) | Write::Ends { .. })) => 30_000,
            _ => 3_000,
        };
        let wait = body.rng.between(200, most);
        body.timer(wait, Timer::Step);
    }

    /// The server wants no more of it.
    pub(crate) fn stop(&mut self, body: &mut Body<'_>) {
        self.stopped = true;
        if body.mutant != Some(Mutant::StopIgnored) {
            self.writes.clear();
        }
    }

    /// The next write, and what is told of it.
    pub(crate) fn step(&mut self, body: &mut Body<'_>) -> Vec<Report> {
        let Some((index, write)) = self.writes.pop_front() else { return Vec::new() };
        self.fetched = false;
        let install = match &self.task {
            JobTask::Install(task) => Some(&**task),
            _ => None,
        };
        let disk = &mut body.hardware.disks[index];
        disk.write(&write, install);
        let serial = disk.serial.clone();
        let (starts, whole) = (disk.starts, disk.system.as_ref().is_some_and(crate::disk::System::is_whole));
        body.audit.writes(&body.hardware.name, body.boot, &serial, self.task.start().0, self.stopped);
        body.audit.bootable(&body.hardware.name, starts, whole);
        let told = |phase, state| self.report(phase, state);
        let reports = match (&write, install) {
            (Write::Format, _) => {
                vec![told(Phase::Disk, ReportState::Done), told(Phase::Image, ReportState::Running)]
            }
            (Write::Piece(crate::disk::PIECES), _) => {
                vec![told(Phase::Image, ReportState::Done), told(Phase::Configure, ReportState::Running)]
            }
            (Write::Bootable, _) if self.writes.is_empty() => vec![told(Phase::Configure, ReportState::Done)],
            (_, None) if self.writes.is_empty() => vec![told(Phase::Disk, ReportState::Done)],
            // Once a second while something goes on; a few of them will do.
            (Write::Piece(_), _) => vec![told(Phase::Image, ReportState::Running)],
            _ => Vec::new(),
        };
        if !self.writes.is_empty() {
            self.wait(body);
        }
        reports
    }

    /// Whether nothing more is written.
    pub(crate) fn is_over(&self) -> bool {
        self.writes.is_empty()
    }

    /// What is told to the server; none when it failed or was stopped.
    pub(crate) fn outcome(&self) -> Option<Done> {
        if self.failed || self.stopped {
            return None;
        }
        match &self.task {
            JobTask::Install(task) => {
                let disk = task.grants.first().map(|granted| granted.disk.serial.clone()).unwrap_or_default();
                Some(Done::Installed(Installed {
                    job: task.job.clone(),
                    attempt: task.attempt,
                    disk,
                    ssh_host_keys: Vec::new(),
                    machine_id: machine_id(task),
                    boot_entry: true,
                    restart: Restart::Firmware,
                }))
            }
            JobTask::Erase(task) => {
                let disks = task.disks.iter().map(|granted| erasure_of(&granted.disk)).collect();
                Some(Done::Erased(Erased { job: task.job.clone(), attempt: task.attempt, disks }))
            }
            JobTask::Rescue(_) | JobTask::BurnIn(_) => None,
        }
    }
}

fn grant_of<'a>(grants: &'a [DiskGrant], disk: &Disk) -> Option<&'a DiskGrant> {
    let identity = DiskIdentity::of(disk);
    grants.iter().find(|granted| granted.disk == identity).or_else(|| grants.first())
}

fn erasure_of(disk: &DiskIdentity) -> Erasure {
    Erasure {
        disk: disk.clone(),
        method: EraseMethod::Overwrite,
        reach: Reach::Sectors,
        duration_ms: 1,
        samples: 64,
        changed: 0,
        instead_of: Vec::new(),
    }
}
