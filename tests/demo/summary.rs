//! What the demonstration says at its end, to people and to programs.

use crate::options::Options;
use crate::proof::Proof;
use anyhow::{Context as _, Error, Result};
use kaltstart_tests::api::{Job, PhaseView};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const MB: f64 = 1e6;

/// Prints the result for people.
pub(crate) fn print(job: &Job, proof: &Proof, cpu_seconds: f64) {
    println!("\nDEPLOYED and proven: {} on {}", proof.report.os, proof.report.hostname);
    for phase in job.phases.iter().filter(|phase| phase.state == "done") {
        let bytes = bytes(phase);
        let amount = bytes.map_or_else(String::new, |bytes| format!("{:9.1} MB", bytes as f64 / MB));
        println!("  {:<10} {:7.1} s{amount}", phase.name, seconds(phase).unwrap_or(0.0));
    }
    println!("  {:<10} {:7.1} s  ({cpu_seconds:.0} CPU seconds of the emulator)", "total", total(job));
    println!("  kernel     {}", proof.report.kernel);
    println!("  root       {} (UUID {})", proof.report.root_device, proof.report.root_uuid);
    println!("  disk, seen from outside:");
    let rows = proof.partitions.lines().skip_while(|line| !line.starts_with("Number"));
    rows.for_each(|row| println!("    {row}"));
    if let Some(login) = &proof.login {
        println!("  logged in over SSH, host key as reported:");
        login.lines().for_each(|line| println!("    {line}"));
    }
}

/// Writes the result for programs, whether it went well or not.
pub(crate) fn write_json(
    path: &Path,
    options: &Options,
    job: &Job,
    proof: Result<&Proof, &Error>,
    cpu_seconds: Option<f64>,
) -> Result<()> {
    let phases: Vec<Value> = job
        .phases
        .iter()
        .map(|phase| {
            json!({
                "name": phase.name,
                "state": phase.state,
                "started_at": phase.started_at,
                "ended_at": phase.ended_at,
                "seconds": seconds(phase),
                "bytes": bytes(phase),
            })
        })
        .collect();
    let result = json!({
        "result": if proof.is_ok() { "deployed" } else { "failed" },
        "error": proof.err().map(|error| format!("{error:#}")),
        "firmware": options.firmware_name(),
        "memory_mib": options.memory_mib,
        "image": options.image,
        "ramdisk": options.ramdisk,
        "seconds": total(job),
        "emulator_cpu_seconds": cpu_seconds,
        "attempts": job.attempt,
        "phases": phases,
        "findings": job.findings,
        "proof": proof.ok(),
    });
    let text = serde_json::to_string_pretty(&result)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn seconds(phase: &PhaseView) -> Option<f64> {
    let milliseconds = phase.ended_at?.saturating_sub(phase.started_at?);
    Some(milliseconds as f64 / 1000.0)
}

fn bytes(phase: &PhaseView) -> Option<u64> {
    phase.progress.as_ref().filter(|progress| progress.unit == "bytes").map(|progress| progress.done)
}

/// Seconds from power-on to the end of the last phase; waiting in the queue is not the machine's.
fn total(job: &Job) -> f64 {
    let started = job.phases.iter().filter(|phase| phase.name != "queued").filter_map(|p| p.started_at).min();
    let ended = job.phases.iter().filter_map(|phase| phase.ended_at).max();
    let milliseconds = ended.unwrap_or(0).saturating_sub(started.unwrap_or(u64::MAX));
    milliseconds as f64 / 1000.0
}
