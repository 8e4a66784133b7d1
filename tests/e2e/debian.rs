//! The real Debian, once by each firmware, laid down by the ramdisk for physical servers.

use crate::common::{ensure_identity, ensure_installed, ensure_reported, order_from};
use anyhow::{Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk::{self, FileSystem};
use kaltstart_tests::guest::{Bus, Firmware, GuestConfig};
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::path::Path;
use std::time::Duration;

/// Debian needs two minutes from its boot loader to its report under emulation, more under load.
const LIMIT: Duration = secs(900);
/// Sparse; the image wants 3 GiB, the layout `server` 11.
const DISK_MIB: u64 = 16 << 10;
const IMAGE: &str = "debian-12";

/// A layout of XFS.
const WITH_XFS: &str = r#"
[[layout]]
name = "with-xfs"
partitions = [
    { label = "bios-boot", role = "bios_boot", min_mib = 1 },
    { label = "esp", role = "esp", min_mib = 512 },
    { label = "root", role = "root", file_system = "xfs", min_mib = 3072, weight = 1 },
    { label = "srv", role = "data", file_system = "xfs", mount = "/srv", options = ["nodev"], min_mib = 1024, weight = 1 },
]
"#;

fn deploys(
    name: &str,
    firmware: Firmware,
    memory_mib: u32,
    bus: Bus,
    layout: &'static str,
    mounted: &[&str],
    check: fn(&Path) -> Result<()>,
) -> Result<()> {
    story(name, |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "generic", &[IMAGE]);
        config.profiles[0].layout = layout;
        config.sections += WITH_XFS;
        let file = lab.dir().join("disk.raw");
        disk::blank(&file, DISK_MIB)?;
        let machine =
            GuestConfig::new("guest", firmware, 1).memory(memory_mib).disk_on(bus, &file, "KT-DEBIAN");
        let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
        let job = ordered.server.wait_deployed(&ordered.job, LIMIT)?;
        let os = ordered.server.node(crate::common::NODE)?.report.unwrap_or_default().os;
        ensure!(os.starts_with("Debian GNU/Linux 12"), "it reports the system {os:?}");
        for unit in mounted {
            ordered.guest.wait_serial(&format!("Mounted {unit}"), LIMIT)?;
        }
        eprintln!("{name}: {:.1} CPU seconds", ordered.guest.cpu_seconds()?);
        ensure_reported(&ordered, &job)?;
        ordered.guest.power_off();
        check(&file)
    })
}

#[test]
fn uefi_with_little_memory() -> Result<()> {
    let mounted =
        ["var.mount", "var-log.mount", "var-log-audit.mount", "var-tmp.mount", "home.mount", "tmp.mount"];
    deploys("debian-uefi", Firmware::Uefi, 512, Bus::Virtio, "server", &mounted, |file| {
        ensure_installed(file)?;
        let root = FileSystem::mount(file, 3)?;
        let fstab = root.read("/etc/fstab")?;
        ensure!(fstab.contains(" /var/log/audit ext4 nodev,nosuid,noexec,"), "{fstab}");
        ensure!(root.read("/var/lib/dpkg/status").is_err(), "/var lies in the root file system");
        Ok(())
    })
}

#[test]
fn bios_on_nvme() -> Result<()> {
    deploys("debian-bios", Firmware::Bios, 1024, Bus::Nvme, "with-xfs", &["srv.mount"], |file| {
        ensure_identity(&FileSystem::mount_as(file, 3, 0, "xfs", "rw")?)
    })
}

#[test]
fn bios_on_btrfs() -> Result<()> {
    let mounted = ["home.mount", "var-log.mount"];
    deploys("debian-btrfs", Firmware::Bios, 1024, Bus::Virtio, "btrfs", &mounted, |file| {
        let root = FileSystem::mount_as(file, 3, 0, "btrfs", "subvol=@")?;
        ensure_identity(&root)?;
        ensure!(!root.path().join("var/log/wtmp").exists(), "/var/log lies in the root file system");
        drop(root);
        let logs = FileSystem::mount_as(file, 3, 0, "btrfs", "subvol=@var-log")?;
        ensure!(logs.path().join("wtmp").exists(), "the subvolume has no logs");
        Ok(())
    })
}
