//! Finds the machine's devices: loads drivers, waits until no more appear, guards disks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::facts::Disk;

use crate::guard::Guard;
use crate::inventory;
use crate::modules::Loader;
use crate::pid1;
use crate::sys::kernel::uptime;

/// Buses behind these directories are searched in the background after their driver has started,
/// so that disks may appear later.
const SLOW_BUSES: [&str; 4] =
    ["/sys/class/scsi_host", "/sys/class/nvme", "/sys/bus/usb/devices", "/sys/class/mmc_host"];
/// With such a bus, the time without a new device after which the search counts as done.
const QUIET: Duration = Duration::from_millis(300);
/// Longest wait for quiet; slow arrays that come later are still found, but not in the greeting.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between looks while settling.
const LOOK: Duration = Duration::from_millis(20);
/// Pause between looks afterwards.
const LATER_LOOK: Duration = Duration::from_secs(1);
/// Every so many later looks drivers are looked for, too.
const DRIVER_LOOKS: u32 = 10;
/// File systems, arrays and encryption, which no device asks for: only an installation and people do.
const FILE_SYSTEMS: [&str; 11] =
    ["ext4", "xfs", "btrfs", "efivarfs", "raid0", "raid1", "raid10", "dm_crypt", "xts", "ecb", "aesni_intel"];
/// That of EFI system partitions with its character sets: an installation writes it without the kernel.
const RESCUE_FILE_SYSTEMS: [&str; 3] = ["nls_cp437", "nls_ascii", "vfat"];

/// Drivers of management controllers, and what makes a controller that they have found a device. Nothing asks
/// for that by itself.
const BMC_DRIVERS: [&str; 2] = ["ipmi_si", "ipmi_ssif"];
const BMC_DEVICE: &str = "ipmi_devintf";

/// The machine's devices, watched by a thread from the start on.
#[derive(Clone)]
pub struct Devices {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    settled: bool,
    /// But in [`Mode::Install`].
    guard: Option<Guard>,
}

impl Devices {
    /// Loads the drivers of the present devices, then goes on watching on a thread of its own. In
    /// [`Mode::Discover`] and [`Mode::Rescue`] disks are set read-only as they appear.
    #[must_use]
    pub fn watch(release: &str, mode: Mode) -> Self {
        let guard = (mode != Mode::Install).then(Guard::default);
        let devices =
            Self { shared: Arc::new((Mutex::new(State { settled: false, guard }), Condvar::new())) };
        let mut loader = Loader::new(release);
        // Disks whose drivers are built in are there already.
        devices.guard();
        let loaded = loader.load_for_devices(|| devices.guard());
        tracing::info!("{loaded} drivers for the devices present");
        if BMC_DRIVERS.iter().any(|driver| Path::new("/sys/module").join(driver).exists()) {
            loader.load_named(BMC_DEVICE);
        }
        let watcher = devices.clone();
        std::thread::spawn(move || {
            // Here, because the network need not wait for them.
            if mode != Mode::Discover {
                FILE_SYSTEMS.iter().for_each(|name| loader.load_named(name));
                pid1::mount_efi_variables();
            }
            if mode == Mode::Rescue {
                RESCUE_FILE_SYSTEMS.iter().for_each(|name| loader.load_named(name));
            }
            watcher.run(loader);
        });
        devices
    }

    /// The disks, after waiting until no more appear (at most some seconds).
    #[must_use]
    pub fn settled_disks(&self) -> Vec<Disk> {
        let (_, changed) = &*self.shared;
        let state =
            changed.wait_while(self.lock(), |state| !state.settled).unwrap_or_else(PoisonError::into_inner);
        let mut disks = inventory::disks(Path::new("/"));
        if let Some(guard) = &state.guard {
            guard.correct(&mut disks);
        }
        disks
    }

    /// Lets disks with these identities be written to; the kernel names of those that can.
    #[cfg(feature = "install")]
    #[must_use]
    pub fn lift(&self, identities: &[String]) -> Vec<String> {
        let disks = self.settled_disks();
        let wanted = disks.iter().filter(|disk| identities.iter().any(|one| one == disk.identity()));
        let mut lifted = Vec::new();
        for disk in wanted {
            match self.lock().guard.as_mut().map(|guard| guard.lift(&disk.name)) {
                Some(Err(error)) => tracing::warn!("{} stays read-only: {error}", disk.name),
                _ => lifted.push(disk.name.clone()),
            }
        }
        lifted
    }

    fn run(&self, mut loader: Loader) {
        let start = uptime();
        let mut known = present();
        let mut last_change = start;
        while has_slow_bus() && uptime() - last_change < QUIET && uptime() - start < SETTLE_LIMIT {
            std::thread::sleep(LOOK);
            self.guard();
            let now = present();
            if now != known || loader.load_for_devices(|| self.guard()) > 0 {
                (known, last_change) = (now, uptime());
            }
        }
        self.lock().settled = true;
        self.shared.1.notify_all();
        for look in 1_u32.. {
            std::thread::sleep(LATER_LOOK);
            self.guard();
            if look.is_multiple_of(DRIVER_LOOKS) && loader.load_for_devices(|| self.guard()) > 0 {
                tracing::info!("drivers loaded for new devices");
            }
        }
    }

    fn guard(&self) {
        if let Some(guard) = &mut self.lock().guard {
            guard.look();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_slow_bus() -> bool {
    SLOW_BUSES.iter().any(|dir| fs::read_dir(dir).is_ok_and(|mut dir| dir.next().is_some()))
}

/// Names of all devices that matter for settling.
fn present() -> BTreeSet<String> {
    ["/sys/block", "/sys/class/net", "/sys/bus/usb/devices", "/sys/class/scsi_device", "/sys/class/nvme"]
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .collect()
}
