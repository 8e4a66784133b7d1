//! Is it really installed? Asked of the machine itself and of its disk, not of the server alone.

use crate::options::Options;
use crate::{ADDRESS, NODE};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::api::ReportView;
use kaltstart_tests::disk;
use kaltstart_tests::lab::Lab;
use kaltstart_tests::server::Server;
use kaltstart_tests::ssh;
use serde::Serialize;
use std::path::Path;

/// What is asked of the machine.
const QUESTIONS: &str = "uname -a; findmnt /";

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Proof {
    /// The machine's first report.
    pub(crate) report: ReportView,
    /// Its partition table, read from its disk file.
    pub(crate) partitions: String,
    /// What it answered over SSH; none for images without sshd.
    pub(crate) login: Option<String>,
}

/// Collects the proof, or says what does not fit.
pub(crate) fn prove(lab: &Lab, server: &Server<'_>, options: &Options, file: &Path) -> Result<Proof> {
    let node = server.node(NODE)?;
    ensure!(node.state == "deployed", "the job succeeded, but the node is {}", node.state);
    let report = node.report.context("the deployed node has no report")?;
    ensure!(report.hostname == NODE, "the machine reports the host name {:?}", report.hostname);
    let partitions = disk::partitions(file)?;
    // The test image has no sshd; its report and its disk are all there is.
    let login = if options.image.starts_with("e2e") {
        None
    } else {
        Some(ssh::ask(lab, ADDRESS, &report.ssh_host_keys, QUESTIONS)?)
    };
    if let Some(answer) = &login {
        ensure!(answer.contains(&report.kernel), "over SSH the kernel is another one: {answer}");
        ensure!(answer.contains(NODE), "over SSH the host name is another one: {answer}");
    }
    Ok(Proof { report, partitions, login })
}
