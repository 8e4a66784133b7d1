//! A rebuild from chunks on a machine that has changed a twentieth of its data, beside a full installation.

use super::disk::Disk;
use super::{LayDown, OurWords, measure, ours};
use crate::bench::Bench;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::disk::FileSystem;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Of the bytes of all files.
const CHANGED: f64 = 0.05;
const FULL: &str = "full";

pub(super) fn run(bench: &Bench, lay_down: &LayDown, report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    for _ in 0..bench.repeats(5) {
        bench.ensure_wanted()?;
        let mut disk = Disk::new(bench.dir())?;
        let mut changed = 0;
        for subject in [FULL, OURS] {
            let command = ours(lay_down, &lay_down.chunked, &disk);
            let words = OurWords::parse(&measure("rebuild", subject, &command, &disk, &mut samples)?)?;
            samples.add("rebuild_fetched", subject, words.fetched / 1e6);
            if subject == FULL {
                ensure!(words.kept == 0.0, "something was kept on an empty disk");
                changed = disk.switched_off(change)?;
            }
        }
        eprintln!("  changed: {:.1} MB", changed as f64 / 1e6);
    }
    for (name, unit) in
        [("rebuild_time", "s"), ("rebuild_cpu", "s"), ("rebuild_fetched", "MB"), ("rebuild_written", "MB")]
    {
        report.against(&samples, &Metric::new(name, unit, Better::Lower), FULL, Aim::None);
    }
    Ok(())
}

/// Overwrites every so many files of the installed system; how many bytes.
fn change(disk: &Path) -> Result<u64> {
    let root = FileSystem::mount(disk, 3)?;
    let mut files = Vec::new();
    list(root.path(), &mut files)?;
    files.sort();
    let all: u64 = files.iter().map(|(_, length)| length).sum();
    let wanted = (all as f64 * CHANGED) as u64;
    // Every 20th file is about a twentieth of the bytes, all over the disk.
    let step = (1.0 / CHANGED) as usize;
    let mut changed = 0;
    let noise: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    for (path, length) in (0..step).flat_map(|first| files.iter().skip(first).step_by(step)) {
        if changed >= wanted {
            break;
        }
        let file = File::options().write(true).open(path).context("a file of the system")?;
        for at in (0..*length).step_by(noise.len()) {
            let bytes = &noise[..noise.len().min((length - at) as usize)];
            file.write_all_at(bytes, at)?;
        }
        (&file).flush()?;
        changed += length;
    }
    Ok(changed)
}

/// All files below `dir` with their lengths.
fn list(dir: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_dir() {
            list(&entry.path(), files)?;
        } else if about.is_file() {
            files.push((entry.path(), about.len()));
        }
    }
    Ok(())
}
