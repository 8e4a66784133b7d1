//! What lies on a disk: read only, bounded, and by what the disk itself says, whatever the kernel
//! made of it.
//!
//! | module | subject |
//! |---|---|
//! | [`table`] | partition tables: GPT and MBR |
//! | [`formats`] | file systems and the like, by bytes at fixed places |
//! | [`members`] | members of RAID, LVM and ZFS, whose names must be looked for |

mod formats;
mod members;
mod table;

use kaltstart_protocol::contents::{Area, Contents};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes read from the start of a disk or partition; nearly everything shows there.
const HEAD: usize = 256 << 10;
/// Bytes at both ends of a disk that must be empty for it to be blank.
const ENDS: u64 = 1 << 20;
/// Characters that are kept of a name.
const NAME_CHARS: usize = 64;

/// What can be read anywhere.
pub trait Medium {
    /// As `pread(2)`: how many bytes were read, 0 at the end.
    ///
    /// # Errors
    /// When the medium fails.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Medium for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, offset)
    }
}

/// A disk, or a part of it.
#[derive(Clone, Copy)]
struct View<'a> {
    medium: &'a dyn Medium,
    start: u64,
    size: u64,
}

impl<'a> View<'a> {
    /// The bytes from `offset` on; fewer at the end.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(left)];
        let mut filled = 0;
        while filled < bytes.len() {
            let Some(at) = self.start.checked_add(offset).and_then(|at| at.checked_add(filled as u64)) else {
                break;
            };
            match self.medium.read_at(&mut bytes[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// A part of it, cut at its end.
    fn part(&self, offset: u64, length: u64) -> View<'a> {
        let size = length.min(self.size.saturating_sub(offset));
        View { medium: self.medium, start: self.start.saturating_add(offset), size }
    }
}

/// What lies on the disk at `path`.
///
/// # Errors
/// When it cannot be opened or read: then it is not known to be blank.
pub fn of_device(path: &Path, size: u64, sector_size: u32) -> io::Result<Contents> {
    of_medium(&File::open(path)?, size, sector_size)
}

/// What lies on a disk of `size` bytes with logical sectors of `sector_size` bytes.
///
/// # Errors
/// When it cannot be read.
pub fn of_medium(medium: &dyn Medium, size: u64, sector_size: u32) -> io::Result<Contents> {
    let disk = View { medium, start: 0, size };
    let mut areas = in_part(&disk, None)?;
    for table in table::find(&disk, sector_size, &areas)? {
        for (number, first, length) in table.partitions {
            areas.extend(in_part(&disk.part(first, length), Some(number))?);
        }
        areas.extend(table.areas);
    }
    if areas.is_empty() && !(is_empty(&disk, 0)? && is_empty(&disk, size.saturating_sub(ENDS))?) {
        areas.push(Area { kind: Area::DATA.into(), ..Area::default() });
    }
    Ok(Contents::new(areas))
}

fn in_part(part: &View<'_>, partition: Option<u32>) -> io::Result<Vec<Area>> {
    let head = part.read(0, HEAD)?;
    let mut areas = formats::find(part, &head)?;
    areas.extend(members::find(part, &head)?);
    for area in &mut areas {
        area.partition = partition;
    }
    Ok(areas)
}

/// Whether there are only zeros, or what erased flash memory reads as.
fn is_empty(disk: &View<'_>, offset: u64) -> io::Result<bool> {
    let bytes = disk.read(offset, ENDS as usize)?;
    Ok([0, 0xff].iter().any(|empty| bytes.iter().all(|byte| byte == empty)))
}

/// A name on a disk as one line, up to its first zero.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    one_line(&String::from_utf8_lossy(&bytes[..end]))
}

/// As much of a text from a disk as is shown, without what would end a line.
fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.trim().chars().take(NAME_CHARS).collect()
}

/// `length` bytes at `offset`; none where the bytes end earlier.
fn at(bytes: &[u8], offset: usize, length: usize) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(length)?)
}

fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    at(bytes, offset, 2)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    at(bytes, offset, 4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    at(bytes, offset, 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    le32(bytes, offset).map(u32::swap_bytes)
}

fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    le64(bytes, offset).map(u64::swap_bytes)
}

/// Sixteen bytes as 8-4-4-4-12 (RFC 9562 §4).
fn uuid(bytes: &[u8], offset: usize) -> Option<String> {
    let hex: String = at(bytes, offset, 16)?.iter().map(|byte| format!("{byte:02x}")).collect();
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests;
