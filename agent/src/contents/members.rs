//! Members of RAID arrays, LVM volume groups and ZFS pools: their names must be looked for.

use super::{View, at, be32, be64, le32, le64, name, uuid};
use kaltstart_protocol::contents::Area;
use std::io;

/// md's magic number (`linux/raid/md_p.h`).
const MD: u32 = 0xa92b_4efc;
/// A ZFS label: pairs of names and values here, then uberblocks (ZFS On-Disk Specification §1.2).
const ZFS_PAIRS: usize = 16 << 10;
const ZFS_UBERBLOCKS: usize = 128 << 10;
/// Magic number of an uberblock, in the byte order of who wrote it.
const ZFS_UBERBLOCK: u64 = 0x00ba_b10c;
/// Pairs of a ZFS label that are looked at.
const ZFS_PAIRS_MAX: usize = 64;
/// Areas of a physical volume that are passed on the way to its metadata.
const LVM_AREAS_MAX: usize = 16;
/// Bytes of LVM's metadata that are read; the group's name and UUID come first.
const LVM_TEXT: usize = 4096;

/// What shows in `head`, the first bytes of `part`, or at its end.
pub(super) fn find(part: &View<'_>, head: &[u8]) -> io::Result<Vec<Area>> {
    let mut areas: Vec<Area> =
        [md(head), head.get(4096..).and_then(md), zfs(head)].into_iter().flatten().collect();
    // md 1.0: 8 KiB before the end, down to a multiple of 4 KiB; 0.90: the last whole 64 KiB.
    let late = (part.size / 512).checked_sub(16).map(|sectors| (sectors & !7) * 512);
    let old = (part.size & !0xffff).checked_sub(0x1_0000);
    for offset in [late, old].into_iter().flatten() {
        areas.extend(md(&part.read(offset, 256)?));
    }
    // Firmware RAID, by its last sectors.
    let end = part.read(part.size.saturating_sub(1024), 1024)?;
    for (kind, offset, magic) in
        [("intel-raid", 0, &b"Intel Raid ISM Cfg Sig. "[..]), ("ddf-raid", 512, b"\xde\x11\xde\x11")]
    {
        if at(&end, offset, magic.len()) == Some(magic) {
            areas.push(Area { kind: kind.into(), ..Area::default() });
        }
    }
    areas.extend(lvm(part, head)?);
    Ok(areas)
}

/// A superblock of md: array's UUID, and name (`host:name`) where it has one.
fn md(bytes: &[u8]) -> Option<Area> {
    let member = |id, label| Some(Area { partition: None, kind: "md".into(), id, label });
    match (le32(bytes, 0)?, le32(bytes, 4)?) {
        (MD, 1) => member(uuid(bytes, 16)?, name(at(bytes, 32, 32)?)),
        // 0.90 is in the byte order of its machine, and its UUID in two pieces.
        (magic, 0) if magic == MD || magic.swap_bytes() == MD => {
            let pieces = [at(bytes, 20, 4)?, at(bytes, 52, 12)?].concat();
            member(uuid(&pieces, 0)?, String::new())
        }
        _ => None,
    }
}

/// A physical volume: its UUID, and the group's name and UUID (LVM2 `lib/format_text/layout.h`).
fn lvm(part: &View<'_>, head: &[u8]) -> io::Result<Option<Area>> {
    // The label is in one of the first four sectors.
    let labels = head.as_chunks::<512>().0.iter().take(4);
    let label = labels.enumerate().find(|(_, sector)| sector.starts_with(b"LABELONE"));
    let Some((index, sector)) = label else { return Ok(None) };
    let mut area = Area { kind: "lvm".into(), ..Area::default() };
    // It begins behind the label.
    let header = le32(sector, 20).filter(|offset| *offset >= 32);
    let header = header.and_then(|offset| (index * 512).checked_add(offset as usize));
    if let Some(header) = header
        && let Some(id) = at(head, header, 32)
    {
        area.id = dashed(&name(id));
        for metadata in metadata_areas(head, header + 40) {
            if let Some(group) = group(part, metadata)? {
                area.label = group;
                break;
            }
        }
    }
    Ok(Some(area))
}

/// Where the metadata areas begin: two lists of (offset, size), each ended by zeros; data first.
fn metadata_areas(head: &[u8], lists: usize) -> Vec<u64> {
    let pairs = (0..2 * LVM_AREAS_MAX).map_while(|index| le64(head, lists.checked_add(index * 16)?));
    let (mut metadata, mut is_second) = (Vec::new(), false);
    for offset in pairs {
        match (offset, is_second) {
            (0, true) => break,
            (0, false) => is_second = true,
            (offset, true) => metadata.push(offset),
            (_, false) => {}
        }
    }
    metadata
}

/// Name and UUID of the volume group whose newest metadata the area at `start` holds.
fn group(part: &View<'_>, start: u64) -> io::Result<Option<String>> {
    let header = part.read(start, 512)?;
    if at(&header, 4, 16) != Some(b" LVM2 x[5A%r0N*>") {
        return Ok(None);
    }
    let offset = le64(&header, 40).filter(|offset| *offset != 0).and_then(|offset| start.checked_add(offset));
    let Some(offset) = offset else { return Ok(None) };
    let text = String::from_utf8_lossy(&part.read(offset, LVM_TEXT)?).into_owned();
    let group = name(text.split([' ', '{', '\n']).next().unwrap_or_default().as_bytes());
    let id = text.split_once("id = \"").and_then(|(_, rest)| rest.split_once('"'));
    let id = id.map_or_else(String::new, |(id, _)| name(id.as_bytes()));
    Ok((!group.is_empty()).then(|| format!("{group} {id}").trim().to_owned()))
}

/// LVM's way to write a UUID: 6-4-4-4-4-4-6.
fn dashed(id: &str) -> String {
    if id.len() != 32 || !id.is_ascii() {
        return id.to_owned();
    }
    [&id[..6], &id[6..10], &id[10..14], &id[14..18], &id[18..22], &id[22..26], &id[26..]].join("-")
}

/// A member of a pool: the pool's number and name.
fn zfs(head: &[u8]) -> Option<Area> {
    let uberblocks = head.get(ZFS_UBERBLOCKS..)?.as_chunks::<1024>().0;
    let is_member = uberblocks
        .iter()
        .any(|block| le64(block, 0).is_some_and(|n| n == ZFS_UBERBLOCK || n.swap_bytes() == ZFS_UBERBLOCK));
    is_member.then(|| {
        let mut area = Area { kind: "zfs".into(), ..Area::default() };
        let pairs = head.get(ZFS_PAIRS..ZFS_UBERBLOCKS).unwrap_or_default();
        pool(pairs, &mut area);
        area
    })
}

/// Walks a label's list of pairs (XDR: encoding, version, flags; then pairs of size, decoded size,
/// name, type, number of values, values).
fn pool(pairs: &[u8], area: &mut Area) -> Option<()> {
    const NUMBER: u32 = 8;
    const TEXT: u32 = 9;
    let mut offset: usize = 12;
    for _ in 0..ZFS_PAIRS_MAX {
        let size = be32(pairs, offset)? as usize;
        let pair = at(pairs, offset, size).filter(|_| size > 0)?;
        let length = be32(pair, 8)? as usize;
        let key = at(pair, 12, length)?;
        let value = 12 + length.next_multiple_of(4);
        match (key, be32(pair, value)?) {
            (b"name", TEXT) => {
                let length = be32(pair, value + 8)? as usize;
                area.label = name(at(pair, value + 12, length)?);
            }
            (b"pool_guid", NUMBER) => area.id = be64(pair, value + 8)?.to_string(),
            _ => {}
        }
        offset = offset.checked_add(size)?;
    }
    None
}
