//! Virtual consoles (`linux/vt.h`, `linux/tiocl.h`): whose turn it is, and where the kernel writes.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod raw {
    // linux/vt.h, asm-generic/ioctls.h
    nix::ioctl_write_int_bad!(vt_activate, 0x5606);
    nix::ioctl_read_bad!(tiocgwinsz, 0x5413, libc::winsize);
    nix::ioctl_write_ptr_bad!(tioclinux, 0x541c, [u8; 2]);
}

/// `TIOCL_SETKMSGREDIRECT`.
const REDIRECT_KERNEL: u8 = 11;

/// Columns and rows of a console.
///
/// # Errors
/// When `console` is none.
pub fn size(console: &File) -> io::Result<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize` through the pointer, which lives for the call.
    unsafe { raw::tiocgwinsz(console.as_raw_fd(), &raw mut size)? };
    Ok((size.ws_col.into(), size.ws_row.into()))
}

/// Shows the virtual console of that number.
///
/// # Errors
/// The kernel's refusal, or `console` is no virtual one.
pub fn show(console: &File, number: u8) -> io::Result<()> {
    // SAFETY: a number alone is handed over.
    unsafe { raw::vt_activate(console.as_raw_fd(), i32::from(number))? };
    Ok(())
}

/// Lets the kernel write its messages for virtual consoles to that one, whichever is shown.
///
/// # Errors
/// The kernel's refusal, or `console` is no virtual one.
pub fn send_kernel_messages(console: &File, number: u8) -> io::Result<()> {
    // SAFETY: the kernel reads two bytes through the pointer, which lives for the call.
    unsafe { raw::tioclinux(console.as_raw_fd(), &raw const *&[REDIRECT_KERNEL, number])? };
    Ok(())
}
