//! A chosen disk: opened, checked, cleared, written and read back.

use super::block::{Block, Volume};
use super::gpt::Gpt;
use super::patiently;
use super::spared::Spared;
use crate::contents;
use crate::gate::Permit;
use crate::install::Stop;
use crate::sys::block;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::select::describe;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// What is zeroed at both ends of the disk and of each partition: the table, boot code, and the
/// signatures of file systems, RAID and LVM, the last of which lies behind the first MiB.
pub const CLEARED: u64 = 2 << 20;
/// Numbers of old partitions that are looked for.
const OLD_PARTITIONS_MAX: u32 = 256;

/// A disk that is being installed or erased.
#[derive(Debug)]
pub struct Device {
    block: Arc<Block>,
    /// What it is called in messages.
    described: String,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u64,
    /// What is never written.
    spared: Spared,
}

impl Device {
    /// Opens the permit's disk below the device directory `dev` (`/dev`) for writing. `sys` is where sysfs
    /// is mounted; it only serves messages and the search for old partitions. Nothing else in the
    /// agent opens a disk for writing.
    ///
    /// # Errors
    /// [`Code::DiskFailed`] when the disk is in use (mounted, or held by RAID, LVM or encryption),
    /// or is not what the inventory measured; [`Code::GrantRefused`] when what lies on it has
    /// changed since.
    pub fn open(permit: &Permit, dev: &Path, sys: &Path) -> Result<Self, Finding> {
        let disk = permit.disk();
        let name = disk.name.clone();
        if name.is_empty() || name.contains(['/', '.']) {
            return Err(Finding::new(Code::DiskFailed, format!("{name:?} is no device name")));
        }
        let node = dev.join(&name);
        // With O_EXCL the kernel refuses a device whose whole or part is mounted or held. The
        // claim is dropped at the end of this function: it would keep out mke2fs and mount too.
        let claim = OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_NOFOLLOW).open(&node);
        let claim = claim.map_err(|error| {
            if error.raw_os_error() == Some(libc::EBUSY) {
                let users = users(sys, &name);
                return Finding::new(Code::DiskFailed, format!("{name} is in use: {users}"));
            }
            failed(&format!("cannot open {}", node.display()), &error)
        })?;
        let measured = block::size_bytes(&claim).and_then(|size| Ok((size, block::sector_size(&claim)?)));
        let (size, sector) = measured.map_err(|error| failed(&format!("cannot measure {name}"), &error))?;
        if (size, sector) != (disk.size, disk.sector_size) {
            let detail = format!(
                "{name} has {size} bytes in sectors of {sector}, the inventory says {} and {}",
                disk.size, disk.sector_size
            );
            return Err(Finding::new(Code::DiskFailed, detail));
        }
        // Once more, from the medium: this is the last moment at which nothing is lost.
        let found = block::flush_buffers(&claim).and_then(|()| contents::of_medium(&claim, size, sector));
        let found = found.map_err(|error| failed(&format!("cannot read what is on {name}"), &error))?;
        if let Some(difference) = permit.contents().difference(&found) {
            let detail = format!("what is on {name}: it is for {difference}");
            return Err(Finding::new(Code::GrantRefused, detail));
        }
        // Agents set all disks read-only first; this one is the exception now.
        block::set_read_only(&claim, false)
            .map_err(|error| failed(&format!("cannot unlock {name}"), &error))?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&node);
        let file =
            file.map_err(|error| failed(&format!("cannot open {} for writing", node.display()), &error))?;
        let block = Arc::new(Block { file, name, dev: dev.into(), sys: sys.into(), array: None });
        let spared = Spared::default();
        Ok(Self { block, described: describe(disk), size, sector_size: u64::from(sector), spared })
    }

    /// The same device, of which nothing in `spared` is written any more.
    #[must_use]
    pub fn sparing(self, spared: Spared) -> Self {
        Self { spared, ..self }
    }

    /// Names disk and stage in the finding of a stage that the disk, a file system on it or their programs
    /// did not let come to its end.
    pub(crate) fn stage<T>(&self, stage: &str, result: Result<T, impl Into<Stop>>) -> Result<T, Stop> {
        Self::name_in(&self.described, stage, result)
    }

    /// The same for disks that are `described` together.
    pub(super) fn name_in<T>(
        described: &str,
        stage: &str,
        result: Result<T, impl Into<Stop>>,
    ) -> Result<T, Stop> {
        result.map_err(|stop| match stop.into() {
            Stop::Failed(Finding { code, detail })
                if matches!(code, Code::DiskFailed | Code::DiskTooSmall | Code::ToolFailed) =>
            {
                Finding::new(code, format!("{described}: {stage}: {detail}")).into()
            }
            stop => stop,
        })
    }

    /// Makes whatever was on the disk unbootable: zeroes its first sector, then its first and last
    /// [`CLEARED`] bytes, then those of each of `places`, given as first byte and bytes, and forgets its
    /// partitions. Each step is on the medium before the next begins: wherever the power fails, no table shows a
    /// system that is partly gone.
    ///
    /// A table in `keeping`, which lists what is kept alone, takes the place of what was there before anything else is
    /// zeroed, and stays: what is kept is found by it until the last table is written.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn clear(&self, places: &[(u64, u64)], keeping: Option<&Gpt>) -> Result<(), Finding> {
        self.clear_first_sector()?;
        if let Some(table) = keeping {
            self.write_table(table)?;
        }
        let tables = keeping.into_iter().flat_map(Gpt::places);
        let spared = self.spared.and(tables);
        for step in [&[(0, self.size)], places] {
            self.zero_ends(step, &spared)?;
            self.sync()?;
        }
        for number in 1..=OLD_PARTITIONS_MAX {
            if self.block.sys.join("class/block").join(self.block.part_name(number)).exists() {
                patiently(|| block::delete_partition(&self.block.file, number))
                    .map_err(|error| failed(&format!("cannot drop old partition {number}"), &error))?;
            }
        }
        Ok(())
    }

    /// The first step of [`Self::clear`].
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn clear_first_sector(&self) -> Result<(), Finding> {
        self.zero_ends(&[(0, self.sector_size)], &self.spared)?;
        self.sync()
    }

    /// Zeroes the first and last [`CLEARED`] bytes of areas of the disk, given as start and length, but for what is
    /// `spared`.
    fn zero_ends(&self, areas: &[(u64, u64)], spared: &Spared) -> Result<(), Finding> {
        for &(start, size) in areas {
            let length = CLEARED.min(size);
            let mut ends = vec![start, start + size - length];
            // A small area is one write, and not two of which a cut may come between.
            ends.dedup();
            for end in ends {
                for (offset, length) in spared.without(end, length) {
                    self.ensure_free(offset, length)?;
                    block::discard_to_zeros(&self.block.file, offset, length)
                        .map_err(|error| failed(&format!("zeros at byte {offset}"), &error))?;
                }
            }
        }
        Ok(())
    }

    /// Writes a partition table but for its first sector, without which nothing starts: the backup, and when that is on
    /// the medium the primary one.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn write_table(&self, table: &Gpt) -> Result<(), Finding> {
        self.write_at(table.backup_offset, &table.backup)?;
        self.sync()?;
        let first = self.sector_size as usize;
        self.write_at(self.sector_size, &table.primary[first..])?;
        self.sync()
    }

    /// A part of it that only the kernel knows, see [`Block::part`].
    ///
    /// # Errors
    /// [`Code::DiskFailed`], also for what is spared.
    pub fn part(&self, number: u32, start: u64, length: u64) -> Result<Volume, Finding> {
        self.ensure_free(start, length)?;
        self.block.part(number, start, length)
    }

    /// Refuses to write `length` bytes from `start` on when something of them is spared.
    fn ensure_free(&self, start: u64, length: u64) -> Result<(), Finding> {
        if self.spared.meets(start, length) {
            let detail = format!("{length} bytes at byte {start} are not written: what is there is kept");
            return Err(Finding::new(Code::DiskFailed, detail));
        }
        Ok(())
    }

    /// Whether all of `kept` is there, as the medium tells.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn ensure_kept(&self, kept: &[Kept]) -> Result<(), Finding> {
        self.forget_buffers()?;
        let found = contents::of_medium(self.file(), self.size, self.sector_size as u32)
            .map_err(|error| failed("cannot read what is kept", &error))?;
        let lost = kept.iter().flat_map(Kept::areas).find(|area| !found.0.contains(area));
        lost.map_or(Ok(()), |area| Err(Finding::new(Code::DiskFailed, format!("{area} was to be kept"))))
    }

    /// Writes `bytes` at byte `offset`.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Finding> {
        self.ensure_free(offset, bytes.len() as u64)?;
        self.block
            .file
            .write_all_at(bytes, offset)
            .map_err(|error| failed(&format!("write at byte {offset}"), &error))
    }

    /// Writes zeros to `length` bytes from `offset` on, by the disk itself where it can.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn overwrite(&self, offset: u64, length: u64) -> Result<(), Finding> {
        self.ensure_free(offset, length)?;
        block::zero_out(&self.block.file, offset, length)
            .map_err(|error| failed(&format!("overwriting {} at byte {offset}", self.block.name), &error))
    }

    /// Reads from byte `offset`.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Finding> {
        self.block
            .file
            .read_exact_at(bytes, offset)
            .map_err(|error| failed(&format!("read back at byte {offset}"), &error))
    }

    /// What it is called in messages.
    pub(super) fn described(&self) -> &str {
        &self.described
    }

    /// The disk as the kernel shows it.
    pub(super) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// The disk itself, for orders that the kernel knows nothing of.
    #[must_use]
    pub(crate) fn file(&self) -> &File {
        &self.block.file
    }

    /// The kernel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.block.name
    }

    /// Waits until everything written is on the medium.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn sync(&self) -> Result<(), Finding> {
        self.block.file.sync_all().map_err(|error| failed("sync", &error))
    }

    /// Forgets the kernel's copies, so that reading shows what the medium holds.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn forget_buffers(&self) -> Result<(), Finding> {
        block::flush_buffers(&self.block.file).map_err(|error| failed("flush buffers", &error))
    }

    /// Reads from the medium what was written at `offset` and compares it.
    ///
    /// # Errors
    /// [`Code::DiskFailed`] when it differs or cannot be read.
    pub fn verify(&self, offset: u64, bytes: &[u8]) -> Result<(), Finding> {
        let mut found = vec![0; bytes.len()];
        self.read_at(offset, &mut found)?;
        if found == bytes {
            return Ok(());
        }
        let detail = format!("{} bytes at byte {offset} read back differently", bytes.len());
        Err(Finding::new(Code::DiskFailed, detail))
    }
}

/// Writes parts of the partition at `node`, each of which is on the medium before the next one.
///
/// # Errors
/// As the disk says.
pub fn rewrite(node: &Path, writes: &[(u64, Vec<u8>)]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(node)?;
    writes.iter().try_for_each(|(offset, bytes)| {
        file.write_all_at(bytes, *offset)?;
        file.sync_all()
    })
}

/// Sets every disk read-only in the kernel, best effort: a second fence around those that were
/// not chosen. [`Device::open`] lifts it for the chosen one.
pub fn lock_all(dev: &Path, disks: &[Disk]) {
    for disk in disks {
        let locked = File::open(dev.join(&disk.name)).and_then(|file| block::set_read_only(&file, true));
        if let Err(error) = locked {
            tracing::warn!(%error, disk = %disk.name, "cannot set the disk read-only");
        }
    }
}

/// Who uses a disk, as far as sysfs and the mount table tell.
fn users(sys: &Path, name: &str) -> String {
    let block = sys.join("block").join(name);
    let mut parts = vec![(name.to_owned(), block.clone())];
    for entry in fs::read_dir(&block).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists() {
            parts.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for (part, path) in parts {
        for holder in fs::read_dir(path.join("holders")).into_iter().flatten().flatten() {
            found.push(format!("{part} is held by {}", holder.file_name().to_string_lossy()));
        }
        let number = fs::read_to_string(path.join("dev")).unwrap_or_default();
        for line in mounts.lines() {
            let mut words = line.split(' ');
            if words.nth(2) == Some(number.trim()) {
                found.push(format!("{part} is mounted on {}", words.nth(1).unwrap_or("?")));
            }
        }
    }
    if found.is_empty() { "another program holds it".to_owned() } else { found.join(", ") }
}

/// The finding for a refused operation.
pub(crate) fn failed(what: &str, error: &io::Error) -> Finding {
    Finding::new(Code::DiskFailed, format!("{what}: {error}"))
}
