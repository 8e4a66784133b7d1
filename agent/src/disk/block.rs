//! Block devices as the kernel shows them, and the parts of them that only the kernel is told of.

use super::array::Running;
use super::crypt;
use super::device::failed;
use super::mapper::{self, Mapping};
use super::region::Region;
use super::{luks, patiently};
use crate::sys::block as kernel;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::secret::Secret;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a node may take to appear.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks for it.
const NODE_POLL: Duration = Duration::from_millis(10);

/// A disk, or an array of parts of several.
#[derive(Debug)]
pub struct Block {
    pub(super) file: File,
    pub(super) name: String,
    pub(super) dev: PathBuf,
    pub(super) sys: PathBuf,
    /// What stops with it. It stands behind `file`, as an array that is open does not stop.
    pub(super) array: Option<Running>,
}

impl Block {
    /// Tells the kernel about a part of it, without a table, and waits for its node. `start` and `length` are
    /// bytes. The part is forgotten when the returned value is dropped.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn part(self: &Arc<Self>, number: u32, start: u64, length: u64) -> Result<Volume, Finding> {
        kernel::add_partition(&self.file, number, start, length)
            .map_err(|error| failed(&format!("cannot announce partition {number}"), &error))?;
        let name = self.part_name(number);
        let volume = Volume {
            node: self.dev.join(&name),
            name,
            block: Arc::clone(self),
            number: Some(number),
            mapping: None,
            _within: None,
        };
        wait_for_node(&self.sys, &volume.name, &volume.node)?;
        Ok(volume)
    }

    /// The whole of it.
    #[must_use]
    pub fn whole(self: &Arc<Self>) -> Volume {
        let (name, node) = (self.name.clone(), self.dev.join(&self.name));
        Volume { node, name, block: Arc::clone(self), number: None, mapping: None, _within: None }
    }

    /// The kernel's name of a partition: a `p` separates the number from a name ending in a digit.
    pub(super) fn part_name(&self, number: u32) -> String {
        let separator = if self.name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("{}{separator}{number}", self.name)
    }
}

/// Waits until the node is the block device that sysfs shows under that name.
///
/// # Errors
/// [`Code::DiskFailed`].
pub(super) fn wait_for_node(sys: &Path, name: &str, node: &Path) -> Result<(), Finding> {
    let deadline = Instant::now() + NODE_TIMEOUT;
    while !node_matches(sys, name, node) {
        if Instant::now() > deadline {
            return Err(Finding::new(Code::DiskFailed, format!("{} did not appear", node.display())));
        }
        std::thread::sleep(NODE_POLL);
    }
    Ok(())
}

fn node_matches(sys: &Path, name: &str, node: &Path) -> bool {
    let (Some(shown), Ok(meta)) = (numbers(sys, name), fs::symlink_metadata(node)) else { return false };
    let rdev = meta.rdev();
    meta.file_type().is_block_device()
        && shown == format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

/// Major and minor number as sysfs shows them, `8:1`.
fn numbers(sys: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(sys.join("class/block").join(name).join("dev")).ok()?;
    Some(text.trim().to_owned())
}

/// Where a file system or swap space is made: a part that only the kernel knows, forgotten on drop, or an
/// array; or a part of what is encrypted in one of these.
#[derive(Debug)]
pub struct Volume {
    block: Arc<Block>,
    /// The part's; none: the whole.
    number: Option<u32>,
    name: String,
    /// What its data is read and written through.
    pub node: PathBuf,
    /// That, if it is encrypted or lies in what is.
    mapping: Option<Mapping>,
    /// What it lies in then; it is closed after all its parts.
    _within: Option<Arc<Volume>>,
}

impl Volume {
    /// Encrypts it: its header has that UUID and label, and opens with `key`.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn encrypt(mut self, uuid: &str, label: &str, key: &Secret) -> Result<Self, Finding> {
        let refused = |error: io::Error| failed(&format!("cannot encrypt {}", self.name), &error);
        // Unlike /dev/urandom it waits until the kernel has gathered enough for the first time.
        let source = File::open("/dev/random").map_err(refused)?;
        let mut random = |buffer: &mut [u8]| (&source).read_exact(buffer);
        let sector = kernel::sector_size(&self.block.file).map_err(refused)?;
        let new = luks::make(uuid, label, sector, key.expose().as_bytes(), &mut random).map_err(refused)?;
        for (offset, bytes) in &new.writes {
            self.write_at(*offset, bytes)?;
        }
        let mapping = crypt::map(&self.node, uuid, &new.opened).map_err(refused)?;
        self.node.clone_from(&mapping.node);
        self.mapping = Some(mapping);
        Ok(self)
    }

    /// A part of it that the device mapper alone knows, as its devices have no partitions: `start` and `length` are bytes
    /// of what is read and written through [`Volume::node`]. `name` is the device's.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn part(self: &Arc<Self>, name: &str, start: u64, length: u64) -> Result<Self, Finding> {
        let mapping = mapper::part(&self.node, name, start, length);
        let mapping =
            mapping.map_err(|error| failed(&format!("cannot make {name} of {}", self.name), &error))?;
        Ok(Self {
            block: Arc::clone(&self.block),
            number: None,
            name: name.to_owned(),
            node: mapping.node.clone(),
            mapping: Some(mapping),
            _within: Some(Arc::clone(self)),
        })
    }

    /// Opens it past the kernel's cache.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn region(&self) -> Result<Region, Finding> {
        self.open(libc::O_DIRECT).map(Region::new)
    }

    /// Writes `bytes` at its byte `offset`, and waits until they are on the medium.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Finding> {
        let file = self.open(0)?;
        file.write_all_at(bytes, offset)
            .and_then(|()| file.sync_all())
            .map_err(|error| failed(&format!("write at byte {offset} of {}", self.node.display()), &error))
    }

    fn open(&self, flags: i32) -> Result<File, Finding> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags | libc::O_NOFOLLOW);
        options
            .open(&self.node)
            .map_err(|error| failed(&format!("cannot open {}", self.node.display()), &error))
    }

    /// Major and minor number, `8:1`.
    pub(super) fn numbers(&self) -> Option<String> {
        numbers(&self.block.sys, &self.name)
    }

    /// What it is, or is a part of.
    pub(super) fn block(&self) -> Arc<Block> {
        Arc::clone(&self.block)
    }

    /// Where device nodes and sysfs are.
    pub(super) fn places(&self) -> (&Path, &Path) {
        (&self.block.dev, &self.block.sys)
    }

    /// Whether every member of the array it lies on, if it lies on one, has taken all that was written.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn ensure_whole(&self) -> Result<(), Finding> {
        self.block.array.as_ref().map_or(Ok(()), Running::ensure_whole)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.mapping.as_ref().map(Mapping::close) {
            tracing::warn!(%error, volume = self.name, "the kernel keeps an encrypted volume open");
        }
        if let Some(number) = self.number
            && let Err(error) = patiently(|| kernel::delete_partition(&self.block.file, number))
        {
            tracing::warn!(%error, partition = number, "the kernel keeps a partition");
        }
    }
}
