//! A machine full of disks: those that are not chosen are not written to, whatever they are and hold.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, DISK_MIB, IMAGE};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, DiskConfig, Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::process::run;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::path::Path;
use std::process::Command;

/// The disk that may be written to.
const CHOSEN: &str = "KT-CHOSEN";
/// Size of every other in MiB.
const SENTINEL_MIB: u64 = 4;
/// The drives of a shelf, and the World Wide Name of the first.
const SHELF: u64 = 40;
const WWN: u64 = 0x5000_c500_1234_5600;
/// The name of a disk that two ways lead to, and its serial number.
const SHARED_WWN: u64 = 0x6000_0000_0000_0001;
const SHARED: &str = "LUN-1";

/// Puts on a disk what it was used for.
type Fill = fn(&Path) -> Result<()>;

/// What else is in the machine: where, its serial number, and how it was used before.
const OTHERS: [(Bus, &str, Fill); 6] = [
    (Bus::Sata, "ON-SATA", volume_group),
    (Bus::Nvme, "ON-NVME", pool),
    (Bus::Usb, "STICK", nothing_known),
    (Bus::UsbCd, "VIRTUAL-CD", nothing_known),
    (Bus::Scsi(SHARED_WWN), SHARED, blank),
    (Bus::Scsi(SHARED_WWN), SHARED, blank),
];

fn nothing_known(file: &Path) -> Result<()> {
    disk::sentinel(file, SENTINEL_MIB).map(drop)
}

fn blank(file: &Path) -> Result<()> {
    disk::blank(file, DISK_MIB)
}

fn volume_group(file: &Path) -> Result<()> {
    disk::blank(file, 64)?;
    run(Command::new("sgdisk").args(["-n", "1:2048:0", "-t", "1:8e00"]).arg(file), secs(30)).map(drop)
}

fn pool(file: &Path) -> Result<()> {
    disk::blank(file, 64)?;
    run(Command::new("mkfs.btrfs").args(["-q", "-m", "single"]).arg(file), secs(30)).map(drop)
}

/// The machine, with the chosen disk first.
fn machine(lab: &Lab) -> Result<GuestConfig> {
    let file = |name: &str| lab.dir().join(format!("{name}.raw"));
    disk::blank(&file(CHOSEN), DISK_MIB)?;
    let mut machine = GuestConfig::new("guest", Firmware::Bios, 1).disk(&file(CHOSEN), CHOSEN);
    for (bus, serial, used) in OTHERS {
        used(&file(serial))?;
        machine = machine.disk_on(bus, &file(serial), serial);
    }
    for slot in 0..SHELF {
        let serial = format!("SHELF-{slot}");
        disk::sentinel(&file(&serial), SENTINEL_MIB)?;
        machine = machine.disk_on(Bus::Scsi(WWN + slot), &file(&serial), &serial);
    }
    Ok(machine)
}

/// Nothing has been written to these disks since power-on, and they are what they were.
fn ensure_left(guest: &mut Guest<'_>, disks: impl Iterator<Item = usize>, before: &[String]) -> Result<()> {
    for index in disks {
        let used = guest.disk_use(index)?;
        let disk = &guest.config().disks[index];
        ensure!(used.writes == 0 && used.written == 0, "{} was written to: {used:?}", disk.serial);
        ensure!(disk::digest(&disk.file)? == before[index], "{} is not what it was", disk.serial);
    }
    Ok(())
}

#[test]
fn p05_p02_a_machine_with_47_disks_loses_what_is_on_the_chosen_one_alone() -> Result<()> {
    story("sentinels", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "generic", &[IMAGE, IMAGE]);
        config.profiles[0].disk_serial = Some(CHOSEN.to_owned());
        let shared = "shared";
        config.profiles[1].name = shared.to_owned();
        config.profiles[1].disk_serial = Some(SHARED.to_owned());
        let machine = machine(lab)?;
        let disks = machine.disks.len();
        let before = machine.disks.iter().map(|disk| disk::digest(&disk.file)).collect::<Result<Vec<_>>>()?;

        let server = Server::start(lab, &artefacts, &config)?;
        let mut guest = Guest::new(lab, machine)?;
        guest.power_on()?;
        let node = wait_for("the facts of a machine that nobody knows", AGENT_LIMIT, || {
            Ok(match server.node_by_mac(&guest.config().mac)? {
                Some(node) if node.facts.is_object() => Poll::Ready(node),
                Some(node) => Poll::pending(format!("state {}, no facts", node.state)),
                None => Poll::pending("not known"),
            })
        })?;
        let seen = node.facts["disks"].as_array().context("no disks")?;
        let serials: Vec<&str> = seen.iter().filter_map(|disk| disk["serial"].as_str()).collect();
        for DiskConfig { serial, bus, .. } in &guest.config().disks {
            // The kernel asks no stick for its serial number, and there is no driver for CDs.
            let told = !matches!(bus, Bus::Usb | Bus::UsbCd);
            ensure!(told == serials.contains(&serial.as_str()), "{serial} among {serials:?}");
        }
        // A stick may come too late for the greeting.
        let mut sticks = seen.iter().filter(|disk| disk["transport"] == "usb");
        ensure!(sticks.all(|stick| stick["removable"] == true), "a stick stays: {seen:?}");
        ensure_left(&mut guest, 0..disks, &before)?;
        guest.power_off();

        let said = server.ks(&["node", "accept", &node.name], secs(30))?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let job = server.deploy(&node.name, shared)?.id;
        guest.power_on()?;
        let job = server.wait_ended(&job, AGENT_LIMIT)?;
        job.failed_with("KS-2102")?;
        let told = job.findings.first().map(|finding| finding.detail.as_str()).unwrap_or_default();
        ensure!(told.matches(SHARED).count() == 2 && !told.contains(CHOSEN), "the finding tells {told}");
        ensure_left(&mut guest, 0..disks, &before)?;
        guest.power_off();

        let job = server.deploy(&node.name, IMAGE)?.id;
        guest.power_on()?;
        server.wait_deployed(&job, DEPLOY_LIMIT)?;
        ensure_left(&mut guest, 1..disks, &before)?;
        guest.power_off();
        disk::partitions(&guest.config().disks[0].file).map(drop)
    })
}
