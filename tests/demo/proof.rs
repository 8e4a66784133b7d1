//! Is it really installed? Asked of the machine itself and of its disk, not of the server alone.

use crate::options::Options;
use crate::{ADDRESS, NODE};
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_tests::api::ReportView;
use kaltstart_tests::disk;
use kaltstart_tests::lab::Lab;
use kaltstart_tests::process::run_to_end;
use kaltstart_tests::server::Server;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The report may come before sshd listens.
const LOGIN_LIMIT: Duration = secs(180);
/// One login under emulation, key exchange included.
const ONE_LOGIN_LIMIT: Duration = secs(60);
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
    let login = if options.image.starts_with("e2e") { None } else { Some(log_in(lab, &report)?) };
    if let Some(answer) = &login {
        ensure!(answer.contains(&report.kernel), "over SSH the kernel is another one: {answer}");
        ensure!(answer.contains(NODE), "over SSH the host name is another one: {answer}");
    }
    Ok(Proof { report, partitions, login })
}

/// Logs in with the demonstration's key, trusting only the host keys the machine reported.
fn log_in(lab: &Lab, report: &ReportView) -> Result<String> {
    ensure!(!report.ssh_host_keys.is_empty(), "the machine reported no SSH host key");
    let known: Vec<String> = report
        .ssh_host_keys
        .iter()
        // Type and key only: the comment would be taken as a part of the line's options.
        .map(|key| {
            let words: Vec<&str> = key.split_whitespace().take(2).collect();
            format!("{ADDRESS} {}\n", words.join(" "))
        })
        .collect();
    fs::write(lab.dir().join("known_hosts"), known.concat())?;
    wait_for("a login over SSH", LOGIN_LIMIT, || {
        let mut words = ssh_words(lab, ADDRESS).into_iter();
        let mut command = lab.command(words.next().unwrap_or_default());
        command.args(words).arg(QUESTIONS);
        let output = run_to_end(&mut command, ONE_LOGIN_LIMIT)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(Poll::Ready(text(&output.stdout)));
        }
        let errors = text(&output.stderr);
        if errors.contains("Host key verification failed") || errors.contains("Permission denied") {
            bail!("the login was refused: {errors}");
        }
        Ok(Poll::pending(errors))
    })
}

/// The words of an SSH command to the machine.
pub(crate) fn ssh_words(lab: &Lab, address: &str) -> Vec<String> {
    let dir = lab.dir().display();
    let mut words = vec!["ssh".to_owned(), "-i".to_owned(), format!("{dir}/key")];
    for option in [
        // Neither the user's own configuration nor the user's keys shall matter.
        "IdentitiesOnly=yes".to_owned(),
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        format!("UserKnownHostsFile={dir}/known_hosts"),
        "ConnectTimeout=10".to_owned(),
    ] {
        words.extend(["-o".to_owned(), option]);
    }
    words.extend(["-F".to_owned(), "/dev/null".to_owned(), format!("root@{address}")]);
    words
}
