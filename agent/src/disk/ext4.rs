//! An ext4 file system that came as a whole becomes this machine's: its own UUID and label, and as
//! large as its partition.
//!
//! Its checksums are made with a seed of their own (feature `metadata_csum_seed`, which images have), so
//! that only superblocks and group descriptors change: the rest stays what it was in the image, and is
//! found again at the next rebuild.

use super::device;
use super::mkfs::{self, EXT4_LABEL_MAX};
use crate::install::{Observer, Stop};
use kaltstart_protocol::finding::{Code, Finding};
use std::io;
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

/// The finding for `what` the kernel refused in a mounted file system. One that `came_whole` has the very bytes of its
/// image, so where it contradicts itself (`EUCLEAN`), a checksum in it is wrong (`EBADMSG`) or nothing is there to mount
/// (`EINVAL`) the image is at fault. Of one that was made here the disk gives back other bytes than it was given.
pub(crate) fn refused(came_whole: bool, what: &str, error: &io::Error) -> Finding {
    match error.raw_os_error() {
        Some(libc::EUCLEAN | libc::EBADMSG | libc::EINVAL) if came_whole => {
            let detail = format!("the file system in it is damaged: {what}: {error}");
            Finding::new(Code::ImageInvalid, detail)
        }
        _ => device::failed(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_system_is_its_image_s_fault_if_it_came_whole_and_else_the_disk_s() {
        let code = |came_whole, error| {
            refused(came_whole, "cannot mount it", &io::Error::from_raw_os_error(error)).code
        };
        for damage in [libc::EUCLEAN, libc::EBADMSG, libc::EINVAL] {
            assert_eq!(code(true, damage), Code::ImageInvalid, "{damage}");
            assert_eq!(code(false, damage), Code::DiskFailed, "{damage}");
        }
        for fault in [libc::EIO, libc::EROFS, libc::ENODEV] {
            assert_eq!(code(true, fault), Code::DiskFailed, "{fault}");
        }
    }
}
