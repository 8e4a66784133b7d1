//! The chosen disk: opened, checked, cleared, announced to the kernel, written and read back.

use super::crypt::{self, Mapping};
use super::region::Region;
use super::{luks, patiently};
use crate::contents;
use crate::gate::Permit;
use crate::install::Stop;
use crate::sys::block;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::layout::plan::Plan;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::select::describe;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is zeroed at both ends of the disk and of each partition: the table, boot code, and the
/// signatures of file systems, RAID and LVM, the last of which lies behind the first MiB.
pub const CLEARED: u64 = 2 << 20;
/// How long a partition's node may take to appear.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// Numbers of old partitions that are looked for.
const OLD_PARTITIONS_MAX: u32 = 256;

/// The disk that is being installed.
#[derive(Debug)]
pub struct Device {
    file: File,
    name: String,
    /// What it is called in messages.
    described: String,
    dev: PathBuf,
    sys: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u64,
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
            let detail = format!("what is on {name}: it allows to lose {difference}");
            return Err(Finding::new(Code::GrantRefused, detail));
        }
        // Agents set all disks read-only first; this one is the exception now.
        block::set_read_only(&claim, false)
            .map_err(|error| failed(&format!("cannot unlock {name}"), &error))?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&node);
        let file =
            file.map_err(|error| failed(&format!("cannot open {} for writing", node.display()), &error))?;
        Ok(Self {
            file,
            name,
            described: describe(disk),
            dev: dev.into(),
            sys: sys.into(),
            size,
            sector_size: u64::from(sector),
        })
    }

    /// Names disk and stage in the finding of a stage that the disk, a file system on it or their programs
    /// did not let come to its end.
    pub(crate) fn stage<T>(&self, stage: &str, result: Result<T, impl Into<Stop>>) -> Result<T, Stop> {
        result.map_err(|stop| match stop.into() {
            Stop::Failed(Finding { code, detail })
                if matches!(code, Code::DiskFailed | Code::DiskTooSmall | Code::ToolFailed) =>
            {
                Finding::new(code, format!("{}: {stage}: {detail}", self.described)).into()
            }
            stop => stop,
        })
    }

    /// Makes whatever was on the disk unbootable: zeroes its first sector, then its first and last
    /// [`CLEARED`] bytes, then those of each planned partition, and forgets its partitions. Each step is on
    /// the medium before the next begins: wherever the power fails, no table shows a system that is
    /// partly gone.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn clear(&self, plan: &Plan) -> Result<(), Finding> {
        let partitions = plan.partitions.iter();
        let partitions =
            partitions.map(|planned| (planned.first * plan.sector_size, planned.sectors * plan.sector_size));
        for step in [vec![(0, self.sector_size)], vec![(0, self.size)], partitions.collect()] {
            self.zero_ends(step)?;
            self.sync()?;
        }
        for number in 1..=OLD_PARTITIONS_MAX {
            if self.sys.join("class/block").join(self.partition_name(number)).exists() {
                patiently(|| block::delete_partition(&self.file, number))
                    .map_err(|error| failed(&format!("cannot drop old partition {number}"), &error))?;
            }
        }
        Ok(())
    }

    /// Zeroes the first and last [`CLEARED`] bytes of areas of the disk, given as start and length.
    fn zero_ends(&self, areas: Vec<(u64, u64)>) -> Result<(), Finding> {
        let zeros = vec![0; CLEARED as usize];
        for (start, size) in areas {
            let length = CLEARED.min(size);
            for offset in [start, start + size - length] {
                self.write_at(offset, &zeros[..length as usize])?;
            }
        }
        Ok(())
    }

    /// Tells the kernel about a planned partition, without a table on the disk, and waits for
    /// its node. The partition is forgotten when the returned value is dropped.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn announce(&self, plan: &Plan, number: u32) -> Result<Announced<'_>, Finding> {
        let planned = plan.partitions.iter().find(|partition| partition.number == number);
        let planned = planned
            .ok_or_else(|| Finding::new(Code::DiskFailed, format!("the plan has no partition {number}")))?;
        let (start, length) = (planned.first * plan.sector_size, planned.sectors * plan.sector_size);
        block::add_partition(&self.file, number, start, length)
            .map_err(|error| failed(&format!("cannot announce partition {number}"), &error))?;
        let node = self.dev.join(self.partition_name(number));
        let announced = Announced { device: self, number, start, node, mapping: None };
        let deadline = Instant::now() + NODE_TIMEOUT;
        while !self.node_matches(&announced.node, number) {
            if Instant::now() > deadline {
                let detail = format!("{} did not appear", announced.node.display());
                return Err(Finding::new(Code::DiskFailed, detail));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(announced)
    }

    /// Whether the node is the block device that sysfs shows for the partition.
    fn node_matches(&self, node: &Path, number: u32) -> bool {
        let shown = self.sys.join("class/block").join(self.partition_name(number)).join("dev");
        let (Ok(shown), Ok(meta)) = (fs::read_to_string(shown), fs::symlink_metadata(node)) else {
            return false;
        };
        let rdev = meta.rdev();
        meta.file_type().is_block_device()
            && shown.trim() == format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
    }

    /// The kernel's name of a partition: a `p` separates the number from a name ending in a digit.
    fn partition_name(&self, number: u32) -> String {
        let separator = if self.name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("{}{separator}{number}", self.name)
    }

    /// Writes `bytes` at byte `offset`.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Finding> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| failed(&format!("write at byte {offset}"), &error))
    }

    /// Writes zeros to `length` bytes from `offset` on, by the disk itself where it can.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn overwrite(&self, offset: u64, length: u64) -> Result<(), Finding> {
        block::zero_out(&self.file, offset, length)
            .map_err(|error| failed(&format!("overwriting {} at byte {offset}", self.name), &error))
    }

    /// Reads from byte `offset`.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Finding> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| failed(&format!("read back at byte {offset}"), &error))
    }

    /// The disk itself, for orders that the kernel knows nothing of.
    #[must_use]
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The kernel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until everything written is on the medium.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn sync(&self) -> Result<(), Finding> {
        self.file.sync_all().map_err(|error| failed("sync", &error))
    }

    /// Forgets the kernel's copies, so that reading shows what the medium holds.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn forget_buffers(&self) -> Result<(), Finding> {
        block::flush_buffers(&self.file).map_err(|error| failed("flush buffers", &error))
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

/// A partition that only the kernel knows; forgotten on drop.
#[derive(Debug)]
pub struct Announced<'a> {
    device: &'a Device,
    number: u32,
    /// Its first byte on the disk.
    start: u64,
    /// What its data is read and written through.
    pub node: PathBuf,
    /// That, if it is encrypted.
    mapping: Option<Mapping>,
}

impl Announced<'_> {
    /// Encrypts it: its header has that UUID and label, and opens with `key`.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn encrypt(mut self, uuid: &str, label: &str, key: &Secret) -> Result<Self, Finding> {
        let refused = |error: io::Error| failed(&format!("cannot encrypt partition {}", self.number), &error);
        // Unlike /dev/urandom it waits until the kernel has gathered enough for the first time.
        let source = File::open("/dev/random").map_err(refused)?;
        let mut random = |buffer: &mut [u8]| (&source).read_exact(buffer);
        let sector = self.device.sector_size as u32;
        let new = luks::make(uuid, label, sector, key.expose().as_bytes(), &mut random).map_err(refused)?;
        for (offset, bytes) in &new.writes {
            self.device.write_at(self.start + offset, bytes)?;
        }
        self.device.sync()?;
        let mapping = crypt::map(&self.node, uuid, &new.opened).map_err(refused)?;
        self.node.clone_from(&mapping.node);
        self.mapping = Some(mapping);
        Ok(self)
    }

    /// Writes `bytes` to its start.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn write(&self, bytes: &[u8]) -> Result<(), Finding> {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&self.node);
        file.and_then(|file| file.write_all_at(bytes, 0).and_then(|()| file.sync_all()))
            .map_err(|error| failed(&format!("write to {}", self.node.display()), &error))
    }

    /// Opens it past the kernel's cache.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn region(&self) -> Result<Region, Finding> {
        let flags = libc::O_DIRECT | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.node);
        let file = file.map_err(|error| failed(&format!("cannot open {}", self.node.display()), &error))?;
        Ok(Region::new(file))
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.mapping.as_ref().map(Mapping::close) {
            tracing::warn!(%error, partition = self.number, "the kernel keeps the key of a partition");
        }
        if let Err(error) = patiently(|| block::delete_partition(&self.device.file, self.number)) {
            tracing::warn!(%error, partition = self.number, "the kernel keeps a partition");
        }
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
