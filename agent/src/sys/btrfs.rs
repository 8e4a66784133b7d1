//! Requests to btrfs (`linux/btrfs.h`).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

/// Makes a subvolume in a directory of a btrfs (`BTRFS_IOC_SUBVOL_CREATE`).
///
/// # Errors
/// As the kernel says: on another file system, when the name is taken, has a slash, or is too long.
pub fn create_subvolume(directory: &File, name: &str) -> io::Result<()> {
    nix::ioctl_write_ptr!(subvol_create, 0x94, 14, VolumeArguments);
    let mut arguments = VolumeArguments { fd: 0, name: [0; 4088] };
    let bytes = name.as_bytes();
    // The kernel wants a zero behind it.
    let slot = arguments.name.get_mut(..bytes.len()).filter(|_| bytes.len() < 4088);
    slot.ok_or(io::ErrorKind::InvalidFilename)?.copy_from_slice(bytes);
    // SAFETY: the kernel reads `arguments`, which has the layout of linux/btrfs.h and lives for the call.
    unsafe { subvol_create(directory.as_raw_fd(), &raw const arguments)? };
    Ok(())
}
