//! The clockwork of a job: phases begin, end, are passed over, and start again.

use super::event::Happening;
use crate::machine::{Job, JobState, PhaseRecord, PhaseState};
use alloc::vec;
use alloc::vec::Vec;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::time::Millis;

const MINUTE: u64 = 60_000;

/// Longest a phase may go without news, in milliseconds; none = it waits for a person.
#[must_use]
pub const fn limit(phase: Phase) -> Option<u64> {
    match phase {
        Phase::Queued => None,
        Phase::Power | Phase::Firmware => Some(15 * MINUTE),
        Phase::Dhcp => Some(3 * MINUTE),
        Phase::Loader | Phase::Kernel | Phase::Inventory => Some(10 * MINUTE),
        Phase::Disk | Phase::Image | Phase::Configure => Some(10 * MINUTE),
        Phase::Restart | Phase::Handoff => Some(30 * MINUTE),
        Phase::Verify => Some(5 * MINUTE),
    }
}

/// The records of a job that has just been ordered.
#[must_use]
pub fn queued(now: Millis) -> Vec<PhaseRecord> {
    let mut records = vec![PhaseRecord::default(); Phase::ALL.len()];
    records[Phase::Queued.index()] =
        PhaseRecord { state: PhaseState::Running, started_at: Some(now), ..PhaseRecord::default() };
    records
}

/// Ends the running phase and begins `to`, which must lie ahead; phases between are skipped.
pub(super) fn advance(job: &mut Job, to: Phase, now: Millis, happenings: &mut Vec<Happening>) {
    debug_assert!(to > job.phase);
    if job.state == JobState::Queued {
        job.state = JobState::Running;
        happenings.push(Happening::JobStarted);
    }
    end(job, now, happenings);
    for phase in Phase::ALL {
        if phase > job.phase && phase < to {
            job.phases[phase.index()].state = PhaseState::Skipped;
        }
    }
    begin(job, to, now, happenings);
}

/// Begins `phase` at `now`.
fn begin(job: &mut Job, phase: Phase, now: Millis, happenings: &mut Vec<Happening>) {
    job.phase = phase;
    job.phases[phase.index()] =
        PhaseRecord { state: PhaseState::Running, started_at: Some(now), ..PhaseRecord::default() };
    renew(job, now);
    happenings.push(Happening::PhaseStarted(phase));
}

/// Ends the current phase as done, if it still runs.
pub(super) fn end(job: &mut Job, now: Millis, happenings: &mut Vec<Happening>) {
    let phase = job.phase;
    let record = &mut job.phases[phase.index()];
    if record.state == PhaseState::Running {
        record.state = PhaseState::Done;
        record.ended_at = Some(now);
        happenings.push(Happening::PhaseDone(phase));
    }
}

/// Starts over from `to`, which lies behind: what came after it has not happened.
pub(super) fn rewind(job: &mut Job, to: Phase, now: Millis, happenings: &mut Vec<Happening>) {
    job.attempt += 1;
    for phase in Phase::ALL {
        if phase > to {
            job.phases[phase.index()] = PhaseRecord::default();
        }
    }
    happenings.push(Happening::JobRestarted { attempt: job.attempt });
    begin(job, to, now, happenings);
}

/// There was news: the current phase's time starts again.
/// A rescue has an end besides.
pub(super) fn renew(job: &mut Job, now: Millis) {
    let silence = limit(job.phase).map(|limit| now.plus(limit));
    job.deadline = silence.into_iter().chain(job.rescue.until).min();
}

/// Ends the job; the current phase ends with it.
pub(super) fn close(job: &mut Job, state: JobState, now: Millis) {
    let record = &mut job.phases[job.phase.index()];
    if record.state == PhaseState::Running {
        record.state = if state == JobState::Succeeded { PhaseState::Done } else { PhaseState::Failed };
        record.ended_at = Some(now);
    }
    job.state = state;
    job.ended_at = Some(now);
    job.deadline = None;
}
