//! The disk: what lies where on it, and how it gets there.
//!
//! | module | subject | I/O |
//! |---|---|---|
//! | [`gpt`] | partition table as bytes | none |
//! | [`fat`] | EFI system partition as bytes | none |
//! | [`md`] | members of arrays as bytes | none |
//! | [`device`] | a chosen disk: clear, sync, read back | block device |
//! | [`block`] | parts of disks and arrays that only the kernel knows | block device |
//! | [`array`] | arrays of partitions | the kernel's md |
//! | [`disks`] | all disks of an installation: one, or those that carry arrays | block devices |
//! | [`spared`] | what of a disk is never written | none |
//! | [`region`] | a partition past the kernel's cache | block device |
//! | [`ext4`] | a file system that came as a whole | `tune2fs`, `resize2fs` |
//! | [`lvm`] | a volume group as bytes | none |
//! | [`crypt`] | encrypted partitions as devices | device mapper |
//! | [`mapper`] | what the device mapper makes of them | device mapper |
//! | [`luks`] | headers of encrypted partitions as bytes | none |
//! | [`swap`] | swap space as bytes | none |
//! | [`mkfs`] | file systems and their mounts | `mke2fs`, `mkfs.xfs`, `mkfs.btrfs`, `mount` |
//! | [`target`] | what is mounted where while the image is laid down | `mount` |

pub(crate) mod array;
pub mod block;
pub mod crypt;
pub mod device;
pub mod disks;
pub mod ext4;
pub mod fat;
pub mod gpt;
pub mod luks;
pub mod lvm;
pub mod mapper;
pub mod md;
pub mod mkfs;
pub mod region;
pub mod spared;
pub mod swap;
pub mod target;

use std::io;
use std::time::{Duration, Instant};

/// How long a device or mount may be busy for no reason of ours.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const BUSY_POLL: Duration = Duration::from_millis(10);

/// Tries again for a while what fails because something is busy: a child that another thread is
/// just starting holds copies of all descriptors, ours included, until its exec(2).
pub(crate) fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(BUSY_POLL);
            }
            result => return result,
        }
    }
}
