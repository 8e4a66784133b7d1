//! Declarative disk layouts and the one planner that turns them into sectors.

pub mod array;
pub mod fit;
pub mod group;
pub mod plan;
#[cfg(test)]
mod schema;
pub mod subvolumes;

use alloc::string::String;
use alloc::vec::Vec;
use array::Array;
use serde::{Deserialize, Serialize};

/// How a disk, or several that carry arrays, shall look. Written by people as TOML under `templates/layouts`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Name, as in profiles.
    pub name: String,
    /// Several disks instead of one, each divided alike: a partition that is made for the installed system alone is a member
    /// of an array, with the same partitions of the other disks; what firmware reads lies on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Array>,
    /// Partitions in the order they lie on the disk; the first has number 1. Behind them the logical volumes of
    /// those that are for LVM.
    pub partitions: Vec<Partition>,
    /// File systems in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<Tmpfs>,
}

impl Layout {
    /// How many disks it wants.
    #[must_use]
    pub fn disks(&self) -> usize {
        self.array.map_or(1, |array| array.disks as usize)
    }

    /// Whether what lies in that partition or volume is encrypted: by itself, or as its whole group is.
    #[must_use]
    pub fn encrypts(&self, partition: &Partition) -> bool {
        let is_group =
            |other: &&Partition| other.role == Role::Lvm && Some(&other.label) == partition.group.as_ref();
        partition.encrypted || self.partitions.iter().filter(is_group).any(|group| group.encrypted)
    }

    /// Every place where something is mounted besides the root file system.
    pub fn mounts(&self) -> impl Iterator<Item = &str> {
        let partitions = self.partitions.iter().filter_map(|partition| partition.mount.as_deref());
        let subvolumes = self.partitions.iter().flat_map(|partition| &partition.subvolumes);
        let subvolumes = subvolumes.map(|subvolume| subvolume.mount.as_str()).filter(|mount| *mount != "/");
        partitions.chain(subvolumes).chain(self.tmpfs.iter().map(|tmpfs| tmpfs.mount.as_str()))
    }
}

/// A file system in memory, empty at each start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Where it is mounted.
    pub mount: String,
    /// Mount options (mount(8)).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// One partition, or one logical volume in a partition of the role `lvm`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Name in the partition table; of a partition for LVM the group's, of a logical volume its own.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// For a logical volume the label of the partition it lies in. Of the roles `root`, `data` and `swap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Smallest size in MiB; logical volumes have whole extents of 4.
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub min_mib: u64,
    /// Largest size in MiB; none = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mib: Option<u64>,
    /// Share of the space that is left after all minima; 0 = stays at its minimum.
    #[serde(default)]
    pub weight: u32,
    /// Whether it is encrypted (LUKS2), with a key that the server releases to this machine alone; of the roles `root`,
    /// `data`, `swap` and `lvm` alone. Of an array it is the whole, and a volume group is in it with all its logical
    /// volumes, which are not encrypted once more. An encrypted root needs a partition of the role `boot` beside it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub encrypted: bool,
    /// Its file system; ext4 if left out. The role `data` may have any, `root` all but XFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystem>,
    /// Where it is mounted; of the role `data` alone, which has either this or subvolumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// Mount options (mount(8)); of the roles `root`, `boot` and `data` alone. Each subvolume has them, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Subvolumes of a btrfs. Of the role `root`, one is mounted at `/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subvolumes: Vec<Subvolume>,
}

impl Partition {
    /// Where the installed system mounts it, if it does.
    #[must_use]
    pub fn mounted_at(&self) -> Option<&str> {
        match self.role {
            Role::Root => Some("/"),
            Role::Boot => Some(BOOT_MOUNT),
            Role::Esp => Some(ESP_MOUNT),
            Role::Data => self.mount.as_deref(),
            Role::BiosBoot | Role::Swap | Role::Lvm => None,
        }
    }

    /// The file system that is made by a program of that file system's, if one is.
    #[must_use]
    pub fn made(&self) -> Option<FileSystem> {
        match self.role {
            Role::Root | Role::Boot | Role::Data => Some(self.file_system.unwrap_or_default()),
            Role::BiosBoot | Role::Esp | Role::Swap | Role::Lvm => None,
        }
    }
}

/// A part of a btrfs that is mounted by itself, and of which snapshots are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Subvolume {
    /// Name in the top level of the file system, such as `@home`.
    pub name: String,
    /// Where it is mounted.
    pub mount: String,
    /// Mount options besides those of the partition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A file system of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileSystem {
    /// ext4.
    #[default]
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FileSystem {
    /// The name in fstab(5).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The smallest that can be made, in MiB.
    #[must_use]
    pub const fn min_mib(self) -> u64 {
        match self {
            Self::Ext4 => 1,
            // mkfs.xfs refuses less.
            Self::Xfs => 300,
            // mkfs.btrfs refuses less than 109 with its usual two copies of all metadata.
            Self::Btrfs => 128,
        }
    }
}

/// Where the installed system mounts its [`Role::Esp`].
pub const ESP_MOUNT: &str = "/boot/efi";

/// Where the installed system mounts its [`Role::Boot`].
pub const BOOT_MOUNT: &str = "/boot";
impl Role {
    /// Whether it becomes an array where the layout has any: firmware reads the others, and knows no arrays.
    #[must_use]
    pub const fn in_arrays(self) -> bool {
        match self {
            Self::BiosBoot | Self::Esp => false,
            Self::Boot | Self::Root | Self::Data | Self::Swap | Self::Lvm => true,
        }
    }
}

/// What a partition is for; decides its type and its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// GRUB's core image for BIOS machines; no file system.
    BiosBoot,
    /// EFI system partition; FAT32.
    Esp,
    /// What boot loaders read, outside of the root file system: kernel, ramdisk, menu; ext4.
    Boot,
    /// Root file system.
    Root,
    /// A file system mounted beneath the root.
    #[default]
    Data,
    /// Space for memory that is swapped out.
    Swap,
    /// A physical volume of LVM, with a volume group of its own.
    Lvm,
}
