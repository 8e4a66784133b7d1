//! Partition tables: GPT (UEFI 2.10 §5.3), and the MBR with its logical partitions.

use super::{View, at, le16, le32, le64, one_line, uuid};
use kaltstart_protocol::contents::{Area, Entry};
use std::io;

/// Entries of a GUID partition table that are looked at; 128 are usual.
const ENTRIES_MAX: u32 = 1024;
/// Bytes of one entry; larger ones are allowed, and not in use.
const ENTRY_SIZES: std::ops::RangeInclusive<u32> = 128..=1024;
/// Bytes of an entry's name.
const NAME: usize = 72;
/// Logical partitions that are followed.
const LOGICAL_MAX: u32 = 128;
/// Type of the entry that keeps a GUID partition table from programs that do not know it.
const PROTECTIVE: u8 = 0xee;
/// Types of entries that hold more entries.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Kinds whose first sector ends as an MBR does, with other things in its place.
const LIKE_MBR: [&str; 4] = ["vfat", "ntfs", "exfat", "bitlocker"];

/// A table, and where its partitions are.
pub(super) struct Table {
    /// The table itself and its entries.
    pub(super) areas: Vec<Area>,
    /// Number, first byte, bytes.
    pub(super) partitions: Vec<(u32, u64, u64)>,
}

/// The tables of a disk of which `whole` is known already.
pub(super) fn find(disk: &View<'_>, sector_size: u32, whole: &[Area]) -> io::Result<Vec<Table>> {
    // A table may have been made where sectors are of another size.
    let mut sizes = vec![u64::from(sector_size), 512, 4096];
    sizes.dedup();
    let mut tables = Vec::new();
    for sector in sizes.into_iter().filter(|sector| *sector >= 512) {
        let other = (sector != u64::from(sector_size)).then_some(sector);
        tables = gpt(disk, sector, other)?.into_iter().collect();
        if !tables.is_empty() {
            break;
        }
    }
    if !whole.iter().any(|area| LIKE_MBR.contains(&area.kind.as_str())) {
        tables.extend(mbr(disk, u64::from(sector_size.max(512)))?);
    }
    Ok(tables)
}

/// The table whose header is in the second sector, else the copy whose header is in the last. `other` is the size of its
/// sectors, if it is not the disk's.
fn gpt(disk: &View<'_>, sector: u64, other: Option<u64>) -> io::Result<Option<Table>> {
    for offset in [Some(sector), disk.size.checked_sub(sector)].into_iter().flatten() {
        let header = disk.read(offset, 512)?;
        if header.starts_with(b"EFI PART") {
            return gpt_at(disk, sector, other, &header).map(Some);
        }
    }
    Ok(None)
}

fn gpt_at(disk: &View<'_>, sector: u64, other: Option<u64>, header: &[u8]) -> io::Result<Table> {
    let id = guid(header, 56).unwrap_or_default();
    let mut table =
        Table { areas: vec![Area { kind: "gpt".into(), id, ..Area::default() }], partitions: Vec::new() };
    let place = le64(header, 72).and_then(|lba| lba.checked_mul(sector));
    let size = le32(header, 84).filter(|size| ENTRY_SIZES.contains(size));
    let (Some(place), Some(count), Some(size)) = (place, le32(header, 80), size) else { return Ok(table) };
    let entries = disk.read(place, count.min(ENTRIES_MAX) as usize * size as usize)?;
    for (entry, number) in entries.chunks_exact(size as usize).zip(1..) {
        let (Some(first), Some(last)) = (le64(entry, 32), le64(entry, 40)) else { continue };
        let (Some(kind), Some(id)) = (guid(entry, 0), guid(entry, 16)) else { continue };
        if at(entry, 0, 16) == Some(&[0; 16]) {
            continue;
        }
        let name = at(entry, 56, NAME).map(name).unwrap_or_default();
        let (id, kind, name) = (id.as_str(), kind.as_str(), name.as_str());
        table.areas.push(Entry { number, id, kind, first, last, sector: other, name }.into());
        let length = last.checked_sub(first).and_then(|rest| rest.checked_add(1)?.checked_mul(sector));
        if let (Some(start), Some(length)) = (first.checked_mul(sector), length) {
            table.partitions.push((number, start, length));
        }
    }
    Ok(table)
}

/// A GUID in the mixed order UEFI has (appendix A), as text.
fn guid(bytes: &[u8], offset: usize) -> Option<String> {
    let mut ordered: [u8; 16] = at(bytes, offset, 16)?.try_into().ok()?;
    ordered[..4].reverse();
    ordered[4..6].reverse();
    ordered[6..8].reverse();
    uuid(&ordered, 0)
}

/// The name of an entry: UTF-16, up to its first zero.
fn name(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text = char::decode_utf16(units.take_while(|unit| *unit != 0));
    one_line(&text.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>())
}

/// An entry of a record: type, first sector, sectors. Sectors are counted from the table's own.
type RecordEntry = (u8, u32, u32);

/// The four entries of a record; none when it is no record.
fn record(sector: &[u8]) -> Option<[RecordEntry; 4]> {
    if le16(sector, 510)? != 0xaa55 {
        return None;
    }
    let mut entries = [(0, 0, 0); 4];
    for (index, entry) in entries.iter_mut().enumerate() {
        let raw = at(sector, 446 + 16 * index, 16)?;
        // Whether it is the active one: anything else is code or text.
        if !matches!(raw[0], 0 | 0x80) {
            return None;
        }
        *entry = (raw[4], le32(raw, 8)?, le32(raw, 12)?);
    }
    Some(entries)
}

/// The MBR's table, without what only protects a GPT.
fn mbr(disk: &View<'_>, unit: u64) -> io::Result<Option<Table>> {
    let sector = disk.read(0, 512)?;
    let Some(entries) = record(&sector) else { return Ok(None) };
    let real = |entry: &RecordEntry| entry.0 != 0 && entry.0 != PROTECTIVE && entry.2 != 0;
    if !entries.iter().any(real) {
        return Ok(None);
    }
    let id = format!("{:08x}", le32(&sector, 440).unwrap_or(0));
    let mut table = Table {
        areas: vec![Area { kind: "mbr".into(), id: id.clone(), ..Area::default() }],
        partitions: Vec::new(),
    };
    let mut add = |number: u32, kind: u8, first: u64, sectors: u32| {
        let last = first + u64::from(sectors).saturating_sub(1);
        let (id, of_kind) = (format!("{id}-{number:02x}"), format!("{kind:02x}"));
        let (id, of_kind) = (id.as_str(), of_kind.as_str());
        table.areas.push(Entry { number, id, kind: of_kind, first, last, sector: None, name: "" }.into());
        if !EXTENDED.contains(&kind) {
            table.partitions.push((number, first * unit, u64::from(sectors) * unit));
        }
    };
    for ((kind, first, sectors), number) in entries.into_iter().zip(1..) {
        if !real(&(kind, first, sectors)) {
            continue;
        }
        add(number, kind, u64::from(first), sectors);
        if !EXTENDED.contains(&kind) {
            continue;
        }
        // A chain of records, each with one partition and the place of the next record.
        let mut place = u64::from(first);
        for number in 5..5 + LOGICAL_MAX {
            let sector = disk.read(place * unit, 512)?;
            let Some([(kind, offset, sectors), (next_kind, next, _), ..]) = record(&sector) else { break };
            if kind != 0 && sectors != 0 {
                add(number, kind, place + u64::from(offset), sectors);
            }
            if !EXTENDED.contains(&next_kind) || next == 0 {
                break;
            }
            place = u64::from(first) + u64::from(next);
        }
    }
    Ok(Some(table))
}
