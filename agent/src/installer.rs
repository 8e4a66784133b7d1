//! Jobs on the real disks of this machine.

use std::path::Path;

use kaltstart_protocol::agent_api::{EraseTask, Erased, InstallTask, Installed};
use kaltstart_protocol::facts::{Disk, Facts};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::HostIdentity;

use crate::cmdline::Settings;
use crate::devices::Devices;
use crate::erase::{self, choice};
use crate::gate::Gate;
use crate::http_source::HttpSource;
use crate::install::{self, Paths, Stop};
use crate::job::{Installer, NotDone};
use crate::pid1;
use crate::reporter::Reporter;
use crate::sys::kernel::wall_seconds;

/// Installs on the real disks.
pub(crate) struct Real {
    devices: Devices,
    gate: Gate,
}

impl Real {
    /// The machine is the one of `facts`, as they are now: an interface that is plugged in later does not
    /// make it another one.
    pub(crate) fn new(settings: &Settings, devices: Devices, facts: &Facts) -> Self {
        let (grants, images) = (settings.grants, settings.images.clone());
        Self { devices, gate: Gate { grants, images, host: HostIdentity::of(facts) } }
    }
}

impl Installer for Real {
    fn disks(&self) -> Vec<Disk> {
        self.devices.settled_disks()
    }

    fn install(&self, task: &InstallTask, disks: &[Disk], reporter: &Reporter) -> Result<Installed, NotDone> {
        let efivars = Path::new(pid1::EFIVARS);
        let started_by_uefi = std::fs::read_dir(efivars).is_ok_and(|mut dir| dir.next().is_some());
        let paths = Paths { efivars: started_by_uefi.then(|| efivars.into()), ..Paths::default() };
        let source = HttpSource::of(task);
        install::install(&self.gate, task, disks, now(), &source, &paths, reporter).map_err(NotDone::from)
    }

    fn erase(&self, task: &EraseTask, disks: &[Disk], reporter: &Reporter) -> Result<Erased, NotDone> {
        erase::erase(&self.gate, task, disks, now(), &Paths::default(), &choice::methods, reporter)
            .map_err(NotDone::from)
    }
}

impl From<Stop> for NotDone {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(finding) => Self::Failed(finding),
            Stop::Cancelled(_) => Self::Cancelled,
        }
    }
}

fn now() -> Millis {
    Millis(u64::try_from(wall_seconds()).unwrap_or(0).saturating_mul(1000))
}
