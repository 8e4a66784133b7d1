//! Who may write to disks: only who holds a wipe grant for what is really there.
//!
//! Without a [`Permit`] no disk is opened for writing, and with one only its disk. On a machine that is
//! only looked at the kernel refuses every write besides, so that whatever else runs (a driver, a
//! volume manager's probe) cannot write either.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use kaltstart_protocol::agent_api::InstallTask;
use kaltstart_protocol::contents::Contents;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::PublicKey;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::select::select;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{HostIdentity, Reality};
use kaltstart_trust::images::ImageTrust;

use crate::inventory;
use crate::sys::block;

/// The right to write to one disk, as long as nothing but what it allows to lose is on it.
#[derive(Debug)]
pub struct Permit {
    disk: Disk,
    contents: Contents,
}

impl Permit {
    /// The only disk it is for.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What may be lost.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }
}

/// Whose grants and images count here, and who this machine is.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The key that signs grants, as the boot script told.
    pub key: PublicKey,
    /// Whose images are laid down, as the boot script told.
    pub images: ImageTrust,
    /// The machine, as this agent measured it.
    pub host: HostIdentity,
}

impl Gate {
    /// The right to carry out `task` on the disk that its rule chooses of `disks`. There is no
    /// other way to get one.
    ///
    /// # Errors
    /// Those of [`select`], and [`Code::GrantRefused`]
    /// with what is not as the grant says.
    pub fn admit(&self, task: &InstallTask, disks: &[Disk], now: Millis) -> Result<Permit, Finding> {
        let disk = select(&task.disk, disks)?;
        let reality = Reality { host: &self.host, disk, job: &task.job, attempt: task.attempt, now };
        let grant = task.grant.verify(&self.key, &reality)?;
        Ok(Permit { disk: disk.clone(), contents: grant.contents })
    }

    /// The image of `task`.
    ///
    /// # Errors
    /// [`Code::ImageUntrusted`] when nobody who is believed has signed it.
    pub fn image(&self, task: &InstallTask) -> Result<Manifest, Finding> {
        self.images.manifest(&task.image).map_err(|why| Finding::new(Code::ImageUntrusted, why.to_string()))
    }
}

/// Sets disks read-only as they appear, and remembers which were so by themselves.
#[derive(Debug, Default)]
pub struct Guard {
    /// Kernel name → whether the medium refused writes before the guard came.
    by_itself: BTreeMap<String, bool>,
}

impl Guard {
    /// Sets every disk that accepts writes read-only.
    pub fn look(&mut self) {
        let root = Path::new("/");
        self.look_with(root, |name| block::set_read_only(&File::open(root.join("dev").join(name))?, true));
    }

    fn look_with(&mut self, root: &Path, set: impl Fn(&str) -> io::Result<()>) {
        for name in inventory::disk_names(root) {
            let refuses = inventory::is_read_only(root, &name);
            let first = !self.by_itself.contains_key(&name);
            self.by_itself.entry(name.clone()).or_insert(refuses);
            if refuses {
                continue;
            }
            match set(&name) {
                Ok(()) => tracing::info!("{name} set read-only"),
                // A drive without medium cannot be opened, and not be written to.
                Err(error) if first => tracing::warn!("{name} cannot be set read-only: {error}"),
                Err(_) => {}
            }
        }
    }

    /// Puts back what the disks said of themselves before the guard came.
    pub fn correct(&self, disks: &mut [Disk]) {
        for disk in disks {
            if let Some(by_itself) = self.by_itself.get(&disk.name) {
                disk.read_only = *by_itself;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs;

    #[test]
    fn p02_every_disk_that_appears_is_set_read_only_and_facts_stay_true() {
        let root = tempfile::tempdir().expect("a directory");
        let add = |name: &str, ro: &str| {
            let dir = root.path().join("sys/block").join(name);
            fs::create_dir_all(&dir).expect("directories");
            fs::write(dir.join("ro"), ro).expect("a file");
            fs::write(dir.join("size"), "8\n").expect("a file");
        };
        let done = RefCell::new(Vec::new());
        let set = |name: &str| {
            done.borrow_mut().push(name.to_owned());
            fs::write(root.path().join("sys/block").join(name).join("ro"), "1\n")
        };
        let mut guard = Guard::default();
        add("vda", "0\n");
        add("vdb", "1\n");
        add("loop0", "0\n");
        guard.look_with(root.path(), set);
        guard.look_with(root.path(), set);
        add("sdc", "0\n");
        guard.look_with(root.path(), set);
        assert_eq!(*done.borrow(), ["vda", "sdc"], "each once, and none that refuses by itself");
        let mut disks = inventory::disks(root.path());
        assert!(disks.iter().all(|disk| disk.read_only));
        guard.correct(&mut disks);
        let refusing: Vec<&str> =
            disks.iter().filter(|disk| disk.read_only).map(|disk| disk.name.as_str()).collect();
        assert_eq!(refusing, ["vdb"]);
    }
}
