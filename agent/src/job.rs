//! Carries out a job: one installation beside its reporter.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kaltstart_protocol::agent_api::{Directive, InstallTask, Installed, ReportState};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::phase::Phase;

use crate::install::Observer as _;
use crate::link::{CallError, Link};
use crate::reporter::{Reporter, Stop};
use crate::work::End;
use crate::{log, log_sender};

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

/// Carries out `task`, and tells the server how it goes; gives nothing when the machine shall stay up.
pub fn carry_out(link: &Link, task: &InstallTask, installer: &dyn Installer) -> Option<End> {
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

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
