//! Running other programs: quiet while they succeed, explicit when they fail.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that are shown.
const SHOWN_LINES: usize = 30;

/// Runs `command` to its end and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().with_context(|| format!("cannot start {program}; run `cargo xtask packages`"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stdout.lines().chain(stderr.lines()).collect();
    let tail = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    bail!("{program} failed ({}):\n{}", output.status, tail.join("\n"))
}

/// Runs `command` to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// The SHA-256 of a file in hexadecimal. `sha256sum` hashes a 150 MB image
/// much faster than this crate's unoptimised build could.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let line = output(Command::new("sha256sum").arg("--").arg(path))?;
    let digest = line.split_whitespace().next().context("sha256sum printed nothing")?;
    Ok(digest.trim_start_matches('\\').to_owned())
}

/// Compresses `path` with zstd to `path`.zst and removes the original. The
/// worker count is fixed: zstd's output depends on whether it uses workers,
/// not on how many.
pub(crate) fn zstd(path: &Path, level: u32) -> Result<()> {
    run(Command::new("zstd").args(["--quiet", "--force", "--rm", "-T2", &format!("-{level}")]).arg(path))
}
