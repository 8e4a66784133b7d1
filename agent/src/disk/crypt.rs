//! Encrypted partitions, and arrays of them, as devices of the kernel (`dm-crypt`).

use super::luks::{Header, Locked, Opened};
use super::mapper::{self, Mapping, SECTOR};
use crate::sys::block;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// Opens the partition at `node` with the passphrase `key`, unless it is open already.
///
/// # Errors
/// When the key is another's, or the kernel has no `dm-crypt`.
pub fn open(node: &Path, key: &[u8]) -> Result<Mapping, Locked> {
    let partition = File::open(node)?;
    let read = |offset, buffer: &mut [u8]| partition.read_exact_at(buffer, offset);
    let header = Header::read(&read)?;
    if let Some(open) = mapper::existing(&name(&header.uuid())) {
        return Ok(open);
    }
    let opened = header.open(key, &read)?;
    Ok(map(node, &header.uuid(), &opened)?)
}

/// Makes the device of the opened partition at `node`, which has that UUID in its header.
///
/// # Errors
/// When the partition is too small, or the kernel has no `dm-crypt`.
pub fn map(node: &Path, uuid: &str, opened: &Opened) -> io::Result<Mapping> {
    let Opened { offset, sector_size, cipher, key } = opened;
    let length = block::size_bytes(&File::open(node)?)?.checked_sub(*offset).filter(|length| *length > 0);
    let length = length.ok_or_else(|| io::Error::other("the partition is too small to be encrypted"))?;
    let mut hex = Zeroizing::new(String::with_capacity(key.len() * 2));
    for byte in key.iter() {
        // Writing to a `String` cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    let (node, start) = (node.display(), offset / SECTOR);
    let words = Zeroizing::new(format!(
        "{cipher} {} 0 {node} {start} 2 allow_discards sector_size:{sector_size}",
        &*hex
    ));
    let name = name(uuid);
    // As cryptsetup does it, which then knows what the device is.
    let id = format!("CRYPT-LUKS2-{}-{name}", uuid.replace('-', ""));
    mapper::make(&name, &id, "crypt", length, &words)
}

fn name(uuid: &str) -> String {
    format!("luks-{uuid}")
}
