//! Logins to installed machines, by a key of the lab's that their profile lets in.

use crate::lab::Lab;
use crate::process::{run, run_to_end};
use crate::wait::{Poll, secs, wait_for};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// A system may be up before its sshd listens.
const LOGIN_LIMIT: Duration = secs(300);
/// One login under emulation, key exchange included.
const ONE_LOGIN_LIMIT: Duration = secs(60);

/// Makes the lab's key, and gives its public half, a line of `authorized_keys`.
pub fn key(lab: &Lab) -> Result<String> {
    let file = lab.dir().join("key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file), secs(30))?;
    let public = fs::read_to_string(file.with_extension("pub")).context("ssh-keygen left no public key")?;
    Ok(public.trim().to_owned())
}

/// What the machine at `address` answers to a line of shell, trusting only the host keys it reported.
pub fn ask(lab: &Lab, address: &str, host_keys: &[String], question: &str) -> Result<String> {
    ensure!(!host_keys.is_empty(), "the machine reported no SSH host key");
    // Type and key only: the comment would be taken as a part of the line's options.
    let known = host_keys.iter().map(|key| {
        let words: Vec<&str> = key.split_whitespace().take(2).collect();
        format!("{address} {}\n", words.join(" "))
    });
    fs::write(lab.dir().join("known_hosts"), known.collect::<String>())?;
    wait_for("a login over SSH", LOGIN_LIMIT, || {
        let mut words = words(lab, address).into_iter();
        let mut command = lab.command(words.next().unwrap_or_default());
        command.args(words).arg(question);
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
pub fn words(lab: &Lab, address: &str) -> Vec<String> {
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
