//! GRUB for BIOS: what `grub-bios-setup` would write, done by arithmetic.
//!
//! Offsets are those of `include/grub/i386/pc/boot.h` and `grub-core/boot/i386/pc/*.S` of GRUB 2.

use crate::disk::gpt::BOOT_CODE_SIZE;
use kaltstart_protocol::layout::fit::BIOS_SECTOR;

/// `boot.img`: where the first sector of `core.img` is (u64).
const KERNEL_SECTOR: usize = 0x5C;
/// `boot.img`: which drive to load from; FF = the one the BIOS started from.
const BOOT_DRIVE: usize = 0x64;
/// `boot.img`: a jump around the check for broken BIOSes; on hard disks two NOPs replace it.
const DRIVE_CHECK: usize = 0x66;
/// `core.img`'s first sector: list of the others (u64 first, u16 count, u16 segment).
const BLOCK_LIST: usize = 0x1F4;
/// Segment to which the second sector of `core.img` is loaded: 0x8000 + one sector.
const SEGMENT: u16 = 0x820;

/// Why GRUB's files cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BiosError {
    /// Not 512 bytes with the signature 55 AA.
    #[error("boot.img is not a boot sector of 512 bytes")]
    BootImg,
    /// Too small or too large.
    #[error("core.img has {size} bytes, the BIOS boot partition {room}")]
    CoreImg {
        /// Its bytes.
        size: usize,
        /// Bytes of the partition.
        room: u64,
    },
}

/// Boot code for the master boot record, and the bytes to write at the start of the BIOS boot
/// partition, which begins at sector `first` and has `room` bytes.
///
/// # Errors
/// When the files are not what GRUB makes, or do not fit.
pub fn patch(
    boot_img: &[u8],
    core_img: &[u8],
    first: u64,
    room: u64,
) -> Result<(Vec<u8>, Vec<u8>), BiosError> {
    if boot_img.len() != BIOS_SECTOR as usize || boot_img[510..] != [0x55, 0xAA] {
        return Err(BiosError::BootImg);
    }
    let wrong = || BiosError::CoreImg { size: core_img.len(), room };
    let sectors = core_img.len().div_ceil(BIOS_SECTOR as usize);
    let rest = u16::try_from(sectors.saturating_sub(1)).map_err(|_| wrong())?;
    if rest == 0 || sectors as u64 * BIOS_SECTOR > room {
        return Err(wrong());
    }
    let mut code = boot_img[..BOOT_CODE_SIZE].to_vec();
    code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    code[BOOT_DRIVE] = 0xFF;
    code[DRIVE_CHECK..DRIVE_CHECK + 2].fill(0x90);
    let mut core = core_img.to_vec();
    core.resize(sectors * BIOS_SECTOR as usize, 0);
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&SEGMENT.to_le_bytes());
    Ok((code, core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_point_to_the_partition() {
        let mut boot = vec![0xEE; 512];
        boot[510..].copy_from_slice(&[0x55, 0xAA]);
        let (code, core) = patch(&boot, &[0x11; 1500], 2048, 1 << 20).expect("fits");
        assert_eq!(code.len(), 440);
        assert_eq!(code[0x5C..0x68], [0, 8, 0, 0, 0, 0, 0, 0, 0xFF, 0xEE, 0x90, 0x90]);
        assert_eq!(core.len(), 1536);
        assert_eq!(core[0x1F4..0x200], [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]);
        assert_eq!(patch(&boot[1..], &[0; 1500], 0, 1 << 20), Err(BiosError::BootImg));
        assert!(patch(&boot, &[0; 512], 0, 1 << 20).is_err());
        assert!(patch(&boot, &[0; 1500], 0, 1535).is_err());
    }
}
