//! `cargo xtask fuzz`: coverage-guided tests of the parsers, by libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::SaidNo;
use crate::artefacts::cargo;
use crate::packages;

/// The programs of `tests/fuzz`.
const TARGETS: [&str; 14] = [
    "agent_api",
    "agent_archive",
    "agent_contents",
    "agent_dhcp",
    "agent_health",
    "agent_lldp",
    "agent_smbios",
    "agent_text",
    "dhcp",
    "dhcp6",
    "http_file",
    "http_head",
    "syslog",
    "tftp",
];

/// Longest input in bytes: a datagram on Ethernet.
const LENGTH_MAX: u32 = 1500;
/// The same for archives, whose entries take a kibibyte each.
const ARCHIVE_MAX: u32 = 8 << 10;

/// Named, so that the flags do not reach build scripts and macros.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Seconds of each target, unless told otherwise.
const SECONDS: u32 = 60;

/// Instrumentation as libFuzzer wants it, with a compiler as it is released: branches as counters,
/// and the values that are compared.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// `cargo xtask fuzz [TARGET] [--seconds N]`
pub(crate) fn task(args: &[String]) -> Result<()> {
    const USAGE: &str = "usage: cargo xtask fuzz [TARGET] [--seconds N]";
    let (target, options) = match args.split_first() {
        Some((name, rest)) if !name.starts_with('-') => (Some(name.as_str()), rest),
        _ => (None, args),
    };
    let seconds = match options {
        [] => SECONDS,
        [flag, number] if flag == "--seconds" => number.parse().context(USAGE)?,
        _ => bail!(USAGE),
    };
    let targets: Vec<&str> =
        TARGETS.into_iter().filter(|name| target.is_none_or(|wanted| wanted == *name)).collect();
    if targets.is_empty() {
        bail!("there is no target {target:?}; there are {}", TARGETS.join(", "));
    }
    packages::ensure()?;
    run(&targets, seconds)
}

/// Runs all targets for `seconds` each.
pub(crate) fn all(seconds: u32) -> Result<()> {
    run(&TARGETS, seconds)
}

fn run(targets: &[&str], seconds: u32) -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let (source, out) = (root.join("tests/fuzz"), root.join("target/fuzz"));
    let built = cargo()
        .args(["build", "--quiet", "--release", "--locked", "--target", TRIPLE, "--manifest-path"])
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&out)
        .env("RUSTFLAGS", FLAGS)
        .status();
    SaidNo::check(built.context("cannot start cargo")?)?;
    // Each target is busy on one core.
    let (next, cores) = (AtomicUsize::new(0), thread::available_parallelism().map_or(1, usize::from));
    let work = || {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            fuzz(target, seconds, &source, &out)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// Runs one target, from the seeds in `source` and what earlier runs found, kept in `out`.
fn fuzz(target: &str, seconds: u32, source: &Path, out: &Path) -> Result<()> {
    let corpus = out.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let seeds = source.join("seeds").join(target);
    let dictionary = source.join("dictionaries").join(target);
    let length = if target == "agent_archive" { ARCHIVE_MAX } else { LENGTH_MAX };
    let mut command = Command::new(out.join(TRIPLE).join("release").join(target));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={length}"))
        .arg("-print_final_stats=0")
        .arg(format!("-artifact_prefix={}/{target}-", out.display()))
        .arg(&corpus);
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    if seeds.is_dir() {
        command.arg(seeds);
    }
    eprintln!("fuzzing {target} for {seconds} s");
    let output = command.output().with_context(|| format!("cannot start {target}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{target} broke:\n{said}");
    }
    eprintln!("{target}: {}", said.lines().last().unwrap_or_default());
    Ok(())
}
