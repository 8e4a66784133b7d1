//! Systems on arrays of several disks: they start and go on without one, and nothing foreign is lost on any.

use crate::common::{AGENT_LIMIT, NODE, Ordered, ask, blank_disks, ensure_told, order_from};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::process::run;
use kaltstart_tests::ssh;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Debian needs two minutes from its boot loader to its report under emulation, more under load.
const LIMIT: Duration = secs(1200);
/// Sparse; the layout `mirror` wants 3.8 GiB.
const DISK_MIB: u64 = 5 << 10;
const IMAGE: &str = "debian-12";
/// What systemd asks at the serial console of a system that is up.
const LOGIN: &str = "login:";
/// Where the EFI system partition begins in every layout here, in MiB.
const ESP_MIB: u64 = 2;

/// Layouts of more disks than two.
const MORE: &str = r#"
[[layout]]
name = "pairs"
array = { level = "raid10", disks = 4 }
partitions = [
    { label = "bios-boot", role = "bios_boot", min_mib = 1 },
    { label = "esp", role = "esp", min_mib = 260 },
    { label = "root", role = "root", file_system = "xfs", min_mib = 1536, weight = 1 },
    { label = "srv", role = "data", mount = "/srv", min_mib = 300, weight = 1 },
]

[[layout]]
name = "stripes"
array = { level = "raid0", disks = 4 }
partitions = [
    { label = "bios-boot", role = "bios_boot", min_mib = 1 },
    { label = "esp", role = "esp", min_mib = 260 },
    { label = "root", role = "root", min_mib = 1536, weight = 1 },
    { label = "swap", role = "swap", min_mib = 64 },
]
"#;

/// A server whose profiles let the lab's key in; the first has this layout.
fn config(
    lab: &Lab,
    artefacts: &Artefacts,
    images: &[&str],
    layouts: &[&'static str],
) -> Result<ServerConfig> {
    let mut config = ServerConfig::new(artefacts, "generic", images);
    let key = ssh::key(lab)?;
    for (profile, layout) in config.profiles.iter_mut().zip(layouts) {
        profile.layout = layout;
        profile.authorized_keys = vec![key.clone()];
    }
    config.sections += MORE;
    Ok(config)
}

/// What `mdir` finds on a disk's EFI system partition.
fn esp(file: &Path, path: &str) -> Result<String> {
    let image = format!("{}@@{}M", file.display(), ESP_MIB);
    run(Command::new("mdir").args(["-/", "-b", "-i", &image]).arg(format!("::{path}")), secs(30))
}

/// Pulls the first disk; the machine starts from the second and asks for a login.
fn starts_without_its_first_disk(lab: &Lab, ordered: &mut Ordered<'_>) -> Result<()> {
    ordered.guest.power_off();
    ordered.guest.open(|machine| drop(machine.disks.remove(0)));
    let mark = ordered.guest.console().mark();
    ordered.guest.power_on()?;
    ordered.guest.console().wait(LOGIN, mark, LIMIT)?;
    let told = ask(
        lab,
        ordered,
        "mdadm --detail $(findmnt -n -o SOURCE /); findmnt -n -o FSTYPE,OPTIONS /boot/efi",
    )?;
    ensure_told(&told, &["Raid Devices : 2", "degraded", "Active Devices : 1", "vfat"])
}

#[test]
fn uefi_keeps_both_disks_alike_and_starts_from_either() -> Result<()> {
    story("mirror-uefi", |lab| {
        let artefacts = Artefacts::from_env()?;
        let config = config(lab, &artefacts, &[IMAGE], &["mirror"])?;
        let files = blank_disks(lab, 2, DISK_MIB)?;
        let machine =
            GuestConfig::new("guest", Firmware::Uefi, 1).disk(&files[0], "KT-ONE").disk(&files[1], "KT-TWO");
        let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
        let job = ordered.server.wait_deployed(&ordered.job, LIMIT)?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        let told = ask(
            lab,
            &ordered,
            "mdadm --detail /dev/md3 /dev/md4; cat /proc/mdstat; findmnt -n /; swapon --show; efibootmgr 2>&1; \
             lsblk -o NAME,TYPE,MOUNTPOINTS; cat /etc/mdadm/mdadm.conf; systemctl show -p Result kaltstart-esp",
        )?;
        eprintln!("{told}");
        ensure_told(
            &told,
            &[
                "Raid Level : raid1",
                "Failed Devices : 0",
                "Active Devices : 2",
                "/dev/md3",
                "/dev/md4",
                "[UU]",
                "Result=success",
            ],
        )?;
        ensure!(!told.contains("resync"), "what was written together is written once more: {told}");

        // An update of the boot loader reaches the other disk by itself.
        ask(lab, &ordered, "cp /boot/efi/EFI/BOOT/BOOTX64.EFI /boot/efi/EFI/BOOT/UPDATED.EFI && sync")?;
        wait_for("the other EFI system partition", LIMIT, || {
            let told = ask(lab, &ordered, "journalctl -o cat -u kaltstart-esp | tail -5; sync")?;
            Ok(if told.contains(": 1 files changed") { Poll::Ready(()) } else { Poll::pending(told) })
        })?;
        ask(lab, &ordered, "sync")?;
        starts_without_its_first_disk(lab, &mut ordered)?;
        ordered.guest.power_off();
        for file in &files {
            disk::partitions(file)?;
            ensure_told(&esp(file, "EFI")?, &["UPDATED.EFI", "BOOTX64.EFI", "grub.cfg"])?;
        }
        Ok(())
    })
}

/// Makes a disk that is a member of somebody's array, and gives its digest.
fn foreign(file: &Path) -> Result<String> {
    disk::blank(file, DISK_MIB)?;
    // md's superblock 1.2 (linux/raid/md_p.h): magic, version, then the array's UUID and name.
    let mut member = vec![0xfc, 0x4e, 0x2b, 0xa9, 1];
    member.resize(16, 0);
    member.extend([0x11; 16]);
    member.extend(b"oldhost:0");
    File::options().write(true).open(file)?.write_all_at(&member, 4096)?;
    disk::digest(file)
}

#[test]
fn bios_refuses_what_is_no_pair_and_starts_from_either() -> Result<()> {
    story("mirror-bios", |lab| {
        let artefacts = Artefacts::from_env()?;
        let config = config(lab, &artefacts, &[IMAGE], &["mirror"])?;
        let files = blank_disks(lab, 2, DISK_MIB)?;
        let machine = GuestConfig::new("guest", Firmware::Bios, 1).disk(&files[0], "KT-ONE");
        let blank = disk::digest(&files[0])?;
        let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
        ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?.failed_with("KS-2113")?;
        ordered.guest.power_off();

        let precious = foreign(&files[1])?;
        ordered.guest.open(|machine| *machine = machine.clone().disk_on(Bus::Nvme, &files[1], "KT-TWO"));
        ordered.job = ordered.server.deploy(NODE, IMAGE)?.id;
        ordered.power_on()?;
        let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
        job.failed_with("KS-2107")?;
        let told = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
        ensure!(told.contains("oldhost:0") && !told.contains("KT-ONE"), "{told}");
        ordered.guest.power_off();
        ensure!(disk::digest(&files[1])? == precious, "the foreign disk was written");
        ensure!(disk::digest(&files[0])? == blank, "the other was written");

        let fingerprint = told.rsplit("KT-TWO=").next().context("no --erase")?.trim_matches('\'');
        ordered.job = ordered.server.order_and_erase(NODE, "deploy", IMAGE, &[("KT-TWO", fingerprint)])?.id;
        ordered.power_on()?;
        ordered.server.wait_deployed(&ordered.job, LIMIT)?;
        ensure_told(
            &ask(lab, &ordered, "mdadm --detail $(findmnt -n -o SOURCE /)")?,
            &["Failed Devices : 0", "Active Devices : 2"],
        )?;
        ask(lab, &ordered, "sync")?;
        starts_without_its_first_disk(lab, &mut ordered)
    })
}

#[test]
fn four_disks_as_pairs_and_anew_as_stripes() -> Result<()> {
    story("mirror-four", |lab| {
        let artefacts = Artefacts::from_env()?;
        let images = [IMAGE, "debian-12-chunked"];
        let mut config = config(lab, &artefacts, &images, &["pairs", "stripes"])?;
        config.profiles[0].more = "restart = \"kexec\"\n".to_owned();
        let files = blank_disks(lab, 4, 3 << 10)?;
        let machine = files
            .iter()
            .zip(["KT-A", "KT-B", "KT-C", "KT-D"])
            .fold(GuestConfig::new("guest", Firmware::Uefi, 1), |machine, (file, serial)| {
                machine.disk(file, serial)
            });
        let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
        ordered.server.wait_deployed(&ordered.job, LIMIT)?;
        let question = "mdadm --detail /dev/md3 /dev/md4; findmnt -n -o FSTYPE /; findmnt -n -o FSTYPE /srv; \
                        blockdev --getsize64 /dev/md3; swapon --show";
        ensure_told(
            &ask(lab, &ordered, question)?,
            &["Raid Level : raid10", "near=2", "Active Devices : 4", "xfs"],
        )?;

        // Over its own arrays, with an image that is a file system.
        let rebuild = ["rebuild", NODE, "--profile", images[1], "--confirm", NODE, "-o", "name"];
        let output = ordered.server.ks(&rebuild, secs(30))?;
        ensure!(output.status.success(), "{output:?}");
        ordered.job = String::from_utf8(output.stdout)?.trim().to_owned();
        ordered.guest.reset()?;
        ordered.server.wait_deployed(&ordered.job, LIMIT)?;
        ensure_told(
            &ask(lab, &ordered, question)?,
            &["Raid Level : raid0", "Chunk Size : 512K", "Active Devices : 4", "ext4", "/dev/md4"],
        )
    })
}
