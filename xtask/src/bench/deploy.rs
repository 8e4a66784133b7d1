//! `bench deploy`: what a machine fetches before the agent runs, a real Debian from power-on to deployed, by every
//! firmware, and the least memory.
//!
//! Peers cannot be measured beside it: no other provisioning system installs from Debian's
//! packages alone. The figures stand against the aims of the documentation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::artefacts::{self, cargo, executable};

/// Memory sizes that are tried for the least that works, in MiB.
const MEMORY_MIB: [u32; 7] = [128, 160, 192, 224, 256, 320, 384];

/// What is enough memory, in MiB.
const MEMORY_AIM: f64 = 384.0;

/// Longest deploy with little memory, in seconds.
const MEMORY_LIMIT: &str = "600";

/// What the deploy benchmark aims at: power-on to deployed, in seconds.
const DEPLOY_AIM: f64 = 300.0;

/// Ramdisks, and the most bytes that one of them and its kernel shall have.
const RAMDISKS: [(&str, f64); 2] = [("cloud", 32.0 * 1024.0 * 1024.0), ("generic", 48.0 * 1024.0 * 1024.0)];

/// The parts, in their order; all of them when none is named.
const PARTS: [&str; 3] = ["sizes", "time", "memory"];

const USAGE: &str = "usage: cargo xtask bench deploy [sizes|time|memory …] [--json FILE]";

/// `cargo xtask bench deploy [sizes|time|memory …] [--json FILE]`
pub(super) fn task(args: &[String]) -> Result<()> {
    let (parts, json) = match args {
        [parts @ .., flag, file] if flag == "--json" => (parts, Some(PathBuf::from(file))),
        parts => (parts, None),
    };
    if parts.iter().any(|part| !PARTS.contains(&part.as_str())) {
        bail!(USAGE);
    }
    let demo = executable(cargo().args(["build", "--package", "kaltstart-tests", "--bin", "demo"]))?;
    let dir = artefacts::build(&RAMDISKS.map(|(name, _)| name), &["debian-12"])?;
    let mut figures = Vec::new();
    for part in PARTS.into_iter().filter(|part| parts.is_empty() || parts.iter().any(|named| named == part)) {
        match part {
            "sizes" => figures.extend(sizes(&dir)?),
            "time" => {
                for firmware in ["uefi", "bios", "uefi-http"] {
                    let run = deploy(&demo, &dir, &["--firmware", firmware])?
                        .with_context(|| format!("the deploy by {firmware} failed"))?;
                    figures.extend(deployed(firmware, &run, &dir)?);
                }
            }
            _ => {
                for (ramdisk, _) in RAMDISKS {
                    figures.push(least_memory(&demo, &dir, ramdisk)?);
                }
            }
        }
    }
    for figure in &figures {
        println!("{:<28} {:>12} {}", text(&figure["metric"]), figure["ours"], text(&figure["unit"]));
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A figure; `aim` is the largest value that is good enough.
fn figure(metric: &str, unit: &str, ours: f64, aim: Option<f64>) -> Value {
    json!({
        "metric": metric, "unit": unit, "ours": (ours * 10.0).round() / 10.0, "peer": null,
        "peer_value": null, "floor": null, "ratio": aim.map(|aim| aim / ours), "aim": aim,
    })
}

fn sizes(dir: &Path) -> Result<Vec<Value>> {
    let size = |path: &str| -> Result<f64> {
        let path = dir.join(path);
        Ok(fs::metadata(&path).with_context(|| path.display().to_string())?.len() as f64)
    };
    let mut figures =
        vec![figure("image_debian_12", "bytes", manifest(dir)?["size"].as_f64().unwrap_or(0.0), None)];
    for (name, aim) in RAMDISKS {
        let of = |file: &str| size(&format!("ramdisks/{name}/{file}"));
        let (ramdisk, discovery, kernel) = (of("ramdisk.cpio")?, of("discovery.cpio")?, of("vmlinuz")?);
        figures.push(figure(&format!("{name}_ramdisk"), "bytes", ramdisk, None));
        figures.push(figure(&format!("{name}_discovery"), "bytes", discovery, None));
        figures.push(figure(&format!("{name}_kernel"), "bytes", kernel, None));
        figures.push(figure(&format!("{name}_ramdisk_and_kernel"), "bytes", ramdisk + kernel, Some(aim)));
    }
    Ok(figures)
}

fn manifest(dir: &Path) -> Result<Value> {
    let path = dir.join("images/debian-12/manifest.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

/// Runs the demonstration; what it wrote, or none when it did not deploy.
fn deploy(demo: &Path, dir: &Path, args: &[&str]) -> Result<Option<Value>> {
    let out = dir.with_file_name("bench.json");
    fs::remove_file(&out).ok();
    let status = Command::new(demo)
        .arg("--artefacts")
        .arg(dir)
        .args(args)
        .arg("--json")
        .arg(&out)
        .status()
        .context("cannot start the demonstration")?;
    if !status.success() {
        return Ok(None);
    }
    let text = fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    Ok(Some(serde_json::from_str(&text)?))
}

fn deployed(firmware: &str, run: &Value, dir: &Path) -> Result<Vec<Value>> {
    let seconds = run["seconds"].as_f64().unwrap_or(f64::INFINITY);
    let mut figures = vec![figure(&format!("{firmware}_total"), "s", seconds, Some(DEPLOY_AIM))];
    let cpu = run["emulator_cpu_seconds"].as_f64().unwrap_or(0.0);
    figures.push(figure(&format!("{firmware}_emulator_cpu"), "s", cpu, None));
    for phase in run["phases"].as_array().into_iter().flatten() {
        let (name, seconds) = (text(&phase["name"]), phase["seconds"].as_f64().unwrap_or(0.0));
        figures.push(figure(&format!("{firmware}_{name}"), "s", seconds, None));
        if name == "image" && seconds > 0.0 {
            let unpacked = manifest(dir)?["unpacked_size"].as_f64().unwrap_or(0.0);
            figures.push(figure(&format!("{firmware}_lay_down"), "MB/s", unpacked / seconds / 1e6, None));
        }
    }
    Ok(figures)
}

/// The least memory with which the agent of `ramdisk` lays down Debian.
fn least_memory(demo: &Path, dir: &Path, ramdisk: &str) -> Result<Value> {
    for mib in MEMORY_MIB {
        let memory = mib.to_string();
        let args = ["--firmware", "bios", "--ramdisk", ramdisk, "--memory", &memory, "--limit", MEMORY_LIMIT];
        if deploy(demo, dir, &args)?.is_some() {
            return Ok(figure(&format!("{ramdisk}_least_memory"), "MiB", mib.into(), Some(MEMORY_AIM)));
        }
    }
    bail!("the ramdisk {ramdisk} needs more than {} MiB", MEMORY_MIB[MEMORY_MIB.len() - 1])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
