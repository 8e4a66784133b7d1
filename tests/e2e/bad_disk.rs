//! Disks with bad sectors, and one that is slow.

use crate::common::{
    AGENT_LIMIT, DEPLOY_LIMIT, DISK_MIB, IMAGE, NODE, config, ensure_deployed, machine, order_only,
};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Fault, Firmware};
use kaltstart_tests::story::story;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Sectors of the disk.
const SECTORS: u64 = DISK_MIB * disk::MIB / 512;

/// Whether the sector that a BIOS starts from is empty.
fn starts_nothing(file: &Path) -> Result<bool> {
    let mut first = [0; 512];
    File::open(file)?.read_exact(&mut first)?;
    Ok(first.iter().all(|byte| *byte == 0))
}

#[test]
fn p12_a_bad_sector_fails_the_job_by_disk_and_stage_and_nothing_starts_from_it() -> Result<()> {
    story("bad-disk", |lab| {
        let (artefacts, config) = config()?;
        let mut ordered = order_only(lab, machine(lab, Firmware::Bios)?.0, &artefacts, config, IMAGE)?;
        // Nothing can say what a backup table in the last sector would be. Behind the EFI system partition (514 MiB)
        // the root file system begins, which is cleared first.
        for (sector, stage) in [(SECTORS - 1, "cannot be read"), (514 * disk::MIB / 512 + 2, "clearing")] {
            ordered.guest.open(|machine| machine.disks[0].fault = Some(Fault::BadSector(sector)));
            ordered.power_on()?;
            let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
            job.failed_with("KS-2106")?;
            let told = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
            println!("sector {sector}: {told}");
            ensure!(told.contains("serial KT-DISK-1") && told.contains(stage), "sector {sector}: {told}");
            ordered.guest.power_off();
            ensure!(starts_nothing(&ordered.disk)?, "sector {sector}: something starts from the disk");
            ordered.job = ordered.server.deploy(NODE, IMAGE).context("ordered again")?.id;
        }
        // A good disk in its place.
        ordered.guest.open(|machine| machine.disks[0].fault = None);
        ordered.power_on()?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn a_slow_disk_takes_its_time_and_no_job_fails_for_it() -> Result<()> {
    story("slow-disk", |lab| {
        let (artefacts, config) = config()?;
        let (mut machine, _) = machine(lab, Firmware::Bios)?;
        machine.disks[0].fault = Some(Fault::Slow);
        let mut ordered = order_only(lab, machine, &artefacts, config, IMAGE)?;
        ordered.power_on()?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1 && job.findings.is_empty(), "{:?}", job.findings);
        ensure_deployed(&mut ordered, &job)
    })
}
