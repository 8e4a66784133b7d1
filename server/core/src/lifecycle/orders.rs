//! An order is taken, or taken back.

use super::event::Happening;
use super::{Draft, HAS_JOB, No, Verdict, rescue};
use crate::approval;
use crate::losses;
use crate::machine::{Job, JobKind, JobState, State};
use crate::recall::Via;

impl Draft {
    pub(super) fn ordered(&mut self, job: &Job) -> Verdict {
        if self.live().is_some() {
            return Err(No::Refuse(HAS_JOB));
        }
        match (self.machine.node.state, job.kind) {
            (state, JobKind::Rescue) => {
                if let Some(why) = rescue::refusal(state) {
                    return Err(No::Refuse(why));
                }
            }
            (State::Available | State::Allocated | State::Broken, JobKind::BurnIn)
            | (State::Expected | State::Available | State::Allocated, JobKind::Deploy)
            | (State::Deployed, JobKind::Rebuild)
            | (State::Allocated | State::Deployed | State::Releasing, JobKind::Release) => {}
            (_, JobKind::Release) => {
                return Err(No::Refuse("only an allocated, deployed or releasing node can be released"));
            }
            (_, JobKind::BurnIn) => {
                return Err(No::Refuse("only an available, allocated or broken node has a burn-in"));
            }
            (State::Discovered, _) => {
                return Err(No::Refuse("the node is not accepted yet; `ks node accept` it first"));
            }
            (State::Deployed, JobKind::Deploy) => {
                return Err(No::Refuse("the node is deployed; `ks rebuild` lays it down anew"));
            }
            (State::Expected | State::Available | State::Allocated, JobKind::Rebuild) => {
                return Err(No::Refuse("the node is not deployed; `ks deploy` it"));
            }
            (State::Releasing | State::Broken | State::Retired, _) => {
                return Err(No::Refuse(
                    "a broken or retired node takes no orders, and a releasing one none but `ks release`",
                ));
            }
        }
        let asks = self.machine.node.recall.is_some();
        if job.order.via() == Via::Kexec && !asks {
            return Err(No::Refuse(
                "its system does not ask for jobs: its profile had no `recall = true` when it was laid down; \
                 order without `--via kexec` and start the machine over the network",
            ));
        }
        let approved_by = approval::approved(&self.machine.node, job, self.now).map_err(No::Refuse)?;
        self.machine.node.approval = None;
        self.machine.node.job = Some(job.id.clone());
        let loses_at = losses::is_ordered(job.kind, &job.order).then_some(self.now);
        self.machine.job = Some(Job { approved_by, from: self.machine.node.state, loses_at, ..job.clone() });
        self.happenings.push(Happening::JobQueued);
        let state = match job.kind {
            JobKind::Deploy | JobKind::Rebuild => State::Allocated,
            JobKind::Release => State::Releasing,
            JobKind::Rescue | JobKind::BurnIn => self.machine.node.state,
        };
        if self.machine.node.state != state {
            self.set_state(state);
        }
        Ok(())
    }

    pub(super) fn cancelled(&mut self) -> Verdict {
        if self.live().is_none() {
            return Err(No::Refuse("the job has ended"));
        }
        self.give_up(JobState::Cancelled, Happening::JobCancelled);
        Ok(())
    }
}
