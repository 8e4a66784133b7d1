//! What an agent tells of its job: how a phase stands, and that its work is done.

use super::event::{Event, Happening};
use super::{DETAIL_CHARS_MAX, DETAILS_MAX, Draft, FINDING_CHARS_MAX, NOT_GRANTED, No, Verdict, cut, phases};
use crate::machine::{ErasureRecord, Job, JobKind, JobState, State};
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::agent_api::{Erased, Installed, ReportState};
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::wipe::WipeGrant;

impl Draft {
    pub(super) fn phase_reported(&mut self, event: &Event) -> Verdict {
        let Event::PhaseReported { job: id, attempt, phase, state, progress, detail } = event else {
            return Err(No::Ignore("not a phase report"));
        };
        let now = self.now;
        let granted = self.granted(id);
        let burned_in = |job: &Job| {
            (job.kind, job.state) == (JobKind::BurnIn, JobState::Succeeded)
                && (&job.id, job.attempt) == (id, *attempt)
        };
        if self.machine.job.as_ref().is_some_and(burned_in) {
            return Err(No::Ignore("already known"));
        }
        let Some(job) = self.live().filter(|job| job.id == *id && job.attempt == *attempt) else {
            return Err(No::Refuse("the job has ended or was started again"));
        };
        if !granted {
            return Err(No::Refuse(NOT_GRANTED));
        }
        if job.installed.is_some() || *phase < job.phase {
            return Err(No::Ignore("the job has come further"));
        }
        if !matches!(phase, Phase::Inventory | Phase::Disk | Phase::Image | Phase::Configure) {
            return Err(No::Refuse("not a phase of the agent"));
        }
        phases::renew(job, now);
        self.heard();
        self.reach(*phase);
        if let Some(job) = self.machine.job.as_mut() {
            let record = &mut job.phases[phase.index()];
            if progress.is_some() {
                record.progress = *progress;
            }
            for (key, value) in detail {
                if record.detail.len() < DETAILS_MAX || record.detail.contains_key(key) {
                    record.detail.insert(cut(key, DETAIL_CHARS_MAX), cut(value, DETAIL_CHARS_MAX));
                }
            }
            match state {
                ReportState::Running => self.happenings.push(Happening::Progressed(*phase)),
                ReportState::Done => {
                    phases::end(job, now, &mut self.happenings);
                    if job.kind == JobKind::BurnIn {
                        self.close(JobState::Succeeded);
                        self.happenings.push(Happening::JobSucceeded);
                    }
                }
                ReportState::Failed { finding } => {
                    self.fail(Finding::new(finding.code, cut(&finding.detail, FINDING_CHARS_MAX)));
                }
            }
        }
        Ok(())
    }

    pub(super) fn install_done(&mut self, installed: &Installed) -> Verdict {
        let granted = self.granted(&installed.job);
        let Some(job) = self.live().filter(|j| j.id == installed.job && j.attempt == installed.attempt)
        else {
            return Err(No::Refuse("the job has ended or was started again"));
        };
        if !granted || job.order.system().is_none() {
            return Err(No::Refuse(NOT_GRANTED));
        }
        if job.installed.is_some() {
            return Err(No::Ignore("already known"));
        }
        job.installed = Some(installed.clone());
        self.heard();
        self.reach(Phase::Restart);
        if let Some(job) = self.live() {
            let by = (String::from("by"), String::from(installed.restart.name()));
            job.phases[Phase::Restart.index()].detail.extend([by]);
        }
        Ok(())
    }

    /// The node is clean if each disk that it was granted to lose is, and free for the next order.
    pub(super) fn disks_erased(&mut self, erased: &Erased) -> Verdict {
        if self.machine.node.erasure.as_ref().is_some_and(|record| record.job == erased.job) {
            return Err(No::Ignore("already known"));
        }
        let granted = self.granted(&erased.job);
        let Some(job) = self.live().filter(|j| j.id == erased.job && j.attempt == erased.attempt) else {
            return Err(No::Refuse("the job has ended or was started again"));
        };
        if !granted || job.kind != JobKind::Release {
            return Err(No::Refuse(NOT_GRANTED));
        }
        // Grants of an earlier start say nothing of this one.
        let is_erased = |wipe: &WipeGrant| {
            wipe.attempt == job.attempt && erased.disks.iter().any(|erasure| erasure.disk == wipe.disk)
        };
        let all = job.wipe.len() == erased.disks.len() && job.wipe.iter().all(is_erased);
        if job.wipe.is_empty() || !all {
            return Err(No::Refuse("the disks that are told are not those that were granted"));
        }
        self.heard();
        self.reach(Phase::Verify);
        let node = &mut self.machine.node;
        node.erasure =
            Some(ErasureRecord { job: erased.job.clone(), at: self.now, disks: erased.disks.clone() });
        (node.system, node.recall, node.unlock, node.own) = (None, None, None, Vec::new());
        self.succeed(State::Available);
        Ok(())
    }
}
