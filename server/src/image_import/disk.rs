//! Images of whole disks: the root file system is cut out (UEFI 2.10 §5.3: GUID partition table).

use anyhow::{Context as _, Result, bail, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes of the sectors that images of disks have.
const SECTOR: u64 = 512;
const SIGNATURE: &[u8] = b"EFI PART";
/// Entries of the largest table that is read.
const ENTRIES_MAX: u32 = 256;
/// Types of partitions that may hold a root file system, as they lie in the table: Linux file system, and
/// root of x86-64 (Discoverable Partitions Specification).
const ROOTS: [[u8; 16]; 2] = [
    [0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84, 0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69, 0xD8, 0x47, 0x7D, 0xE4],
    [0xE3, 0xBC, 0x68, 0x4F, 0xCD, 0xE8, 0xB1, 0x4D, 0x96, 0xE7, 0xFB, 0xCA, 0xF9, 0x84, 0xB7, 0x09],
];
/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// Whether `file` begins like a disk with a table.
pub(super) fn is_disk(file: &File) -> bool {
    let mut signature = [0; 8];
    file.read_exact_at(&mut signature, SECTOR).is_ok() && signature == *SIGNATURE
}

/// Where the only partition lies that may be a root: offset and length in bytes.
///
/// # Errors
/// When there is none, or several.
pub(super) fn root(disk: &File) -> Result<(u64, u64)> {
    let mut header = [0; 92];
    disk.read_exact_at(&mut header, SECTOR).context("its table cannot be read")?;
    let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or([0; 8]));
    let short = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or([0; 4]));
    let (first, count, size) = (long(&header, 72), short(80), short(84));
    ensure!(count <= ENTRIES_MAX && (128..=4096).contains(&size), "its table is nonsense");
    let mut roots = Vec::new();
    for number in 0..count {
        let mut entry = [0; 128];
        let at = first.checked_mul(SECTOR).and_then(|at| at.checked_add(u64::from(number * size)));
        disk.read_exact_at(&mut entry, at.context("its table is nonsense")?)
            .context("its table is cut off")?;
        let (from, to) = (long(&entry, 32), long(&entry, 40));
        if ROOTS.iter().any(|kind| entry.starts_with(kind)) {
            let length = to.checked_sub(from).and_then(|sectors| sectors.checked_add(1)?.checked_mul(SECTOR));
            let place = from.checked_mul(SECTOR).zip(length);
            roots.push(place.with_context(|| format!("partition {} is nonsense", number + 1))?);
        }
    }
    match roots[..] {
        [root] => Ok(root),
        [] => bail!("it has no partition of Linux"),
        _ => bail!("it has {} partitions of Linux; cut out the one with the root", roots.len()),
    }
}

/// Copies `length` bytes from `offset` on into a new file; zeros become holes.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn cut(disk: &File, (offset, length): (u64, u64), to: &Path) -> Result<()> {
    let file = File::create_new(to).with_context(|| format!("cannot make {}", to.display()))?;
    file.set_len(length)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < length {
        let bytes = &mut piece[..PIECE.min(usize::try_from(length - at).unwrap_or(PIECE))];
        disk.read_exact_at(bytes, offset + at).context("the partition is cut off")?;
        if bytes.iter().any(|byte| *byte != 0) {
            file.write_all_at(bytes, at)?;
        }
        at += bytes.len() as u64;
    }
    Ok(())
}
