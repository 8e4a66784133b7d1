//! What is wrong is named, with a code and what to do next.

use crate::common::{AGENT_LIMIT, DISK_MIB, config, order};
use anyhow::{Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;

/// Orders a deploy for a machine with `disks` and expects the job to fail with `code`; the disks
/// stay as they were.
fn job_fails(name: &str, code: &str, disks: &[(Bus, u64)]) -> Result<()> {
    story(name, |lab| {
        let mut machine = GuestConfig::new("guest", Firmware::Bios, 1);
        for (index, (bus, mib)) in disks.iter().enumerate() {
            let file = lab.dir().join(format!("disk{index}.raw"));
            disk::blank(&file, *mib)?;
            machine = machine.disk_on(*bus, &file, &format!("KT-DISK-{index}"));
        }
        let mut ordered = order(lab, machine)?;
        ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?.failed_with(code)?;
        ordered.guest.wait_serial(code, AGENT_LIMIT)?;
        for index in 0..disks.len() {
            let used = ordered.guest.disk_use(index)?;
            ensure!(used.writes == 0, "disk {index} was written to: {used:?}");
        }
        Ok(())
    })
}

#[test]
fn no_disk() -> Result<()> {
    job_fails("finding-no-disk", "KS-2101", &[])
}

#[test]
fn two_disks_and_no_rule() -> Result<()> {
    job_fails("finding-two-disks", "KS-2102", &[(Bus::Virtio, DISK_MIB), (Bus::Nvme, DISK_MIB)])
}

#[test]
fn disk_too_small() -> Result<()> {
    job_fails("finding-small-disk", "KS-2103", &[(Bus::Virtio, 1024)])
}

/// Starts the agent without network boot, so that it runs where nothing else would.
fn agent_alone<'a>(lab: &'a Lab, artefacts: &Artefacts, server: &str) -> Result<Guest<'a>> {
    looking(lab, artefacts, server, "discover")
}

/// Starts the agent that only looks without network boot.
fn looking<'a>(lab: &'a Lab, artefacts: &Artefacts, server: &str, mode: &str) -> Result<Guest<'a>> {
    let mut machine = GuestConfig::new("guest", Firmware::Bios, 1);
    machine.firmware = Firmware::Direct {
        kernel: artefacts.kernel("cloud"),
        ramdisk: artefacts.discovery("cloud"),
        cmdline: format!(
            "console=ttyS0 kaltstart.server={server} kaltstart.pin=sha256:{} kaltstart.key=ed25519:{} \
             kaltstart.epoch=0 kaltstart.time=1800000000 kaltstart.token=kst_none kaltstart.mode={mode} kaltstart.mac={}",
            "0".repeat(64),
            "0".repeat(64),
            machine.mac
        ),
    };
    let mut guest = Guest::new(lab, machine)?;
    guest.power_on()?;
    Ok(guest)
}

#[test]
fn p02_the_ramdisk_that_looks_carries_out_no_job() -> Result<()> {
    story("finding-looks-only", |lab| {
        let guest = looking(lab, &Artefacts::from_env()?, "https://10.77.0.1:8443", "install")?;
        guest.wait_serial("this agent only looks", AGENT_LIMIT).map(drop)
    })
}

#[test]
fn no_link() -> Result<()> {
    story("finding-no-link", |lab| {
        let mut guest = agent_alone(lab, &Artefacts::from_env()?, "https://10.77.0.1:8443")?;
        guest.set_link(false)?;
        guest.wait_serial("KS-1003", AGENT_LIMIT).map(drop)
    })
}

#[test]
fn no_dhcp_answer() -> Result<()> {
    story("finding-no-dhcp", |lab| {
        let guest = agent_alone(lab, &Artefacts::from_env()?, "https://10.77.0.1:8443")?;
        guest.wait_serial("KS-1004", AGENT_LIMIT).map(drop)
    })
}

#[test]
fn server_unreachable() -> Result<()> {
    story("finding-unreachable", |lab| {
        let (artefacts, config) = config()?;
        let _server = Server::start(lab, &artefacts, &config)?;
        // The server gives the address; nobody listens at the port the agent is told.
        let guest = agent_alone(lab, &artefacts, "https://10.77.0.1:9")?;
        guest.wait_serial("KS-1005", AGENT_LIMIT).map(drop)
    })
}
