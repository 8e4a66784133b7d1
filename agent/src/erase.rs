//! Erasing the disks of a machine that is released: all of them, or a finding.
//!
//! 1. Hold every disk against its wipe grant: nothing is written.
//! 2. Clear their ends: what was on any of them cannot start any more.
//! 3. Write zeros to every sector, all disks at the same time.
//! 4. Read blocks back from all over each disk.

use crate::disk::device::{self, Device};
use crate::gate::Gate;
use crate::install::{Observer, Paths, Stop, in_phase};
use crate::sys::kernel::random_u32;
use kaltstart_protocol::agent_api::{EraseMethod, EraseTask, Erased, Erasure, ReportState};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::layout::plan::Plan;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::DiskIdentity;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes that are overwritten by one request: progress is told, and an end is heard, in between.
const PIECE: u64 = 64 << 20;
/// Bytes of a block that is read back.
const SAMPLE: u64 = 64 << 10;
/// Fewest and most blocks that are read back of a disk; between these, one of each [`PIECE`].
const SAMPLES_MIN: u64 = 64;
const SAMPLES_MAX: u64 = 4096;

/// Erases all fixed disks of `disks`, of which the task has a grant for each, as of `now`.
///
/// # Errors
/// See [`Stop`]: a disk without a grant, or that is not as its grant says; one that cannot be written, or
/// reads back other than empty.
pub fn erase(
    gate: &Gate,
    task: &EraseTask,
    disks: &[Disk],
    now: Millis,
    paths: &Paths,
    observer: &dyn Observer,
) -> Result<Erased, Stop> {
    in_phase(observer, Phase::Disk, || {
        let permits = gate.admit_all(task, disks, now)?;
        device::lock_all(&paths.dev, disks);
        let mut devices = Vec::with_capacity(permits.len());
        for permit in &permits {
            devices.push((DiskIdentity::of(permit.disk()), Device::open(permit, &paths.dev, &paths.sys)?));
        }
        for (_, device) in &devices {
            device.clear(&Plan { sector_size: device.sector_size, sectors: 0, partitions: Vec::new() })?;
        }
        let total = devices.iter().map(|(_, device)| device.size).sum();
        let work = Work { observer, done: AtomicU64::new(0), total };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let start = |(identity, device)| scope.spawn(|| work.erase_disk(identity, device));
            let threads: Vec<_> = devices.into_iter().map(start).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let disks = outcomes.into_iter().collect::<Result<_, _>>()?;
        work.tell(ReportState::Done);
        Ok(Erased { job: task.job.clone(), attempt: task.attempt, disks })
    })
}

/// The disks while they are erased.
struct Work<'a> {
    observer: &'a dyn Observer,
    /// Bytes that are overwritten, of all disks.
    done: AtomicU64,
    total: u64,
}

impl Work<'_> {
    fn tell(&self, state: ReportState) {
        let done = self.done.load(Ordering::Relaxed);
        let progress = Progress { done, total: self.total, unit: Unit::Bytes };
        self.observer.phase(Phase::Disk, state, Some(progress), BTreeMap::new());
    }

    fn erase_disk(&self, disk: DiskIdentity, device: Device) -> Result<Erasure, Stop> {
        let began = Instant::now();
        let size = device.size;
        for offset in (0..size).step_by(PIECE as usize) {
            if let Some(reason) = self.observer.cancelled() {
                return Err(Stop::Cancelled(reason));
            }
            let length = PIECE.min(size - offset);
            device.overwrite(offset, length)?;
            self.done.fetch_add(length, Ordering::Relaxed);
            self.tell(ReportState::Running);
        }
        device.sync()?;
        device.forget_buffers()?;
        let samples = samples(size, random_u32);
        let mut block = vec![0; SAMPLE.min(size) as usize];
        for offset in &samples {
            device.read_at(*offset, &mut block)?;
            if let Some(at) = block.iter().position(|byte| *byte != 0) {
                let detail = format!(
                    "{} is not empty after it was overwritten: byte {}",
                    device.name(),
                    offset + at as u64
                );
                return Err(Finding::new(Code::DiskFailed, detail).into());
            }
        }
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let samples = samples.len() as u64;
        Ok(Erasure { disk, method: EraseMethod::Overwrite, duration_ms, samples })
    }
}

/// Where blocks are read back: both ends of a disk, and one at random of each of its equal parts.
fn samples(size: u64, mut random: impl FnMut() -> u32) -> Vec<u64> {
    let last = size.saturating_sub(SAMPLE);
    let parts = (size / PIECE).clamp(SAMPLES_MIN, SAMPLES_MAX);
    let within = |part: u64| {
        let (start, end) = (last / parts * part, last / parts * (part + 1));
        let offset = ((u128::from(end - start) * u128::from(random())) >> 32) as u64;
        start + offset
    };
    let mut all: Vec<u64> = (0..parts).map(within).collect();
    all.extend([0, last]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn p10_samples_lie_on_the_disk_and_reach_every_part(size in 1u64 << 20..1 << 50, seed in any::<u32>()) {
            let mut state = seed;
            let all = samples(size, || { state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); state });
            prop_assert!(all.iter().all(|offset| offset + SAMPLE <= size));
            prop_assert!(all.contains(&0) && all.contains(&(size - SAMPLE)));
            let mut sorted = all.clone();
            sorted.sort_unstable();
            let widest = sorted.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0);
            prop_assert!(widest <= size / (all.len() as u64 - 2) * 2 + SAMPLE, "{widest} of {size}");
        }
    }
}
