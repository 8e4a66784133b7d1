//! An archive, beside archivers that make the same tree.

use super::disk::Disk;
use super::{FLOOR, LayDown, OurWords, PEAK_AIM_BYTES, floor, image_file, manifest, measure, metric, ours};
use crate::bench::Bench;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::Command;

const PEERS: [&str; 2] = ["gnu-tar", "bsdtar"];
const NAME: &str = "lay_down";

pub(super) fn run(bench: &Bench, lay_down: &LayDown, report: &mut Report) -> Result<()> {
    let image = &lay_down.archive;
    let archive = image_file(image)?;
    let unpacked = manifest(image)?["unpacked_size"].as_f64().context("the manifest has no size")?;
    let mut samples = Samples::default();
    let mut tree_bytes = 0;
    for _ in 0..bench.repeats(5) {
        for subject in PEERS.into_iter().chain([OURS, FLOOR]) {
            bench.ensure_wanted()?;
            let disk = Disk::new(bench.dir())?;
            let command = match subject {
                OURS => ours(lay_down, image, &disk),
                FLOOR => floor(&disk, tree_bytes),
                peer => extract(bench, peer, &disk, &archive),
            };
            let words = measure(NAME, subject, &command, &disk, &mut samples)?;
            match subject {
                OURS => samples.add("lay_down_peak", subject, OurWords::parse(&words)?.peak),
                FLOOR => {}
                _ => tree_bytes = words.parse().with_context(|| format!("{subject} said {words}"))?,
            }
        }
    }
    tell(report, &samples, unpacked, tree_bytes);
    Ok(())
}

fn tell(report: &mut Report, samples: &Samples, unpacked: f64, tree_bytes: u64) {
    eprintln!(
        "the tree: {:.0} MB of archive, {:.0} MB of file system",
        unpacked / 1e6,
        tree_bytes as f64 / 1e6
    );
    for name in ["lay_down_time", "lay_down_cpu"] {
        for peer in PEERS {
            // At least 1.2 times as fast.
            let aim =
                if (name, peer) == ("lay_down_time", "bsdtar") { Aim::Times(1.0 / 1.2) } else { Aim::None };
            report.against(samples, &metric(name.to_owned(), "s", Better::Lower), peer, aim);
        }
    }
    for name in ["lay_down_written", "lay_down_stored"] {
        for peer in PEERS {
            let bytes = metric(name.to_owned(), "MB", Better::Lower);
            report.against(samples, &bytes, peer, Aim::Value(1.02 * tree_bytes as f64 / 1e6));
        }
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
