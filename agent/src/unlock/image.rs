//! What opens a system's encrypted partitions before it starts, left in the system as a ramdisk of its own.
//!
//! Boot loaders put it in front of the system's own ramdisk, which stays as its packages make it. The kernel unpacks
//! one after the other; Debian's `/init` (initramfs-tools(7)) reads `conf/conf.d`, where ours enters itself
//! among the scripts that run before the root file system is looked for.

use crate::image::tree::Tree;
use kaltstart_protocol::agent_api::InstallTask;
use kaltstart_protocol::layout::Layout;
use kaltstart_protocol::node_api::REPORTER;
use kaltstart_protocol::unlock::{UNLOCK_CONFIG, UnlockConfig};
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Its name in `/boot`, which `/etc/default/grub` names, too.
pub const NAME: &str = "kaltstart-unlock.img";
/// Where it is.
pub const PATH: &str = "/boot/kaltstart-unlock.img";

/// Names of modules that Debian's ramdisks shall have whenever they are made anew.
const MODULES_LIST: &str = "/usr/share/initramfs-tools/modules.d/kaltstart-unlock";
/// What encrypted partitions need of the kernel.
pub const MODULES: [&str; 4] = ["dm_crypt", "xts", "ecb", "aesni_intel"];

const SCRIPT: &str = "/scripts/local-top/kaltstart-unlock";
const ENTRY: &str = "/conf/conf.d/kaltstart-unlock";
/// Alignment of a ramdisk that another one follows.
const PADDING: usize = 512;

/// Whether a system of that layout needs it.
#[must_use]
pub fn is_needed(layout: &Layout) -> bool {
    layout.partitions.iter().any(|partition| partition.encrypted)
}

/// Leaves it in a new system, if that needs it; `agent` is this program.
///
/// # Errors
/// When the file system refuses, or the task has no orders for it.
pub(crate) fn leave_behind(tree: &Tree, task: &InstallTask, agent: &Path) -> io::Result<()> {
    if !is_needed(&task.layout) {
        return Ok(());
    }
    let encryption = task.encryption.as_ref().ok_or_else(|| io::Error::other("the server gave no key"))?;
    let partitions = task.layout.partitions.iter().zip(&task.uuids.partitions);
    let partitions = partitions.filter(|(partition, _)| partition.encrypted);
    let config = UnlockConfig {
        ask: encryption.unlock.clone(),
        mac: task.identity.mac,
        partitions: partitions.map(|(_, uuid)| uuid.clone()).collect(),
    };
    let image = encode(&serde_json::to_vec(&config)?, &fs::read(agent)?);
    // It has the token.
    tree.write(PATH, &image, 0o600)?;
    tree.write(MODULES_LIST, (MODULES.join("\n") + "\n").as_bytes(), 0o644)
}

/// The ramdisk: an archive as the kernel unpacks it (driver-api/early-userspace/buffer-format.rst of the kernel).
fn encode(config: &[u8], agent: &[u8]) -> Vec<u8> {
    // Whatever happens, nothing else gets to run on a machine that is still closed.
    let script = format!(
        "#!/bin/sh\n\
         [ \"$1\" = prereqs ] && exit 0\n\
         until {REPORTER} unlock </dev/console >/dev/console 2>&1; do\n\
         \x20   sleep 5\n\
         done\n"
    );
    let entry = format!("echo '{SCRIPT}' >>/scripts/local-top/ORDER\n");
    let mut archive = Archive::default();
    for (path, mode, bytes) in [
        (UNLOCK_CONFIG, 0o600, config),
        (REPORTER, 0o755, agent),
        (SCRIPT, 0o755, script.as_bytes()),
        (ENTRY, 0o644, entry.as_bytes()),
    ] {
        archive.file(path.trim_start_matches('/'), mode, bytes);
    }
    archive.finish()
}

/// An archive that grows.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
    directories: Vec<String>,
}

impl Archive {
    /// A file, and the directories above it.
    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        const DIRECTORY: u32 = 0o040_000;
        const FILE: u32 = 0o100_000;
        for (end, _) in path.match_indices('/') {
            let above = path[..end].to_owned();
            if !self.directories.contains(&above) {
                self.entry(&above, DIRECTORY | 0o755, &[]);
                self.directories.push(above);
            }
        }
        self.entry(path, FILE | mode, bytes);
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entries += 1;
        // Magic, number, mode, owner, group, links, time, size, four numbers of devices, length of the name, sum.
        let fields = [self.entries as u32, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0];
        self.bytes.extend(b"070701");
        for field in fields.into_iter().chain([path.len() as u32 + 1, 0]) {
            // Writing to a vector cannot fail.
            let _ = write!(self.bytes, "{field:08x}");
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend(bytes);
        self.pad(4);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.pad(PADDING);
        self.bytes
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_archive_is_unpacked_and_its_scripts_are_shell() {
        let image = encode(b"{}", &[7; 1001]);
        assert_eq!(image.len() % PADDING, 0);
        let folder = tempfile::tempdir().expect("a folder");
        let mut cpio = Command::new("cpio");
        cpio.args(["--extract", "--quiet"]).current_dir(&folder).stdin(Stdio::piped());
        let mut child = cpio.spawn().expect("cpio");
        child.stdin.take().expect("piped").write_all(&image).expect("read");
        assert!(child.wait().expect("ended").success());
        let path = |path: &str| folder.path().join(path.trim_start_matches('/'));
        assert_eq!(fs::read(path(REPORTER)).expect("there"), [7; 1001]);
        assert_eq!(fs::read(path(UNLOCK_CONFIG)).expect("there"), b"{}");
        let mode = |name: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::metadata(path(name)).expect("there").permissions().mode() & 0o7777
        };
        assert_eq!([UNLOCK_CONFIG, REPORTER, SCRIPT, ENTRY].map(mode), [0o600, 0o755, 0o755, 0o644]);
        for script in [SCRIPT, ENTRY] {
            let checked = Command::new("sh").arg("-n").arg(path(script)).status().expect("sh");
            assert!(checked.success(), "{script}");
        }
        let prereqs = Command::new(path(SCRIPT)).arg("prereqs").status().expect("sh");
        assert!(prereqs.success());
    }
}
