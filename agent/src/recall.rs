//! `agent recall`: the installed system asks the server whether a job calls it back, and then starts
//! the job's agent by kexec.
//!
//! It listens to nothing. What it starts must have the digests that came over TLS from the server of
//! the authority by which the system was installed.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::node_api::{REPORT_CONFIG, REPORTER, ReportConfig};
use kaltstart_protocol::recall::{BootFile, RECALL_CONFIG, Recall, RecallQuestion};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use crate::backoff::Policy;
use crate::http_source::HttpSource;
use crate::image::fetch::{ImageSource as _, Part};
use crate::image::tree::Tree;
use crate::questions;
use crate::sys::{self, kernel::random_u32};
use crate::{http, kexec};

/// Pauses after questions without an answer.
const RETRY: Policy = Policy { first: Duration::from_secs(20), cap: Duration::from_secs(600) };
/// Longest time of one question: the server may have to read the files first.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Longest time until the server is told why its start cannot be made, in seconds.
const TELL_SECS: u64 = 1;
/// Longest time the system may take to go down for the agent.
const LEAVE_LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked whether the first report is sent.
const REPORTED_EVERY: Duration = Duration::from_secs(2);
/// There is systemd if this is (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";
/// The unit that asks. Nothing refers to it in an image without systemd.
const UNIT: &str = "/etc/systemd/system/kaltstart-recall.service";
const UNIT_LINK: &str = "/etc/systemd/system/multi-user.target.wants/kaltstart-recall.service";

/// Asks for as long as the system runs.
pub fn run() -> ExitCode {
    // Until then the server does not know the token.
    while Path::new(REPORT_CONFIG).exists() {
        std::thread::sleep(REPORTED_EVERY);
    }
    let path = Path::new(RECALL_CONFIG);
    let read = || -> io::Result<ReportConfig> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let config = match read() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{RECALL_CONFIG} cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut system = System { config, path, leave, refused: None };
    let mut failures = 0;
    loop {
        let pause = match system.ask() {
            Ok(seconds) => {
                failures = 0;
                let limit = Duration::from_secs(seconds);
                Policy { first: limit, cap: limit }.delay(1, random_u32())
            }
            Err(why) => {
                failures += 1;
                let pause = RETRY.delay(failures, random_u32());
                eprintln!("{why}; again in {} s", pause.as_secs());
                pause
            }
        };
        std::thread::sleep(pause);
    }
}

/// An installed system.
struct System<'a> {
    config: ReportConfig,
    /// Where `config` is kept.
    path: &'a Path,
    /// Goes down for the kernel that is loaded. Says why it has not, with none loaded.
    leave: fn() -> String,
    /// Why the last start was not made, until the server knows.
    refused: Option<String>,
}

impl System<'_> {
    /// Asks once, and starts what it is given. Longest time until the next question, in seconds.
    ///
    /// # Errors
    /// Why there was no answer, or its files could not be had.
    fn ask(&mut self) -> Result<u64, String> {
        let start = match self.question()? {
            Recall::Stay { seconds, authority } => {
                self.refused = None;
                self.believe(authority);
                return Ok(seconds);
            }
            Recall::Start(start) => start,
        };
        println!("a job calls this system back: its agent is fetched, and starts by kexec");
        let why = match (fetch(&start.kernel), fetch(&start.ramdisk)) {
            // What does not come whole is fetched again; all else would be the same again.
            (Err(Trouble::Broken(why)), _) | (_, Err(Trouble::Broken(why))) => return Err(why),
            (Err(Trouble::Wrong(why)), _) | (_, Err(Trouble::Wrong(why))) => why,
            (Ok(kernel), Ok(ramdisk)) => {
                let loaded = kexec::load(&kernel, &ramdisk, start.arguments.expose());
                loaded.map_or_else(|why| why, |()| (self.leave)())
            }
        };
        eprintln!("the agent cannot be started: {why}");
        self.refused = Some(why);
        Ok(TELL_SECS)
    }

    fn question(&self) -> Result<Recall, String> {
        let ReportConfig { token, job, authority, not_before, .. } = &self.config;
        let http =
            http::pinned(*authority, *not_before).map_err(|error| format!("there is no TLS: {error}"))?;
        let question =
            RecallQuestion { token: token.clone(), job: job.clone(), refused: self.refused.clone() };
        let answer = questions::ask(&http, &self.config, &question, CALL_LIMIT);
        let answer = answer.map_err(|error| format!("cannot ask: {error}"))?;
        serde_json::from_slice(&answer).map_err(|error| format!("unusable answer: {error}"))
    }

    /// Keeps the fingerprint that the server tells: the old one holds for a month after a rotation.
    fn believe(&mut self, authority: Digest) {
        if authority == self.config.authority {
            return;
        }
        self.config.authority = authority;
        let kept = serde_json::to_vec(&self.config).map_err(io::Error::from).and_then(|text| {
            let new = self.path.with_extension("new");
            write_for_owner(&new, &text)?;
            fs::rename(new, self.path)
        });
        match kept {
            Ok(()) => println!("the server's authority is {authority} now"),
            Err(error) => eprintln!("{} cannot be renewed: {error}", self.path.display()),
        }
    }
}

fn write_for_owner(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Why there is no file.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// It did not come whole.
    Broken(String),
    /// It came, and is another.
    Wrong(String),
}

/// A file in memory, if it is the one that was meant.
fn fetch(wanted: &BootFile) -> Result<File, Trouble> {
    let BootFile { url, size, digest } = wanted;
    let broken = |error: &dyn std::fmt::Display| Trouble::Broken(format!("cannot fetch {url}: {error}"));
    let source = HttpSource::new(url, None).open(Part::Image, 0, None);
    let mut source = source.map_err(|error| broken(&error))?.take(size + 1);
    let memory = memfd_create(c"kaltstart", MFdFlags::MFD_CLOEXEC).map_err(|error| broken(&error))?;
    let (mut file, mut hash, mut got) = (File::from(memory), Sha256::new(), 0);
    let mut piece = vec![0; 256 << 10];
    loop {
        let count = source.read(&mut piece).map_err(|error| broken(&error))?;
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
        got += count as u64;
        file.write_all(&piece[..count]).map_err(|error| broken(&error))?;
    }
    let is = Digest(hash.finalize().into());
    if got == *size && is == *digest {
        return Ok(file);
    }
    let why = format!("{url} is not what the server named: expected {digest} with {size} bytes, got {is}");
    Err(Trouble::Wrong(why))
}

fn leave() -> String {
    let why = go_down();
    match sys::kexec::unload() {
        Ok(()) => why,
        Err(error) => format!("{why}; and the kernel that was loaded stays: {error}"),
    }
}

/// Lets the system go down in order for the kernel that is loaded. Says why it has not.
fn go_down() -> String {
    if !Path::new(SYSTEMD).exists() {
        return format!(
            "the kernel does not start the one that was loaded: {}",
            sys::kexec::sync_and_start()
        );
    }
    match Command::new("systemctl").arg("kexec").output() {
        Ok(output) if output.status.success() => {
            std::thread::sleep(LEAVE_LIMIT);
            format!("the system has not gone down within {} s", LEAVE_LIMIT.as_secs())
        }
        Ok(output) => format!("systemctl kexec: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("systemctl cannot be started: {error}"),
    }
}

/// Leaves in a new system what it asks with, and the unit that does.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn leave_behind(tree: &Tree, config: &ReportConfig) -> io::Result<()> {
    tree.write(RECALL_CONFIG, &serde_json::to_vec(config)?, 0o600)?;
    let unit = format!(
        "[Unit]\n\
         Description=Ask the Kaltstart server whether a job calls this system back\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         ConditionPathExists={RECALL_CONFIG}\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={REPORTER} recall\n\
         Restart=on-failure\n\
         RestartSec=60\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    tree.write(UNIT, unit.as_bytes(), 0o644)?;
    tree.symlink(UNIT, UNIT_LINK)
}

#[cfg(test)]
#[path = "recall_tests.rs"]
mod tests;
