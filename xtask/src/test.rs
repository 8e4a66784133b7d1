//! `cargo xtask test`, `e2e` and `powercut`: all tests, and end-to-end stories alone.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail};

use crate::artefacts::{self, cargo};
use crate::{SaidNo, fuzz, packages};

/// Stories at a time: a machine keeps one core busy with emulation, but much of a story is waiting for firmware.
const THREADS: &str = "--test-threads=3";

/// Seconds of each fuzz target: enough to find what broke lately, not what is rare.
const FUZZ_SECONDS: u32 = 8;

/// `cargo xtask test`
pub(crate) fn task(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask test (for single stories: cargo xtask e2e [FILTER])");
    }
    packages::ensure()?;
    step(&["fmt", "--all", "--check"])?;
    let end_to_end = ["--package", "kaltstart-tests", "--test", "e2e"];
    let looking = ["--package", "kaltstart-agent", "--no-default-features", "--bins"];
    for targets in [["--workspace", "--all-targets"].as_slice(), &end_to_end, &looking] {
        step(&[&["clippy", "--quiet"], targets, &["--", "--deny", "warnings"]].concat())?;
    }
    step(&["test", "--workspace"])?;
    fuzz::all(FUZZ_SECONDS)?;
    stories(&[])
}

/// Runs cargo; the first failure is the end, with cargo's own words and exit status.
fn step(args: &[&str]) -> Result<()> {
    SaidNo::check(cargo().args(args).status().context("cannot start cargo")?)
}

/// `cargo xtask powercut [--every N]`
pub(crate) fn powercut(args: &[String]) -> Result<()> {
    let every = match args {
        [] => "1",
        [option, every] if option == "--every" && every.parse().is_ok_and(|every: usize| every > 0) => every,
        _ => bail!("usage: cargo xtask powercut [--every N], with N from 1 on"),
    };
    let filter = ["powercut::p12_the_power_is_cut_after_every_step", "--ignored", "--nocapture"];
    run_stories(&filter.map(String::from), &[("KALTSTART_POWERCUT_EVERY", every)])
}

/// `cargo xtask e2e [FILTER]`
pub(crate) fn stories(args: &[String]) -> Result<()> {
    run_stories(args, &[])
}

fn run_stories(args: &[String], variables: &[(&str, &str)]) -> Result<()> {
    let dir = artefacts::build(
        &["cloud", "generic"],
        &["e2e", "e2e-gzip", "e2e-raw", "e2e-chunked", "debian-12", "debian-12-chunked"],
    )?;
    let clients = packages::clients()?;
    let evidence = dir.with_file_name("evidence");
    let mut command = cargo();
    command
        .args(["test", "--package", "kaltstart-tests", "--test", "e2e", "--", THREADS])
        .args(args)
        .envs(variables.iter().copied())
        .env("KALTSTART_ARTEFACTS", &dir)
        .env("KALTSTART_EVIDENCE", &evidence)
        .env("KALTSTART_CLIENTS", &clients)
        // A story's error says its cause; the way through the harness would bury it.
        .env("RUST_LIB_BACKTRACE", "0");
    // In place of this process: the last lines and the exit status are the test runner's own.
    let error = command.exec();
    bail!("cannot start cargo: {error}")
}
