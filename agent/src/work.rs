//! Asks the server for work and does it.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use kaltstart_protocol::agent_api::{Directive, InstallTask, Installed, Mode, ReportState, Task};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::phase::Phase;

use crate::backoff::{Policy, SERVER};
use crate::install::Observer as _;
use crate::link::{CallError, Link};
use crate::reporter::{Reporter, Stop};
use crate::sys::kernel::random_u32;
use crate::{log, log_sender, pid1};

/// Shortest time between two questions, for a server that answers "wait" at once.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Pauses after a task that cannot be done, so that the same one is not refused in a loop.
const REFUSED: Policy = Policy { first: Duration::from_secs(5), cap: Duration::from_secs(60) };

/// Why there is no more work for this start of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The machine shall restart now.
    Restart(String),
    /// The server does not know this session; only another start can help.
    Unknown(String),
}

/// Why an installation did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotInstalled {
    /// Something is wrong with machine or image.
    Failed(Finding),
    /// It was told to stop.
    Cancelled,
}

/// Lays down images. The real one writes disks; tests have others.
pub trait Installer: Sync {
    /// The machine's disks, as they are now.
    fn disks(&self) -> Vec<Disk>;

    /// Carries out a task, telling `reporter` how it goes and asking it whether to stop.
    ///
    /// # Errors
    /// Why the disk is not complete.
    fn install(
        &self,
        task: &InstallTask,
        disks: &[Disk],
        reporter: &Reporter,
    ) -> Result<Installed, NotInstalled>;
}

/// Works until the machine has to restart.
pub fn work(link: &Link, mode: Mode, installer: &dyn Installer, pause: fn(Duration)) -> End {
    // A job and attempt is tried once: after a failure or a stop only a new start tries again.
    let mut tried: Option<(JobId, u32)> = None;
    let mut refusals = 0;
    loop {
        pid1::reap();
        let asked = Instant::now();
        let task = match link.insist("asking for work", Link::task) {
            Ok(Task::Wait) => {
                refusals = 0;
                pause(ASK_EVERY.saturating_sub(asked.elapsed()));
                continue;
            }
            Ok(Task::Failed { finding }) => {
                log::finding(&finding);
                refusals = 0;
                pause(ASK_EVERY.saturating_sub(asked.elapsed()));
                continue;
            }
            Ok(Task::Reboot { reason }) => return End::Restart(reason),
            Ok(Task::Install(task)) => Ok(task),
            Err(CallError::Unauthorized(text)) => return End::Unknown(text),
            Err(error) => Err(error.to_string()),
        };
        let useless = match (task, mode) {
            (Err(why), _) => why,
            (Ok(task), Mode::Discover) => {
                format!("task of {} refused: this start may only look, never write", task.job)
            }
            (Ok(task), Mode::Install) if tried.as_ref() == Some(&(task.job.clone(), task.attempt)) => {
                format!("{} attempt {} was tried already in this start", task.job, task.attempt)
            }
            (Ok(task), Mode::Install) => {
                refusals = 0;
                tried = Some((task.job.clone(), task.attempt));
                match install(link, &task, installer) {
                    Some(end) => return end,
                    None => continue,
                }
            }
        };
        refusals += 1;
        tracing::warn!("{useless}");
        pause(REFUSED.delay(refusals, random_u32()));
    }
}

/// Runs one installation beside its reporter; gives nothing when the machine shall stay up.
fn install(link: &Link, task: &InstallTask, installer: &dyn Installer) -> Option<End> {
    tracing::info!("{} attempt {}: installing {}", task.job, task.attempt, task.identity.hostname);
    let reporter = Reporter::new(task.job.clone(), task.attempt);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| reporter.run(link));
        // A defect fails this job only. What it leaves half changed is the disk, which cannot
        // start, and the reporter, whose lock is taken for single steps.
        let result =
            catch_unwind(AssertUnwindSafe(|| installer.install(task, &installer.disks(), &reporter)));
        let result = result.unwrap_or_else(|panic| {
            let finding = Finding::new(Code::AgentDefect, words(panic.as_ref()));
            Err(NotInstalled::Failed(finding))
        });
        if let Err(NotInstalled::Failed(finding)) = &result {
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
            tracing::warn!("stopped by the server: {reason}");
            None
        }
        (Ok(installed), None) => announce(link, &installed),
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
    tracing::info!("disk {} is complete", installed.disk);
    log_sender::flush_and_hold_back();
    match link.insist("reporting the installation", |link| link.installed(installed)) {
        Ok(Directive::Continue) => Some(End::Restart("the system is installed".into())),
        Err(CallError::Unauthorized(text)) => Some(End::Unknown(text)),
        Ok(Directive::Stop { reason: why })
        | Err(
            CallError::Refused { text: why, .. } | CallError::Unreachable(why) | CallError::Untrusted(why),
        ) => {
            log_sender::go_on();
            tracing::warn!("the server does not take the installation: {why}");
            None
        }
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

/// Pause before the machine restarts because the server does not know it, longer from start to
/// start only by the time a start takes.
pub const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);

/// The same pause with up to half of it added, so that a thousand machines come back spread out.
#[must_use]
pub fn unknown_pause() -> Duration {
    UNKNOWN_PAUSE + SERVER.cap.mul_f64(f64::from(random_u32()) / f64::from(u32::MAX))
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
