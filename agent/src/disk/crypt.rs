//! Encrypted partitions as devices of the kernel (`dm-crypt`).

use super::luks::{Header, Locked, Opened};
use super::patiently;
use crate::sys::{block, dm};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bytes of the sectors that the device mapper counts in, whatever the disk.
const SECTOR: u64 = 512;
/// Where names of its devices are.
const NAMES: &str = "/dev/mapper";

/// A device through which an encrypted partition is read and written. The kernel keeps it until it is closed.
#[derive(Debug)]
pub struct Mapping {
    name: String,
    /// Its device node.
    pub node: PathBuf,
}

/// Opens the partition at `node` with the passphrase `key`, unless it is open already.
///
/// # Errors
/// When the key is another's, or the kernel has no `dm-crypt`.
pub fn open(node: &Path, key: &[u8]) -> Result<Mapping, Locked> {
    let partition = File::open(node)?;
    let read = |offset, buffer: &mut [u8]| partition.read_exact_at(buffer, offset);
    let header = Header::read(&read)?;
    let name = name(&header.uuid());
    if Path::new(NAMES).join(&name).exists() {
        return Ok(Mapping { node: Path::new(NAMES).join(&name), name });
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
    let control = control()?;
    // As cryptsetup does it, which then knows what the device is.
    let id = format!("CRYPT-LUKS2-{}-{name}", uuid.replace('-', ""));
    let (_, minor) = dm::create(&control, &name, &id, "crypt", length / SECTOR, &words)?;
    // Where there is udev it makes the same.
    let link = Path::new(NAMES).join(&name);
    match symlink(format!("../dm-{minor}"), &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::warn!(%error, link = %link.display(), "no link to the encrypted partition");
        }
        _ => {}
    }
    Ok(Mapping { name, node: format!("/dev/dm-{minor}").into() })
}

impl Mapping {
    /// Removes the device, and with it the kernel's copy of the key.
    ///
    /// # Errors
    /// When it is in use.
    pub fn close(&self) -> io::Result<()> {
        let control = control()?;
        patiently(|| dm::remove(&control, &self.name))?;
        fs::remove_file(Path::new(NAMES).join(&self.name)).ok();
        Ok(())
    }
}

fn name(uuid: &str) -> String {
    format!("luks-{uuid}")
}

fn control() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(dm::CONTROL).map_err(|error| {
        let detail = format!("the kernel has no device mapper ({}): {error}", dm::CONTROL);
        io::Error::new(error.kind(), detail)
    })
}
