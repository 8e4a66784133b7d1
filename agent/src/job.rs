//! Carries out a job: one installation or erasure beside its reporter.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kaltstart_protocol::agent_api::{Directive, EraseTask, Erased, InstallTask, Installed, ReportState};
use kaltstart_protocol::burn_in::BurnInTask;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::restart::Restart;

use crate::install::Observer as _;
use crate::link::{CallError, Link};
use crate::reporter::{Reporter, Stop};
use crate::screen::{self, Doing};
use crate::work::{End, JobTask};
use crate::{burn_in, log, log_sender};

/// Why a task did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDone {
    /// Something is wrong with machine or image.
    Failed(Finding),
    /// It was told to stop.
    Cancelled,
}

/// Writes to disks. The real one does; tests have others.
pub trait Installer: Sync {
    /// The machine's disks, as they are now.
    fn disks(&self) -> Vec<Disk>;

    /// Lays down a task's image, telling `reporter` how it goes and asking it whether to stop.
    ///
    /// # Errors
    /// Why the disk is not complete.
    fn install(&self, task: &InstallTask, disks: &[Disk], reporter: &Reporter) -> Result<Installed, NotDone>;

    /// Erases all disks, telling and asking in the same way.
    ///
    /// # Errors
    /// Why not all of them are empty.
    fn erase(&self, task: &EraseTask, disks: &[Disk], reporter: &Reporter) -> Result<Erased, NotDone>;
}

/// Carries out `task`, and tells the server how it goes; gives nothing when the machine shall stay up.
pub fn carry_out(link: &Link, task: &JobTask, installer: &dyn Installer) -> Option<End> {
    let (job, attempt) = task.start();
    screen::job_begins(matches!(task, JobTask::Erase(_)));
    let reporter = Reporter::new(job.clone(), attempt);
    match task {
        JobTask::Install(task) => {
            tracing::info!("{job} attempt {attempt}: installing {}", task.identity.hostname);
            let work = || installer.install(task, &installer.disks(), &reporter);
            beside(&reporter, link, work, |installed| announce(link, &installed))
        }
        JobTask::Erase(task) => {
            tracing::info!("{job} attempt {attempt}: erasing {} disks", task.disks.len());
            let work = || installer.erase(task, &installer.disks(), &reporter);
            beside(&reporter, link, work, |erased| tell_erased(link, &erased))
        }
        // They have a start of their own, without an installer and with read-only disks.
        JobTask::Rescue(_) | JobTask::BurnIn(_) => {
            tracing::warn!("{job} refused: this start may write to disks");
            None
        }
    }
}

/// Lets all parts of the machine work, and tells the server how it goes; the machine restarts if all is well.
pub fn burn_in(link: &Link, task: &BurnInTask, disks: &[Disk]) -> Option<End> {
    tracing::info!("{} attempt {}: burn-in for {} min", task.job, task.attempt, task.minutes);
    let reporter = Reporter::new(task.job.clone(), task.attempt);
    let work = || burn_in::run(task, disks, &reporter).map_err(NotDone::from);
    beside(&reporter, link, work, |()| Some(End::Restart("the burn-in is over".into())))
}

/// Does `work` beside its reporter; `done` tells the server that it came to its end.
fn beside<T>(
    reporter: &Reporter,
    link: &Link,
    work: impl FnOnce() -> Result<T, NotDone>,
    done: impl FnOnce(T) -> Option<End>,
) -> Option<End> {
    let result = std::thread::scope(|scope| {
        scope.spawn(|| reporter.run(link));
        // A defect fails this job only. What it leaves half changed are disks, which cannot
        // start, and the reporter, whose lock is taken for single steps.
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let finding = Finding::new(Code::AgentDefect, words(panic.as_ref()));
            Err(NotDone::Failed(finding))
        });
        if let Err(NotDone::Failed(finding)) = &result {
            log::finding(finding);
            reporter.failed(finding);
        }
        reporter.finish();
        result
    });
    match (result, reporter.stop()) {
        (_, Some(Stop::Unauthorized(text))) => Some(End::Unknown(text)),
        (_, Some(Stop::Directed(reason))) => {
            log::console(&format!("\n==== stopped by the server: {reason} ====\nThe machine stays up.\n"));
            screen::doing(Doing::Stopped(reason.clone()));
            tracing::warn!("stopped by the server: {reason}");
            None
        }
        (Ok(result), None) => done(result),
        (Err(_), None) => None,
    }
}

/// What a panic said; its place in the program is in the log.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref().cloned()).unwrap_or_default()
}

/// Says that the disk is complete until the server has noted it. Afterwards nothing more is said.
fn announce(link: &Link, installed: &Installed) -> Option<End> {
    log::console("\n==== installed: the disk is complete and verified ====\n");
    screen::doing(Doing::Installed);
    tracing::info!("disk {} is complete", installed.disk);
    log_sender::flush_and_hold_back();
    match link.insist("reporting the installation", |link| link.installed(installed)) {
        Ok(Directive::Continue) => Some(match installed.restart {
            Restart::Firmware => End::Restart("the system is installed".into()),
            Restart::Kexec => End::Kexec,
        }),
        other => {
            log_sender::go_on();
            not_taken("installation", other)
        }
    }
}

/// Says that all disks are empty until the server has noted it. The machine waits for its next order.
fn tell_erased(link: &Link, erased: &Erased) -> Option<End> {
    log::console("\n==== erased: all disks are empty ====\nThe machine stays up; it may be switched off.\n");
    screen::doing(Doing::Erased);
    match link.insist("reporting the erasure", |link| link.erased(erased)) {
        Ok(Directive::Continue) => None,
        other => not_taken("erasure", other),
    }
}

/// The server does not take the last word about a task.
fn not_taken(what: &str, answer: Result<Directive, CallError>) -> Option<End> {
    match answer {
        Err(CallError::Unauthorized(text)) => Some(End::Unknown(text)),
        Ok(Directive::Stop { reason: why })
        | Err(
            CallError::Refused { text: why, .. } | CallError::Unreachable(why) | CallError::Untrusted(why),
        ) => {
            tracing::warn!("the server does not take the {what}: {why}");
            None
        }
        Ok(Directive::Continue) => None,
    }
}

impl Reporter {
    /// Notes that the running phase failed, unless the installation has said so itself.
    fn failed(&self, finding: &Finding) {
        if let Some(phase) = self.running().or((!self.has_failed()).then_some(Phase::Disk)) {
            let state = ReportState::Failed { finding: finding.clone() };
            self.phase(phase, state, None, BTreeMap::new());
        }
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
