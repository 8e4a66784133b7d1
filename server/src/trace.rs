//! Keeps the recent past of all machines, in memory and in two files.
//!
//! Doors tell it what they saw while they answer, so telling is a lock and a copy. Every
//! [`FLUSH_EVERY`] what is new goes to the end of a file, without being synchronised: a restart
//! finds the recent past again, but for its last moments. This is for diagnosis, and promises
//! nothing. When the file is full it becomes the older of two, and the one before it is lost.

use crate::clock;
use kaltstart_core::boot::repeats;
use kaltstart_core::trace::{Sighting, Trace, What};
use kaltstart_protocol::ids::Mac;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the file is written to.
pub const FLUSH_EVERY: Duration = Duration::from_secs(2);

/// Bytes of one of the two files.
const FILE_MAX: u64 = 16 << 20;

/// Sightings that wait for the file; in a storm the oldest of them are kept in memory only.
const PENDING_MAX: usize = 8_192;

/// The recent past of all machines.
pub struct Recorder {
    memory: Mutex<Memory>,
    file: Mutex<PathBuf>,
}

#[derive(Default)]
struct Memory {
    trace: Trace,
    pending: Vec<Line>,
}

/// A line of the file.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    mac: Mac,
    #[serde(flatten)]
    sighting: Sighting,
}

impl Recorder {
    /// Takes up what an earlier server has left in the directory; what cannot be read is skipped.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let file = dir.join("trace.jsonl");
        let mut memory = Memory::default();
        for path in [older(&file), file.clone()] {
            match read(&path, &mut memory.trace) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file = %path.display(), %error, "the recent past of machines cannot be read");
                }
                _ => {}
            }
        }
        Self { memory: Mutex::new(memory), file: Mutex::new(file) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what was seen of a machine just now.
    pub fn note(&self, mac: Mac, what: What) {
        let sighting = Sighting { at: clock::now(), what };
        let mut memory = self.memory();
        if memory.pending.len() < PENDING_MAX {
            memory.pending.push(Line { mac, sighting: sighting.clone() });
        }
        memory.trace.record(mac, sighting);
    }

    /// The machine that was last seen with the address, whichever server gave it.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<Mac> {
        self.memory().trace.holder(address)
    }

    /// Whether anything was seen of the machine.
    #[must_use]
    pub fn knows(&self, mac: Mac) -> bool {
        self.memory().trace.newest_first(mac).next().is_some()
    }

    /// Whether the machine gets its loader again and again, and nothing comes of it.
    #[must_use]
    pub fn is_looping(&self, mac: Mac) -> bool {
        repeats::is_looping(self.memory().trace.newest_first(mac), clock::now())
    }

    /// The sightings of a machine with these hardware addresses, oldest first.
    #[must_use]
    pub fn of(&self, macs: &[Mac]) -> Vec<Sighting> {
        self.memory().trace.of(macs)
    }

    /// Writes what is new to the file. Blocks.
    pub fn flush(&self) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = std::mem::take(&mut self.memory().pending);
        if let Err(error) = append(&file, &pending) {
            tracing::warn!(file = %file.display(), %error, "the recent past of machines is kept in memory only");
        }
    }
}

fn older(file: &Path) -> PathBuf {
    file.with_extension("old.jsonl")
}

fn read(path: &Path, trace: &mut Trace) -> io::Result<()> {
    // A torn last line is no text, or no sighting: skipped like any other.
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        if let Ok(Line { mac, sighting }) = serde_json::from_slice(&line?) {
            trace.record(mac, sighting);
        }
    }
    Ok(())
}

fn append(path: &Path, lines: &[Line]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let mut file = open()?;
    if file.metadata()?.len() + text.len() as u64 > FILE_MAX {
        fs::rename(path, older(path))?;
        file = open()?;
    }
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_core::trace::ForeignOffer;
    use std::net::Ipv4Addr;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_restart_keeps_the_recent_past_and_skips_what_is_torn() {
        let dir = tempfile::tempdir().expect("a directory");
        let recorder = Recorder::open(dir.path());
        let address = Some(Ipv4Addr::new(10, 0, 0, 9));
        let offer = ForeignOffer { server: Ipv4Addr::new(10, 0, 0, 2), mac: Some(MAC), address, file: None };
        recorder.note(MAC, What::ForeignOffer(offer));
        recorder.flush();
        let mut file = OpenOptions::new().append(true).open(dir.path().join("trace.jsonl")).expect("made");
        file.write_all(b"\xff{}\n{\"mac\":").expect("written");
        drop(file);
        let recorder = Recorder::open(dir.path());
        assert_eq!(recorder.of(&[MAC]).len(), 1);
    }

    #[test]
    fn a_full_file_becomes_the_older_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trace.jsonl");
        fs::write(&path, vec![b'\n'; usize::try_from(FILE_MAX).expect("it fits")]).expect("written");
        let recorder = Recorder::open(dir.path());
        recorder.note(MAC, What::Power);
        recorder.flush();
        assert!(fs::metadata(&path).expect("begun anew").len() < 200);
        assert_eq!(fs::metadata(older(&path)).expect("kept").len(), FILE_MAX);
    }
}
