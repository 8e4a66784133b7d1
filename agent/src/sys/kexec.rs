//! Another kernel in the place of this one, without firmware (kexec_file_load(2), reboot(2)).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::reboot::{RebootMode, reboot};

/// Has the kernel copy another one, its ramdisk and its command line into memory. The files are not
/// needed afterwards, and nothing changes before [`sync_and_start`].
///
/// # Errors
/// The kernel's refusal; none of it is loaded then.
pub fn load(kernel: impl AsFd, ramdisk: impl AsFd, arguments: &CStr) -> io::Result<()> {
    let (kernel, ramdisk) = (kernel.as_fd().as_raw_fd(), ramdisk.as_fd().as_raw_fd());
    let length = arguments.count_bytes() + 1;
    let no_flags: libc::c_ulong = 0;
    // SAFETY: both descriptors are open for the call, and `arguments` is readable for its length with
    // its closing zero byte, which the kernel asks for.
    let result = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, kernel, ramdisk, length, arguments.as_ptr(), no_flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel forget what was loaded.
///
/// # Errors
/// The kernel's refusal.
pub fn unload() -> io::Result<()> {
    /// `linux/kexec.h`
    const KEXEC_FILE_UNLOAD: libc::c_ulong = 1;
    // SAFETY: with this flag the kernel looks at none of the other arguments.
    let result = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, -1, -1, 0_usize, std::ptr::null::<u8>(), KEXEC_FILE_UNLOAD)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes back everything and starts the kernel that was loaded. Returns only if none was.
///
/// # Errors
/// The kernel's refusal.
pub fn sync_and_start() -> io::Error {
    nix::unistd::sync();
    match reboot(RebootMode::RB_KEXEC) {
        Err(errno) => errno.into(),
        Ok(never) => match never {},
    }
}
