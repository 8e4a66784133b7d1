//! The files of a start: their names, and which machine they are for.

use crate::dhcp::client::Architecture;
use core::fmt;
use core::str::FromStr;
use kaltstart_protocol::ids::Mac;
use serde::{Deserialize, Serialize};

/// How UEFI machines are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UefiLoader {
    /// iPXE. Not signed: firmware with Secure Boot on refuses it.
    #[default]
    Ipxe,
    /// shim and GRUB as Debian signs them, and Debian's signed kernel: Secure Boot stays on.
    Signed,
}

impl UefiLoader {
    /// The word in configuration and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipxe => "ipxe",
            Self::Signed => "signed",
        }
    }
}

impl FromStr for UefiLoader {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Ipxe, Self::Signed]
            .into_iter()
            .find(|one| one.name() == text)
            .ok_or("is \"ipxe\" or \"signed\"")
    }
}

/// A loader in the directory `boot.loaders`. No other file of it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loader {
    /// iPXE on the driver of a BIOS.
    IpxeBios,
    /// iPXE on the firmware's own driver.
    IpxeX64,
    /// iPXE with drivers of its own, for firmware whose driver is broken: never named by us.
    IpxeDriversX64,
    /// Signed by Microsoft; starts GRUB, which must lie beside it.
    ShimX64,
    /// Signed by Debian.
    GrubX64,
    /// iPXE on the firmware's own driver.
    IpxeArm64,
    /// As for x86-64.
    ShimArm64,
    /// As for x86-64.
    GrubArm64,
}

impl Loader {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::IpxeBios,
        Self::IpxeX64,
        Self::IpxeDriversX64,
        Self::ShimX64,
        Self::GrubX64,
        Self::IpxeArm64,
        Self::ShimArm64,
        Self::GrubArm64,
    ];

    /// Its file name. GRUB's is given by shim.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IpxeBios => "undionly.kpxe",
            Self::IpxeX64 => "snponly.efi",
            Self::IpxeDriversX64 => "ipxe.efi",
            Self::ShimX64 => "shimx64.efi",
            Self::GrubX64 => "grubx64.efi",
            Self::IpxeArm64 => "snponly-arm64.efi",
            Self::ShimArm64 => "shimaa64.efi",
            Self::GrubArm64 => "grubaa64.efi",
        }
    }

    /// The loader that firmware is told; none when there is none for it.
    #[must_use]
    pub const fn first(architecture: Architecture, uefi: UefiLoader) -> Option<Self> {
        match (architecture, uefi) {
            (Architecture::Bios, _) => Some(Self::IpxeBios),
            (Architecture::UefiX64, UefiLoader::Ipxe) => Some(Self::IpxeX64),
            (Architecture::UefiX64, UefiLoader::Signed) => Some(Self::ShimX64),
            (Architecture::UefiArm64, UefiLoader::Ipxe) => Some(Self::IpxeArm64),
            (Architecture::UefiArm64, UefiLoader::Signed) => Some(Self::ShimArm64),
            _ => None,
        }
    }

    /// All that such a machine fetches before it asks for a script: the loader that firmware is told,
    /// and what that starts.
    pub fn needed(architecture: Architecture, uefi: UefiLoader) -> impl Iterator<Item = Self> {
        let first = Self::first(architecture, uefi);
        let second = first.and_then(|first| match first {
            Self::ShimX64 => Some(Self::GrubX64),
            Self::ShimArm64 => Some(Self::GrubArm64),
            _ => None,
        });
        first.into_iter().chain(second)
    }

    /// The machines it runs on.
    #[must_use]
    pub const fn architecture(self) -> Architecture {
        match self {
            Self::IpxeBios => Architecture::Bios,
            Self::IpxeX64 | Self::IpxeDriversX64 | Self::ShimX64 | Self::GrubX64 => Architecture::UefiX64,
            Self::IpxeArm64 | Self::ShimArm64 | Self::GrubArm64 => Architecture::UefiArm64,
        }
    }

    /// Whether firmware with Secure Boot on starts it.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::ShimX64 | Self::GrubX64 | Self::ShimArm64 | Self::GrubArm64)
    }

    /// Whether a machine that is started like that may have it.
    #[must_use]
    pub const fn fits(self, uefi: UefiLoader) -> bool {
        matches!(self, Self::IpxeBios) || self.is_signed() == matches!(uefi, UefiLoader::Signed)
    }
}

/// A file that machines ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// A loader.
    Loader(Loader),
    /// The configuration that Debian's signed GRUB asks for, whatever the machine.
    GrubStart,
    /// GRUB's configuration for one machine.
    GrubConfig(Mac),
    /// iPXE's script for one machine.
    IpxeScript(Mac),
    /// The agent's kernel, for one machine.
    Kernel(Mac),
    /// The agent's ramdisk, for one machine.
    Ramdisk(Mac),
}

/// What GRUB's configuration for one machine is called, before its hardware address. The number
/// is ARP's for Ethernet; PXELINUX and newer GRUBs ask in the same way.
const GRUB_CONFIG: &str = "grub/grub.cfg-01-";

impl File {
    /// The file with that name, by TFTP or below `/` of HTTP; leading slashes mean nothing.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim_start_matches('/');
        if let Some(loader) = Loader::ALL.into_iter().find(|loader| loader.name() == name) {
            return Some(Self::Loader(loader));
        }
        if name == "grub/grub.cfg" {
            return Some(Self::GrubStart);
        }
        if let Some(mac) = name.strip_prefix(GRUB_CONFIG) {
            return mac.parse().ok().map(Self::GrubConfig);
        }
        let (mac, file) = name.strip_prefix("boot/")?.split_once('/')?;
        let mac = mac.parse().ok()?;
        match file {
            "script.ipxe" => Some(Self::IpxeScript(mac)),
            "vmlinuz" => Some(Self::Kernel(mac)),
            "ramdisk" => Some(Self::Ramdisk(mac)),
            _ => None,
        }
    }

    /// The key of the configuration that says where it lies; none for what is made anew for each machine.
    #[must_use]
    pub const fn key(self) -> Option<&'static str> {
        match self {
            Self::Loader(_) => Some("boot.loaders"),
            Self::Kernel(_) => Some("boot.kernel"),
            Self::Ramdisk(_) => Some("boot.ramdisk or boot.discovery"),
            Self::GrubStart | Self::GrubConfig(_) | Self::IpxeScript(_) => None,
        }
    }

    /// The machine it is for, if it is for one.
    #[must_use]
    pub const fn mac(self) -> Option<Mac> {
        match self {
            Self::Loader(_) | Self::GrubStart => None,
            Self::GrubConfig(mac) | Self::IpxeScript(mac) | Self::Kernel(mac) | Self::Ramdisk(mac) => {
                Some(mac)
            }
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loader(loader) => f.write_str(loader.name()),
            Self::GrubStart => f.write_str("grub/grub.cfg"),
            Self::GrubConfig(mac) => write!(f, "{GRUB_CONFIG}{mac}"),
            Self::IpxeScript(mac) => write!(f, "boot/{mac}/script.ipxe"),
            Self::Kernel(mac) => write!(f, "boot/{mac}/vmlinuz"),
            Self::Ramdisk(mac) => write!(f, "boot/{mac}/ramdisk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_name_is_one_file_or_none() {
        let mac = Mac([0x52, 0x54, 0, 0, 0, 0xab]);
        let own = [File::GrubConfig(mac), File::IpxeScript(mac), File::Kernel(mac), File::Ramdisk(mac)];
        let loaders = Loader::ALL.map(File::Loader);
        for file in own.into_iter().chain(loaders).chain([File::GrubStart]) {
            assert_eq!(File::named(&file.to_string()), Some(file));
            assert_eq!(File::named(&std::format!("//{file}")), Some(file));
        }
        assert_eq!(File::named("grub/grub.cfg-01-52-54-00-00-00-AB"), Some(File::GrubConfig(mac)));
        for name in [
            "",
            "/",
            "undionly",
            "snponly.efi/",
            "./snponly.efi",
            "../snponly.efi",
            "grub/grub.cfg-01-",
            "boot/x/vmlinuz",
            "boot/52:54:00:00:00:ab/",
            "boot/52:54:00:00:00:ab/../vmlinuz",
            "revocations_sku.efi",
            "SNPONLY.EFI",
        ] {
            assert_eq!(File::named(name), None, "{name:?}");
        }
    }
}
