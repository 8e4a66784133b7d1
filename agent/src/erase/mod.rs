//! Erasing the disks of a machine that is released: all of them, or a finding.
//!
//! 1. Hold every disk against its wipe grant: nothing is written.
//! 2. Clear their ends: what was on any of them cannot start any more.
//! 3. Erase all disks at the same time, each by the best method that it has ([`choice`]).
//! 4. Read blocks back from all over each disk; what is left of before sends it to its next method.

mod ata;
pub mod choice;
mod nvme;
mod samples;

use crate::disk::device::{self, Device};
use crate::gate::Gate;
use crate::install::{Observer, Paths, Stop, check_cancelled, in_phase};
use crate::sys::kernel::random_u32;
use choice::Methods;
use kaltstart_protocol::agent_api::{EraseTask, Erased, ReportState};
use kaltstart_protocol::erasure::{EraseMethod, Erasure, Unused};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::select::describe;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::DiskIdentity;
use samples::{Samples, Seen};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes that are overwritten by one request: progress is told, and an end is heard, in between.
const PIECE: u64 = 64 << 20;

/// Erases all fixed disks of `disks`, of which the task has a grant for each, as of `now`. `methods` asks
/// a disk by which methods it is erased; on a machine that is [`choice::methods`].
///
/// # Errors
/// See [`Stop`]: a disk without a grant, or that is not as its grant says; [`Code::NotErased`] with every disk
/// that no method has erased, after the others were.
pub fn erase(
    gate: &Gate,
    task: &EraseTask,
    disks: &[Disk],
    now: Millis,
    paths: &Paths,
    methods: &(dyn Fn(&Disk, &Device) -> Methods + Sync),
    observer: &dyn Observer,
) -> Result<Erased, Stop> {
    in_phase(observer, Phase::Disk, || {
        let permits = gate.admit_all(task, disks, now)?;
        device::lock_all(&paths.dev, disks);
        let mut devices = Vec::with_capacity(permits.len());
        for permit in &permits {
            let device = Device::open(permit, &paths.dev, &paths.sys)?;
            devices.push(Target { disk: permit.disk(), device, done: AtomicU64::new(0) });
        }
        for target in &devices {
            if let Err(finding) = clear(&target.device) {
                // A disk that writes nothing more may still be able to erase itself.
                tracing::warn!("{}: {}", target.device.name(), finding.detail);
            }
        }
        let work = Work { observer, targets: &devices };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let start =
                |target: &'_ Target<'_>| work.erase_disk(target, methods(target.disk, &target.device));
            let threads: Vec<_> = devices.iter().map(|target| scope.spawn(move || start(target))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let disks = all(outcomes)?;
        work.tell(ReportState::Done);
        Ok(Erased { job: task.job.clone(), attempt: task.attempt, disks })
    })
}

/// The erasures, or why there are not all of them: a wish to end, or one finding for all disks.
fn all(outcomes: Vec<Result<Erasure, Stop>>) -> Result<Vec<Erasure>, Stop> {
    let mut erasures = Vec::new();
    let mut details: Vec<String> = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(erasure) => erasures.push(erasure),
            Err(Stop::Failed(finding)) => details.push(finding.detail),
            Err(cancelled @ Stop::Cancelled(_)) => return Err(cancelled),
        }
    }
    if details.is_empty() {
        Ok(erasures)
    } else {
        Err(Finding::new(Code::NotErased, details.join("; ")).into())
    }
}

/// Zeroes the ends of a disk and forgets its partitions.
fn clear(device: &Device) -> Result<(), Finding> {
    device.clear(&[], None)
}

/// A disk while it is erased.
struct Target<'a> {
    disk: &'a Disk,
    device: Device,
    /// How much of its bytes is done.
    done: AtomicU64,
}

/// The disks while they are erased.
struct Work<'a> {
    observer: &'a dyn Observer,
    targets: &'a [Target<'a>],
}

impl Work<'_> {
    fn tell(&self, state: ReportState) {
        let done = self.targets.iter().map(|target| target.done.load(Ordering::Relaxed)).sum();
        let total = self.targets.iter().map(|target| target.device.size).sum();
        let progress = Progress { done, total, unit: Unit::Bytes };
        self.observer.phase(Phase::Disk, state, Some(progress), BTreeMap::new());
    }

    /// Says how much of a disk is done; an error when the observer wants an end.
    fn step(&self, target: &Target<'_>, done: u64) -> Result<(), Stop> {
        target.done.store(done, Ordering::Relaxed);
        self.tell(ReportState::Running);
        check_cancelled(self.observer)
    }

    /// Tries the methods of a disk until one has erased it.
    fn erase_disk(&self, target: &Target<'_>, methods: Methods) -> Result<Erasure, Stop> {
        let began = Instant::now();
        let name = target.device.name();
        let (methods, mut instead_of) = methods;
        let samples = Samples::before(&target.device, random_u32);
        for method in methods {
            tracing::info!("{name}: {method}");
            let seen = self.apply(method, target).and_then(|()| Ok(look(method, target, &samples)?));
            let seen = match seen {
                Ok(seen) => seen,
                Err(Stop::Failed(finding)) => {
                    tracing::warn!("{name}: {method}: {}", finding.detail);
                    instead_of.push(Unused { method, why: finding.detail });
                    continue;
                }
                Err(cancelled @ Stop::Cancelled(_)) => return Err(cancelled),
            };
            target.done.store(target.device.size, Ordering::Relaxed);
            let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let Seen { samples, changed } = seen;
            let (disk, reach) = (DiskIdentity::of(target.disk), method.reach());
            return Ok(Erasure { disk, method, reach, duration_ms, samples, changed, instead_of });
        }
        let tried: Vec<String> = instead_of.iter().map(ToString::to_string).collect();
        let detail = format!("{} at {}: {}", describe(target.disk), target.disk.path, tried.join(", "));
        Err(Finding::new(Code::NotErased, detail).into())
    }

    /// Erases a disk by one method.
    fn apply(&self, method: EraseMethod, target: &Target<'_>) -> Result<(), Stop> {
        let mut disk = target.device.file();
        check_cancelled(self.observer)?;
        target.done.store(0, Ordering::Relaxed);
        let own = |result: io::Result<()>| {
            Ok(result.map_err(|error| Finding::new(Code::DiskFailed, error.to_string()))?)
        };
        match method {
            EraseMethod::SanitizeBlock => self.sanitize(target, false),
            EraseMethod::SanitizeCrypto => self.sanitize(target, true),
            EraseMethod::FormatErase => own(nvme::format(disk, false)),
            EraseMethod::FormatCrypto => own(nvme::format(disk, true)),
            EraseMethod::SecureEraseEnhanced => own(ata::erase(&mut disk, true)),
            EraseMethod::SecureErase => own(ata::erase(&mut disk, false)),
            EraseMethod::Overwrite => self.overwrite(target),
        }
    }

    fn overwrite(&self, target: &Target<'_>) -> Result<(), Stop> {
        let size = target.device.size;
        for offset in (0..size).step_by(PIECE as usize) {
            let length = PIECE.min(size - offset);
            target.device.overwrite(offset, length)?;
            self.step(target, offset + length)?;
        }
        Ok(())
    }

    fn sanitize(&self, target: &Target<'_>, crypto: bool) -> Result<(), Stop> {
        nvme::sanitize(target.device.file(), crypto, |parts| {
            let done = (u128::from(target.device.size) * u128::from(parts)) >> 16;
            self.step(target, done as u64).map_err(NotSanitized::Stop)
        })
        .map_err(|not| match not {
            NotSanitized::Failed(error) => Finding::new(Code::DiskFailed, error.to_string()).into(),
            NotSanitized::Stop(stop) => stop,
        })
    }
}

enum NotSanitized {
    Failed(io::Error),
    Stop(Stop),
}

impl From<io::Error> for NotSanitized {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads blocks back. Where the disk shows anything but emptiness, its ends are cleared: it must look
/// like a blank disk to whoever comes next.
fn look(method: EraseMethod, target: &Target<'_>, samples: &Samples) -> Result<Seen, Finding> {
    target.device.sync()?;
    target.device.forget_buffers()?;
    let seen = samples.after(&target.device, method)?;
    if seen.changed > 0 {
        clear(&target.device)?;
    }
    Ok(seen)
}

/// Takes away what an erasure that was cut off has left on the machine's disks, so that they can be read and
/// erased again: a password (see [`ata`]), or an operation that still goes on ([`nvme`]). Says whether there was any.
#[must_use]
pub fn recover(dev: &Path, disks: &[Disk]) -> bool {
    let recover = &|disk: &Disk| {
        let recovered = File::open(dev.join(&disk.name)).and_then(|file| match disk.transport.as_str() {
            // Most controllers cannot sanitize, and have no log of it; what is wrong otherwise shows soon.
            "nvme" if disk.holds.is_some() => Ok(false),
            "nvme" => nvme::recover(&file),
            _ => ata::recover(&mut &file),
        });
        match recovered {
            Ok(false) => return false,
            Ok(true) => {
                tracing::warn!("{}: an earlier erasure was cut off; the disk is usable again", disk.name)
            }
            // A disk of SAS knows no ATA.
            Err(_) if disk.transport == "sas" => return false,
            Err(error) => {
                tracing::warn!(%error, disk = %disk.name, "the disk stays as an earlier erasure may have left it");
                return false;
            }
        }
        true
    };
    std::thread::scope(|scope| {
        let erasing = disks.iter().filter(|disk| matches!(disk.transport.as_str(), "nvme" | "sata" | "sas"));
        // All at once: a disk that hangs delays no other.
        let threads: Vec<_> = erasing.map(|disk| scope.spawn(move || recover(disk))).collect();
        threads.into_iter().any(|thread| thread.join().unwrap_or(false))
    })
}
