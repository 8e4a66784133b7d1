//! Loads another kernel beside this one, or says why that is not possible.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;

use nix::errno::Errno;
#[cfg(feature = "install")]
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sys;

/// Says that no kernel may be loaded until the next start (sysctl/kernel.rst of the kernel).
const DISABLED: &str = "/proc/sys/kernel/kexec_load_disabled";

/// Loads `kernel` and `ramdisk` with that command line; [`sys::kexec::sync_and_start`] starts them.
///
/// # Errors
/// Why the kernel takes none, in words for the operator.
pub fn load(kernel: &File, ramdisk: &File, arguments: &str) -> Result<(), String> {
    let arguments = CString::new(arguments).map_err(|_| "the command line has a zero byte".to_owned())?;
    sys::kexec::load(kernel, ramdisk, &arguments).map_err(|error| {
        let disabled = fs::read_to_string(DISABLED).is_ok_and(|text| text.trim() == "1");
        format!("{}: {error}", refusal(&error, disabled))
    })
}

/// The same with ramdisks that the kernel unpacks one after the other, as boot loaders hand them over.
///
/// # Errors
/// As [`load`].
#[cfg(feature = "install")]
pub fn load_joined(kernel: &File, mut ramdisks: Vec<File>, arguments: &str) -> Result<(), String> {
    if let [ramdisk] = &ramdisks[..] {
        return load(kernel, ramdisk, arguments);
    }
    let joined = (|| {
        let mut joined = File::from(memfd_create(c"ramdisks", MFdFlags::MFD_CLOEXEC)?);
        for ramdisk in &mut ramdisks {
            io::copy(ramdisk, &mut joined)?;
        }
        Ok(joined)
    })();
    let joined = joined.map_err(|error: io::Error| format!("the ramdisks cannot be joined: {error}"))?;
    load(kernel, &joined, arguments)
}

/// What the kernel means. With Secure Boot on it is locked down and answers `EPERM` to an unsigned kernel
/// as to any other that is not allowed (`kimage_validate_signature`).
fn refusal(error: &io::Error, disabled: bool) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => "the running kernel cannot load another (CONFIG_KEXEC_FILE)",
        Some(Errno::EPERM) if disabled => "kernel.kexec_load_disabled forbids loading another kernel",
        Some(Errno::EPERM) => {
            "the running kernel is locked down (Secure Boot) and does not accept the other's signature"
        }
        Some(Errno::EKEYREJECTED | Errno::ENOKEY | Errno::EBADMSG | Errno::ELIBBAD | Errno::ENODATA) => {
            "the running kernel does not accept the other's signature"
        }
        Some(Errno::ENOMEM | Errno::EADDRNOTAVAIL) => "there is not enough memory for a second kernel",
        Some(Errno::ENOEXEC) => "the file is no kernel that can be started so",
        _ => "the running kernel does not load another",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused_with_a_reason() {
        let file = tempfile::tempfile().expect("a file");
        let why = load(&file, &file, "ro").expect_err("an empty file is no kernel");
        assert!(why.contains("os error"), "{why}");
        assert!(load(&file, &file, "a\0b").is_err());
    }

    #[test]
    fn refusals_are_told_apart() {
        let words = |errno: Errno, disabled| refusal(&errno.into(), disabled);
        assert!(words(Errno::ENOSYS, false).contains("CONFIG_KEXEC_FILE"));
        assert!(words(Errno::EPERM, true).contains("kexec_load_disabled"));
        assert!(words(Errno::EPERM, false).contains("Secure Boot"));
        assert!(words(Errno::EKEYREJECTED, false).contains("signature"));
        assert!(words(Errno::ENOMEM, false).contains("memory"));
    }
}
