//! File systems: made by their own programs, mounted for filling, unmounted.

use super::patiently;
use crate::install::{Observer, Stop};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::layout::FileSystem;
use nix::mount::{MntFlags, MsFlags};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Features that GRUB 2.06 cannot read; newer `mke2fs` switches them on by default.
const FEATURES: &str = "^metadata_csum_seed,^orphan_file";
/// Tables are initialised by the installed system in the background, which saves seconds here;
/// discarding is left to its `fstrim` timer, since its time depends on the disk.
const EXTENDED: &str = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
/// Bytes of a program's own words kept in a finding.
const WORDS_MAX: u64 = 2000;
/// Longest run of a program. With the options here they take seconds, even on slow disks.
const RUN_MAX: Duration = Duration::from_secs(300);
/// Pause between looks at a running program.
const RUN_POLL: Duration = Duration::from_millis(20);
/// How long a killed program may take to be gone; one that waits for a dead disk never is.
const KILL_MAX: Duration = Duration::from_secs(2);

/// Longest labels of file systems, in bytes.
pub(super) const EXT4_LABEL_MAX: usize = 16;
const XFS_LABEL_MAX: usize = 12;
const BTRFS_LABEL_MAX: usize = 255;

/// Makes a file system with that UUID, and as much of `label` as it takes, by its program in the directory
/// `tools`.
///
/// # Errors
/// [`Code::ToolFailed`] with the program's own words, or that it took too long; or cancelled.
pub fn make(
    kind: FileSystem,
    tools: &Path,
    node: &Path,
    uuid: &str,
    label: &str,
    observer: &dyn Observer,
) -> Result<(), Stop> {
    let mut command = match kind {
        FileSystem::Ext4 => {
            let mut command = Command::new(tools.join("mke2fs"));
            command.args(["-t", "ext4", "-F", "-q", "-L", cut(label, EXT4_LABEL_MAX), "-U", uuid]);
            command.args(["-O", FEATURES, "-E", EXTENDED, "--"]);
            command
        }
        FileSystem::Xfs => {
            let mut command = Command::new(tools.join("mkfs.xfs"));
            // Discarding is left to the installed system, as above.
            command.args(["-f", "-q", "-K", "-L", cut(label, XFS_LABEL_MAX), "-m", &format!("uuid={uuid}")]);
            command
        }
        FileSystem::Btrfs => {
            let mut command = Command::new(tools.join("mkfs.btrfs"));
            command.args(["-f", "-q", "-K", "-L", cut(label, BTRFS_LABEL_MAX), "-U", uuid, "--"]);
            command
        }
    };
    run(command.arg(node), observer)
}

/// As much of a label as fits into `max` bytes.
pub(super) fn cut(label: &str, max: usize) -> &str {
    label.get(..label.floor_char_boundary(max)).unwrap_or_default()
}

/// Runs a program to its end, with nothing to read and its words kept. It is killed when it takes
/// longer than [`RUN_MAX`], or when the observer wants an end.
///
/// # Errors
/// As [`make`].
pub(super) fn run(command: &mut Command, observer: &dyn Observer) -> Result<(), Stop> {
    run_for(command, RUN_MAX, observer)
}

fn run_for(command: &mut Command, limit: Duration, observer: &dyn Observer) -> Result<(), Stop> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |what: String| Finding::new(Code::ToolFailed, format!("{name}{what}"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // Not read before its end: a pipe holds more than quiet programs say.
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!(" cannot be started: {error}")))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = ended(&mut child, &name)? {
            break status;
        }
        if let Some(reason) = observer.cancelled() {
            kill(&mut child, &name)?;
            return Err(Stop::Cancelled(reason));
        }
        if Instant::now() >= deadline {
            kill(&mut child, &name)?;
            return Err(failed(format!(" did not end within {} s", limit.as_secs())).into());
        }
        thread::sleep(RUN_POLL);
    };
    if status.success() {
        return Ok(());
    }
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // Words that cannot be read are no reason to hide the failure.
        let _ = stderr.take(WORDS_MAX).read_to_end(&mut words);
    }
    Err(failed(format!(", {status}: {}", String::from_utf8_lossy(&words).trim())).into())
}

/// How a program ended, if it has.
fn ended(child: &mut Child, name: &str) -> Result<Option<ExitStatus>, Finding> {
    child.try_wait().map_err(|error| Finding::new(Code::ToolFailed, format!("{name}: {error}")))
}

/// Ends a program by force and waits shortly until it is gone.
fn kill(child: &mut Child, name: &str) -> Result<(), Finding> {
    // It fails for a program that has just ended.
    let _ = child.kill();
    let deadline = Instant::now() + KILL_MAX;
    while ended(child, name)?.is_none() {
        if Instant::now() >= deadline {
            tracing::warn!("{name} cannot be killed: it waits for the disk");
            break;
        }
        thread::sleep(RUN_POLL);
    }
    Ok(())
}

/// A mounted file system; unmounted on drop, whatever happened.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    active: bool,
}

/// Mounts a file system on the directory `path`, which is made if need be, with `options` of that file
/// system between commas. Nothing on it can be run, no device on it opened.
///
/// # Errors
/// As the kernel says.
pub fn mount(
    kind: FileSystem,
    node: &Path,
    path: &Path,
    options: &str,
    read_only: bool,
) -> io::Result<Mounted> {
    fs::create_dir_all(path)?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    if read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    patiently(|| Ok(nix::mount::mount(Some(node), path, Some(kind.name()), flags, Some(options))?))?;
    Ok(Mounted { path: path.into(), active: true })
}

impl Mounted {
    /// Writes everything back and unmounts.
    ///
    /// # Errors
    /// When the file system could not be written or is still in use.
    pub fn unmount(mut self) -> io::Result<()> {
        nix::unistd::syncfs(fs::File::open(&self.path)?)?;
        self.detach()?;
        self.active = false;
        Ok(())
    }

    fn detach(&self) -> io::Result<()> {
        patiently(|| Ok(nix::mount::umount2(&self.path, MntFlags::empty())?))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.active
            && let Err(error) = self.detach()
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot unmount");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::agent_api::ReportState;
    use kaltstart_protocol::phase::{Phase, Progress};
    use std::collections::BTreeMap;

    /// Wants an end, or not.
    struct Wish(Option<&'static str>);

    impl Observer for Wish {
        fn phase(&self, _: Phase, _: ReportState, _: Option<Progress>, _: BTreeMap<String, String>) {}
        fn cancelled(&self) -> Option<String> {
            self.0.map(str::to_owned)
        }
    }

    #[test]
    fn programs_are_bounded_and_heard() {
        let go_on = Wish(None);
        let run = |program: &str, args: &[&str], limit, wish| {
            let start = Instant::now();
            let result = super::run_for(Command::new(program).args(args), limit, wish);
            assert!(start.elapsed() < Duration::from_secs(20), "{program} was waited for");
            result.map_err(|stop| match stop {
                Stop::Failed(finding) => format!("{} {}", finding.code, finding.detail),
                Stop::Cancelled(reason) => reason,
            })
        };
        let long = Duration::from_secs(30);
        assert_eq!(run("true", &[], long, &go_on), Ok(()));
        let late = run("sleep", &["60"], Duration::ZERO, &go_on);
        assert_eq!(late, Err("KS-4003 sleep did not end within 0 s".to_owned()));
        assert_eq!(run("sleep", &["60"], long, &Wish(Some("by hand"))), Err("by hand".to_owned()));
        let words = run("ls", &["--no-such"], long, &go_on).expect_err("fails");
        assert!(words.starts_with("KS-4003 ls, exit status: 2: ") && words.contains("no-such"), "{words}");
        let missing = run("/no/such/program", &[], long, &go_on).expect_err("fails");
        assert!(missing.starts_with("KS-4003 /no/such/program cannot be started: "), "{missing}");
    }
}
