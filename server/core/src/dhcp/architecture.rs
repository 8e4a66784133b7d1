//! Processor and firmware of a client (option 93), after IANA's registry "Processor Architecture
//! Types" (of DHCPv6's parameters; RFC 4578 §2.1, RFC 5970 §3.3), as OpenWrt's `luci-mod-network`
//! repeats it; EDK II has the same numbers for the processors it knows.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Processor and firmware a boot file must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// x86 with BIOS.
    Bios,
    /// x86-64 with UEFI.
    UefiX64,
    /// 64-bit ARM with UEFI.
    UefiArm64,
    /// 32-bit x86 with UEFI.
    UefiX86,
    /// 32-bit ARM with UEFI.
    UefiArm32,
    /// RISC-V with UEFI, 32 bits.
    UefiRiscv32,
    /// RISC-V with UEFI, 64 bits.
    UefiRiscv64,
    /// RISC-V with UEFI, 128 bits.
    UefiRiscv128,
    /// LoongArch with UEFI, 32 bits.
    UefiLoongarch32,
    /// LoongArch with UEFI, 64 bits.
    UefiLoongarch64,
    /// Any other, by number.
    Unknown(u16),
}

use Architecture::{
    Bios, UefiArm32, UefiArm64, UefiLoongarch32, UefiLoongarch64, UefiRiscv32, UefiRiscv64, UefiRiscv128,
    UefiX64, UefiX86, Unknown,
};

/// The registry: number, a short name for it, and what it means here. The first entry of a
/// meaning gives its name.
const REGISTRY: [(u16, &str, Architecture); 42] = [
    (0, "bios", Bios),
    (1, "nec-pc98", Unknown(1)),
    (2, "itanium", Unknown(2)),
    (3, "dec-alpha", Unknown(3)),
    (4, "arc-x86", Unknown(4)),
    (5, "intel-lean-client", Unknown(5)),
    (6, "uefi-x86", UefiX86),
    // RFC 4578 says that 7 is EFI byte code and 9 is x86-64; firmware does it the other way round,
    // and the registry follows it. Both are x86-64 machines.
    (7, "uefi-x64", UefiX64),
    (8, "efi-xscale", Unknown(8)),
    (9, "uefi-ebc", UefiX64),
    (10, "uefi-arm32", UefiArm32),
    (11, "uefi-arm64", UefiArm64),
    (12, "powerpc-open-firmware", Unknown(12)),
    (13, "powerpc-epapr", Unknown(13)),
    (14, "power-opal", Unknown(14)),
    (15, "uefi-x86-http", UefiX86),
    (16, "uefi-x64-http", UefiX64),
    (17, "uefi-ebc-http", UefiX64),
    (18, "uefi-arm32-http", UefiArm32),
    (19, "uefi-arm64-http", UefiArm64),
    (20, "bios-http", Bios),
    (21, "u-boot-arm32", Unknown(21)),
    (22, "u-boot-arm64", Unknown(22)),
    (23, "u-boot-arm32-http", Unknown(23)),
    (24, "u-boot-arm64-http", Unknown(24)),
    (25, "uefi-riscv32", UefiRiscv32),
    (26, "uefi-riscv32-http", UefiRiscv32),
    (27, "uefi-riscv64", UefiRiscv64),
    (28, "uefi-riscv64-http", UefiRiscv64),
    (29, "uefi-riscv128", UefiRiscv128),
    (30, "uefi-riscv128-http", UefiRiscv128),
    (31, "s390-basic", Unknown(31)),
    (32, "s390-extended", Unknown(32)),
    (33, "uefi-mips32", Unknown(33)),
    (34, "uefi-mips64", Unknown(34)),
    (35, "uefi-sunway32", Unknown(35)),
    (36, "uefi-sunway64", Unknown(36)),
    (37, "uefi-loongarch32", UefiLoongarch32),
    (38, "uefi-loongarch32-http", UefiLoongarch32),
    (39, "uefi-loongarch64", UefiLoongarch64),
    (40, "uefi-loongarch64-http", UefiLoongarch64),
    (41, "rpiboot", Unknown(41)),
];

impl From<u16> for Architecture {
    fn from(number: u16) -> Self {
        let entry = REGISTRY.iter().find(|(registered, ..)| *registered == number);
        entry.map_or(Unknown(number), |(.., architecture)| *architecture)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (REGISTRY.iter().find(|(.., architecture)| architecture == self), self) {
            (Some((_, name, _)), _) => f.write_str(name),
            (None, Unknown(number)) => write!(f, "arch-{number}"),
            (None, _) => f.write_str("unnamed"),
        }
    }
}

/// Why a text is not an architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an architecture: a number of option 93, or a name as bios, uefi-x64, uefi-arm64")]
pub struct NoArchitecture;

impl FromStr for Architecture {
    type Err = NoArchitecture;

    fn from_str(text: &str) -> Result<Self, NoArchitecture> {
        if let Ok(number) = text.trim_start_matches("arch-").parse::<u16>() {
            return Ok(number.into());
        }
        let entry = REGISTRY.iter().find(|(_, name, _)| *name == text);
        entry.map(|(.., architecture)| *architecture).ok_or(NoArchitecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn p30_every_registered_number_has_its_place_and_a_name_that_reads_back() {
        for (index, (number, name, architecture)) in REGISTRY.iter().enumerate() {
            assert_eq!(index, usize::from(*number));
            assert_eq!(Architecture::from(*number), *architecture, "{name}");
            assert_eq!(name.parse(), Ok(*architecture));
            assert_eq!(architecture.to_string().parse(), Ok(*architecture));
        }
        assert_eq!(Architecture::from(42), Unknown(42));
        assert_eq!(Unknown(42).to_string(), "arch-42");
        assert_eq!("arch-42".parse(), Ok(Unknown(42)));
        assert_eq!("vax".parse::<Architecture>(), Err(NoArchitecture));
    }
}
