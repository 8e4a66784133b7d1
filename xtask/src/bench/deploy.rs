//! `bench deploy`: a real Debian from power-on to deployed, by every firmware, and the least memory.
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
const MEMORY_MIB: [u32; 5] = [256, 320, 384, 448, 512];

/// Longest deploy with little memory, in seconds: a machine that ran out of it says nothing.
const MEMORY_LIMIT: &str = "240";

/// What the deploy benchmark aims at: power-on to deployed, in seconds.
const DEPLOY_AIM: f64 = 300.0;

/// Largest ramdisk without its kernel, in bytes.
const RAMDISK_AIM: f64 = 32.0 * 1024.0 * 1024.0;

/// `cargo xtask bench deploy [--json FILE]`
pub(super) fn task(args: &[String]) -> Result<()> {
    let json = match args {
        [] => None,
        [flag, file] if flag == "--json" => Some(PathBuf::from(file)),
        _ => bail!("usage: cargo xtask bench deploy [--json FILE]"),
    };
    let demo = executable(cargo().args(["build", "--package", "kaltstart-tests", "--bin", "demo"]))?;
    let dir = artefacts::build(&["generic"], &["debian-12", "e2e"])?;
    let mut figures = sizes(&dir)?;
    for firmware in ["uefi", "bios", "uefi-http"] {
        let run = deploy(&demo, &dir, &["--firmware", firmware])?
            .with_context(|| format!("the deploy by {firmware} failed"))?;
        figures.extend(deployed(firmware, &run, &dir)?);
    }
    for image in ["e2e", "debian-12"] {
        figures.push(least_memory(&demo, &dir, image)?);
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
    Ok(vec![
        figure("ramdisk", "bytes", size("ramdisks/generic/ramdisk.cpio")?, Some(RAMDISK_AIM)),
        figure("kernel", "bytes", size("ramdisks/generic/vmlinuz")?, None),
        figure("image_debian_12", "bytes", manifest(dir)?["size"].as_f64().unwrap_or(0.0), None),
    ])
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

fn least_memory(demo: &Path, dir: &Path, image: &str) -> Result<Value> {
    for mib in MEMORY_MIB {
        let memory = mib.to_string();
        let args = ["--firmware", "bios", "--image", image, "--memory", &memory, "--limit", MEMORY_LIMIT];
        if deploy(demo, dir, &args)?.is_some() {
            return Ok(figure(&format!("least_memory_{image}"), "MiB", mib.into(), Some(512.0)));
        }
    }
    bail!("{image} needs more than {} MiB", MEMORY_MIB[MEMORY_MIB.len() - 1])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
