//! Tells the server how a job stands: every change until it is acknowledged, and once a second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kaltstart_protocol::agent_api::{Directive, Report, ReportState};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::phase::{Phase, Progress};

use crate::install::Observer;
use crate::link::{CallError, Link};
use crate::screen;

/// Time between two reports of a running phase.
const INTERVAL: Duration = Duration::from_secs(1);

/// Collects what the installation says and sends it from a thread of its own.
pub struct Reporter {
    job: JobId,
    attempt: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Changes the server has not acknowledged, oldest first.
    changes: VecDeque<Report>,
    /// The phase that runs.
    current: Option<Report>,
    /// Why to stop, once the server has said so.
    stop: Option<Stop>,
    /// A failure was noted.
    failed: bool,
    /// Nothing more will come.
    finished: bool,
}

/// Why an installation has to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The server's wish.
    Directed(String),
    /// The session is not known any more.
    Unauthorized(String),
}

impl Stop {
    /// The reason as text.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Directed(reason) | Self::Unauthorized(reason) => reason,
        }
    }
}

impl Reporter {
    /// A reporter for one attempt of a job.
    #[must_use]
    pub fn new(job: JobId, attempt: u32) -> Self {
        Self { job, attempt, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Why the installation has to stop, if it has to.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        self.lock().stop.clone()
    }

    /// The phase that runs.
    pub(crate) fn running(&self) -> Option<Phase> {
        self.lock().current.as_ref().map(|report| report.phase)
    }

    /// Whether a failure was noted.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Nothing more will come: [`Reporter::run`] returns when all is acknowledged.
    pub fn finish(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Sends until [`Reporter::finish`] and all changes are acknowledged, or the server does not
    /// want to hear more.
    pub fn run(&self, link: &Link) {
        let mut last_beat = Instant::now();
        loop {
            let (report, is_change) = {
                let inner = self.lock();
                let wait = INTERVAL.saturating_sub(last_beat.elapsed());
                let (inner, _) = self
                    .changed
                    .wait_timeout_while(inner, wait, |inner| inner.changes.is_empty() && !inner.finished)
                    .unwrap_or_else(PoisonError::into_inner);
                match (inner.changes.front(), &inner.current) {
                    (Some(change), _) => (change.clone(), true),
                    (None, _) if inner.finished => return,
                    (None, Some(current)) => (current.clone(), false),
                    (None, None) => {
                        last_beat = Instant::now();
                        continue;
                    }
                }
            };
            last_beat = Instant::now();
            // A change must arrive; a beat that is lost is followed by a fresher one.
            let answer = if is_change {
                link.insist("report", |link| link.report(&report))
            } else {
                link.report(&report)
            };
            let stop = match answer {
                Ok(Directive::Continue) | Err(CallError::Unreachable(_) | CallError::Untrusted(_)) => None,
                Ok(Directive::Stop { reason }) => Some(Stop::Directed(reason)),
                Err(CallError::Unauthorized(text)) => Some(Stop::Unauthorized(text)),
                Err(refused @ CallError::Refused { .. }) => Some(Stop::Directed(refused.to_string())),
            };
            let mut inner = self.lock();
            if is_change {
                inner.changes.pop_front();
            }
            if stop.is_some() {
                // The server wants no more of this job; the installation stops at its next look.
                inner.stop = stop;
                inner.changes.clear();
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Reporter {
    /// Notes how a phase stands; nothing is sent from here.
    fn phase(
        &self,
        phase: Phase,
        state: ReportState,
        progress: Option<Progress>,
        detail: BTreeMap<String, String>,
    ) {
        let report = Report { job: self.job.clone(), attempt: self.attempt, phase, state, progress, detail };
        let running = report.state == ReportState::Running;
        if running {
            screen::phase(phase, progress);
        }
        let mut inner = self.lock();
        let same = inner.current.as_ref().is_some_and(|current| current.phase == phase);
        if running && same {
            // Progress only: goes out with the next beat.
            inner.current = Some(report);
            return;
        }
        tracing::info!("{}: {}", phase.name(), describe(&report.state));
        inner.failed |= matches!(report.state, ReportState::Failed { .. });
        inner.current = running.then(|| report.clone());
        inner.changes.push_back(report);
        self.changed.notify_all();
    }

    fn cancelled(&self) -> Option<String> {
        self.stop().map(|stop| stop.reason().to_owned())
    }
}

fn describe(state: &ReportState) -> String {
    match state {
        ReportState::Running => "running".into(),
        ReportState::Done => "done".into(),
        ReportState::Failed { finding } => format!("failed: {finding}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::time::Millis;

    #[test]
    fn progress_replaces_and_changes_queue() {
        let reporter = Reporter::new(JobId::new(Millis(1), 1), 1);
        let say = |phase, state| reporter.phase(phase, state, None, BTreeMap::new());
        say(Phase::Disk, ReportState::Running);
        say(Phase::Disk, ReportState::Running);
        say(Phase::Disk, ReportState::Done);
        say(Phase::Image, ReportState::Running);
        let state = reporter.lock();
        let queued: Vec<_> = state.changes.iter().map(|r| (r.phase, r.state.clone())).collect();
        assert_eq!(
            queued,
            [
                (Phase::Disk, ReportState::Running),
                (Phase::Disk, ReportState::Done),
                (Phase::Image, ReportState::Running)
            ]
        );
    }
}
