//! A blank machine is installed, starts from its own disk and reports, by every firmware.

use crate::common::{DEPLOY_LIMIT, DISK_MIB, IMAGE, NODE, UP, ensure_deployed, machine, order, order_from};
use crate::local::adds_little;
use anyhow::{Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, GuestConfig};
use kaltstart_tests::story::story;

fn deploys(name: &str, firmware: Firmware, image: &str) -> Result<()> {
    story(name, |lab| {
        let artefacts = Artefacts::from_env()?;
        let config = ServerConfig::new(&artefacts, "cloud", &[image]);
        let mut ordered = order_from(lab, machine(lab, firmware.clone())?.0, &artefacts, config, image)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        let line = ordered.guest.wait_serial(UP, DEPLOY_LIMIT)?;
        ensure!(line.contains(&format!("hostname={NODE}")), "the console shows {line}");
        eprintln!("{name}: {:.1} CPU seconds", ordered.guest.cpu_seconds()?);
        ensure_deployed(&mut ordered, &job)?;
        if firmware == Firmware::UefiHttp { adds_little(name, &mut ordered) } else { Ok(()) }
    })
}

#[test]
fn uefi() -> Result<()> {
    deploys("deploy-uefi", Firmware::Uefi, IMAGE)
}

#[test]
fn bios() -> Result<()> {
    deploys("deploy-bios", Firmware::Bios, IMAGE)
}

#[test]
fn uefi_http() -> Result<()> {
    deploys("deploy-uefi-http", Firmware::UefiHttp, IMAGE)
}

#[test]
fn bios_from_gzip() -> Result<()> {
    deploys("deploy-gzip", Firmware::Bios, "e2e-gzip")
}

#[test]
fn uefi_to_a_disk_with_sectors_of_4096_bytes() -> Result<()> {
    story("deploy-4kn", |lab| {
        let file = lab.dir().join("disk.raw");
        disk::blank(&file, DISK_MIB)?;
        let mut machine = GuestConfig::new("guest", Firmware::Uefi, 1).disk_on(Bus::Nvme, &file, "KT-4KN");
        machine.disks[0].sector = 4096;
        let mut ordered = order(lab, machine)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let node = ordered.server.node(NODE)?;
        ensure!(node.facts["disks"][0]["sector_size"] == 4096, "{}", node.facts["disks"]);
        ordered.guest.power_off();
        let table = disk::partitions_of_4096(&file)?;
        ensure!(table.contains("4096") && table.contains("EF00"), "{table}");
        Ok(())
    })
}
