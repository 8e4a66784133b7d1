//! Disks of a machine that is only looked at: the kernel refuses every write to them, so that whatever runs
//! (a driver, a volume manager's probe) cannot write either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use kaltstart_protocol::facts::Disk;

use crate::inventory;
use crate::sys::block;

/// Sets disks read-only as they appear, and remembers which were so by themselves.
#[derive(Debug, Default)]
pub struct Guard {
    /// Kernel name → whether the medium refused writes before the guard came.
    by_itself: BTreeMap<String, bool>,
    /// Kernel names of disks that may be written to.
    lifted: BTreeSet<String>,
}

impl Guard {
    /// Sets every disk that accepts writes read-only.
    pub fn look(&mut self) {
        let root = Path::new("/");
        self.look_with(root, |name| block::set_read_only(&File::open(root.join("dev").join(name))?, true));
    }

    /// Lets the disk of that kernel name be written to, unless it refuses by itself.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn lift(&mut self, name: &str) -> io::Result<()> {
        self.lifted.insert(name.to_owned());
        if self.by_itself.get(name) == Some(&true) {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        block::set_read_only(&File::open(Path::new("/dev").join(name))?, false)
    }

    fn look_with(&mut self, root: &Path, set: impl Fn(&str) -> io::Result<()>) {
        for name in inventory::disk_names(root) {
            let refuses = inventory::is_read_only(root, &name);
            let first = !self.by_itself.contains_key(&name);
            self.by_itself.entry(name.clone()).or_insert(refuses);
            if refuses || self.lifted.contains(&name) {
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
        add("sdc", "0\n");
        guard.lifted.insert("sdc".into());
        guard.look_with(root.path(), set);
        assert_eq!(done.borrow().len(), 2, "one that may be written to stays so");
        add("sdc", "1\n");
        let mut disks = inventory::disks(root.path());
        assert!(disks.iter().all(|disk| disk.read_only));
        guard.correct(&mut disks);
        let refusing: Vec<&str> =
            disks.iter().filter(|disk| disk.read_only).map(|disk| disk.name.as_str()).collect();
        assert_eq!(refusing, ["vdb"]);
    }
}
