//! A sparse file behind a loop device without the host's cache.

use super::run_quietly;
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const DISK_BYTES: u64 = 20 << 30;
/// Bytes of a sector in the kernel's statistics.
const SECTOR_BYTES: f64 = 512.0;

/// A disk, empty at first; gone on drop.
pub(super) struct Disk {
    pub(super) file: PathBuf,
    pub(super) node: PathBuf,
    pub(super) mount: PathBuf,
}

fn attach(file: &Path) -> Result<PathBuf> {
    let node = run_quietly(Command::new("losetup").args(["--direct-io=on", "--show", "-f"]).arg(file))?;
    Ok(node.into())
}

impl Disk {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let (file, mount) = (dir.join("disk.raw"), dir.join("mount"));
        fs::create_dir_all(&mount)?;
        fs::File::create(&file)?.set_len(DISK_BYTES)?;
        let node = attach(&file)?;
        Ok(Self { file, node, mount })
    }

    /// Does something with the file while it is no disk.
    pub(super) fn switched_off<T>(&mut self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        self.detach()?;
        let result = work(&self.file);
        self.node = attach(&self.file)?;
        result
    }

    fn detach(&self) -> Result<()> {
        run_quietly(Command::new("blockdev").arg("--setrw").arg(&self.node))?;
        run_quietly(Command::new("losetup").arg("-d").arg(&self.node)).map(drop)
    }

    /// What the disk holds; zeros that it need not store are not counted.
    pub(super) fn stored_bytes(&self) -> Result<f64> {
        Ok(fs::metadata(&self.file)?.blocks() as f64 * SECTOR_BYTES)
    }

    /// What was written to it; zeros that it was asked to make are counted.
    pub(super) fn written_bytes(&self) -> Result<f64> {
        let name = self.node.file_name().context("a device has a name")?;
        let text = fs::read_to_string(Path::new("/sys/block").join(name).join("stat"))?;
        let sectors = text.split_whitespace().nth(6).context("statistics of a block device")?;
        Ok(sectors.parse::<f64>()? * SECTOR_BYTES)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The first fails when nothing is mounted.
        run_quietly(Command::new("umount").arg(&self.mount)).ok();
        if let Err(error) = self.detach() {
            eprintln!("cannot give a loop device back: {error:#}");
        }
        fs::remove_file(&self.file).ok();
    }
}
