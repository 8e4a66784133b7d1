//! `bench agent`: lays down an image on a disk of this machine, beside peers; the measuring is done
//! in `tests/bench`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

use crate::artefacts::{cargo, executable};
use crate::image::file_system::{self, Packing};
use crate::image::{self, Compression};
use crate::{SaidNo, packages};

const IMAGE: &str = "debian-12";
/// What the image has more where the disk is slow: as much as that of a server with its application.
const LARGER_MIB: u64 = 1536;

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
    let server = executable(cargo().args(["build", "--package", "kaltstart-server"]))?;
    let mut command = Command::new(&bench);
    command.arg("--lay-down").arg(lay_down).arg("--peers").arg(packages::peers()?);
    command.arg("--archive").arg(image::build(IMAGE, Compression::Zstd)?);
    command.arg("--raw").arg(file_system::build(IMAGE, Packing::Raw, &server)?);
    command.arg("--chunked").arg(file_system::build(IMAGE, Packing::Chunked, &server)?);
    let larger = file_system::build_larger(IMAGE, Packing::Chunked, LARGER_MIB, &server)?;
    command.arg("--larger").arg(larger);
    // In place of this process: Ctrl-C and the exit status are the program's own.
    let error = command.args(args).exec();
    bail!("cannot start {}: {error}", bench.display())
}
