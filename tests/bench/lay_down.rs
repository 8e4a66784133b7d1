//! `lay-down`: an image onto a disk, beside archivers that write the same tree.
//!
//! The disk is a sparse file behind a loop device without the host's cache. Nothing is cached at the
//! beginning, and the end is when all is on the disk. Ours besides checks the SHA-256, writes boot
//! files and the table, and reads them back.

use crate::bench::Bench;
use crate::cgroup::Cgroup;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const DISK_BYTES: u64 = 20 << 30;
const PEERS: [&str; 2] = ["gnu-tar", "bsdtar"];
/// Writes what the tree takes in one go: the disk's own speed.
const FLOOR: &str = "dd";
/// Bytes of a sector in the kernel's statistics.
const SECTOR_BYTES: f64 = 512.0;
const PEAK_AIM_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

/// What is laid down, and by what.
#[derive(Debug, Clone)]
pub(crate) struct LayDown {
    /// Directory of the image.
    pub(crate) image: PathBuf,
    /// Our program.
    pub(crate) program: PathBuf,
}

pub(crate) fn run(bench: &Bench, lay_down: &LayDown, report: &mut Report) -> Result<()> {
    let manifest =
        fs::read_to_string(lay_down.image.join("manifest.json")).context("the image's manifest")?;
    let manifest: Value = serde_json::from_str(&manifest)?;
    let archive = lay_down.image.join(manifest["file"].as_str().context("the manifest names no file")?);
    let unpacked = manifest["unpacked_size"].as_f64().context("the manifest has no size")?;
    let mut samples = Samples::default();
    let mut tree_bytes = 0;
    for _ in 0..bench.repeats(5) {
        for subject in PEERS.into_iter().chain([OURS, FLOOR]) {
            bench.ensure_wanted()?;
            let disk = Disk::new(bench.dir())?;
            let command = match subject {
                OURS => {
                    let mut command = Command::new(&lay_down.program);
                    command.args([&lay_down.image, &disk.node, &disk.mount]);
                    command
                }
                FLOOR => floor(&disk, tree_bytes),
                peer => extract(bench, peer, &disk, &archive),
            };
            drop_caches()?;
            let group = Cgroup::new()?;
            let (written, started) = (disk.written_bytes()?, Instant::now());
            let output = group.join(&command).output().with_context(|| format!("{command:?}"))?;
            let seconds = started.elapsed().as_secs_f64();
            let words = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{subject}: {}", String::from_utf8_lossy(&output.stderr));
            let written = disk.written_bytes()? - written;
            samples.add("lay_down_time", subject, seconds);
            samples.add("lay_down_rate", subject, unpacked / 1e6 / seconds);
            samples.add("lay_down_cpu", subject, group.cpu_seconds()?);
            samples.add("lay_down_written", subject, written / 1e6);
            match subject {
                OURS => samples.add("lay_down_peak", subject, words.trim().parse()?),
                FLOOR => {}
                _ => tree_bytes = words.trim().parse().with_context(|| format!("{subject} said {words}"))?,
            }
        }
    }
    tell(report, &samples, tree_bytes);
    Ok(())
}

fn tell(report: &mut Report, samples: &Samples, tree_bytes: u64) {
    let metric = |name, unit, better| Metric::new(name, unit, better).floor(FLOOR);
    for (name, unit, better) in [
        ("lay_down_time", "s", Better::Lower),
        ("lay_down_rate", "MB/s", Better::Higher),
        ("lay_down_cpu", "s", Better::Lower),
    ] {
        let metric = metric(name, unit, better);
        for peer in PEERS {
            let aim = if (name, peer) == ("lay_down_rate", "bsdtar") { Aim::Times(1.2) } else { Aim::None };
            report.against(samples, &metric, peer, aim);
        }
    }
    let written = metric("lay_down_written", "MB", Better::Lower);
    for peer in PEERS {
        report.against(samples, &written, peer, Aim::Value(1.02 * tree_bytes as f64 / 1e6));
    }
    report.alone(samples, &Metric::new("lay_down_peak", "bytes", Better::Lower), Aim::Value(PEAK_AIM_BYTES));
}

/// A peer's way: the same file system, filled by an archiver. It says how many bytes the tree takes.
fn extract(bench: &Bench, peer: &str, disk: &Disk, archive: &Path) -> Command {
    let extract = match peer {
        "gnu-tar" => {
            "zstd -dc < \"$1\" | tar -C \"$3\" -xpf - --numeric-owner --xattrs --xattrs-include='*' --acls"
        }
        _ => "zstd -dc < \"$1\" | \"$4\" -C \"$3\" -xpf - --numeric-owner",
    };
    let script = format!(
        "set -e; mke2fs -q -F -t ext4 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard \"$2\"; \
         mount -t ext4 \"$2\" \"$3\"; {extract}; sync -f \"$3\"; \
         stat -f -c '%S %b %f' \"$3\" | {{ read size all free; echo $((size * (all - free))); }}; umount \"$3\"; sync \"$2\""
    );
    let mut command = bench.peers().with_libraries(Command::new("sh"));
    command.args(["-c", &script, "sh"]).arg(archive).arg(&disk.node).arg(&disk.mount);
    command.arg(bench.peers().program("usr/bin/bsdtar"));
    command
}

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

/// An empty disk; gone on drop.
struct Disk {
    file: PathBuf,
    node: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn new(dir: &Path) -> Result<Self> {
        let (file, mount) = (dir.join("disk.raw"), dir.join("mount"));
        fs::create_dir_all(&mount)?;
        fs::File::create(&file)?.set_len(DISK_BYTES)?;
        let node = run_quietly(Command::new("losetup").args(["--direct-io=on", "--show", "-f"]).arg(&file))?;
        Ok(Self { file, node: node.into(), mount })
    }

    fn written_bytes(&self) -> Result<f64> {
        let name = self.node.file_name().context("a device has a name")?;
        let text = fs::read_to_string(Path::new("/sys/block").join(name).join("stat"))?;
        let sectors = text.split_whitespace().nth(6).context("statistics of a block device")?;
        Ok(sectors.parse::<f64>()? * SECTOR_BYTES)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The first fails when nothing is mounted.
        run_quietly(Command::new("umount").arg(&self.mount)).ok();
        for command in [
            Command::new("blockdev").arg("--setrw").arg(&self.node),
            Command::new("losetup").arg("-d").arg(&self.node),
        ] {
            if let Err(error) = run_quietly(command) {
                eprintln!("cannot give a loop device back: {error:#}");
            }
        }
        fs::remove_file(&self.file).ok();
    }
}
