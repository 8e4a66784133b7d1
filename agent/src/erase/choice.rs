//! By which methods a disk is erased: those that it has and that touch nothing else, the best one first,
//! and in the end overwriting, which every disk has.
//!
//! Discarding (`TRIM`, `Deallocate`, `UNMAP`) is none of them: it is advice that a disk need not follow. Where a disk
//! promises zeros for what is deallocated, overwriting makes use of it, as the kernel does it so then.

use super::{ata, nvme};
use crate::disk::device::Device;
use kaltstart_protocol::erasure::{EraseMethod, Unused};
use kaltstart_protocol::facts::Disk;

/// A method that a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Which.
    pub(super) method: EraseMethod,
    /// Why it must not be used.
    pub(super) forbidden: Option<&'static str>,
}

/// By which methods a disk is erased, one after the other until one has done it; and which of its own must
/// not be used.
pub type Methods = (Vec<EraseMethod>, Vec<Unused>);

/// The methods of a disk, which is asked for them.
#[must_use]
pub fn methods(disk: &Disk, device: &Device) -> Methods {
    Says::ask(disk, device).methods()
}

/// What a disk says that it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// It has no methods of its own, or was not understood.
    Nothing,
    /// An NVMe disk.
    Nvme(nvme::Says),
    /// An ATA disk.
    Ata(ata::Security),
}

impl Says {
    fn ask(disk: &Disk, device: &Device) -> Self {
        let says = match disk.transport.as_str() {
            "nvme" => nvme::ask(device.file()).map(Self::Nvme),
            "sata" => ata::ask(device.file()).map(Self::Ata),
            // Behind a controller for SAS there may be a SATA disk; one of SAS refuses.
            "sas" => return ata::ask(device.file()).map_or(Self::Nothing, Self::Ata),
            _ => return Self::Nothing,
        };
        says.unwrap_or_else(|error| {
            tracing::warn!(%error, disk = %disk.name, "the disk does not tell how it can erase itself");
            Self::Nothing
        })
    }

    fn methods(self) -> Methods {
        let offers = match self {
            Self::Nothing => Vec::new(),
            Self::Nvme(says) => says.offers(),
            Self::Ata(security) => security.offers(),
        };
        let mut methods = vec![EraseMethod::Overwrite];
        let mut unused = Vec::new();
        for Offer { method, forbidden } in offers {
            match forbidden {
                None => methods.push(method),
                Some(why) => unused.push(Unused { method, why: why.into() }),
            }
        }
        methods.sort();
        (methods, unused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_the_best_method_comes_first_and_overwriting_last() {
        let nvme = |controller: &[(usize, u8)], others: bool| {
            let (mut bytes, mut list) = ([0; 4096], [0; 4096]);
            controller.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            (list[0], list[4]) = (1, if others { 2 } else { 0 });
            Says::Nvme(nvme::read(&bytes, &[0; 4096], &list, 1)).methods()
        };
        use EraseMethod::{FormatCrypto, FormatErase, Overwrite, SanitizeBlock, SanitizeCrypto};
        let all = [(256, 0x02), (328, 0x03), (524, 0x04)];
        let (methods, unused) = nvme(&all, false);
        assert_eq!(methods, [SanitizeBlock, SanitizeCrypto, FormatErase, FormatCrypto, Overwrite]);
        assert_eq!(unused, []);
        let (methods, unused) = nvme(&all, true);
        assert_eq!(methods, [FormatErase, FormatCrypto, Overwrite]);
        assert_eq!(unused.iter().map(|one| one.method).collect::<Vec<_>>(), [SanitizeBlock, SanitizeCrypto]);
        assert_eq!(nvme(&[], false), (vec![Overwrite], vec![]));
        assert_eq!(Says::Nothing.methods(), (vec![Overwrite], vec![]));
    }
}
