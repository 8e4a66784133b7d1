//! Image manifests: what is written to a disk, and how it starts.

pub mod blocks;
pub mod places;

use crate::ids::Digest;
use alloc::string::String;
use alloc::vec::Vec;
use blocks::{DataMap, ListFile};
use places::Places;
use serde::{Deserialize, Serialize};

/// What an image is. Written beside the image by its build; served to the agent within its task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form: 1.
    pub schema: u32,
    /// Name, as in profiles: `debian-12`.
    pub name: String,
    /// Version of the contents.
    pub version: String,
    /// Digest of the file as it is stored and sent.
    pub digest: Digest,
    /// Bytes of the file as it is stored and sent.
    pub size: u64,
    /// Bytes after decompression: of the archive, or of the file system.
    pub unpacked_size: u64,
    /// What the decompressed bytes are.
    pub format: Format,
    /// How the file is compressed; of a chunked one each chunk by itself.
    pub compression: Compression,
    /// Name of the file beside the manifest.
    pub file: String,
    /// Smallest disk, in bytes, on which it makes sense.
    pub min_disk: u64,
    /// How it starts.
    pub boot: Boot,
    /// Packages inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
    /// Of an archive, how much lies where; empty if nobody counted.
    #[serde(default, skip_serializing_if = "Places::is_empty")]
    pub places: Places,
}

/// A manifest as it was signed, and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    /// The text of `manifest.json`, byte for byte.
    pub manifest: String,
    /// The text of `manifest.json.minisig`.
    pub signature: String,
}

/// What the decompressed bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// POSIX.1-2001 archive of a root file system, for any layout.
    Tar,
    /// The root file system itself, ext4, from its first byte to its last. Whoever lays it down gives it
    /// a UUID of its own and lets it grow to the size of its partition.
    Raw(DataMap),
    /// The same in chunks that are fetched, checked and written each by itself; the list of them is a
    /// file of its own.
    Chunked(ListFile),
}

impl Format {
    /// Whether it is a file system and not files, so that a partition is written and not filled.
    #[must_use]
    pub fn is_file_system(&self) -> bool {
        !matches!(self, Self::Tar)
    }

    /// The list of its chunks, if it comes in chunks.
    #[must_use]
    pub fn chunks(&self) -> Option<&ListFile> {
        match self {
            Self::Chunked(list) => Some(list),
            Self::Tar | Self::Raw(_) => None,
        }
    }

    /// The word in answers to people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Raw(_) => "raw",
            Self::Chunked(_) => "chunked",
        }
    }
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// Where in the image's tree the boot files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Kernel; may be a symbolic link.
    pub kernel: String,
    /// Initial ramdisk; may be a symbolic link.
    pub initrd: String,
    /// Kernel arguments besides `root=`.
    pub cmdline: String,
    /// For UEFI: (file in the tree, path on the EFI system partition).
    pub efi: Vec<(String, String)>,
    /// For BIOS: GRUB's `boot.img` and `core.img` in the tree; `core.img` takes its
    /// configuration from `/boot/grub/grub.cfg` on the third partition of its disk.
    pub bios: Option<(String, String)>,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}
