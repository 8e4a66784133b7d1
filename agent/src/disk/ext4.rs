//! An ext4 file system that came as a whole becomes this machine's: its own UUID and label, and as
//! large as its partition.
//!
//! Its checksums are made with a seed of their own (feature `metadata_csum_seed`, which images have), so
//! that only superblocks and group descriptors change: the rest stays what it was in the image, and is
//! found again at the next rebuild.

use super::mkfs::{self, EXT4_LABEL_MAX};
use crate::install::{Observer, Stop};
use std::path::Path;
use std::process::Command;

/// Gives the file system on `node` the UUID and as much of the label as it takes, and lets it grow, with
/// the programs in `tools`.
///
/// # Errors
/// Code `ToolFailed` with the program's own words, or that it took too long; or cancelled.
pub fn adopt(
    tools: &Path,
    node: &Path,
    uuid: &str,
    label: &str,
    observer: &dyn Observer,
) -> Result<(), Stop> {
    let mut tune = Command::new(tools.join("tune2fs"));
    tune.args(["-U", uuid, "-L", mkfs::cut(label, EXT4_LABEL_MAX)]).arg(node);
    mkfs::run(&mut tune, observer)?;
    let mut resize = Command::new(tools.join("resize2fs"));
    // It is as its image was made, whose digests were right, so it is not checked before (-f).
    resize.arg("-f").arg(node);
    mkfs::run(&mut resize, observer)
}
