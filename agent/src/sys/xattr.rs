//! Extended attributes (xattr(7)).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets an attribute of an open file or directory.
///
/// # Errors
/// As the file system says; `ENOTSUP` when it has no such attributes.
pub fn set(file: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: `name` ends with NUL, `value` is readable for its length, and `fd` is open.
    let result = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an attribute of whatever has that path, without following it if it is a symbolic link.
///
/// # Errors
/// As the file system says.
pub fn set_at_path(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: both strings end with NUL and `value` is readable for its length.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// All attributes of an open file; none where the file system has no such things.
///
/// # Errors
/// As the file system says.
pub fn all(file: impl AsFd) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most as many bytes as it is told that there are, to a buffer that
    // lives for the call; `fd` is open.
    let names = filled(|into, room| unsafe { libc::flistxattr(fd, into.cast(), room) });
    let names = match names {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let values = names.map(|name| {
        let name = CString::new(name).map_err(io::Error::other)?;
        // SAFETY: as above; `name` ends with NUL.
        let value = filled(|into, room| unsafe { libc::fgetxattr(fd, name.as_ptr(), into.cast(), room) });
        Ok((name.clone(), value?))
    });
    values.collect()
}

/// Calls `get` without a buffer for the number of bytes, and with one of that size for the bytes.
fn filled(get: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let size = |result: isize| usize::try_from(result).map_err(|_| io::Error::last_os_error());
    let mut bytes = vec![0; size(get(std::ptr::null_mut(), 0))?];
    let written = size(get(bytes.as_mut_ptr(), bytes.len()))?;
    bytes.truncate(written);
    Ok(bytes)
}
