//! A node whose purpose is gone: all its disks are erased, or it stays where nobody gets it.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, DISK_MIB, IMAGE, NODE, Ordered, order_from};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Fault, Firmware, GuestConfig};
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The disk with the node's system, and that with somebody's data.
const SYSTEM: &str = "ON-VIRTIO";
const DATA: &str = "ON-NVME";
const DATA_MIB: u64 = 96;
/// A sector in the middle of it.
const MIDDLE: u64 = DATA_MIB * disk::MIB / 2 / 512;

fn is_empty(file: &Path) -> Result<bool> {
    let mut file = File::open(file)?;
    let mut block = vec![0; disk::MIB as usize];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(true),
            count if block[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// A disk that looks blank, with data in its middle.
fn secret(path: &Path, mib: u64) -> Result<()> {
    disk::blank(path, mib)?;
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&[0x5e; 1 << 20], MIDDLE * 512).context("cannot write the secret")
}

/// What `ks` says to these words, which it takes.
fn ks(ordered: &Ordered<'_>, words: &[&str]) -> Result<String> {
    let output = ordered.server.ks(words, AGENT_LIMIT)?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{words:?}: {} {told}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn p10_a_released_node_is_empty_or_is_not_given_to_anybody() -> Result<()> {
    story("release", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "cloud", &[IMAGE]);
        config.profiles[0].disk_serial = Some(SYSTEM.to_owned());
        let (system, data) = (lab.dir().join("system.raw"), lab.dir().join("data.raw"));
        disk::blank(&system, DISK_MIB)?;
        let precious = disk::sentinel(&data, DATA_MIB)?;
        let machine = GuestConfig::new("guest", Firmware::Bios, 1)
            .disk_on(Bus::Virtio, &system, SYSTEM)
            .disk_on(Bus::Nvme, &data, DATA);
        let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;

        let wrong = ordered.server.ks(&["release", NODE, "--confirm", "another"], secs(30))?;
        ensure!(!wrong.status.success(), "a release of another name was ordered");
        let confirmed = ["release", NODE, "--confirm", NODE, "-o", "name"];
        ordered.job = ks(&ordered, &confirmed)?.trim().to_owned();
        ensure!(ordered.server.node(NODE)?.state == "releasing");
        ordered.guest.reset()?;
        let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
        job.failed_with("KS-2107")?;
        let told = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
        ensure!(told.contains("serial ON-NVME") && !told.contains(SYSTEM), "{told}");
        ensure!(
            disk::digest(&data)? == precious && disk::partitions(&system).is_ok(),
            "something was written"
        );
        ensure!(ordered.server.node(NODE)?.state == "deployed", "its system is still there");
        let refused = ordered.server.ks(&["deploy", NODE, "--profile", IMAGE], secs(30))?;
        ensure!(!refused.status.success(), "a node that is not clean was ordered");

        let argument = told.rsplit("--erase ").next().context("no --erase")?.trim_matches('\'').to_owned();
        let given_up = [&confirmed[..], &["--erase", &argument]].concat();
        ordered.job = ks(&ordered, &given_up)?.trim().to_owned();
        let job = ordered.server.wait_ended(&ordered.job, DEPLOY_LIMIT)?.succeeded()?;
        ensure!(job.attempt == 1, "the machine was started {} times", job.attempt);
        ordered.guest.wait_serial("all disks are empty", AGENT_LIMIT)?;
        ensure!(ordered.server.node(NODE)?.state == "available");
        let shown = ks(&ordered, &["node", "show", NODE])?;
        let erased: Vec<&str> = shown.lines().filter(|line| line.starts_with("ERASED")).collect();
        // Each by the best that it has: virtio has nothing of its own, and QEMU's NVMe knows format.
        let by = |serial: &str, method: &str| {
            erased.iter().any(|line| line.contains(serial) && line.contains(&format!(" by {method}: ")))
        };
        let all = by(SYSTEM, "overwrite") && by(DATA, "format (user data erase)");
        ensure!(all && erased.len() == 2 && !shown.contains("NOT BY"), "{shown}");
        ordered.guest.power_off();
        ensure!(is_empty(&system)? && is_empty(&data)?, "something is left on a disk");
        Ok(())
    })
}

#[test]
fn p10_a_disk_that_nothing_erases_keeps_its_node_from_everybody() -> Result<()> {
    story("release-fails", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "cloud", &[IMAGE]);
        config.profiles[0].disk_serial = Some("GOOD".to_owned());
        let (good, bad) = (lab.dir().join("good.raw"), lab.dir().join("bad.raw"));
        secret(&good, DISK_MIB)?;
        secret(&bad, DATA_MIB)?;
        let mut machine = GuestConfig::new("guest", Firmware::Bios, 1)
            .disk_on(Bus::Virtio, &good, "GOOD")
            .disk_on(Bus::Nvme, &bad, "BAD");
        machine.disks[1].fault = Some(Fault::BadSector(MIDDLE));
        let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
        // Nothing is installed: a node whose disk may have been written to is enough to be released.
        ordered.server.wait_job(&ordered.job, "the grant", AGENT_LIMIT, |job| job.reached("disk"))?;
        ks(&ordered, &["job", "cancel", NODE])?;
        let release = ["release", NODE, "--confirm", NODE, "-o", "name"];
        ordered.job = ks(&ordered, &release)?.trim().to_owned();
        ordered.guest.reset()?;
        let job = ordered.server.wait_ended(&ordered.job, DEPLOY_LIMIT)?;
        job.failed_with("KS-2109")?;
        let told = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
        let methods = told.contains("format (user data erase): ") && told.contains("overwrite: ");
        ensure!(methods && told.contains("serial BAD") && !told.contains("GOOD"), "{told}");
        let node = ordered.server.node(NODE)?;
        ensure!(node.state == "releasing", "the node is {}", node.state);
        let refused = ordered.server.ks(&["deploy", NODE, "--profile", IMAGE], secs(30))?;
        ensure!(!refused.status.success(), "a node with a disk that is not clean was ordered");
        ordered.guest.power_off();
        ensure!(is_empty(&good)? && !is_empty(&bad)?, "the other disk waits for nothing");

        // Another disk in its place, and the node is free again.
        let other = lab.dir().join("other.raw");
        secret(&other, DATA_MIB)?;
        ordered.guest.open(|machine| {
            machine.disks.truncate(1);
            *machine = machine.clone().disk_on(Bus::Nvme, &other, "OTHER");
        });
        ordered.job = ks(&ordered, &release)?.trim().to_owned();
        ordered.power_on()?;
        ordered.server.wait_ended(&ordered.job, DEPLOY_LIMIT)?.succeeded()?;
        ensure!(ordered.server.node(NODE)?.state == "available");
        ordered.guest.power_off();
        ensure!(is_empty(&other)?, "something is left on the new disk");
        Ok(())
    })
}
