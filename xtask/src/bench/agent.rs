//! `bench agent`: lays down an image on a disk of this machine, beside archivers; the measuring is done
//! in `tests/bench`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

use crate::artefacts::{cargo, executable};
use crate::image::{self, Compression};
use crate::{SaidNo, packages};

/// `cargo xtask bench agent [--quick] [--json FILE]`
pub(super) fn task(args: &[String]) -> Result<()> {
    packages::ensure()?;
    let bench =
        executable(cargo().args(["build", "--release", "--package", "kaltstart-tests", "--bin", "bench"]))?;
    SaidNo::check(Command::new(&bench).arg("--check").args(args).status()?)?;
    let lay_down = executable(cargo().args([
        "build",
        "--release",
        "--package",
        "kaltstart-agent",
        "--example",
        "lay_down",
    ]))?;
    let image = image::build("debian-12", Compression::Zstd)?;
    let peers = packages::peers()?;
    let mut command = Command::new(&bench);
    command.arg("--lay-down").arg(lay_down).arg("--image").arg(image).arg("--peers").arg(peers);
    // In place of this process: Ctrl-C and the exit status are the program's own.
    let error = command.args(args).exec();
    bail!("cannot start {}: {error}", bench.display())
}
