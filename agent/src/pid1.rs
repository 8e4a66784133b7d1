//! Being PID 1: mounts, orphans, panics, and never returning.

use std::fs;
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::log;
use crate::screen::{self, Doing};
use crate::sys::{kernel, kexec};

/// Where UEFI's variables show when the machine was started by UEFI.
pub const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// Mounts the kernel's file systems. What fails is logged; the agent goes on without.
pub fn mount_kernel_file_systems() {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let no_device = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (kind, target, flags, data) in [
        ("proc", "/proc", plain, None),
        ("sysfs", "/sys", plain, None),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=0755")),
        ("tmpfs", "/run", no_device, Some("mode=0755")),
        ("tmpfs", "/tmp", no_device, Some("mode=1777")),
    ] {
        mount_one(kind, target, flags, data);
    }
}

/// Mounts UEFI's variables when there are any; to be called when drivers are loaded.
pub fn mount_efi_variables() {
    if Path::new("/sys/firmware/efi").exists()
        && fs::read_dir(EFIVARS).is_ok_and(|mut dir| dir.next().is_none())
    {
        mount_one("efivarfs", EFIVARS, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None);
    }
}

/// Mounts the file system of pseudo-terminals.
#[cfg(feature = "install")]
pub(crate) fn mount_terminals() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_one("devpts", "/dev/pts", flags, Some("mode=0620,ptmxmode=0666"));
}

/// Ends all other programs, and unmounts what they have mounted from disks, so that nothing is half written.
#[cfg(feature = "install")]
pub(crate) fn end_all_work() {
    use nix::sys::signal::{Signal, kill};
    if std::process::id() != 1 {
        return;
    }
    // All processes but this one (kill(2)).
    let _ = kill(nix::unistd::Pid::from_raw(-1), Signal::SIGKILL);
    while waitpid(None, None).is_ok() {}
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev().filter(|line| line.starts_with("/dev/")) {
        // Spaces are written as \\040 (proc(5)), which nobody here has in his paths.
        let Some(target) = line.split(' ').nth(1) else { continue };
        if let Err(errno) = nix::mount::umount(target) {
            tracing::warn!("{target} cannot be unmounted: {errno}");
        }
    }
}

fn mount_one(kind: &str, target: &str, flags: MsFlags, data: Option<&str>) {
    let _ = fs::create_dir_all(target);
    match mount(Some(kind), target, Some(kind), flags, data) {
        // Busy: mounted already, by the kernel (devtmpfs) or a test.
        Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
        Err(errno) => tracing::warn!("{kind} cannot be mounted at {target}: {errno}"),
    }
}

/// Makes every panic show on console and kernel log, with its place in the program.
pub fn show_panics() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let text = format!("the agent has a defect: {info}");
        log::console(&format!("\n{text}\nPlease report this message."));
        if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
            // The console has it already.
            let _ = writeln!(kmsg, "kaltstart: {text}");
        }
        log::RING.push(kernel::uptime_ms(), "error", &text);
    }));
}

/// Waits for ever. Other threads go on: log and reports still reach the server.
pub fn hold() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Collects ended programs that lost their parent.
///
/// Call it only while no thread waits for a program of its own, whose result it would take away.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Starts the kernel that was loaded; restarts the machine if this one refuses.
pub fn start_loaded_kernel() -> ! {
    log::console("\n==== starting the installed system's kernel (kexec) ====\n");
    let error = kexec::sync_and_start();
    restart(&format!("the kernel does not start the one that was loaded: {error}"))
}

/// Restarts the machine after `reason` was shown; holds if the kernel refuses.
pub fn restart(reason: &str) -> ! {
    log::console(&format!("\n==== restarting: {reason} ====\n"));
    screen::doing(Doing::Restarting(reason.into()));
    let error = kernel::sync_and_restart();
    log::console(&format!("the kernel refuses to restart: {error}; restart the machine by hand"));
    screen::doing(Doing::Stuck(format!("the kernel refuses to restart: {error}")));
    hold()
}
