//! A blank machine is installed, starts from its own disk and reports, by every firmware.

use crate::common::{DEPLOY_LIMIT, NODE, UP, ensure_deployed, machine, order};
use anyhow::{Result, ensure};
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::story::story;

fn deploys(name: &str, firmware: Firmware) -> Result<()> {
    story(name, |lab| {
        let mut ordered = order(lab, machine(lab, firmware)?.0)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        let line = ordered.guest.wait_serial(UP, DEPLOY_LIMIT)?;
        ensure!(line.contains(&format!("hostname={NODE}")), "the console shows {line}");
        eprintln!("{name}: {:.1} CPU seconds", ordered.guest.cpu_seconds()?);
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn uefi() -> Result<()> {
    deploys("deploy-uefi", Firmware::Uefi)
}

#[test]
fn bios() -> Result<()> {
    deploys("deploy-bios", Firmware::Bios)
}

#[test]
fn uefi_http() -> Result<()> {
    deploys("deploy-uefi-http", Firmware::UefiHttp)
}
