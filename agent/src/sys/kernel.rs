//! Clock, randomness, modules, restart.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Time since the kernel started, including sleep.
#[must_use]
pub fn uptime() -> Duration {
    // CLOCK_BOOTTIME exists in every kernel the agent runs under; zero keeps a log line alive.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Milliseconds since the kernel started.
#[must_use]
pub fn uptime_ms() -> u64 {
    u64::try_from(uptime().as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970 by the system clock.
#[must_use]
pub fn wall_seconds() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec())
}

/// Sets the system clock to `seconds` since 1970.
///
/// # Errors
/// The kernel's refusal, as when the caller is not root.
pub fn set_wall_seconds(seconds: i64) -> io::Result<()> {
    Ok(clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, 0))?)
}

/// Fills `buffer` with random bytes without ever waiting for entropy.
///
/// A machine just started may have none for a minute. `GRND_INSECURE` then gives the best the
/// kernel has; on kernels before 5.6 the clock is mixed in instead. Good enough for transaction
/// ids and jitter; a secret needs something unguessable besides.
pub fn random_now(buffer: &mut [u8]) {
    // SAFETY: pointer and length describe `buffer`, which the kernel only writes to.
    let got = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), libc::GRND_INSECURE) };
    if usize::try_from(got) != Ok(buffer.len()) {
        let mut seed = uptime().as_nanos() ^ u128::from(std::process::id()) << 64;
        for byte in buffer {
            // Multiplier of Knuth's MMIX generator.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (seed >> 56) as u8;
        }
    }
}

/// A random number, made as [`random_now`] does.
#[must_use]
pub fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    random_now(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// Writes back everything and restarts the machine. Returns only if the kernel refuses.
///
/// # Errors
/// The kernel's refusal.
pub fn sync_and_restart() -> io::Error {
    nix::unistd::sync();
    match reboot(RebootMode::RB_AUTOBOOT) {
        Err(errno) => errno.into(),
        Ok(never) => match never {},
    }
}

/// Loads the kernel module in `path` and runs its start function.
///
/// # Errors
/// The file cannot be read, or the kernel refuses it; a module already there is no error.
pub fn load_module(path: &Path) -> io::Result<()> {
    use nix::kmod::{ModuleInitFlags, finit_module};
    let file = File::open(path)?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_never_waits_and_differs() {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        random_now(&mut a);
        random_now(&mut b);
        assert_ne!(a, b);
    }
}
