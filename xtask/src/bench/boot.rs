//! `bench boot` and `bench fleet`: build server and load program, fetch the peers, hand over to `tests/bench`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::artefacts::{cargo, executable};
use crate::{SaidNo, packages};

/// `cargo xtask bench boot [PART …] [OPTIONS]`; begins with `--fleet` for the other
pub(super) fn task(args: &[String]) -> Result<()> {
    packages::ensure()?;
    let build = ["build", "--release", "--package"];
    let bench = executable(cargo().args(build).args(["kaltstart-tests", "--bin", "bench"]))?;
    // The program checks its arguments, before minutes are spent on building.
    let checked = Command::new(&bench).arg("--check").args(args).status().context("cannot start it")?;
    SaidNo::check(checked)?;
    let server = executable(cargo().args(build).args(["kaltstart-server", "--bin", "kaltstart"]))?;
    let store = match args {
        [fleet, ..] if fleet == "--fleet" => {
            Some(executable(cargo().args(build).args(["kaltstart-server", "--bench", "store"]))?)
        }
        _ => None,
    };
    let peers = packages::peers()?;
    // In place of this process: Ctrl-C and the exit status are the program's own.
    let mut command = Command::new(&bench);
    command.arg("--server").arg(server).arg("--peers").arg(peers);
    store.map(|store| command.arg("--store").arg(store));
    let error = command.args(args).exec();
    bail!("cannot start {}: {error}", bench.display())
}
