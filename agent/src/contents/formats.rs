//! What shows by a few bytes at a fixed place, as libblkid's `superblocks/*.c` knows them.

use super::{View, at, le16, le32, le64, name, uuid};
use kaltstart_protocol::contents::Area;
use std::io;

/// Where the identity of a kind stands, from the start of the disk or partition.
#[derive(Clone, Copy)]
enum Id {
    None,
    Uuid(usize),
    /// Offset and length.
    Text(usize, usize),
    /// A little-endian number, as FAT's volume id.
    Serial32(usize),
    Serial64(usize),
}

/// Kind, where its magic bytes are, the bytes, its identity, its name (offset and length, or none).
type Format = (&'static str, usize, &'static [u8], Id, (usize, usize));

const NO_NAME: (usize, usize) = (0, 0);

const FORMATS: &[Format] = &[
    ("xfs", 0, b"XFSB", Id::Uuid(32), (108, 12)),
    ("btrfs", 65_600, b"_BHRfS_M", Id::Uuid(65_568), (65_835, 256)),
    ("luks", 0, b"LUKS\xba\xbe", Id::Text(168, 40), NO_NAME),
    ("swap", 4086, b"SWAPSPACE2", Id::Uuid(1036), (1052, 16)),
    ("swap", 4086, b"SWAP-SPACE", Id::None, NO_NAME),
    ("hibernated", 4086, b"S1SUSPEND", Id::Uuid(1036), (1052, 16)),
    ("iso9660", 32_769, b"CD001", Id::Text(33_581, 16), (32_808, 32)),
    ("ntfs", 3, b"NTFS    ", Id::Serial64(72), NO_NAME),
    ("bitlocker", 3, b"-FVE-FS-", Id::None, NO_NAME),
    ("refs", 0, b"\0\0\0ReFS\0", Id::None, NO_NAME),
    ("exfat", 3, b"EXFAT   ", Id::Serial32(100), NO_NAME),
    ("vfat", 54, b"FAT1", Id::Serial32(39), (43, 11)),
    ("vfat", 82, b"FAT32", Id::Serial32(67), (71, 11)),
    (
        "bcachefs",
        4120,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        Id::Uuid(4152),
        (4168, 32),
    ),
    (
        "bcache",
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        Id::Uuid(4136),
        NO_NAME,
    ),
    ("ceph", 0, b"bluestore block device\n", Id::Text(23, 36), NO_NAME),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2", Id::Uuid(1132), NO_NAME),
    ("reiserfs", 65_588, b"ReIsEr", Id::Uuid(65_620), (65_636, 16)),
    ("jfs", 32_768, b"JFS1", Id::Uuid(32_904), NO_NAME),
    ("apfs", 32, b"NXSB", Id::Uuid(72), NO_NAME),
    ("hfsplus", 1024, b"H+\0\x04", Id::None, NO_NAME),
    ("gfs2", 65_536, b"\x01\x16\x19\x70\0\0\0\x01", Id::None, NO_NAME),
    // In the third block, whose size is not known before.
    ("ocfs2", 1024, b"OCFSV2", Id::None, NO_NAME),
    ("ocfs2", 2048, b"OCFSV2", Id::None, NO_NAME),
    ("ocfs2", 4096, b"OCFSV2", Id::None, NO_NAME),
    ("ocfs2", 8192, b"OCFSV2", Id::None, NO_NAME),
    ("squashfs", 0, b"hsqs", Id::None, NO_NAME),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0", Id::Uuid(1072), NO_NAME),
    ("oracleasm", 32, b"ORCLDISK", Id::None, (40, 24)),
    ("stratis", 516, b"!Stra0tis", Id::None, NO_NAME),
    ("vdo", 0, b"dmvdo001", Id::None, NO_NAME),
];

/// VMFS volumes begin beyond what is read of every disk: offset, magic bytes, place of the UUID.
const VMFS: (u64, &[u8], usize) = (1 << 20, b"\x0d\xd0\x01\xc0", 130);
/// Where ext2 and its successors have their superblock.
const EXT: usize = 1024;
/// ext's feature: a journal inside (`s_feature_compat`).
const EXT_HAS_JOURNAL: u32 = 0x4;
/// ext's feature: it is a journal for another file system (`s_feature_incompat`).
const EXT_JOURNAL_DEV: u32 = 0x8;
/// Features that make it ext4: extents, 64 bit, flexible block groups (`s_feature_incompat`).
const EXT4: u32 = 0x40 | 0x80 | 0x200;

/// What shows in `head`, the first bytes of `part`.
pub(super) fn find(part: &View<'_>, head: &[u8]) -> io::Result<Vec<Area>> {
    let known = FORMATS.iter().filter(|(_, offset, magic, ..)| at(head, *offset, magic.len()) == Some(magic));
    let mut areas: Vec<Area> = known
        .map(|(kind, _, _, id, (offset, length))| Area {
            partition: None,
            kind: (*kind).into(),
            id: read_id(head, *id).unwrap_or_default(),
            label: at(head, *offset, *length).map(name).unwrap_or_default(),
        })
        .collect();
    areas.extend(ext(head));
    let vmfs = part.read(VMFS.0, VMFS.2 + 16)?;
    if vmfs.starts_with(VMFS.1) {
        let id = uuid(&vmfs, VMFS.2).unwrap_or_default();
        areas.push(Area { kind: "vmfs".into(), id, ..Area::default() });
    }
    Ok(areas)
}

fn read_id(head: &[u8], id: Id) -> Option<String> {
    match id {
        Id::None => None,
        Id::Uuid(offset) => uuid(head, offset),
        Id::Text(offset, length) => at(head, offset, length).map(name),
        Id::Serial32(offset) => {
            le32(head, offset).map(|number| format!("{:04X}-{:04X}", number >> 16, number & 0xffff))
        }
        Id::Serial64(offset) => le64(head, offset).map(|number| format!("{number:016X}")),
    }
}

/// ext2, ext3 or ext4 (`linux/fs/ext4/ext4.h`, `struct ext4_super_block`): told apart by features
/// that mounting does not change.
fn ext(head: &[u8]) -> Option<Area> {
    if le16(head, EXT + 56)? != 0xef53 {
        return None;
    }
    let (compatible, incompatible) = (le32(head, EXT + 92)?, le32(head, EXT + 96)?);
    let kind = if incompatible & EXT_JOURNAL_DEV != 0 {
        "jbd"
    } else if incompatible & EXT4 != 0 {
        "ext4"
    } else if compatible & EXT_HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    let label = name(at(head, EXT + 120, 16)?);
    Some(Area { partition: None, kind: kind.into(), id: uuid(head, EXT + 104)?, label })
}
