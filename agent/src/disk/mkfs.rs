//! The root file system: made by `mke2fs`, mounted for filling, unmounted.

use super::device::failed;
use kaltstart_protocol::finding::{Code, Finding};
use nix::mount::{MntFlags, MsFlags};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Features that GRUB 2.06 cannot read; newer `mke2fs` switches them on by default.
const FEATURES: &str = "^metadata_csum_seed,^orphan_file";
/// Tables are initialised by the installed system in the background, which saves seconds here;
/// discarding is left to its `fstrim` timer, since its time depends on the disk.
const EXTENDED: &str = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
/// Characters of a program's own words kept in a finding.
const WORDS_MAX: usize = 2000;

/// Makes an ext4 file system with that UUID and the label `root`.
///
/// # Errors
/// [`Code::ToolFailed`] with the program's own words.
pub fn ext4(mke2fs: &Path, node: &Path, uuid: &str) -> Result<(), Finding> {
    let mut command = Command::new(mke2fs);
    command.args(["-t", "ext4", "-F", "-q", "-L", "root", "-O", FEATURES, "-E", EXTENDED, "-U", uuid]);
    command.arg("--").arg(node);
    run(&mut command)
}

/// Runs a program to its end, with nothing to read and its words kept.
fn run(command: &mut Command) -> Result<(), Finding> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| Finding::new(Code::ToolFailed, format!("cannot start {name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let words = [output.stderr, output.stdout].concat();
    let words: String = String::from_utf8_lossy(&words).trim().chars().take(WORDS_MAX).collect();
    Err(Finding::new(Code::ToolFailed, format!("{name}, {}: {words}", output.status)))
}

/// A mounted file system; unmounted on drop, whatever happened.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    active: bool,
}

/// Mounts an ext4 file system on the directory `path`, which is made if need be. Nothing on it
/// can be run, no device on it opened.
///
/// # Errors
/// [`Code::DiskFailed`].
pub fn mount_ext4(node: &Path, path: &Path, read_only: bool) -> Result<Mounted, Finding> {
    fs::create_dir_all(path).map_err(|error| failed(&format!("cannot make {}", path.display()), &error))?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    if read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    // The kernel's background initialisation would compete with the image for the disk.
    nix::mount::mount(Some(node), path, Some("ext4"), flags, Some("noinit_itable"))
        .map_err(|errno| failed(&format!("cannot mount {}", node.display()), &io::Error::from(errno)))?;
    Ok(Mounted { path: path.into(), active: true })
}

impl Mounted {
    /// Writes everything back and unmounts.
    ///
    /// # Errors
    /// [`Code::DiskFailed`] when the file system could not be written or is still in use.
    pub fn unmount(mut self) -> Result<(), Finding> {
        fs::File::open(&self.path)
            .and_then(|directory| nix::unistd::syncfs(directory).map_err(io::Error::from))
            .map_err(|error| failed("sync of the root file system", &error))?;
        nix::mount::umount2(&self.path, MntFlags::empty())
            .map_err(|errno| failed("cannot unmount the root file system", &io::Error::from(errno)))?;
        self.active = false;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.active
            && let Err(error) = nix::mount::umount2(&self.path, MntFlags::empty())
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot unmount");
        }
    }
}
