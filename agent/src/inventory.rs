//! What the machine is: `/sys` and `/proc` become [`Facts`].
//!
//! Every function takes the root directory, so that tests run on trees of files. Disks are only
//! ever opened for reading.

use std::fs;
use std::path::{Path, PathBuf};

use kaltstart_protocol::facts::{self, Cpu, Disk, Facts, Firmware, Nic, PciDevice, System};
use kaltstart_protocol::ids::Mac;

use crate::smbios::{self, Smbios};
use crate::{contents, health, sys};

/// Kernel names that are no disks of the machine.
const NOT_DISKS: [&str; 11] =
    ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock", "drbd", "rbd"];
/// The unit of `/sys/block/*/size`, whatever the disk's sectors are.
const SIZE_UNIT: u64 = 512;
/// ARP hardware type of Ethernet in `/sys/class/net/*/type`.
const ETHERNET: &str = "1";
/// Base classes of PCI that are told: storage, network, display, processor, encryption, and
/// processing accelerator (PCI Code and ID Assignment 1.11).
const PCI_CLASSES: [&str; 6] = ["01", "02", "03", "0b", "10", "12"];

/// Everything under `root` (`/` on a machine). What only the chips themselves can be asked is left out; see
/// [`Aside`](crate::aside::Aside).
#[must_use]
pub fn facts(root: &Path, boot_mac: Option<Mac>) -> Facts {
    let nics = nics(root);
    let table = fs::read(root.join("sys/firmware/dmi/tables/DMI")).unwrap_or_default();
    let Smbios { processors, modules } = smbios::read(&table);
    Facts {
        system: system(root),
        cpu: cpu(root),
        processors,
        modules,
        memory_bytes: memory_bytes(root),
        firmware: if root.join("sys/firmware/efi").exists() { Firmware::Uefi } else { Firmware::Bios },
        secure_boot: secure_boot(root),
        boot_nic: nics.iter().find(|nic| Some(nic.mac) == boot_mac).map(|nic| nic.name.clone()),
        nics,
        disks: disks(root),
        devices: devices(root),
        tpm: Some(text(&root.join("sys/class/tpm/tpm0/tpm_version_major"))).filter(|text| !text.is_empty()),
        endorsement: None,
        bmc: None,
        kernel: text(&root.join("proc/sys/kernel/osrelease")),
    }
}

/// The variable `SecureBoot` (UEFI 2.10 §3.3), behind four bytes of attributes.
fn secure_boot(root: &Path) -> Option<bool> {
    let name = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    fs::read(root.join(name)).ok()?.get(4).map(|value| *value == 1)
}

/// A file's text as one line, without control characters; empty when there is none.
fn text(path: &Path) -> String {
    fs::read(path).map_or_else(|_| String::new(), |bytes| facts::text(&bytes))
}

fn number(path: &Path) -> Option<u64> {
    text(path).parse().ok()
}

fn system(root: &Path) -> System {
    let dmi = |name: &str| text(&root.join("sys/class/dmi/id").join(name));
    System {
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid").to_ascii_lowercase(),
        bios_version: dmi("bios_version"),
        chassis_serial: dmi("chassis_serial"),
        asset_tag: dmi("chassis_asset_tag"),
        board: dmi("board_name"),
        board_serial: dmi("board_serial"),
    }
}

fn cpu(root: &Path) -> Cpu {
    let info = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let values = |key: &'static str| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .filter(move |(name, _)| name.trim() == key)
            .map(|(_, value)| value)
    };
    Cpu {
        model: facts::text(values("model name").next().unwrap_or_default().as_bytes()),
        threads: u32::try_from(values("processor").count()).unwrap_or(u32::MAX),
        architecture: std::env::consts::ARCH.into(),
    }
}

fn memory_bytes(root: &Path) -> u64 {
    let info = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Devices of [`PCI_CLASSES`], by address.
fn devices(root: &Path) -> Vec<PciDevice> {
    let mut devices: Vec<PciDevice> = names(&root.join("sys/bus/pci/devices"))
        .filter_map(|address| {
            let dir = root.join("sys/bus/pci/devices").join(&address);
            let hex = |file: &str| text(&dir.join(file)).trim_start_matches("0x").to_owned();
            let class = hex("class");
            PCI_CLASSES.iter().any(|base| class.starts_with(base)).then(|| PciDevice {
                class,
                id: format!("{}:{}", hex("vendor"), hex("device")),
                driver: link_name(&dir.join("driver")),
                address,
            })
        })
        .collect();
    devices.sort_by(|a, b| a.address.cmp(&b.address));
    devices
}

/// The physical Ethernet interfaces, by name. What only the kernel can be asked is left out; see
/// [`ask_drivers`].
#[must_use]
pub fn nics(root: &Path) -> Vec<Nic> {
    let mut nics: Vec<Nic> = names(&root.join("sys/class/net"))
        .filter_map(|name| {
            let dir = root.join("sys/class/net").join(&name);
            // Bridges, bonds and the like have no device behind them.
            if text(&dir.join("type")) != ETHERNET || !dir.join("device").exists() {
                return None;
            }
            Some(Nic {
                mac: text(&dir.join("address")).parse().ok()?,
                driver: link_name(&dir.join("device/driver")),
                link: text(&dir.join("carrier")) == "1",
                // -1 or 65535 ("unknown") without link, and for virtual interfaces.
                speed_mbit: number(&dir.join("speed"))
                    .and_then(|speed| u32::try_from(speed).ok())
                    .filter(|speed| !matches!(*speed, 0 | 65_535 | u32::MAX)),
                carrier_changes: text(&dir.join("carrier_changes")).parse().unwrap_or_default(),
                permanent_mac: None,
                neighbour: None,
                firmware: String::new(),
                name,
            })
        })
        .collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

/// The names of the physical interfaces.
#[must_use]
pub fn nic_names(root: &Path) -> Vec<String> {
    nics(root).into_iter().map(|nic| nic.name).collect()
}

/// Adds what the drivers of this machine's interfaces tell, and no file shows.
pub fn ask_drivers(nics: &mut [Nic]) {
    for nic in nics {
        nic.permanent_mac = sys::net::permanent_mac(&nic.name).ok().flatten();
        nic.firmware = sys::net::firmware_version(&nic.name)
            .map_or_else(|_| String::new(), |text| facts::text(text.as_bytes()));
    }
}

/// Adds what each disk says of its health, all asked at once: one that hangs delays no other.
pub fn ask_disks(disks: &mut [Disk]) {
    std::thread::scope(|scope| {
        for disk in disks {
            scope.spawn(move || {
                let Ok(device) = fs::File::open(Path::new("/dev").join(&disk.name)) else { return };
                match disk.transport.as_str() {
                    "nvme" => {
                        let log = sys::disk::nvme_health_log(&device);
                        disk.health = log.ok().and_then(|log| health::of_nvme(&log));
                    }
                    // Behind a controller for SAS there may be a SATA disk; one of SAS refuses.
                    "sata" | "sas" => ask_ata(disk, &device),
                    _ => {}
                }
            });
        }
    });
}

fn ask_ata(disk: &mut Disk, device: &fs::File) {
    let Some(identity) = sys::disk::ata_identify(device).ok().and_then(|data| health::identity(&data)) else {
        return;
    };
    disk.firmware = identity.firmware;
    if !identity.smart {
        return;
    }
    let status = sys::disk::ata_smart_status(device).ok();
    if let Some(verdict) = status.and_then(|(middle, high)| health::ata_verdict(middle, high)) {
        let data = sys::disk::ata_smart_data(device);
        disk.health = Some(health::of_ata(verdict, data.as_ref().map_or(&[][..], |data| data)));
    }
}

/// The kernel's names of the machine's disks.
#[must_use]
pub fn disk_names(root: &Path) -> Vec<String> {
    let mut disks: Vec<String> = names(&root.join("sys/block"))
        .filter(|name| !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)))
        // eMMC boot and replay-protected areas, and the hidden paths of multipath NVMe.
        .filter(|name| !name.starts_with("mmcblk") || !(name.contains("boot") || name.contains("rpmb")))
        .filter(|name| number(&root.join("sys/block").join(name).join("hidden")) != Some(1))
        .collect();
    disks.sort();
    disks
}

/// Whether the kernel refuses writes to the disk.
#[must_use]
pub fn is_read_only(root: &Path, name: &str) -> bool {
    number(&root.join("sys/block").join(name).join("ro")) == Some(1)
}

/// The machine's disks, by stable identity. A drive without medium does not count.
#[must_use]
pub fn disks(root: &Path) -> Vec<Disk> {
    let mut disks: Vec<Disk> =
        disk_names(root).iter().map(|name| disk(root, name)).filter(|disk| disk.size > 0).collect();
    disks.sort_by(|a, b| a.identity().cmp(b.identity()).then_with(|| a.name.cmp(&b.name)));
    disks
}

fn disk(root: &Path, name: &str) -> Disk {
    let dir = root.join("sys/block").join(name);
    let real = fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
    let path = device_path(root, &real);
    let transport = transport(&path);
    let first = |files: &[&str]| {
        files.iter().map(|file| text(&dir.join(file))).find(|text| !text.is_empty()).unwrap_or_default()
    };
    let vendor = text(&dir.join("device/vendor"));
    let model = text(&dir.join("device/model"));
    let size = number(&dir.join("size")).unwrap_or(0).saturating_mul(SIZE_UNIT);
    let sector_size =
        number(&dir.join("queue/logical_block_size")).and_then(|n| n.try_into().ok()).unwrap_or(512);
    let holds = contents::of_device(&root.join("dev").join(name), size, sector_size);
    if let Err(error) = &holds
        && size > 0
    {
        tracing::warn!("{name}: what is on it cannot be read: {error}");
    }
    Disk {
        serial: match first(&["serial", "device/serial"]) {
            serial if serial.is_empty() => vpd_serial(&dir.join("device/vpd_pg80")),
            serial => serial,
        },
        wwn: wwn(&first(&["wwid", "device/wwid"])),
        // SCSI keeps the maker apart; "ATA" and virtio's number name a protocol, not a maker.
        model: if vendor.is_empty() || vendor == "ATA" || vendor.starts_with("0x") {
            model
        } else {
            facts::text(format!("{vendor} {model}").as_bytes())
        },
        // NVMe has it in full, SCSI four characters of it.
        firmware: first(&["device/firmware_rev", "device/rev"]),
        size,
        sector_size,
        rotational: number(&dir.join("queue/rotational")) == Some(1),
        removable: number(&dir.join("removable")) == Some(1) || transport == "usb",
        read_only: is_read_only(root, name),
        transport,
        path,
        holds: holds.ok(),
        health: None,
        name: name.into(),
    }
}

/// The serial number of SCSI's vital product data page 80h: four bytes of head, then text.
fn vpd_serial(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.get(4..).map_or_else(String::new, facts::text)
}

/// The world-wide name, when `wwid` holds one: `naa.…` and `eui.…` are unique by standard, while
/// `t10.…` is made of model and serial number.
fn wwn(wwid: &str) -> String {
    let is_zero =
        wwid.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '.').bytes().all(|b| b == b'0');
    let known = ["naa.", "eui.", "uuid."].iter().any(|prefix| wwid.starts_with(prefix));
    if known && !is_zero { wwid.into() } else { String::new() }
}

/// How the disk is connected, from its place in the device tree.
fn transport(path: &str) -> String {
    let has = |part: &str| path.split('/').any(|segment| segment.starts_with(part));
    let known = [
        ("usb", has("usb")),
        ("nvme", has("nvme")),
        ("virtio", has("virtio")),
        ("sata", has("ata")),
        ("sas", has("end_device-") || has("sas") || has("phy-")),
        ("iscsi", has("session")),
        ("fc", has("rport-")),
        ("mmc", has("mmc")),
        ("scsi", has("target") || has("host")),
    ];
    known.iter().find(|(_, is)| *is).map_or("unknown", |(name, _)| name).into()
}

/// Where the disk is plugged: its place in the device tree, without the numbers the kernel gives
/// out anew at each start (`host3`, `target3:0:1`, `3:0:1:0`, `nvme0`, `block/sda`).
fn device_path(root: &Path, real: &Path) -> String {
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.into());
    let devices = root.join("sys/devices");
    let below = real.strip_prefix(&devices).unwrap_or(real);
    let mut walked = devices.clone();
    let mut parts: Vec<String> = Vec::new();
    for part in below.iter().map(|part| part.to_string_lossy()) {
        walked.push(&*part);
        match part.trim_end_matches(|c: char| c.is_ascii_digit()) {
            // The disk itself follows.
            "block" => break,
            // libata counts through all controllers; the port's number is its controller's own.
            "ata" => {
                parts.push(format!("ata{}", text(&walked.join("ata_port").join(&*part).join("port_no"))))
            }
            kind @ ("host" | "virtio" | "nvme" | "usb" | "mmc" | "nvme-subsys") => parts.push(kind.into()),
            _ if part.starts_with("target") => {}
            _ if is_scsi_address(&part) => {
                parts.push(part.split_once(':').map_or(&*part, |(_, rest)| rest).into())
            }
            _ => parts
                .push(nvme_namespace(&part).map_or_else(|| part.to_string(), |number| format!("n{number}"))),
        }
    }
    parts.join("/")
}

/// The namespace's number in `nvme3n1`: the controller's number before it changes.
fn nvme_namespace(part: &str) -> Option<&str> {
    let (controller, namespace) = part.strip_prefix("nvme")?.split_once('n')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(controller) && digits(namespace)).then_some(namespace)
}

/// Whether it is SCSI's HOST:CHANNEL:TARGET:LUN, of which all but the host is stable.
fn is_scsi_address(part: &str) -> bool {
    let numbers: Vec<&str> = part.split(':').collect();
    numbers.len() == 4 && numbers.iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn link_name(path: &Path) -> String {
    let target = fs::read_link(path).unwrap_or_else(|_| PathBuf::new());
    target.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Writes `files` (path, text) below a new root, and links (path, target).
    fn tree(files: &[(&str, &str)], links: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let parent = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("directories");
            path
        };
        for (path, text) in files {
            fs::write(parent(path), text).expect("a file");
        }
        for (path, target) in links {
            symlink(target, parent(path)).expect("a link");
        }
        root
    }

    #[test]
    fn a_virtual_machine() {
        let disk = "sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda";
        let nic = "sys/devices/pci0000:00/0000:00:03.0/virtio0/net/eth0";
        let at = |dir: &str, file: &str| format!("{dir}/{file}");
        let files = [
            ("sys/class/dmi/id/sys_vendor".into(), "QEMU\n"),
            ("sys/class/dmi/id/product_uuid".into(), "ABCD-01\n"),
            (
                "proc/cpuinfo".into(),
                "processor\t: 0\nmodel name\t: QEMU TCG\nprocessor : 1\nmodel name : x\n",
            ),
            ("proc/meminfo".into(), "MemTotal:         491332 kB\nMemFree: 1 kB\n"),
            ("proc/sys/kernel/osrelease".into(), "6.1.0\n"),
            (at(disk, "size"), "20971520\n"),
            (at(disk, "serial"), "disk-1"),
            (at(disk, "queue/logical_block_size"), "4096\n"),
            (at(disk, "queue/rotational"), "1\n"),
            ("sys/devices/pci0000:00/0000:00:04.0/virtio1/vendor".into(), "0x1af4\n"),
            (at(nic, "type"), "1\n"),
            (at(nic, "address"), "52:54:00:00:00:01\n"),
            (at(nic, "carrier"), "1\n"),
            (at(nic, "speed"), "-1\n"),
            (at(nic, "carrier_changes"), "3\n"),
            ("sys/class/net/lo/type".into(), "772\n"),
            ("sys/class/net/br0/type".into(), "1\n"),
        ];
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text): &(String, &str)| (path.as_str(), *text)).collect();
        let root = tree(
            &files,
            &[
                ("sys/block/vda", "../devices/pci0000:00/0000:00:04.0/virtio1/block/vda"),
                ("sys/block/loop0", "../devices/virtual/block/loop0"),
                (&at(disk, "device"), "../../../virtio1"),
                ("sys/class/net/eth0", "../../devices/pci0000:00/0000:00:03.0/virtio0/net/eth0"),
                (&at(nic, "device"), "../../../virtio0"),
                (
                    "sys/devices/pci0000:00/0000:00:03.0/virtio0/driver",
                    "../../../../bus/virtio/drivers/virtio_net",
                ),
            ],
        );
        let facts = facts(root.path(), Some(Mac([0x52, 0x54, 0, 0, 0, 1])));
        assert_eq!((facts.system.vendor.as_str(), facts.system.uuid.as_str()), ("QEMU", "abcd-01"));
        assert_eq!((facts.cpu.model.as_str(), facts.cpu.threads), ("QEMU TCG", 2));
        assert_eq!((facts.memory_bytes, facts.firmware), (491_332 * 1024, Firmware::Bios));
        assert_eq!(facts.boot_nic.as_deref(), Some("eth0"));
        let [nic] = facts.nics.as_slice() else { panic!("{:?}", facts.nics) };
        assert_eq!((nic.driver.as_str(), nic.link, nic.speed_mbit), ("virtio_net", true, None));
        assert_eq!(nic.carrier_changes, 3);
        let [disk] = facts.disks.as_slice() else { panic!("{:?}", facts.disks) };
        assert_eq!((disk.size, disk.sector_size, disk.rotational), (20_971_520 * 512, 4096, true));
        assert_eq!((disk.identity(), disk.model.as_str(), disk.transport.as_str()), ("disk-1", "", "virtio"));
        assert_eq!(disk.path, "pci0000:00/0000:00:04.0/virtio");
    }

    #[test]
    fn a_sata_disk_and_an_empty_card_reader() {
        let sda = "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
        let sdb = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0/block/sdb";
        let at = |dir: &str, file: &str| format!("{dir}/{file}");
        let files = [
            (at(sda, "size"), "1000\n"),
            (at(sda, "removable"), "0\n"),
            (at(sda, "device/vendor"), "ATA     \n"),
            (at(sda, "device/model"), "ST1000\x1b[2J      \n"),
            (at(sda, "device/wwid"), "naa.5000c500a1b2c3d4\n"),
            (at(sda, "device/vpd_pg80"), "\0\x20\0\x08  SERIAL1"),
            ("sys/devices/pci0000:00/0000:00:1f.2/ata1/ata_port/ata1/port_no".into(), "3\n"),
            (at(sdb, "size"), "0\n"),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let link = |dir: &str| dir.replacen("sys", "..", 1);
        let root = tree(&files, &[("sys/block/sda", &link(sda)), ("sys/block/sdb", &link(sdb))]);
        let found = disks(root.path());
        let [disk] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((disk.serial.as_str(), disk.wwn.as_str()), ("SERIAL1", "naa.5000c500a1b2c3d4"));
        assert_eq!((disk.model.as_str(), disk.transport.as_str()), ("ST1000 [2J", "sata"));
        assert_eq!(disk.path, "pci0000:00/0000:00:1f.2/ata3/host/0:0:0");
        assert_eq!(transport("pci0000:00/0000:00:14.0/usb/1-2/1-2:1.0/host/0:0:0"), "usb");
    }

    #[test]
    fn p04_the_place_of_a_disk_does_not_depend_on_the_order_of_discovery() {
        let place =
            |path: &str| device_path(Path::new("/nowhere"), &Path::new("/nowhere/sys/devices").join(path));
        let first = place("pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1");
        assert_eq!(first, "pci0000:00/0000:00:05.0/nvme/nvme/n1");
        assert_eq!(first, place("pci0000:00/0000:00:05.0/nvme/nvme7/nvme7n1"));
        assert_ne!(first, place("pci0000:00/0000:00:05.0/nvme/nvme7/nvme7n2"));
        assert_eq!(
            place("pci0000:00/0000:00:06.0/virtio3/host2/target2:0:1/2:0:1:0/block/sda"),
            place("pci0000:00/0000:00:06.0/virtio1/host5/target5:0:1/5:0:1:0/block/sdc"),
        );
    }

    #[test]
    fn only_names_unique_by_standard_count_as_world_wide() {
        assert_eq!(wwn("nvme.1b36-6e766d65-51454d55"), "");
        assert_eq!(wwn("t10.ATA     QEMU HARDDISK"), "");
        assert_eq!(wwn("eui.0000000000000000"), "");
        assert_eq!(wwn("eui.0025385b71b0aaaa"), "eui.0025385b71b0aaaa");
    }

    #[test]
    fn controllers_and_graphics_are_told_and_bridges_are_not() {
        let at = |address: &str, file: &str| format!("sys/bus/pci/devices/{address}/{file}");
        let files = [
            (at("0000:01:00.0", "class"), "0x010802\n"),
            (at("0000:01:00.0", "vendor"), "0x144d\n"),
            (at("0000:01:00.0", "device"), "0xa80a\n"),
            (at("0000:00:1c.0", "class"), "0x060400\n"),
            (at("0000:00:02.0", "class"), "0x030000\n"),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let driver = at("0000:01:00.0", "driver");
        let root = tree(&files, &[(&driver, "../../../../bus/pci/drivers/nvme")]);
        let found = devices(root.path());
        let [graphics, disk] = &found[..] else { panic!("{found:?}") };
        assert_eq!((graphics.class.as_str(), graphics.driver.as_str()), ("030000", ""));
        assert_eq!((disk.id.as_str(), disk.driver.as_str()), ("144d:a80a", "nvme"));
    }

    #[test]
    fn secure_boot_is_on_off_or_unknown() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(secure_boot(root.path()), None);
        let efivars = root.path().join("sys/firmware/efi/efivars");
        fs::create_dir_all(&efivars).expect("made");
        for (value, on) in [(1, true), (0, false)] {
            let file = efivars.join("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
            fs::write(file, [6, 0, 0, 0, value]).expect("written");
            assert_eq!(secure_boot(root.path()), Some(on));
        }
    }

    #[test]
    fn an_empty_tree_gives_empty_facts() {
        let root = tempfile::tempdir().expect("a directory");
        let expected = Facts {
            firmware: Firmware::Bios,
            cpu: Cpu { architecture: std::env::consts::ARCH.into(), ..Cpu::default() },
            ..Facts::default()
        };
        assert_eq!(facts(root.path(), None), expected);
    }
}
