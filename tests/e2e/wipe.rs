//! Only what was granted may be lost: foreign data stops a job, an order gives it up by name, and a
//! node's own installation needs no word.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, DISK_MIB, IMAGE, NODE, ensure_deployed, machine, order};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, GuestConfig};
use kaltstart_tests::process::run;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

/// The serial number of the machine's disk.
const DISK: &str = "KT-DISK-1";

/// A disk with an ext4 in its first partition, and a member of an md array in its second.
fn foreign(file: &Path) -> Result<()> {
    /// Where the second partition begins, in MiB.
    const SECOND: u64 = 512;
    disk::blank(file, DISK_MIB)?;
    let table = ["-n", "1:2048:+500M", "-n", "2:1048576:+500M", "-t", "2:fd00"];
    run(Command::new("sgdisk").args(table).arg(file), secs(30))?;
    let place = ["-q", "-F", "-t", "ext4", "-L", "precious", "-E", "offset=1048576"];
    run(Command::new("mke2fs").args(place).arg(file).arg("500M"), secs(30))?;
    // md's superblock 1.2 (linux/raid/md_p.h): magic, version, then the array's UUID and name.
    let mut member = vec![0xfc, 0x4e, 0x2b, 0xa9, 1];
    member.resize(16, 0);
    member.extend([0x11; 16]);
    member.extend(b"oldhost:0");
    File::options().write(true).open(file)?.write_all_at(&member, SECOND * disk::MIB + 4096)?;
    Ok(())
}

#[test]
fn foreign_data_stops_the_job_and_an_order_gives_it_up() -> Result<()> {
    story("wipe-foreign", |lab| {
        let file = lab.dir().join("disk.raw");
        foreign(&file)?;
        let before = disk::digest(&file)?;
        let mut ordered = order(lab, GuestConfig::new("guest", Firmware::Bios, 1).disk(&file, DISK))?;
        let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
        job.failed_with("KS-2107")?;
        ordered.guest.wait_serial("KS-2107", AGENT_LIMIT)?;
        let told = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
        for named in ["(precious)", "md in partition 2 11111111-1111-1111-1111-111111111111 (oldhost:0)"] {
            ensure!(told.contains(named), "{named} is not in: {told}");
        }
        let used = ordered.guest.disk_use(0)?;
        ensure!(used.writes == 0 && used.written == 0 && used.reads > 0, "the disk's use: {used:?}");
        ensure!(disk::digest(&file)? == before, "the disk's content changed");

        let argument = told.rsplit("--erase ").next().context("no --erase")?.trim_matches('\'');
        let shown = ordered.server.ks(&["node", "show", NODE], secs(30))?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let fingerprint = argument.strip_prefix(&format!("{DISK}=")).context("another disk")?;
        ensure!(shown.contains(fingerprint) && shown.contains("oldhost:0"), "ks node show tells {shown}");

        // Formatted anew meanwhile: the same words give up nothing.
        ordered.guest.power_off();
        let place = ["-q", "-F", "-t", "ext4", "-E", "offset=1048576"];
        run(Command::new("mke2fs").args(place).arg(&file).arg("500M"), secs(30))?;
        let changed = disk::digest(&file)?;
        let give_up = [(DISK, fingerprint)];
        ordered.job = ordered.server.order_and_erase(NODE, "deploy", IMAGE, &give_up)?.id;
        ordered.power_on()?;
        let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
        job.failed_with("KS-2107")?;
        let used = ordered.guest.disk_use(0)?;
        ensure!(used.writes == 0, "the disk's use: {used:?}");
        ensure!(disk::digest(&file)? == changed, "the disk's content changed");

        let told = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
        let argument = told.rsplit("--erase ").next().context("no --erase")?.trim_matches('\'').to_owned();
        let words = ["deploy", NODE, "--profile", IMAGE, "--erase", &argument, "-o", "name"];
        let placed = ordered.server.ks(&words, secs(30))?;
        ensure!(placed.status.success(), "{}", String::from_utf8_lossy(&placed.stderr));
        ordered.job = String::from_utf8_lossy(&placed.stdout).trim().to_owned();
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn a_rebuild_of_the_nodes_own_system_needs_no_word() -> Result<()> {
    story("wipe-rebuild", |lab| {
        let mut ordered = order(lab, machine(lab, Firmware::Uefi)?.0)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let first = ordered.server.node(NODE)?.report.context("no report")?.root_uuid;
        ordered.job = ordered.server.order(NODE, "rebuild", IMAGE)?.id;
        ordered.guest.reset()?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let second = ordered.server.node(NODE)?.report.context("no report")?.root_uuid;
        ensure!(first != second, "the root file system is the old one");
        ensure_deployed(&mut ordered, &job)
    })
}
