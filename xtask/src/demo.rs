//! `cargo xtask demo`: builds everything, then hands over to the program of `tests/demo`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::SaidNo;
use crate::artefacts::{self, cargo, executable};

/// `cargo xtask demo [OPTIONS]`
pub(crate) fn task(args: &[String]) -> Result<()> {
    // The program checks its arguments, before minutes are spent on building.
    let demo = executable(cargo().args(["build", "--package", "kaltstart-tests", "--bin", "demo"]))?;
    let value = |name: &str, default| -> String {
        let place = args.iter().position(|arg| arg == name);
        place.and_then(|place| args.get(place + 1)).cloned().unwrap_or_else(|| String::from(default))
    };
    let checked = Command::new(&demo).arg("--check").args(args).status().context("cannot start the demo")?;
    SaidNo::check(checked)?;
    let dir = artefacts::build(&[&value("--ramdisk", "generic")], &[&value("--image", "debian-12")])?;
    // In place of this process: Ctrl-C and the exit status are the program's own.
    let error = Command::new(&demo).arg("--artefacts").arg(dir).args(args).exec();
    bail!("cannot start {}: {error}", demo.display())
}
