//! How long phases usually take: learned from good jobs, with a start value for the first.

use crate::machine::{Job, PhaseState};
use alloc::vec::Vec;
use kaltstart_protocol::phase::Phase;
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
#[must_use]
pub fn usual(phase: Phase, good: &[&Job]) -> Usual {
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

/// Milliseconds until `job` is done, if all goes as usual; none when it has ended or waits for
/// its machine.
#[must_use]
pub fn left(job: &Job, usuals: &[Usual], now: Millis) -> Option<u64> {
    if job.state.ended() || job.phase == Phase::Queued {
        return None;
    }
    let ahead: u64 = usuals.iter().skip(job.phase.index() + 1).map(|usual| usual.p50_ms).sum();
    let record = job.record(job.phase)?;
    let spent = record.duration(now).unwrap_or(0);
    let here = match record.progress {
        // What is counted tells more than what was usual.
        Some(p) if p.done > 0 && p.total >= p.done => {
            u64::try_from(u128::from(spent) * u128::from(p.total - p.done) / u128::from(p.done))
                .unwrap_or(u64::MAX)
        }
        _ => usuals.get(job.phase.index())?.p50_ms.saturating_sub(spent),
    };
    Some(here.saturating_add(ahead))
}
