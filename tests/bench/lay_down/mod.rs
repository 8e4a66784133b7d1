//! `lay-down`: an image onto a disk, beside what others write the same with.
//!
//! The disk is a sparse file behind a loop device without the host's cache. Nothing is cached at the
//! beginning, and the end is when all is on the disk. Ours besides checks the SHA-256, writes boot
//! files and the table, and reads them back.

mod archive;
mod disk;
mod file_system;
mod limited;
mod rebuild;

use crate::bench::Bench;
use crate::cgroup::Cgroup;
use crate::report::{Metric, Report, Samples};
use anyhow::{Context as _, Result, bail, ensure};
use disk::Disk;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Writes as many bytes in one go: the disk's own speed.
const FLOOR: &str = "dd";
const PEAK_AIM_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

/// What is laid down, and by what.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayDown {
    /// Directory of the image as an archive.
    pub(crate) archive: PathBuf,
    /// The same as a raw file system.
    pub(crate) raw: PathBuf,
    /// The same in chunks.
    pub(crate) chunked: PathBuf,
    /// In chunks too, of more data.
    pub(crate) larger: PathBuf,
    /// Our program.
    pub(crate) program: PathBuf,
}

pub(crate) fn run(bench: &Bench, lay_down: &LayDown, report: &mut Report) -> Result<()> {
    archive::run(bench, lay_down, report)?;
    let allocated = file_system::run(bench, lay_down, report)?;
    limited::run(bench, lay_down, allocated, report)?;
    rebuild::run(bench, lay_down, report)
}

/// The manifest of the image in `dir`.
fn manifest(dir: &Path) -> Result<Value> {
    let path = dir.join("manifest.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The file of the image in `dir`.
fn image_file(dir: &Path) -> Result<PathBuf> {
    Ok(dir.join(manifest(dir)?["file"].as_str().context("the manifest names no file")?))
}

/// Our way to lay down the image in `dir`.
fn ours(lay_down: &LayDown, dir: &Path, disk: &Disk) -> Command {
    let mut command = Command::new(&lay_down.program);
    command.args([dir, &disk.node, &disk.mount]);
    command
}

/// The same of the image alone, without table, boot files and identity.
fn ours_alone(lay_down: &LayDown, dir: &Path, disk: &Disk) -> Command {
    let mut command = Command::new(&lay_down.program);
    command.args([dir, &disk.node]).arg("--alone");
    command
}

/// How many bytes the chunks have that are not zeros, of the image in `dir`.
fn bytes_in_chunks(dir: &Path) -> Result<u64> {
    let manifest = manifest(dir)?;
    let list = dir.join(manifest["format"]["chunked"]["file"].as_str().context("it is not in chunks")?);
    let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let list: Value = serde_json::from_str(&text)?;
    let (size, chunks) = (list["chunk_size"].as_u64(), list["chunks"].as_array());
    let chunks = chunks.context("no chunks")?.iter().filter(|chunk| !chunk.is_null()).count();
    Ok(size.context("no size")? * chunks as u64)
}

/// What our program says of itself: its most memory, and what it fetched and kept, in bytes.
struct OurWords {
    peak: f64,
    fetched: f64,
    kept: f64,
}

impl OurWords {
    fn parse(words: &str) -> Result<Self> {
        let numbers: Vec<f64> = words.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [peak, fetched, kept] = numbers[..] else { bail!("our program said {words:?}") };
        Ok(Self { peak, fetched, kept })
    }
}

/// Lets `command` write to the disk; notes time, processor time and bytes as `NAME_time` and so on, and
/// tells its words.
fn measure(
    name: &str,
    subject: &str,
    command: &Command,
    disk: &Disk,
    samples: &mut Samples,
) -> Result<String> {
    drop_caches()?;
    let group = Cgroup::new()?;
    let (written, started) = (disk.written_bytes()?, Instant::now());
    let output = group.join(command).output().with_context(|| format!("{command:?}"))?;
    let seconds = started.elapsed().as_secs_f64();
    let words = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(output.status.success(), "{subject}: {}", String::from_utf8_lossy(&output.stderr));
    samples.add(&format!("{name}_time"), subject, seconds);
    samples.add(&format!("{name}_cpu"), subject, group.cpu_seconds()?);
    samples.add(&format!("{name}_written"), subject, (disk.written_bytes()? - written) / 1e6);
    samples.add(&format!("{name}_stored"), subject, disk.stored_bytes()? / 1e6);
    Ok(words)
}

/// A metric beside the floor's.
fn metric(name: String, unit: &'static str, better: crate::report::Better) -> Metric {
    Metric::new(name, unit, better).floor(FLOOR)
}

/// Zeros to the disk, as many bytes.
fn floor(disk: &Disk, bytes: u64) -> Command {
    let mut command = Command::new("dd");
    let count = bytes.div_ceil(4 << 20);
    command.args(["if=/dev/zero", "bs=4M", "oflag=direct", "conv=fsync,notrunc", "status=none"]);
    command.arg(format!("count={count}")).arg(format!("of={}", disk.node.display()));
    command
}

fn drop_caches() -> Result<()> {
    run_quietly(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the caches")
}

fn run_quietly(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
