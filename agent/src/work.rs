//! Asks the server for work and does it.

use std::time::{Duration, Instant};

use kaltstart_protocol::agent_api::{EraseTask, InstallTask, Task};
use kaltstart_protocol::burn_in::BurnInTask;
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::rescue::RescueTask;

use crate::backoff::Policy;
use crate::link::{CallError, Link};
use crate::sys::kernel::random_u32;
use crate::{log, pid1};

/// Shortest time between two questions, for a server that answers "wait" at once.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Pauses after a task that cannot be done, so that the same one is not refused in a loop.
const REFUSED: Policy = Policy { first: Duration::from_secs(5), cap: Duration::from_secs(60) };

/// Why there is no more work for this start of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The machine shall restart now.
    Restart(String),
    /// The machine shall go on with the kernel that was loaded.
    Kexec,
    /// The server does not know this session; only another start can help.
    Unknown(String),
}

/// A task of a job.
#[derive(Debug, Clone)]
pub enum JobTask {
    /// Lay down an image.
    Install(Box<InstallTask>),
    /// Erase all disks.
    Erase(Box<EraseTask>),
    /// Stay for a person.
    Rescue(Box<RescueTask>),
    /// Let all parts work.
    BurnIn(BurnInTask),
}

impl JobTask {
    /// The job, and which start of the machine for it this is.
    #[must_use]
    pub fn start(&self) -> (&JobId, u32) {
        match self {
            Self::Install(task) => (&task.job, task.attempt),
            Self::Erase(task) => (&task.job, task.attempt),
            Self::Rescue(task) => (&task.job, task.attempt),
            Self::BurnIn(task) => (&task.job, task.attempt),
        }
    }
}

/// Carries out a task; gives nothing when the machine shall stay up.
pub type Jobs<'a> = dyn Fn(&JobTask) -> Option<End> + 'a;

/// Works until the machine has to restart. Without `jobs` this start may only look.
pub fn work(link: &Link, jobs: Option<&Jobs<'_>>, pause: fn(Duration)) -> End {
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
            Ok(Task::Install(task)) => Ok(JobTask::Install(task)),
            Ok(Task::Erase(task)) => Ok(JobTask::Erase(task)),
            Ok(Task::Rescue(task)) => Ok(JobTask::Rescue(task)),
            Ok(Task::BurnIn(task)) => Ok(JobTask::BurnIn(task)),
            Err(CallError::Unauthorized(text)) => return End::Unknown(text),
            Err(error) => Err(error.to_string()),
        };
        let useless = match (task, jobs) {
            (Err(why), _) => why,
            (Ok(task), None) => {
                format!("task of {} refused: this start may only look, never write", task.start().0)
            }
            (Ok(task), Some(carry_out)) => {
                let (job, attempt) = task.start();
                if tried.as_ref().is_some_and(|(j, a)| (j, *a) == (job, attempt)) {
                    format!("{job} attempt {attempt} was tried already in this start")
                } else {
                    refusals = 0;
                    tried = Some((job.clone(), attempt));
                    match carry_out(&task) {
                        Some(end) => return end,
                        None => continue,
                    }
                }
            }
        };
        refusals += 1;
        tracing::warn!("{useless}");
        pause(REFUSED.delay(refusals, random_u32()));
    }
}

/// Pause before the machine restarts because the server does not know it, longer from start to
/// start only by the time a start takes.
pub const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);

/// The same pause with up to half of it added, so that a thousand machines come back spread out.
#[must_use]
pub fn unknown_pause() -> Duration {
    UNKNOWN_PAUSE + (UNKNOWN_PAUSE / 2).mul_f64(f64::from(random_u32()) / f64::from(u32::MAX))
}
