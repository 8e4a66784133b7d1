//! Devices of the kernel's device mapper, each of one target.

use super::patiently;
use crate::sys::dm;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Bytes of the sectors that the device mapper counts in, whatever the disk.
pub(super) const SECTOR: u64 = 512;
/// Where names of its devices are.
const NAMES: &str = "/dev/mapper";

/// A device through which a part of another is read and written. The kernel keeps it until it is closed.
#[derive(Debug)]
pub struct Mapping {
    name: String,
    /// Its device node.
    pub node: PathBuf,
}

/// The device of that name, if somebody has made it.
pub(super) fn existing(name: &str) -> Option<Mapping> {
    let node = Path::new(NAMES).join(name);
    node.exists().then(|| Mapping { node, name: name.to_owned() })
}

/// Makes a device of `length` bytes by name and UUID. `words` are what the target of that `kind` takes.
///
/// # Errors
/// See [`dm::create`].
pub(super) fn make(name: &str, uuid: &str, kind: &str, length: u64, words: &str) -> io::Result<Mapping> {
    let (_, minor) = dm::create(&control()?, name, uuid, kind, length / SECTOR, words)?;
    // Where there is udev it makes the same.
    let link = Path::new(NAMES).join(name);
    match symlink(format!("../dm-{minor}"), &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::warn!(%error, link = %link.display(), "no link to a device of the device mapper");
        }
        _ => {}
    }
    Ok(Mapping { name: name.to_owned(), node: format!("/dev/dm-{minor}").into() })
}

/// Makes a device of that name which is a part of the one at `node`: `start` and `length` are bytes.
///
/// # Errors
/// See [`dm::create`].
pub(super) fn part(node: &Path, name: &str, start: u64, length: u64) -> io::Result<Mapping> {
    make(name, "", "linear", length, &format!("{} {}", node.display(), start / SECTOR))
}

impl Mapping {
    /// Removes the device, and with it the kernel's copy of a key that it has.
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

fn control() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(dm::CONTROL).map_err(|error| {
        let detail = format!("the kernel has no device mapper ({}): {error}", dm::CONTROL);
        io::Error::new(error.kind(), detail)
    })
}
