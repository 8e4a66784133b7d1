//! What an agent saw of its machine. All of it is claimed by the machine: text, never trusted.

use crate::contents::Contents;
use crate::ids::{Digest, Mac};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};

/// Longest text of hardware that is told, in characters.
pub const TEXT_CHARS: usize = 255;

/// Text as hardware or firmware tells it, in one line: without control characters and blanks at its ends, not
/// longer than [`TEXT_CHARS`].
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.trim().chars().take(TEXT_CHARS).collect()
}

/// Everything the agent measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// SMBIOS identity.
    pub system: System,
    /// Processors, as the kernel counts them.
    pub cpu: Cpu,
    /// Processor sockets that are filled, by SMBIOS.
    pub processors: Vec<Processor>,
    /// Memory modules that are plugged in, by SMBIOS.
    pub modules: Vec<Module>,
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
    /// Controllers, graphics and accelerators on PCI, by address.
    pub devices: Vec<PciDevice>,
    /// Version of the TPM's family (`1` for 1.2, `2`); none where there is no TPM.
    pub tpm: Option<String>,
    /// The endorsement key of a TPM 2.0; none where it could not be asked.
    pub endorsement: Option<Endorsement>,
    /// The management controller; none where there is none, or it does not answer.
    pub bmc: Option<Bmc>,
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
    /// Serial number of the chassis.
    pub chassis_serial: String,
    /// The owner's label on the chassis.
    pub asset_tag: String,
    /// Model of the mainboard.
    pub board: String,
    /// Serial number of the mainboard.
    pub board_serial: String,
}

/// A processor in its socket (DSP0134 type 4).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Processor {
    /// The socket's name on the board.
    pub socket: String,
    /// Model.
    pub model: String,
    /// Cores; 0 when the firmware does not tell.
    pub cores: u16,
    /// Threads; 0 when the firmware does not tell.
    pub threads: u16,
    /// Speed at the last start in MHz; 0 when the firmware does not tell.
    pub mhz: u16,
}

/// A memory module in its slot (DSP0134 type 17).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Module {
    /// The slot's name on the board.
    pub slot: String,
    /// Size in bytes.
    pub size: u64,
    /// Speed it is run at, in MT/s; 0 when the firmware does not tell.
    pub speed: u32,
    /// Maker.
    pub maker: String,
    /// Part number.
    pub part: String,
    /// Serial number; empty when the module has none.
    pub serial: String,
    /// Whether it corrects errors: it is wider than what it stores; none when the firmware does not
    /// tell the widths.
    pub ecc: Option<bool>,
}

/// A device on PCI (`/sys/bus/pci/devices`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PciDevice {
    /// Where: `0000:3b:00.0`.
    pub address: String,
    /// What: base class, subclass and interface, six hexadecimal digits.
    pub class: String,
    /// Maker and model: `8086:1521`.
    pub id: String,
    /// Kernel driver; empty when none has taken it.
    pub driver: String,
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

/// The endorsement key of a TPM, by which it can be told from every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsement {
    /// What it is told by.
    pub source: EndorsementSource,
    /// The digest of the certificate (DER), or of the key's public area as the TPM gives it.
    pub digest: Digest,
}

/// What tells of an endorsement key: the first of these that a TPM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndorsementSource {
    /// The certificate of its key of RSA 2048, by its maker.
    RsaCertificate,
    /// The certificate of its key of NIST P-256, by its maker.
    EccCertificate,
    /// The key of NIST P-256 itself, which no maker has certified within the TPM.
    EccKey,
}

/// The management controller, as the machine sees it (IPMI).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bmc {
    /// Version of its firmware.
    pub firmware: String,
    /// Version of IPMI that it speaks.
    pub ipmi: String,
    /// Its maker, by IANA's number of enterprises.
    pub manufacturer: u32,
    /// The maker's number of the product.
    pub product: u16,
    /// Its network; none when it does not tell.
    pub lan: Option<BmcLan>,
    /// The power supplies of which it has a sensor.
    pub power_supplies: Vec<PowerSupply>,
}

/// A power supply, by its sensor (IPMI 2.0 table 42-3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PowerSupply {
    /// The sensor's name.
    pub name: String,
    /// Whether it is plugged in.
    pub present: bool,
    /// What is wrong with it; empty when nothing is.
    pub fault: String,
}

/// The network of a management controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmcLan {
    /// The controller's number of the channel.
    pub channel: u8,
    /// Its address; none when it has none.
    pub address: Option<Ipv4Addr>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Where the address comes from.
    pub source: AddressSource,
}

/// Where a controller's address comes from (IPMI 2.0 table 23-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// It was set.
    Static,
    /// DHCP.
    Dhcp,
    /// The machine's firmware or system gave it.
    Firmware,
    /// It does not say, or something else.
    Other,
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// The address it was made with, where the driver tells; `mac` may have been changed.
    #[serde(default)]
    pub permanent_mac: Option<Mac>,
    /// What it is plugged into, as it was heard last (LLDP), if need be in an earlier start.
    #[serde(default)]
    pub neighbour: Option<Neighbour>,
    /// Version of its firmware; empty when the driver does not tell.
    #[serde(default)]
    pub firmware: String,
}

/// The switch and port at the other end of a cable, as they call themselves (IEEE 802.1AB).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Neighbour {
    /// The switch's name; empty when it does not tell.
    pub switch: String,
    /// The chassis' identifier, mostly a hardware address.
    pub chassis: String,
    /// The port.
    pub port: String,
    /// What people wrote about the port.
    pub port_description: String,
    /// The VLAN of untagged frames, when the switch tells.
    pub vlan: Option<u16>,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = if self.switch.is_empty() { &self.chassis } else { &self.switch };
        write!(f, "switch {switch} port {}", self.port)?;
        if !self.port_description.is_empty() && self.port_description != self.port {
            write!(f, " ({})", self.port_description)?;
        }
        self.vlan.map_or(Ok(()), |vlan| write!(f, " VLAN {vlan}"))
    }
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
    /// Revision of its firmware.
    pub firmware: String,
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
    /// How it says it is; none when it was not asked, or does not say.
    pub health: Option<Health>,
}

/// How a disk says it is: NVMe's health log, or ATA's SMART. Counters are none where it keeps none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Its own judgement.
    pub verdict: Verdict,
    /// Why, or what else it warns of; empty when all is well.
    pub said: String,
    /// Temperature in °C.
    pub celsius: Option<i16>,
    /// How much of its life the maker reckons is used, in percent; may be above 100.
    pub worn_percent: Option<u8>,
    /// Hours it has been on.
    pub hours: Option<u64>,
    /// Errors of the medium that it could not correct.
    pub media_errors: Option<u64>,
    /// Sectors that it has replaced.
    pub reallocated: Option<u64>,
    /// Sectors that it cannot read and has not replaced yet.
    pub pending: Option<u64>,
}

/// A disk's judgement of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is well.
    #[default]
    Good,
    /// It fails, or will soon.
    Failing,
}

impl Disk {
    /// Whether it says that it fails.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.verdict == Verdict::Failing)
    }

    /// The most stable name the disk has: WWN, else serial, else where it is plugged.
    #[must_use]
    pub fn identity(&self) -> &str {
        [&self.wwn, &self.serial, &self.path]
            .into_iter()
            .find(|text| !text.is_empty())
            .map_or("", |text| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_older_agents_told_are_still_read() {
        let stored = r#"{"system":{"vendor":"QEMU","product":"q35","serial":"","uuid":"a","bios_version":"1"},
            "cpu":{"model":"x","threads":1,"architecture":"x86_64"},"memory_bytes":1,"firmware":"bios",
            "secure_boot":null,"nics":[{"name":"eth0","mac":"52:54:00:00:00:01","driver":"e1000e","link":true,
            "speed_mbit":null,"carrier_changes":2}],"boot_nic":"eth0","disks":[{"name":"vda","serial":"d",
            "wwn":"","model":"","size":1,"sector_size":512,"rotational":true,"removable":false,
            "read_only":false,"transport":"virtio","path":"p","holds":[]}],"kernel":"6.1"}"#;
        let facts: Facts = serde_json::from_str(stored).expect("read");
        assert_eq!((facts.system.vendor.as_str(), facts.disks[0].identity()), ("QEMU", "d"));
        assert_eq!((facts.nics[0].permanent_mac, facts.modules.len()), (None, 0));
    }
}
