//! A small client of QEMU's monitor (QMP).

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long QEMU may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What happened on one disk since its machine was powered on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// Read requests.
    pub reads: u64,
    /// Write requests, discards included.
    pub writes: u64,
    /// Bytes written.
    pub written: u64,
}

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves negotiation mode.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot reach QEMU's monitor at {}", path.display()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.message()?;
        qmp.call("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its answer; events in between are passed over.
    pub fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream.get_mut(), "{request}").with_context(|| format!("cannot send {command}"))?;
        loop {
            let mut message = self.message()?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
        }
    }

    /// What happened on the disk with that drive id.
    pub fn disk_use(&mut self, drive: &str) -> Result<DiskUse> {
        let all = self.call("query-blockstats", &json!({}))?;
        let disk = all.as_array().and_then(|disks| disks.iter().find(|disk| disk["device"] == drive));
        let stats = &disk.with_context(|| format!("QEMU knows no drive {drive}: {all}"))?["stats"];
        let number = |name: &str| stats[name].as_u64().with_context(|| format!("no {name} in {stats}"));
        Ok(DiskUse {
            reads: number("rd_operations")?,
            writes: number("wr_operations")? + number("unmap_operations")?,
            written: number("wr_bytes")?,
        })
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("QEMU's monitor did not answer")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor said {line:?}"))
    }
}
