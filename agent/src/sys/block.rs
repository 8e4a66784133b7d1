//! Requests to block devices (`linux/fs.h`, `linux/blkpg.h`) and file flags.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod raw {
    use nix::request_code_none;

    /// `struct blkpg_ioctl_arg`.
    #[repr(C)]
    pub(super) struct Blkpg {
        pub(super) op: std::ffi::c_int,
        pub(super) flags: std::ffi::c_int,
        pub(super) data_len: std::ffi::c_int,
        pub(super) data: *mut Partition,
    }

    /// `struct blkpg_partition`; the kernel ignores the names.
    #[repr(C)]
    pub(super) struct Partition {
        pub(super) start: i64,
        pub(super) length: i64,
        pub(super) number: std::ffi::c_int,
        pub(super) device_name: [u8; 64],
        pub(super) volume_name: [u8; 64],
    }

    nix::ioctl_write_ptr_bad!(roset, request_code_none!(0x12, 93), std::ffi::c_int);
    nix::ioctl_none_bad!(flsbuf, request_code_none!(0x12, 97));
    nix::ioctl_read_bad!(sszget, request_code_none!(0x12, 104), std::ffi::c_int);
    nix::ioctl_write_ptr_bad!(blkpg, request_code_none!(0x12, 105), Blkpg);
    nix::ioctl_read!(getsize64, 0x12, 114, u64);
    nix::ioctl_write_ptr_bad!(zeroout, request_code_none!(0x12, 127), [u64; 2]);
    nix::ioctl_read!(getflags, b'f', 1, std::ffi::c_long);
    nix::ioctl_write_ptr!(setflags, b'f', 2, std::ffi::c_long);
}

const BLKPG_ADD_PARTITION: c_int = 1;
const BLKPG_DEL_PARTITION: c_int = 2;
const FS_IMMUTABLE_FL: c_int = 0x10;

/// Size of the device in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// When `disk` is no block device.
pub fn size_bytes(disk: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one u64 through the pointer, which lives for the call.
    unsafe { raw::getsize64(disk.as_raw_fd(), &raw mut bytes)? };
    Ok(bytes)
}

/// Size of a logical sector in bytes (`BLKSSZGET`).
///
/// # Errors
/// When `disk` is no block device.
pub fn sector_size(disk: &File) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes one int through the pointer, which lives for the call.
    unsafe { raw::sszget(disk.as_raw_fd(), &raw mut bytes)? };
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Lets the kernel refuse or accept writes to the device and its partitions (`BLKROSET`).
///
/// # Errors
/// As the kernel says.
pub fn set_read_only(disk: &File, read_only: bool) -> io::Result<()> {
    let value = c_int::from(read_only);
    // SAFETY: the kernel reads one int through the pointer, which lives for the call.
    unsafe { raw::roset(disk.as_raw_fd(), &raw const value)? };
    Ok(())
}

/// Writes back and forgets what the kernel keeps in memory of the device (`BLKFLSBUF`), so that
/// the next read comes from the medium.
///
/// # Errors
/// As the kernel says.
pub fn flush_buffers(disk: &File) -> io::Result<()> {
    // SAFETY: takes no argument.
    unsafe { raw::flsbuf(disk.as_raw_fd())? };
    Ok(())
}

/// Makes `length` bytes from `offset` on read as zeros (`BLKZEROOUT`): the disk is asked to write them
/// itself, and where it cannot the kernel does. Both are multiples of the sector size.
///
/// # Errors
/// As the kernel says.
pub fn zero_out(disk: &File, offset: u64, length: u64) -> io::Result<()> {
    let area = [offset, length];
    // SAFETY: the kernel reads two u64 through the pointer, which live for the call.
    unsafe { raw::zeroout(disk.as_raw_fd(), &raw const area)? };
    Ok(())
}

/// Makes `length` bytes from `offset` on read as zeros; a disk that can store zeros as nothing does so
/// (`fallocate(2)`, punching a hole). Both are multiples of the sector size.
///
/// # Errors
/// As the kernel says.
pub fn discard_to_zeros(disk: &File, offset: u64, length: u64) -> io::Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (start, bytes) = (i64::try_from(offset), i64::try_from(length));
    let (Ok(start), Ok(bytes)) = (start, bytes) else { return Err(io::ErrorKind::InvalidInput.into()) };
    match fallocate(disk, hole, start, bytes) {
        Err(Errno::EOPNOTSUPP) => zero_out(disk, offset, length),
        made => Ok(made?),
    }
}

/// Makes partition `number` known to the kernel without any table on the disk
/// (`BLKPG_ADD_PARTITION`). `start` and `length` are bytes, multiples of the sector size.
///
/// # Errors
/// When it overlaps a partition the kernel knows, or the number is taken.
pub fn add_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    partition(disk, BLKPG_ADD_PARTITION, number, start, length)
}

/// Makes the kernel forget partition `number` (`BLKPG_DEL_PARTITION`); the disk is not touched.
///
/// # Errors
/// When it does not exist or is in use.
pub fn delete_partition(disk: &File, number: u32) -> io::Result<()> {
    partition(disk, BLKPG_DEL_PARTITION, number, 0, 0)
}

fn partition(disk: &File, op: c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let mut data = raw::Partition {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(length).map_err(io::Error::other)?,
        number: c_int::try_from(number).map_err(io::Error::other)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let data_len = c_int::try_from(size_of::<raw::Partition>()).map_err(io::Error::other)?;
    let request = raw::Blkpg { op, flags: 0, data_len, data: &raw mut data };
    // SAFETY: the kernel reads `request` and the `data` it points to; both live for the call and
    // have the layout of linux/blkpg.h.
    unsafe { raw::blkpg(disk.as_raw_fd(), &raw const request)? };
    Ok(())
}

/// Clears the immutable flag, which efivarfs sets on variables it does not know.
///
/// # Errors
/// As the kernel says.
pub fn clear_immutable(file: &File) -> io::Result<()> {
    // The request is declared with `long`, but kernel and users pass an `int`; a long on the
    // stack holds both, and little-endian order makes the low half the value.
    let mut flags: std::ffi::c_long = 0;
    // SAFETY: the kernel writes at most one long through the pointer, which lives for the call.
    unsafe { raw::getflags(file.as_raw_fd(), &raw mut flags)? };
    let cleared = flags & !std::ffi::c_long::from(FS_IMMUTABLE_FL);
    if cleared != flags {
        // SAFETY: the kernel reads at most one long through the pointer, which lives for the call.
        unsafe { raw::setflags(file.as_raw_fd(), &raw const cleared)? };
    }
    Ok(())
}
