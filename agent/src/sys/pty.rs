//! Pseudo-terminals (pty(7), tty_ioctl(4)).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use kaltstart_protocol::rescue::Size;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};

mod raw {
    // asm-generic/ioctls.h
    nix::ioctl_write_int_bad!(tiocsctty, 0x540e);
    nix::ioctl_write_ptr_bad!(tiocswinsz, 0x5414, libc::winsize);
}

/// A new terminal of that size: the end that shows and types, which never blocks, and the end for programs.
///
/// # Errors
/// When the kernel has none.
pub fn open(size: Size) -> io::Result<(File, OwnedFd)> {
    let OpenptyResult { master, slave } = openpty(Some(&winsize(size)), None)?;
    fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&slave, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((master.into(), slave))
}

/// Changes the size of a terminal; its programs are told by the kernel.
///
/// # Errors
/// When `master` is no terminal.
pub fn resize(master: &File, size: Size) -> io::Result<()> {
    let size = winsize(size);
    // SAFETY: the kernel reads one `winsize` through the pointer, which lives for the call.
    unsafe { raw::tiocswinsz(master.as_raw_fd(), &raw const size)? };
    Ok(())
}

/// Has `command` run as the first program of a session of its own on the terminal `slave`.
///
/// # Errors
/// When no more files can be opened.
pub fn run_on(command: &mut Command, slave: OwnedFd) -> io::Result<()> {
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    let lead = || {
        nix::unistd::setsid()?;
        // SAFETY: a number alone is handed over; standard input is the terminal.
        unsafe { raw::tiocsctty(0, 0)? };
        Ok(())
    };
    // SAFETY: between fork and exec it makes two system calls, which allocate nothing and take no locks.
    unsafe { command.pre_exec(lead) };
    Ok(())
}

const fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}
