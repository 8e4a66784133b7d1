//! Arrays, run by the kernel's md through its files in sysfs (`Documentation/admin-guide/md.rst`): no program
//! assembles them, and nothing else in the agent's ramdisk knows of them. That of an installed system has them assembled
//! as their members appear.

use super::block::{Block, Volume, wait_for_node};
use super::device::failed;
use super::patiently;
use kaltstart_protocol::finding::{Code, Finding};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the kernel is told to make an array.
const NEW_ARRAY: &str = "module/md_mod/parameters/new_array";
/// Arrays that this program has begun; a name is not used again while the kernel is still giving it up.
static BEGUN: AtomicU32 = AtomicU32::new(0);

/// An array that runs; stopped on drop, before the kernel forgets the partitions that are its members.
#[derive(Debug)]
pub(super) struct Running {
    /// Its files in sysfs.
    files: PathBuf,
    members: Vec<Volume>,
}

/// Runs the array whose superblocks were written to all of `members`.
///
/// # Errors
/// [`Code::DiskFailed`] with what the kernel refused.
pub(super) fn start(members: Vec<Volume>) -> Result<Arc<Block>, Finding> {
    let Some((dev, sys)) = members.first().map(Volume::places) else {
        return Err(Finding::new(Code::DiskFailed, "an array without members"));
    };
    let (dev, sys) = (dev.to_owned(), sys.to_owned());
    let name = format!("md_kaltstart{}", BEGUN.fetch_add(1, Ordering::Relaxed));
    tell(&sys.join(NEW_ARRAY), &name)?;
    let running = Running { files: sys.join("block").join(&name).join("md"), members };
    tell(&running.files.join("metadata_version"), "1.2")?;
    for member in &running.members {
        let numbers = member.numbers().unwrap_or_default();
        tell(&running.files.join("new_dev"), &numbers)?;
    }
    tell(&running.files.join("array_state"), "active")?;
    let node = dev.join(&name);
    wait_for_node(&sys, &name, &node)?;
    running.ensure_whole()?;
    let file = OpenOptions::new().read(true).write(true).open(&node);
    let file = file.map_err(|error| failed(&format!("cannot open {}", node.display()), &error))?;
    Ok(Arc::new(Block { file, name, dev, sys, array: Some(running) }))
}

/// Runs the arrays that still wait for members with those that they have; which. One that cannot do without goes on
/// waiting.
pub(crate) fn run_incomplete(sys: &Path) -> Vec<String> {
    let names = fs::read_dir(sys.join("block")).into_iter().flatten().flatten();
    let waits = |name: &String| {
        let state = fs::read_to_string(sys.join("block").join(name).join("md/array_state"));
        state.is_ok_and(|state| state.trim() == "inactive")
    };
    let runs = |name: &String| match tell(&sys.join("block").join(name).join("md/array_state"), "active") {
        Ok(()) => true,
        Err(finding) => {
            tracing::warn!(%finding, "an array does not run with the members that it has");
            false
        }
    };
    names.filter_map(|entry| entry.file_name().into_string().ok()).filter(waits).filter(runs).collect()
}

/// Writes one word to a file of the kernel.
fn tell(file: &Path, word: &str) -> Result<(), Finding> {
    // One write(2): each is a request of its own.
    let written =
        OpenOptions::new().write(true).open(file).and_then(|mut file| file.write_all(word.as_bytes()));
    written.map_err(|error| failed(&format!("{} does not take {word:?}", file.display()), &error))
}

impl Running {
    /// Whether no member has been given up.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub(super) fn ensure_whole(&self) -> Result<(), Finding> {
        // Levels without a spare copy have no such file: with a member they lose everything.
        match fs::read_to_string(self.files.join("degraded")) {
            Ok(count) if count.trim() != "0" => {
                let detail = format!("an array has lost {} of its members", count.trim());
                Err(Finding::new(Code::DiskFailed, detail))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let stop =
            || OpenOptions::new().write(true).open(self.files.join("array_state"))?.write_all(b"clear");
        if let Err(error) = patiently(stop) {
            tracing::warn!(%error, array = %self.files.display(), "an array does not stop");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arrays_that_wait_are_run_with_what_they_have() {
        let sys = tempfile::tempdir().expect("a folder");
        let file = |name: &str| sys.path().join("block").join(name).join("md/array_state");
        for (name, state) in [("md3", "inactive\n"), ("md4", "clean\n"), ("md5", "clear\n")] {
            fs::create_dir_all(file(name).parent().expect("a folder")).expect("made");
            fs::write(file(name), state).expect("written");
        }
        fs::create_dir_all(sys.path().join("block/vda")).expect("made");
        assert_eq!(run_incomplete(sys.path()), ["md3"]);
        let states = ["md3", "md4", "md5"].map(|name| fs::read_to_string(file(name)).expect("there"));
        assert_eq!(states.map(|state| state[..5].to_owned()), ["activ", "clean", "clear"]);
        assert!(run_incomplete(&sys.path().join("none")).is_empty());
    }
}
