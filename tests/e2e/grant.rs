//! Without a granted job nothing is written: not on a machine nobody knows, not on a known one,
//! not on one that was installed before.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, NODE, UP, config, machine, order};
use crate::local::{NETWORK_ASKED, adds_little};
use crate::why::named;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::console::Mark;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::variables;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::time::Duration;

/// From reset to the firmware's try of the disk; OVMF may give PXE a minute before.
const LOCAL_LIMIT: Duration = secs(240);
/// What the firmware prints when it tries a disk that holds nothing bootable.
const DISK_TRIED: [&str; 2] = ["not a bootable disk", variables::DISK];
/// What a disk's own system says; under UEFI it is a boot loader.
const OWN_SYSTEM: [&str; 2] = [disk::SYSTEM, "Welcome to GRUB"];

/// Netboots a machine with a sentinel, or when it is declared with a system of its own, on its disk
/// twice: the agent may look once, then the machine goes to its disk. Not one write reaches it.
fn untouched(name: &str, firmware: Firmware, declared: bool, state: &str) -> Result<()> {
    story(name, |lab| {
        let file = lab.dir().join("disk.raw");
        let (artefacts, mut config) = config()?;
        let before = if declared {
            disk::with_a_system(&file, 64, &config.loaders.join("grubx64.efi"))?
        } else {
            disk::sentinel(&file, 64)?
        };
        let machine = GuestConfig::new("guest", firmware, 1).disk(&file, "SENTINEL");
        if declared {
            config = config.node(NODE, &machine.mac, None);
        }
        let server = Server::start(lab, &artefacts, &config)?;
        let mut guest = Guest::new(lab, machine)?;
        guest.power_on()?;
        let node = wait_for("the machine's facts", AGENT_LIMIT, || {
            Ok(match server.node_by_mac(&guest.config().mac)? {
                Some(node) if node.state == state && node.facts.is_object() => Poll::Ready(node),
                Some(node) => Poll::pending(format!("state {}, facts {}", node.state, node.facts)),
                None => Poll::pending("not known"),
            })
        })?;
        let serial = node.facts["disks"][0]["serial"].as_str();
        ensure!(serial == Some("SENTINEL"), "the agent saw the disks {}", node.facts["disks"]);

        let mark = guest.console().mark();
        guest.reset()?;
        guest.console().wait_any(&NETWORK_ASKED, mark, LOCAL_LIMIT)?;
        let started = if declared { OWN_SYSTEM } else { DISK_TRIED };
        guest.console().wait_any(&started, mark, LOCAL_LIMIT)?;

        if !declared {
            // Nothing starts there, so somebody tries again.
            guest.reset()?;
            named(&server, &node.name, "KS-1021", "it came back and asked the network again")?;
        }
        let used = guest.disk_use(0)?;
        ensure!(used.writes == 0 && used.written == 0 && used.reads > 0, "the disk's use: {used:?}");
        guest.power_off();
        ensure!(disk::digest(&file)? == before, "the disk's content changed");
        Ok(())
    })
}

#[test]
fn bios_unknown_machine_is_discovered_and_untouched() -> Result<()> {
    untouched("grant-bios-unknown", Firmware::Bios, false, "discovered")
}

#[test]
fn uefi_unknown_machine_is_discovered_and_untouched() -> Result<()> {
    untouched("grant-uefi-unknown", Firmware::Uefi, false, "discovered")
}

#[test]
fn bios_known_machine_without_job_is_untouched() -> Result<()> {
    untouched("grant-bios-known", Firmware::Bios, true, "available")
}

#[test]
fn uefi_known_machine_without_job_is_untouched() -> Result<()> {
    untouched("grant-uefi-known", Firmware::Uefi, true, "available")
}

/// After a deploy the network is asked again, and the machine's own disk starts, as it was.
fn not_reinstalled(name: &str, firmware: Firmware) -> Result<()> {
    /// Bytes of scripts. What is written tells less: the system's kernel fills the tables of a new file system for a while.
    const SERVED_MAX: f64 = 1e6;
    story(name, |lab| {
        let mut ordered = order(lab, machine(lab, firmware)?.0)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ordered.guest.wait_serial(UP, DEPLOY_LIMIT)?;
        let report = ordered.server.node(NODE)?.report.context("the deployed node has no report")?;
        let of_files = |server: &Server<'_>| server.metric("kaltstart_http_boot_bytes", "");
        let before = of_files(&ordered.server)?;
        ensure!(before > SERVED_MAX, "an installation took {before} bytes");

        let mark = ordered.guest.console().mark();
        ordered.guest.reset()?;
        ordered.guest.console().wait_any(&NETWORK_ASKED, mark, LOCAL_LIMIT)?;
        ordered.guest.console().wait(UP, mark, LOCAL_LIMIT)?;

        let served = of_files(&ordered.server)? - before;
        ensure!(
            served < SERVED_MAX,
            "{served} bytes of kernel, ramdisk or image were fetched after the deploy"
        );
        let (node, after) = (ordered.server.node(NODE)?, ordered.server.job(&job.id)?);
        ensure!(node.state == "deployed", "the node is {} now", node.state);
        ensure!(after.state == "succeeded" && after.attempt == job.attempt, "the job is {after} now");
        let now = node.report.context("the report is gone")?;
        ensure!(now.root_uuid == report.root_uuid, "the root file system is another one");
        ensure!(ordered.guest.console().find(UP, Mark::default()).is_some(), "the console lost its lines");
        adds_little(name, &mut ordered)
    })
}

#[test]
fn bios_is_not_reinstalled() -> Result<()> {
    not_reinstalled("again-bios", Firmware::Bios)
}

#[test]
fn uefi_is_not_reinstalled() -> Result<()> {
    not_reinstalled("again-uefi", Firmware::Uefi)
}
