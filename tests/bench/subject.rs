//! A server while it is measured.

use crate::cgroup::Cgroup;
use anyhow::{Context as _, Result, bail};
use kaltstart_tests::process::Process;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a server may take to bind its port.
const START_LIMIT: Duration = secs(20);
/// `st` of a listening TCP socket in `/proc/net/tcp`; of a bound UDP socket in `/proc/net/udp`.
const LISTENING: [&str; 2] = ["0A", "07"];

/// A port of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Port {
    Udp(u16),
    Tcp(u16),
}

/// A running server; killed on drop.
#[derive(Debug)]
pub(crate) struct Subject {
    name: String,
    log: PathBuf,
    process: Process,
    group: Cgroup,
}

impl Subject {
    /// Starts `command` on the server's side and waits until `port` is bound there.
    pub(crate) fn start(name: &str, command: &Command, log: &Path, port: Port) -> Result<Self> {
        let mut subject = Self::spawn(name, command, log)?;
        subject.wait_bound(port)?;
        Ok(subject)
    }

    /// Starts `command`.
    pub(crate) fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let group = Cgroup::new()?;
        let process = Process::start(name, &mut group.join(command), log)?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), process, group })
    }

    /// Waits until `port` is bound.
    pub(crate) fn wait_bound(&mut self, port: Port) -> Result<()> {
        let Self { name, log, process, .. } = self;
        wait_for(&format!("{name} at {port:?}"), START_LIMIT, || {
            if let Some(status) = process.ended()? {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let skipped = text.lines().count().saturating_sub(10);
                let last: Vec<&str> = text.lines().skip(skipped).collect();
                bail!("{name} ended ({status}): {}", last.join("\n"));
            }
            // Until `ip netns exec` has become the server, these are our own sockets.
            Ok(if is_bound(process.id(), port) { Poll::Ready(()) } else { Poll::pending("not bound") })
        })
    }

    /// Whether `port` is bound.
    pub(crate) fn is_bound(&self, port: Port) -> bool {
        is_bound(self.process.id(), port)
    }

    /// CPU seconds that it, its threads and its children have used.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        self.group.cpu_seconds()
    }

    /// Memory it holds (`VmRSS`), in MiB.
    pub(crate) fn rss_mib(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        Ok(kib / 1024.0)
    }

    /// Bytes that it let the kernel write to disks (`proc_pid_io(5)`, `write_bytes`).
    pub(crate) fn written_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.process.id()))?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("write_bytes:")).context("no write_bytes")?;
        line.trim().parse().context("write_bytes")
    }

    /// UDP packets its namespace has lost because a socket's buffer was full.
    pub(crate) fn lost_in_buffers(&self) -> Result<u64> {
        self.process.lost_in_buffers()
    }
}

fn is_bound(pid: u32, port: Port) -> bool {
    let (table, port) = match port {
        Port::Udp(port) => ("udp", port),
        Port::Tcp(port) => ("tcp", port),
    };
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let port = format!(":{port:04X}");
    text.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&port))
            && fields.get(3).is_some_and(|state| LISTENING.contains(state))
    })
}
