//! What an agent saw of its machine. All of it is claimed by the machine: text, never trusted.

use crate::contents::Contents;
use crate::ids::Mac;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Everything the agent measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// SMBIOS identity.
    pub system: System,
    /// Processors.
    pub cpu: Cpu,
    /// Memory in bytes, as the kernel counts it.
    pub memory_bytes: u64,
    /// How the machine was started.
    pub firmware: Firmware,
    /// Whether the firmware checked what it started (Secure Boot); none where it cannot say.
    pub secure_boot: Option<bool>,
    /// Network interfaces, by name.
    pub nics: Vec<Nic>,
    /// Name of the interface the machine booted from, if it is known.
    pub boot_nic: Option<String>,
    /// Disks, by stable identity.
    pub disks: Vec<Disk>,
    /// Release of the running kernel.
    pub kernel: String,
}

/// SMBIOS identity (DSP0134 types 0 to 3), as `/sys/class/dmi/id` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    /// Maker of the machine.
    pub vendor: String,
    /// Model of the machine.
    pub product: String,
    /// Serial number of the machine.
    pub serial: String,
    /// UUID of the machine.
    pub uuid: String,
    /// Version of the firmware.
    pub bios_version: String,
}

/// Processors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Model name of the first processor.
    pub model: String,
    /// Logical processors.
    pub threads: u32,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
}

/// How the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// Not known yet.
    #[default]
    Unknown,
    /// BIOS, or UEFI's compatibility module.
    Bios,
    /// UEFI.
    Uefi,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Kernel's name.
    pub name: String,
    /// Hardware address.
    pub mac: Mac,
    /// Kernel driver.
    #[serde(default)]
    pub driver: String,
    /// Whether a carrier was seen.
    #[serde(default)]
    pub link: bool,
    /// Megabits per second, when the driver tells.
    #[serde(default)]
    pub speed_mbit: Option<u32>,
    /// How often its carrier has come or gone since the kernel knows it.
    #[serde(default)]
    pub carrier_changes: u32,
}

/// What a disk's transport can be; removable ones are never chosen.
pub const TRANSPORTS: [&str; 10] =
    ["virtio", "nvme", "sata", "sas", "scsi", "fc", "iscsi", "usb", "mmc", "unknown"];

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Kernel's name of this boot (`vda`, `nvme0n1`): for people to read, never for selection.
    pub name: String,
    /// Serial number, empty when the disk has none.
    pub serial: String,
    /// World-wide name, empty when the disk has none.
    pub wwn: String,
    /// Model.
    pub model: String,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Spinning.
    pub rotational: bool,
    /// Removable medium or removable bus.
    pub removable: bool,
    /// The medium refuses writes.
    pub read_only: bool,
    /// One of [`TRANSPORTS`].
    pub transport: String,
    /// Where it is plugged, stable over boots (sysfs device path).
    pub path: String,
    /// What lies on it; none when it could not be read, or an older agent did not tell.
    pub holds: Option<Contents>,
}

impl Disk {
    /// The most stable name the disk has: WWN, else serial, else where it is plugged.
    #[must_use]
    pub fn identity(&self) -> &str {
        [&self.wwn, &self.serial, &self.path]
            .into_iter()
            .find(|text| !text.is_empty())
            .map_or("", |text| text)
    }
}
