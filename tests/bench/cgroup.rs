//! CPU time of a program with all its threads and children, whoever became their parent.
//!
//! `/proc/PID/stat` loses children that nobody waits for, as those of tftpd-hpa.

use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A control group of version 2; what is in it is killed on drop.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes an empty group.
    pub(crate) fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"));
        let root = root.context("no file system of type cgroup2 is mounted")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let group = Self(PathBuf::from(root[1]).join(format!("kt-bench-{}-{number}", std::process::id())));
        fs::create_dir(&group.0).with_context(|| format!("cannot make {}", group.0.display()))?;
        Ok(group)
    }

    /// `command`, to be run within the group; what it starts belongs there too.
    pub(crate) fn join(&self, command: &Command) -> Command {
        joining(&self.0, command)
    }

    /// CPU seconds used so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let text = fs::read_to_string(self.0.join("cpu.stat"))?;
        let value = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("cpu.stat")?;
        Ok(value.parse::<f64>()? / 1e6)
    }

    /// Processes in it.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        let text = fs::read_to_string(self.0.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn remove(&self) -> Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")?;
        wait_for("the end of a group of processes", secs(5), || {
            let left = self.processes()?;
            // Children of a dead process are reaped by the one that adopts them.
            Ok(if left.is_empty() { Poll::Ready(()) } else { Poll::pending(format!("{left:?} are left")) })
        })?;
        let removed = fs::remove_dir(&self.0);
        ensure!(removed.is_ok(), "{}: {removed:?}", self.0.display());
        Ok(())
    }
}

/// `command`, to be run within the control group in `dir`.
///
/// It joins by itself before anything else: a server forks its workers sooner than we could.
pub(crate) fn joining(dir: &Path, command: &Command) -> Command {
    let mut joined = Command::new("sh");
    joined.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(dir.join("cgroup.procs"));
    joined.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => joined.env(name, value),
            None => joined.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        joined.current_dir(dir);
    }
    joined
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("cannot remove a control group: {error:#}");
        }
    }
}
