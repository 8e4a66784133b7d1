//! What lies on a disk, by its signatures: read only, bounded, never interpreted further.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes read from the start of a disk.
const HEAD: usize = 128 * 1024;

/// Where a kind of content shows: name, offset, bytes.
const SIGNATURES: &[(&str, usize, &[u8])] = &[
    ("gpt", 512, b"EFI PART"),
    // On disks with 4096-byte sectors.
    ("gpt", 4096, b"EFI PART"),
    ("ext4", 1080, &[0x53, 0xef]),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 65_600, b"_BHRfS_M"),
    ("luks", 0, b"LUKS\xba\xbe"),
    // The label is in one of the first four sectors.
    ("lvm", 0, b"LABELONE"),
    ("lvm", 512, b"LABELONE"),
    ("lvm", 1024, b"LABELONE"),
    ("lvm", 1536, b"LABELONE"),
    // md metadata 1.1 and 1.2; 1.0 lies at the end of the disk.
    ("md", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("swap", 4086, b"SWAPSPACE2"),
    ("iso9660", 32_769, b"CD001"),
    ("ntfs", 3, b"NTFS    "),
    ("vfat", 54, b"FAT1"),
    ("vfat", 82, b"FAT32"),
    ("bcachefs", 4120, &[0xc6, 0x85, 0x73, 0xf6]),
    ("ceph", 0, b"bluestore block device"),
];
/// VMFS: offset and bytes, beyond [`HEAD`].
const VMFS: (u64, &[u8]) = (0x10_0000, &[0x0d, 0xd0, 0x01, 0xc0]);
/// Magic number of a ZFS uberblock; an array of them begins 128 KiB into the label.
const ZFS_UBERBLOCK: u64 = 0x00ba_b10c;
/// Offset and size of the first label's uberblocks.
const ZFS_UBERBLOCKS: (u64, usize) = (128 * 1024, 128 * 1024);

/// The contents of a device, by name, each once; empty when it is blank or cannot be read.
#[must_use]
pub fn of_device(path: &Path) -> Vec<String> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let read = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) | Err(_) => break,
                Ok(count) => filled += count,
            }
        }
        bytes.truncate(filled);
        bytes
    };
    let mut found = of_bytes(&read(0, HEAD));
    if has_uberblock(&read(ZFS_UBERBLOCKS.0, ZFS_UBERBLOCKS.1)) {
        found.push("zfs".into());
    }
    if read(VMFS.0, VMFS.1.len()) == VMFS.1 {
        found.push("vmfs".into());
    }
    found
}

/// The contents that show in the first bytes of a disk.
#[must_use]
pub fn of_bytes(head: &[u8]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (name, offset, magic) in SIGNATURES {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) && !found.iter().any(|f| f == name)
        {
            found.push((*name).into());
        }
    }
    // Boot sectors of file systems end like a partition table, and GPT carries a protective one.
    let is_mbr = head.get(510..512) == Some(&[0x55, 0xaa]) && head[446..510].iter().any(|byte| *byte != 0);
    if is_mbr && !found.iter().any(|name| ["gpt", "ntfs", "vfat"].contains(&name.as_str())) {
        found.insert(0, "mbr".into());
    }
    found
}

fn has_uberblock(bytes: &[u8]) -> bool {
    bytes.as_chunks::<1024>().0.iter().any(|block| {
        let number = block.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        number == ZFS_UBERBLOCK || number.swap_bytes() == ZFS_UBERBLOCK
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        for (offset, bytes) in parts {
            head[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn signatures_are_recognised() {
        let mbr: (usize, &[u8]) = (510, &[0x55, 0xaa]);
        for (parts, expected) in [
            (vec![], vec![]),
            (vec![mbr, (450, &[0xee]), (512, b"EFI PART")], vec!["gpt"]),
            (vec![mbr, (450, &[0x83])], vec!["mbr"]),
            (vec![mbr, (82, b"FAT32   "), (446, b"code")], vec!["vfat"]),
            (vec![(1080, &[0x53, 0xef])], vec!["ext4"]),
            (vec![(512, b"LABELONE"), (4096, &[0xfc, 0x4e, 0x2b, 0xa9])], vec!["lvm", "md"]),
            (vec![(0, b"LUKS\xba\xbe")], vec!["luks"]),
            (vec![(65_600, b"_BHRfS_M")], vec!["btrfs"]),
            (vec![(32_769, b"CD001"), mbr, (450, &[0x17])], vec!["mbr", "iso9660"]),
        ] {
            assert_eq!(of_bytes(&with(&parts)), expected, "{parts:?}");
        }
    }

    #[test]
    fn short_and_missing_devices_are_blank() {
        assert!((0..600).all(|length| of_bytes(&vec![0; length]).is_empty()));
        assert!(of_device(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn zfs_is_found_behind_the_label() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let offset = 128 * 1024 + 5 * 1024;
        file.as_file().write_all_at(&ZFS_UBERBLOCK.to_le_bytes(), offset).expect("written");
        file.as_file().set_len(300 * 1024).expect("grown");
        assert_eq!(of_device(file.path()), ["zfs"]);
    }
}
