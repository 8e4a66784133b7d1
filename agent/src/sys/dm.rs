//! Requests to the device mapper (`linux/dm-ioctl.h`).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use zeroize::Zeroize as _;

/// Where the kernel takes them.
pub const CONTROL: &str = "/dev/mapper/control";

mod raw {
    /// `struct dm_ioctl`.
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(super) struct Head {
        pub(super) version: [u32; 3],
        pub(super) data_size: u32,
        pub(super) data_start: u32,
        pub(super) target_count: u32,
        pub(super) open_count: i32,
        pub(super) flags: u32,
        pub(super) event_nr: u32,
        pub(super) padding: u32,
        pub(super) dev: u64,
        pub(super) name: [u8; 128],
        pub(super) uuid: [u8; 129],
        pub(super) data: [u8; 7],
    }

    /// A request and the one target it may have: `struct dm_target_spec`, and its words behind.
    #[repr(C)]
    pub(super) struct Request {
        pub(super) head: Head,
        pub(super) start: u64,
        pub(super) length: u64,
        pub(super) status: i32,
        pub(super) next: u32,
        pub(super) kind: [u8; 16],
        pub(super) words: [u8; super::WORDS],
    }

    nix::ioctl_readwrite!(create, 0xfd, 3, Head);
    nix::ioctl_readwrite!(remove, 0xfd, 4, Head);
    nix::ioctl_readwrite!(suspend, 0xfd, 6, Head);
    nix::ioctl_readwrite!(load, 0xfd, 9, Head);
}

/// Room for a target's words, in bytes.
const WORDS: usize = 512;
/// The interface that is spoken.
const VERSION: [u32; 3] = [4, 0, 0];
/// The kernel overwrites its copies of the request.
const SECURE_DATA: u32 = 1 << 15;
/// What udev's rules of the device mapper ask of a device that somebody has made on purpose
/// (`DM_UDEV_PRIMARY_SOURCE_FLAG`): else they hide it from everybody.
const PRIMARY_SOURCE: u32 = 0x40 << 16;

/// Makes a device of one target, `length` sectors of 512 bytes long, by name and UUID; gives its numbers, major and
/// minor.
///
/// # Errors
/// When a device has that name or UUID, or the kernel does not know the target or refuses its words.
pub fn create(
    control: &File,
    name: &str,
    uuid: &str,
    kind: &str,
    length: u64,
    words: &str,
) -> io::Result<(u64, u64)> {
    let mut head = head(name)?;
    put(&mut head.uuid, uuid)?;
    // SAFETY: the kernel reads and writes `data_size` bytes, those of the one head.
    unsafe { raw::create(control.as_raw_fd(), &raw mut head)? };
    let device = (nix::sys::stat::major(head.dev), nix::sys::stat::minor(head.dev));
    let started = load(control, name, kind, length, words).and_then(|()| resume(control, name));
    if let Err(error) = started {
        // Without a target it is of no use, and its name would be taken.
        remove(control, name).ok();
        return Err(error);
    }
    Ok(device)
}

fn load(control: &File, name: &str, kind: &str, length: u64, words: &str) -> io::Result<()> {
    let mut request = Box::new(raw::Request {
        head: head(name)?,
        start: 0,
        length,
        status: 0,
        next: 0,
        kind: [0; 16],
        words: [0; WORDS],
    });
    put(&mut request.kind, kind)?;
    put(&mut request.words, words)?;
    request.head.data_size = size_of::<raw::Request>() as u32;
    request.head.target_count = 1;
    request.head.flags = SECURE_DATA;
    let pointer: *mut raw::Request = &raw mut *request;
    // SAFETY: the kernel reads and writes `data_size` bytes, which are the request's; it lives for the call, and its
    // head is its first field.
    let loaded = unsafe { raw::load(control.as_raw_fd(), pointer.cast()) };
    // They have the key.
    request.words.zeroize();
    loaded?;
    Ok(())
}

fn resume(control: &File, name: &str) -> io::Result<()> {
    let mut head = raw::Head { event_nr: PRIMARY_SOURCE, ..head(name)? };
    // SAFETY: the kernel reads and writes `data_size` bytes, those of the one head.
    unsafe { raw::suspend(control.as_raw_fd(), &raw mut head)? };
    Ok(())
}

/// Removes a device.
///
/// # Errors
/// When there is none of that name, or it is in use (`EBUSY`).
pub fn remove(control: &File, name: &str) -> io::Result<()> {
    let mut head = head(name)?;
    // SAFETY: the kernel reads and writes `data_size` bytes, those of the one head.
    unsafe { raw::remove(control.as_raw_fd(), &raw mut head)? };
    Ok(())
}

fn head(name: &str) -> io::Result<raw::Head> {
    let mut head = raw::Head {
        version: VERSION,
        data_size: size_of::<raw::Head>() as u32,
        data_start: size_of::<raw::Head>() as u32,
        target_count: 0,
        open_count: 0,
        flags: 0,
        event_nr: 0,
        padding: 0,
        dev: 0,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    put(&mut head.name, name)?;
    Ok(head)
}

/// Writes a text into a field that ends with a zero.
fn put(field: &mut [u8], text: &str) -> io::Result<()> {
    let fits = text.len() < field.len();
    let place = field.get_mut(..text.len()).filter(|_| fits).ok_or(io::ErrorKind::InvalidInput)?;
    place.copy_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn requests_are_laid_out_as_the_kernel_has_them() {
        assert_eq!(size_of::<raw::Head>(), 312);
        let offsets = [
            offset_of!(raw::Request, start),
            offset_of!(raw::Request, length),
            offset_of!(raw::Request, status),
            offset_of!(raw::Request, next),
            offset_of!(raw::Request, kind),
            offset_of!(raw::Request, words),
        ];
        assert_eq!(offsets, [312, 320, 328, 332, 336, 352]);
    }
}
