//! How long phases usually take: learned from good jobs, with a start value for the first.

use crate::machine::{Job, JobKind, PhaseState};
use alloc::vec::Vec;
use kaltstart_protocol::phase::{self, Phase};
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// Good jobs that are looked back on.
pub const SAMPLE_MAX: usize = 50;

/// What a phase usually takes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usual {
    /// Half of the good runs took at most this.
    pub p50_ms: u64,
    /// 95 of 100 good runs took at most this.
    pub p95_ms: u64,
    /// Good runs that were looked at; 0 = a start value.
    pub sample: usize,
}

/// Start value: a small virtual machine; replaced by the first good run.
const fn guess(phase: Phase) -> u64 {
    match phase {
        Phase::Queued | Phase::Power | Phase::Dhcp | Phase::Verify => 0,
        Phase::Firmware => 10_000,
        Phase::Loader => 8_000,
        Phase::Kernel => 10_000,
        Phase::Inventory | Phase::Configure => 3_000,
        Phase::Disk => 2_000,
        Phase::Image => 30_000,
        Phase::Restart => 60_000,
        Phase::Handoff => 30_000,
    }
}

/// What `phase` took in the given good jobs.
fn usual(phase: Phase, good: &[&Job]) -> Usual {
    let mut times: Vec<u64> = good
        .iter()
        .filter_map(|job| job.record(phase))
        .filter(|record| record.state == PhaseState::Done)
        .filter_map(|record| record.duration(Millis(0)))
        .collect();
    times.sort_unstable();
    let sample = times.len();
    let at = |percent: usize| times.get((sample.saturating_sub(1)) * percent / 100).copied();
    match (at(50), at(95)) {
        (Some(p50_ms), Some(p95_ms)) => Usual { p50_ms, p95_ms, sample },
        _ => Usual { p50_ms: guess(phase), p95_ms: 2 * guess(phase), sample: 0 },
    }
}

/// What each phase of a job of that kind took in the given good jobs, in the order of [`Phase::ALL`].
#[must_use]
pub fn usuals(kind: JobKind, good: &[&Job]) -> Vec<Usual> {
    // A release ends with its disks, a rescue takes as long as somebody works, and a burn-in as it was ordered.
    let none = |phase: Phase| match kind {
        JobKind::Deploy | JobKind::Rebuild => false,
        JobKind::Release => phase > Phase::Disk,
        JobKind::Rescue => phase > Phase::Inventory,
        JobKind::BurnIn => phase > Phase::Kernel,
    };
    let of = |phase: &Phase| {
        if none(*phase) { Usual { p50_ms: 0, p95_ms: 0, sample: 0 } } else { usual(*phase, good) }
    };
    Phase::ALL.iter().map(of).collect()
}

/// Whether what phases of `other` took tells something of those of `job`.
#[must_use]
pub fn alike(job: &Job, other: &Job) -> bool {
    let burns_in = |job: &Job| job.kind == JobKind::BurnIn;
    other.restart() == job.restart() && burns_in(other) == burns_in(job)
}

/// Milliseconds until `job` is done, if all goes as usual; none when it has ended or waits for
/// its machine, or is in a person's hands.
#[must_use]
pub fn left(job: &Job, usuals: &[Usual], now: Millis) -> Option<u64> {
    if job.state.ended() || job.phase == Phase::Queued || job.kind == JobKind::Rescue {
        return None;
    }
    let record = job.record(job.phase)?;
    let usual = |phase: Phase| usuals.get(phase.index()).map_or(0, |usual| usual.p50_ms);
    Some(phase::left(job.phase, record.duration(now).unwrap_or(0), record.progress, usual))
}
