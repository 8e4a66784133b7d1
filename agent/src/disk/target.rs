//! What is mounted where while the image is laid down.

use super::block::Volume;
use super::device::failed;
use super::ext4;
use super::mkfs::{self, Mounted};
use crate::sys::btrfs;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::layout::plan::Planned;
use kaltstart_protocol::layout::subvolumes::{self, BOOT_LINK};
use kaltstart_protocol::layout::{FileSystem, Role};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The file systems while they are filled. Their arrays stop, and the kernel forgets their partitions, only after
/// they are unmounted.
pub struct Target {
    /// The outer ones first.
    mounted: Vec<Mounted>,
    /// By where it is mounted, the root first.
    places: BTreeMap<PathBuf, Place>,
    volumes: Vec<Volume>,
    /// Where the system mounts what is kept, which is not mounted here.
    kept: Vec<PathBuf>,
    /// Where the root file system is mounted.
    root: PathBuf,
    /// The root file system is the image, and there is no other.
    came_whole: bool,
}

/// A file system, or a subvolume of one.
struct Place {
    kind: FileSystem,
    node: PathBuf,
    options: String,
    /// Boot loaders read it alone, and find it at its place by a link to itself.
    boots: bool,
}

impl Target {
    /// With nothing in it; its root directory will be `root`. Its root file system is made here or `came_whole`.
    #[must_use]
    pub fn new(root: &Path, came_whole: bool) -> Self {
        Self {
            mounted: Vec::new(),
            places: BTreeMap::new(),
            volumes: Vec::new(),
            kept: Vec::new(),
            root: root.into(),
            came_whole,
        }
    }

    /// The finding for `what` a file system that is mounted here refused: the disk's fault or, of one that came whole
    /// and is damaged, the image's.
    pub(crate) fn refused(&self, what: &str, error: &io::Error) -> Finding {
        ext4::refused(self.came_whole, what, error)
    }

    /// Leaves a partition as it is: only the directory is made on which the system mounts it. What the image has there
    /// comes to lie beneath, unseen.
    pub fn keep(&mut self, planned: &Planned) {
        self.kept.extend(planned.mount.as_deref().map(|mount| self.within(mount)));
    }

    /// Takes an empty file system of that kind in, and makes the subvolumes that are planned of it.
    ///
    /// # Errors
    /// [`Code::DiskFailed`] when these cannot be made.
    ///
    /// [`Code::DiskFailed`]: kaltstart_protocol::finding::Code::DiskFailed
    pub fn add(&mut self, planned: &Planned, kind: FileSystem, volume: Volume) -> Result<(), Finding> {
        let node = volume.node.clone();
        self.volumes.push(volume);
        let mut options: Vec<&str> = match kind {
            // The kernel's background initialisation would compete with the image for the disk.
            FileSystem::Ext4 => vec!["noinit_itable"],
            FileSystem::Xfs | FileSystem::Btrfs => Vec::new(),
        };
        // The image is to lie there as what is written later.
        options
            .extend(planned.options.iter().map(String::as_str).filter(|option| is_compression(kind, option)));
        if planned.subvolumes.is_empty() {
            let mount = planned.mount.as_deref().unwrap_or_default();
            let boots = planned.role == Role::Boot;
            self.put(mount, Place { kind, node, options: options.join(","), boots });
            return Ok(());
        }
        self.make_subvolumes(planned, &node)?;
        for subvolume in &planned.subvolumes {
            let name = format!("subvol={}", subvolume.name);
            let own =
                subvolume.options.iter().map(String::as_str).filter(|option| is_compression(kind, option));
            let options: Vec<&str> =
                [name.as_str()].into_iter().chain(options.iter().copied()).chain(own).collect();
            let options = options.join(",");
            self.put(&subvolume.mount, Place { kind, node: node.clone(), options, boots: false });
        }
        Ok(())
    }

    /// What the root file system lies on.
    #[must_use]
    pub fn root(&self) -> Option<&Volume> {
        let place = self.places.get(&self.root)?;
        self.volumes.iter().find(|volume| volume.node == place.node)
    }

    /// Whether every disk has taken all that was written.
    ///
    /// # Errors
    /// [`Code::DiskFailed`](kaltstart_protocol::finding::Code::DiskFailed) when an array has lost a member.
    pub fn ensure_whole(&self) -> Result<(), Finding> {
        self.volumes.iter().try_for_each(Volume::ensure_whole)
    }

    fn put(&mut self, mount: &str, place: Place) {
        self.places.insert(self.within(mount), place);
    }

    fn within(&self, mount: &str) -> PathBuf {
        self.root.join(mount.trim_start_matches('/'))
    }

    fn make_subvolumes(&self, planned: &Planned, node: &Path) -> Result<(), Finding> {
        let refused = |error| self.refused(&format!("cannot mount {}", node.display()), &error);
        let top = mkfs::mount(FileSystem::Btrfs, node, &self.root, "", false).map_err(refused)?;
        let directory = File::open(&self.root)
            .map_err(|error| failed(&format!("cannot open {}", node.display()), &error))?;
        for subvolume in &planned.subvolumes {
            btrfs::create_subvolume(&directory, &subvolume.name)
                .map_err(|error| failed(&format!("cannot make subvolume {:?}", subvolume.name), &error))?;
        }
        if let Some(root) = subvolumes::root(&planned.subvolumes).filter(|_| planned.role == Role::Root) {
            symlink(format!("{}/boot", root.name), self.root.join(BOOT_LINK))
                .map_err(|error| failed("cannot make the link to /boot", &error))?;
        }
        drop(directory);
        top.unmount().map_err(|error| self.refused(&format!("cannot unmount {}", node.display()), &error))
    }

    /// Mounts all of them, each within those it lies in.
    ///
    /// # Errors
    /// Code `DiskFailed`; `ImageInvalid` when one that came whole is damaged.
    pub fn mount(&mut self) -> Result<(), Finding> {
        for (path, place) in &self.places {
            let mounted = place.mount(path, false).map_err(|error| self.not_mounted(place, &error))?;
            self.mounted.push(mounted);
            if place.boots {
                symlink(".", path.join(BOOT_LINK))
                    .map_err(|error| failed("cannot make the link to /boot", &error))?;
            }
        }
        self.kept.iter().try_for_each(|path| {
            fs::create_dir_all(path)
                .map_err(|error| failed(&format!("cannot make {}", path.display()), &error))
        })
    }

    /// Mounts what the system starts from, to see what the disk holds of it.
    ///
    /// # Errors
    /// As [`Self::mount`].
    pub fn mount_to_read(&mut self) -> Result<(), Finding> {
        for (path, place) in self.places.iter().filter(|(path, place)| **path == self.root || place.boots) {
            let mounted = place.mount(path, true).map_err(|error| self.not_mounted(place, &error))?;
            self.mounted.push(mounted);
        }
        Ok(())
    }

    fn not_mounted(&self, place: &Place, error: &io::Error) -> Finding {
        self.refused(&format!("cannot mount {}", place.node.display()), error)
    }

    /// Unmounts whatever is mounted, the inner ones first.
    ///
    /// # Errors
    /// As [`Self::mount`], when one could not be written or is still in use.
    pub fn unmount(&mut self) -> Result<(), Finding> {
        while let Some(mounted) = self.mounted.pop() {
            let what = format!("cannot write back and unmount {}", mounted.path.display());
            mounted.unmount().map_err(|error| self.refused(&what, &error))?;
        }
        Ok(())
    }
}

impl Place {
    fn mount(&self, path: &Path, read_only: bool) -> io::Result<Mounted> {
        mkfs::mount(self.kind, &self.node, path, &self.options, read_only)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        while self.mounted.pop().is_some() {}
    }
}

/// Whether a mount option says how the files that are written are compressed.
fn is_compression(kind: FileSystem, option: &str) -> bool {
    kind == FileSystem::Btrfs
        && option.split('=').next().is_some_and(|key| key == "compress" || key == "compress-force")
}
