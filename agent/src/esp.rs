//! `agent esp`: keeps the EFI system partitions of a system on several disks alike, as firmware knows no arrays.
//!
//! One of them is mounted, and packages write to it; after each change the others get the same files, one partition
//! after the other, each file beside the old one before it takes its place: at every moment one partition is whole.
//! Where an update was cut off before the others had it, they are as they were noted last, and take it back at the
//! next start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kaltstart_protocol::layout::ESP_MOUNT;
use kaltstart_protocol::node_api::REPORTER;
use nix::mount::{MntFlags, MsFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::tree::Tree;

/// Which partitions.
const CONFIG: &str = "/var/lib/kaltstart/esp.json";
/// What they held when they were alike last.
const RECORD: &str = "/var/lib/kaltstart/esp.digest";
/// Says that it has run since the system was started.
const MARK: &str = "/run/kaltstart-esp";
/// Where the others are mounted meanwhile.
const OTHER: &str = "/run/kaltstart-esp.other";
/// A file that is not whole yet; a name of 8.3, as FAT has.
const UNFINISHED: &str = "KS-NEW.TMP";
/// Names of partitions by their GUID.
const BY_GUID: &str = "/dev/disk/by-partuuid";
const OPTIONS: &str = "umask=0077";

const SERVICE: &str = "kaltstart-esp.service";
const WATCH: &str = "kaltstart-esp.path";
const UNITS: &str = "/etc/systemd/system";

/// What is left in the system for this.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    /// GUIDs of the partitions, in the order of their disks.
    partitions: Vec<String>,
}

/// Leaves configuration and units in an installed system.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn leave_behind(tree: &Tree, partitions: Vec<String>) -> io::Result<()> {
    tree.write(CONFIG, &serde_json::to_vec(&Config { partitions })?, 0o644)?;
    let service = format!(
        "[Unit]\n\
         Description=Keep the EFI system partitions alike\n\
         After=local-fs.target boot-efi.mount\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={REPORTER} esp\n\
         # What it waits for is mounted by now, whichever disk is there.\n\
         ExecStartPost=-/bin/systemctl start --no-block {WATCH}\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    let watch = format!(
        "[Unit]\n\
         Description=Watch the EFI system partition\n\
         \n\
         [Path]\n\
         PathChanged={ESP_MOUNT}/EFI\n\
         PathChanged={ESP_MOUNT}/EFI/BOOT\n\
         PathChanged={ESP_MOUNT}/EFI/debian\n\
         Unit={SERVICE}\n"
    );
    let unit = format!("{UNITS}/{SERVICE}");
    tree.write(&unit, service.as_bytes(), 0o644)?;
    tree.write(&format!("{UNITS}/{WATCH}"), watch.as_bytes(), 0o644)?;
    tree.symlink(&unit, &format!("{UNITS}/multi-user.target.wants/{SERVICE}"))
}

/// Makes them alike, and says what it did.
#[must_use]
pub fn run() -> ExitCode {
    match keep() {
        Ok(said) => {
            said.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the EFI system partitions are not alike: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keep() -> io::Result<Vec<String>> {
    let config: Config = serde_json::from_slice(&fs::read(CONFIG)?)?;
    let node = |guid: &String| Path::new(BY_GUID).join(guid);
    let there: Vec<PathBuf> = config.partitions.iter().map(node).filter(|node| node.exists()).collect();
    let mut said = Vec::new();
    if config.partitions.len() > there.len() {
        said.push(format!(
            "{} of {} are not there",
            config.partitions.len() - there.len(),
            config.partitions.len()
        ));
    }
    let point = Path::new(ESP_MOUNT);
    let shown = match mounted(point) {
        Some(numbers) => numbers,
        None => {
            let first = there.first().ok_or_else(|| io::Error::other("none of them is there"))?;
            mount(first, point)?;
            said.push(format!("{} is mounted in place of the first", first.display()));
            mounted(point).ok_or_else(|| io::Error::other("it is mounted and not seen"))?
        }
    };
    let others: Vec<&PathBuf> = there.iter().filter(|node| numbers(node).as_ref() != Some(&shown)).collect();
    let first_time = !Path::new(MARK).exists();
    if first_time {
        let record = fs::read_to_string(RECORD).unwrap_or_default();
        if record != digest(point)? {
            for node in &others {
                let restored = beside(node, |other| {
                    let good = digest(other)? == record;
                    if good { alike(other, point).map(|_| true) } else { Ok(false) }
                })?;
                if restored {
                    said.push(format!("taken back to what {} has", node.display()));
                    break;
                }
            }
        }
    }
    for node in others {
        let changed = beside(node, |other| alike(point, other))?;
        said.push(format!("{}: {changed} files changed", node.display()));
    }
    replace(Path::new(RECORD), digest(point)?.as_bytes())?;
    fs::write(MARK, "")?;
    Ok(said)
}

/// Mounts a partition for `work` alone.
fn beside<T>(node: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let point = Path::new(OTHER);
    mount(node, point)?;
    let result = work(point);
    let unmounted = nix::mount::umount2(point, MntFlags::empty());
    let value = result?;
    unmounted?;
    Ok(value)
}

fn mount(node: &Path, point: &Path) -> io::Result<()> {
    fs::create_dir_all(point)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(nix::mount::mount(Some(node), point, Some("vfat"), flags, Some(OPTIONS))?)
}

/// Numbers (`8:1`) of the device that is mounted there (proc(5), `mountinfo`); automatic mounts do not count.
fn mounted(point: &Path) -> Option<String> {
    let info = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = info
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4).map(Path::new) == Some(point) && line.contains(" - vfat "))?;
    line.split(' ').nth(2).map(str::to_owned)
}

/// The numbers of a device node.
fn numbers(node: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let rdev = fs::metadata(node).ok()?.rdev();
    Some(format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)))
}

/// What lies in a directory: all files and directories in it.
#[derive(Default)]
struct Listing {
    directories: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Listing {
    fn of(root: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        let mut open = vec![PathBuf::new()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(root.join(&directory))? {
                let entry = entry?;
                let path = directory.join(entry.file_name());
                if entry.file_type()?.is_dir() {
                    listing.directories.insert(path.clone());
                    open.push(path);
                } else if path.file_name() != Some(UNFINISHED.as_ref()) {
                    listing.files.insert(path);
                }
            }
        }
        Ok(listing)
    }
}

/// Digest of all names and contents below `root`, as hexadecimal text.
fn digest(root: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let listing = Listing::of(root)?;
    let files = listing.files.iter().map(|path| Ok((path, fs::read(root.join(path))?)));
    for (path, bytes) in files.collect::<io::Result<BTreeMap<_, _>>>()? {
        for part in [path.as_os_str().as_encoded_bytes(), &bytes] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Gives `to` the files of `from`: first what is new, then what is gone; how many files were changed.
fn alike(from: &Path, to: &Path) -> io::Result<usize> {
    let (wanted, found) = (Listing::of(from)?, Listing::of(to)?);
    let mut changed = 0;
    for directory in &wanted.directories {
        if found.files.contains(directory) {
            fs::remove_file(to.join(directory))?;
        }
        fs::create_dir_all(to.join(directory))?;
    }
    for file in &wanted.files {
        let bytes = fs::read(from.join(file))?;
        let target = to.join(file);
        if found.directories.contains(file) {
            fs::remove_dir_all(&target)?;
        }
        if fs::read(&target).ok().as_ref() != Some(&bytes) {
            replace(&target, &bytes)?;
            changed += 1;
        }
    }
    for file in found.files.iter().filter(|file| !wanted.files.contains(*file)) {
        // It may lie in a directory that a file has taken the place of.
        if fs::remove_file(to.join(file)).is_ok() {
            changed += 1;
        }
    }
    for directory in found.directories.iter().rev().filter(|path| !wanted.directories.contains(*path)) {
        fs::remove_dir(to.join(directory)).ok();
    }
    Ok(changed)
}

/// Writes a file beside its old self, and then in its place.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let unfinished = parent.join(UNFINISHED);
    fs::write(&unfinished, bytes)?;
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    #[test]
    fn a_partition_gets_the_files_of_the_other_and_no_more_than_needed_is_written() {
        let from =
            tree(&[("EFI/BOOT/BOOTX64.EFI", "new shim"), ("EFI/debian/grub.cfg", "same"), ("a", "file")]);
        let to = tree(&[
            ("EFI/BOOT/BOOTX64.EFI", "old shim"),
            ("EFI/debian/grub.cfg", "same"),
            ("EFI/old/fw.efi", "gone"),
            ("a/b", "a directory there"),
            ("EFI/BOOT/KS-NEW.TMP", "cut off"),
        ]);
        assert_ne!(digest(from.path()).expect("read"), digest(to.path()).expect("read"));
        assert_eq!(alike(from.path(), to.path()).expect("made alike"), 3);
        assert_eq!(digest(from.path()).expect("read"), digest(to.path()).expect("read"));
        assert!(!to.path().join("EFI/old").exists());
        assert_eq!(fs::read_to_string(to.path().join("a")).expect("a file"), "file");
        assert_eq!(alike(from.path(), to.path()).expect("alike"), 0);
        // And a directory where a file was.
        assert!(alike(tree(&[("a/b", "x")]).path(), to.path()).is_ok());
        assert!(to.path().join("a/b").is_file());
    }

    #[test]
    fn a_system_is_left_its_partitions_and_what_watches_them() {
        let root = tempfile::tempdir().expect("a directory");
        let tree = Tree::open(root.path()).expect("open");
        leave_behind(&tree, vec!["a-1".into(), "b-2".into()]).expect("written");
        let read = |path: &str| fs::read_to_string(root.path().join(path)).expect(path);
        assert_eq!(read("var/lib/kaltstart/esp.json"), r#"{"partitions":["a-1","b-2"]}"#);
        let unit = read("etc/systemd/system/kaltstart-esp.service");
        assert!(unit.contains("ExecStart=/usr/lib/kaltstart/agent esp\n"), "{unit}");
        assert!(read("etc/systemd/system/kaltstart-esp.path").contains("PathChanged=/boot/efi/EFI/BOOT\n"));
        let wanted = root.path().join("etc/systemd/system/multi-user.target.wants/kaltstart-esp.service");
        assert!(fs::read_link(wanted).is_ok());
    }
}
