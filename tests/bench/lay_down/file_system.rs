//! A file system, raw and in chunks, beside programs that write the same bytes to the disk.
//!
//! None of the peers makes a table, an EFI system partition, a UUID of its own or a larger file system, as
//! ours does in the same time; two of them check what they write.

use super::disk::Disk;
use super::{
    FLOOR, LayDown, OurWords, PEAK_AIM_BYTES, floor, image_file, measure, metric, ours, ours_alone,
    run_quietly,
};
use crate::bench::Bench;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

/// Those that check nothing, and those that check a digest.
const CARELESS: [&str; 4] = ["dd-dense", "dd-direct", "dd-sparse", "qemu-img"];
const CAREFUL: [&str; 2] = ["dd+sha256sum", "bmaptool"];
/// Times as fast as the best peer that checks nothing, and as the best that checks.
const RAW_AIMS: [f64; 2] = [1.5, 4.0];
/// Of the disk's own speed.
pub(super) const CHUNKED_AIM: f64 = 0.9;

/// The image in the forms the peers want.
struct Sources {
    /// Compressed by zstd.
    stored: PathBuf,
    /// Not compressed; sparse.
    plain: PathBuf,
    /// For bmaptool, with digests.
    map: PathBuf,
    /// For qemu-img, compressed by zstd too.
    qcow2: PathBuf,
}

impl Sources {
    fn prepare(bench: &Bench, lay_down: &LayDown) -> Result<Self> {
        let dir = bench.dir();
        let stored = image_file(&lay_down.raw)?;
        let (plain, map, qcow2) = (dir.join("root.raw"), dir.join("root.bmap"), dir.join("root.qcow2"));
        run_quietly(Command::new("zstd").args(["-dfq", "--sparse"]).arg(&stored).arg("-o").arg(&plain))?;
        let mut create = bmaptool(bench);
        run_quietly(create.arg("create").arg("-o").args([&map, &plain]))?;
        let options = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd"];
        run_quietly(Command::new("qemu-img").args(options).args([&plain, &qcow2]))?;
        Ok(Self { stored, plain, map, qcow2 })
    }

    /// A peer's way.
    fn command(&self, bench: &Bench, peer: &str, disk: &Disk) -> Command {
        let zstd = |rest: &str| {
            let mut command = Command::new("bash");
            command
                .args(["-c", &format!("set -e -o pipefail; {rest}"), "bash"])
                .arg(&self.stored)
                .arg(&disk.node);
            command
        };
        match peer {
            "dd-dense" => {
                zstd("zstd -dc \"$1\" | dd of=\"$2\" bs=4M iflag=fullblock conv=fsync,notrunc status=none")
            }
            "dd-direct" => zstd(
                "zstd -dc \"$1\" | dd of=\"$2\" bs=4M iflag=fullblock oflag=direct conv=fsync,notrunc status=none",
            ),
            "dd-sparse" => zstd(
                "zstd -dc \"$1\" | dd of=\"$2\" bs=4M iflag=fullblock conv=sparse,fsync,notrunc status=none",
            ),
            "dd+sha256sum" => zstd(
                "tee < \"$1\" >(sha256sum > /dev/null) | zstd -dc | dd of=\"$2\" bs=4M iflag=fullblock oflag=direct conv=fsync,notrunc status=none",
            ),
            "bmaptool" => {
                let mut command = bmaptool(bench);
                command.arg("copy").arg("--bmap").args([&self.map, &self.stored, &disk.node]);
                command
            }
            _ => {
                let mut command = Command::new("qemu-img");
                command.args(["convert", "-n", "-W", "-m", "16", "-t", "none", "-f", "qcow2", "-O", "raw"]);
                command.args([&self.qcow2, &disk.node]);
                command
            }
        }
    }
}

/// A program in Python, out of its package.
fn bmaptool(bench: &Bench) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", bench.peers().program("usr/lib/python3/dist-packages"));
    command.arg(bench.peers().program("usr/bin/bmaptool"));
    command
}

/// How many bytes of the file system are not zeros.
pub(super) fn run(bench: &Bench, lay_down: &LayDown, report: &mut Report) -> Result<u64> {
    let sources = Sources::prepare(bench, lay_down)?;
    let allocated = fs::metadata(&sources.plain).context("the plain file system")?.blocks() * 512;
    let (mut raw, mut chunked, mut alone) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..bench.repeats(5) {
        for subject in CARELESS.into_iter().chain(CAREFUL).chain([FLOOR]) {
            bench.ensure_wanted()?;
            let disk = Disk::new(bench.dir())?;
            let command = match subject {
                FLOOR => floor(&disk, allocated),
                peer => sources.command(bench, peer, &disk),
            };
            // The peers' figures stand beside both of ours.
            measure("raw", subject, &command, &disk, &mut raw)?;
            chunked.copy("chunked", subject, &raw, "raw");
            alone.copy("alone", subject, &raw, "raw");
        }
        for (name, image, samples) in
            [("raw", &lay_down.raw, &mut raw), ("chunked", &lay_down.chunked, &mut chunked)]
        {
            bench.ensure_wanted()?;
            let disk = Disk::new(bench.dir())?;
            let words = measure(name, OURS, &ours(lay_down, image, &disk), &disk, samples)?;
            samples.add(&format!("{name}_peak"), OURS, OurWords::parse(&words)?.peak);
        }
        let disk = Disk::new(bench.dir())?;
        measure("alone", OURS, &ours_alone(lay_down, &lay_down.raw, &disk), &disk, &mut alone)?;
    }
    eprintln!("the file system: {:.0} MB that are not zeros", allocated as f64 / 1e6);
    tell(report, "raw", &raw, allocated);
    tell(report, "chunked", &chunked, allocated);
    // What the peers do, and no more; besides it is checked.
    let time = metric("alone_time".to_owned(), "s", Better::Lower);
    beside_peers(report, &alone, &time, RAW_AIMS.map(|aim| Aim::Times(1.0 / aim)));
    Ok(allocated)
}

fn beside_peers(report: &mut Report, samples: &Samples, time: &Metric, [careless, careful]: [Aim; 2]) {
    report.against_all(samples, time, &CARELESS, time.best(samples, &CARELESS), careless);
    report.against_all(samples, time, &CAREFUL, time.best(samples, &CAREFUL), careful);
}

fn tell(report: &mut Report, name: &str, samples: &Samples, allocated: u64) {
    let time = metric(format!("{name}_time"), "s", Better::Lower);
    let aims = if name == "raw" { RAW_AIMS.map(|aim| Aim::Times(1.0 / aim)) } else { [Aim::None; 2] };
    beside_peers(report, samples, &time, aims);
    report.against(samples, &time, FLOOR, Aim::None);
    let cpu = metric(format!("{name}_cpu"), "s", Better::Lower);
    report.against_all(samples, &cpu, &CARELESS, None, Aim::None);
    report.against_all(samples, &cpu, &CAREFUL, None, Aim::None);
    for kind in ["written", "stored"] {
        let bytes = metric(format!("{name}_{kind}"), "MB", Better::Lower);
        report.against(samples, &bytes, "dd-sparse", Aim::Value(1.02 * allocated as f64 / 1e6));
    }
    let peak = Metric::new(format!("{name}_peak"), "bytes", Better::Lower);
    report.alone(samples, &peak, Aim::Value(PEAK_AIM_BYTES));
}
