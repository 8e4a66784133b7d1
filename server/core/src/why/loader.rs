//! What a loader file is made for, read from its own header.

use crate::dhcp::client::Architecture;

/// Bytes from the start of a file that [`Loader::of`] needs.
pub const HEADER_BYTES: usize = 4096;

/// PE magic numbers and machine types (Microsoft PE/COFF specification, "Machine Types").
const I386: u16 = 0x14c;
const AMD64: u16 = 0x8664;
const ARM64: u16 = 0xaa64;
/// Magic of the 64-bit optional header.
const PE32_PLUS: u16 = 0x20b;

/// What is known of a loader file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loader {
    /// Machine type of its PE header; none when it is no PE image, as loaders for BIOS are.
    pub machine: Option<u16>,
    /// Whether it carries a signature; whose is not checked.
    pub signed: bool,
}

impl Loader {
    /// Reads the first [`HEADER_BYTES`] of a loader, or all of it.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        pe(bytes).unwrap_or(Self { machine: None, signed: false })
    }

    /// Whether firmware of that architecture can start it.
    #[must_use]
    pub fn fits(self, architecture: Architecture) -> bool {
        match architecture {
            Architecture::Bios => self.machine.is_none(),
            Architecture::UefiX64 => self.machine == Some(AMD64),
            Architecture::UefiArm64 => self.machine == Some(ARM64),
            Architecture::UefiX86 => self.machine == Some(I386),
            // Nobody has loaders for them, and nothing is known about it.
            _ => true,
        }
    }

    /// What it is made for, in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.machine {
            None => "BIOS",
            Some(AMD64) => "UEFI on x86-64",
            Some(ARM64) => "UEFI on ARM64",
            Some(_) => "UEFI on another processor",
        }
    }
}

fn pe(bytes: &[u8]) -> Option<Loader> {
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if bytes.get(..2)? != b"MZ" {
        return None;
    }
    let header = usize::try_from(word(0x3c)?).ok()?;
    if word(header)? != u32::from_le_bytes(*b"PE\0\0") {
        return None;
    }
    let machine = half(header + 4)?;
    let optional = header + 24;
    // The data directories begin behind fields that are longer in the 64-bit form; the fifth is
    // the table of certificates.
    let directories = optional + if half(optional)? == PE32_PLUS { 112 } else { 96 };
    let signed = word(directories + 4 * 8 + 4).is_some_and(|size| size > 0);
    Some(Loader { machine: Some(machine), signed })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// The header of a PE image.
    pub(in crate::why) fn image(machine: u16, signed: bool) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
        bytes[0x98..0x9a].copy_from_slice(&PE32_PLUS.to_le_bytes());
        bytes[0x98 + 112 + 36] = u8::from(signed);
        bytes
    }

    #[test]
    fn a_header_tells_machine_and_signature() {
        let loader = Loader::of(&image(ARM64, true));
        assert_eq!(loader, Loader { machine: Some(ARM64), signed: true });
        assert!(loader.fits(Architecture::UefiArm64) && !loader.fits(Architecture::UefiX64));
        assert!(!Loader::of(&image(AMD64, false)).signed);
        assert!(Loader::of(b"\x7fELF").fits(Architecture::Bios));
    }

    proptest! {
        #[test]
        fn p29_no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Loader::of(&bytes);
            if bytes.len() > 2 {
                bytes[..2].copy_from_slice(b"MZ");
                let _ = Loader::of(&bytes);
            }
        }
    }
}
