//! The part of the server's answers that tests look at. Unknown fields are passed over: these
//! types say what a client may rely on, not all there is.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// `job_…`
    pub id: String,
    /// `deploy`
    pub kind: String,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled`.
    pub state: String,
    /// Starts of the machine for this job.
    #[serde(default)]
    pub attempt: u32,
    /// The running phase.
    #[serde(default)]
    pub phase: Option<String>,
    /// All phases in order.
    #[serde(default)]
    pub phases: Vec<PhaseView>,
    /// Problems.
    #[serde(default)]
    pub findings: Vec<FindingView>,
}

/// One phase of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseView {
    /// `queued` … `verify`.
    pub name: String,
    /// `pending`, `running`, `done`, `failed`, `skipped`.
    pub state: String,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub started_at: Option<u64>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub ended_at: Option<u64>,
    /// How far it is.
    #[serde(default)]
    pub progress: Option<ProgressView>,
    /// Keys and values.
    #[serde(default)]
    pub detail: Map<String, Value>,
}

/// How far a phase is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgressView {
    /// Units done.
    pub done: u64,
    /// Units in all.
    #[serde(default)]
    pub total: u64,
    /// `bytes`, `items`.
    #[serde(default)]
    pub unit: String,
}

/// A named problem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindingView {
    /// `KS-…`
    pub code: String,
    /// What it means.
    #[serde(default)]
    pub title: String,
    /// What was seen.
    #[serde(default)]
    pub detail: String,
    /// What to do.
    #[serde(default)]
    pub next: String,
}

impl Job {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled")
    }

    /// The phase with that name.
    #[must_use]
    pub fn phase_named(&self, name: &str) -> Option<&PhaseView> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// Whether that phase, or one after it, has begun: a short one may be over or skipped.
    #[must_use]
    pub fn reached(&self, name: &str) -> bool {
        self.phases.iter().skip_while(|phase| phase.name != name).any(|phase| phase.state != "pending")
    }

    /// The job, if it succeeded; an error with its findings otherwise.
    pub fn succeeded(self) -> Result<Self> {
        if self.state != "succeeded" {
            bail!("the job ended as {self}");
        }
        Ok(self)
    }

    /// Checks that it failed with that finding and says what to do.
    pub fn failed_with(&self, code: &str) -> Result<()> {
        let finding = self.findings.iter().find(|finding| finding.code == code);
        match finding {
            Some(finding) if self.state == "failed" && !finding.next.is_empty() => Ok(()),
            _ => bail!("expected a failed job with {code} and what to do next, got: {self}"),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempt {}", self.state, self.attempt)?;
        if let Some(name) = &self.phase {
            write!(f, ", phase {name}")?;
            if let Some(progress) = self.phase_named(name).and_then(|phase| phase.progress.as_ref()) {
                write!(f, " {}/{} {}", progress.done, progress.total, progress.unit)?;
            }
        }
        f.write_str(")")?;
        for finding in &self.findings {
            write!(f, "; {} {}: {} {}", finding.code, finding.title, finding.detail, finding.next)?;
        }
        Ok(())
    }
}

/// A machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeView {
    /// `node_…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// `expected`, `discovered`, `available`, `deployed`, …
    pub state: String,
    /// Hardware addresses.
    #[serde(default)]
    pub macs: Vec<String>,
    /// Its address.
    #[serde(default)]
    pub address: Option<String>,
    /// What the agent saw.
    #[serde(default)]
    pub facts: Value,
    /// Problems of the machine itself.
    #[serde(default)]
    pub findings: Vec<FindingView>,
    /// What the installed system reported.
    #[serde(default)]
    pub report: Option<ReportView>,
}

/// What an installed system reported.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportView {
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// Device of the root file system.
    pub root_device: String,
    /// UUID of the root file system.
    pub root_uuid: String,
    /// Name of the system.
    pub os: String,
    /// Public SSH host keys.
    pub ssh_host_keys: Vec<String>,
}
