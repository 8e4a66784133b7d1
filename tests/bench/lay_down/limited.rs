//! A file system in chunks and raw onto a disk that is slower than everything else: it reads and writes at
//! [`DISK_BYTES_PER_SECOND`] each, at the same time.
//!
//! The kernel counts zeros that the disk is asked to make as if they were written.

use super::disk::Disk;
use super::file_system::CHUNKED_AIM;
use super::{FLOOR, LayDown, bytes_in_chunks, floor, measure, metric, ours};
use crate::bench::Bench;
use crate::cgroup::joining;
use crate::report::{Aim, Better, OURS, Report, Samples};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// As a good hard disk, or many a virtual one.
const DISK_BYTES_PER_SECOND: u64 = 200_000_000;

/// `allocated` bytes of the file system are not zeros.
pub(super) fn run(bench: &Bench, lay_down: &LayDown, allocated: u64, report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    let larger = bytes_in_chunks(&lay_down.larger)?;
    let images = [
        ("limited_chunked", &lay_down.chunked, allocated),
        ("limited_raw", &lay_down.raw, allocated),
        ("limited_larger", &lay_down.larger, larger),
    ];
    for _ in 0..bench.repeats(5) {
        for (name, image, bytes) in images {
            for subject in [FLOOR, OURS] {
                bench.ensure_wanted()?;
                let disk = Disk::new(bench.dir())?;
                let limit = Limit::new(&disk)?;
                let command = match subject {
                    FLOOR => floor(&disk, bytes),
                    _ => ours(lay_down, image, &disk),
                };
                measure(name, subject, &joining(&limit.group, &command), &disk, &mut samples)?;
            }
        }
    }
    eprintln!("the larger image: {:.0} MB that are not zeros", larger as f64 / 1e6);
    for (name, _, _) in images {
        let aim = if name == "limited_raw" { Aim::None } else { Aim::Times(1.0 / CHUNKED_AIM) };
        report.against(&samples, &metric(format!("{name}_time"), "s", Better::Lower), FLOOR, aim);
    }
    Ok(())
}

/// A control group whose programs get no more of a disk.
struct Limit {
    group: PathBuf,
    /// A file of the group with what takes the limit back.
    undo: Vec<(PathBuf, String)>,
}

impl Limit {
    fn new(disk: &Disk) -> Result<Self> {
        let name = disk.node.file_name().context("a device has a name")?;
        let number = fs::read_to_string(Path::new("/sys/block").join(name).join("dev"))?;
        let number = number.trim();
        let root = Path::new("/sys/fs/cgroup/blkio");
        ensure!(root.is_dir(), "no control groups of version 1 for block devices at {}", root.display());
        let group = root.join(format!("kt-bench-{}", std::process::id()));
        fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let mut limit = Self { group, undo: Vec::new() };
        for direction in ["read", "write"] {
            let file = limit.group.join(format!("blkio.throttle.{direction}_bps_device"));
            fs::write(&file, format!("{number} {DISK_BYTES_PER_SECOND}"))?;
            limit.undo.push((file, format!("{number} 0")));
        }
        Ok(limit)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        for (file, words) in &self.undo {
            fs::write(file, words).ok();
        }
        fs::remove_dir(&self.group).ok();
    }
}
