//! What was typed and shown on a machine, in the format of asciinema (asciicast v2): one file for each rescue.

use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::rescue::Size;
use kaltstart_protocol::time::Millis;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Bytes of one recording. A shell that would show more ends: nothing is shown that is not recorded.
const RECORDING_MAX: u64 = 256 << 20;

/// Bytes of all recordings; the oldest go first.
const ALL_MAX: u64 = 4 << 30;

/// Why something was not recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The recording has its greatest length.
    #[error("the recording of this rescue is full")]
    Full,
    /// It cannot be written.
    #[error("the recording cannot be written")]
    Write(#[from] io::Error),
}

/// Something that happens to a terminal.
#[derive(Debug)]
pub(super) enum Moment {
    /// These bytes were shown.
    Shown(Vec<u8>),
    /// These bytes were typed.
    Typed(Vec<u8>),
    /// It has this size now.
    Resized(Size),
    /// Something to be found again.
    Mark(String),
}

/// A recording that goes on.
#[derive(Debug)]
pub(super) struct Recording {
    file: File,
    /// When it began; times in it count from here.
    begun: Millis,
    size: u64,
    max: u64,
    shown: Pieces,
    typed: Pieces,
}

/// Where the recordings are.
pub(super) fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("recordings")
}

/// Where the recording of a job is.
pub(super) fn path(dir: &Path, job: &JobId) -> PathBuf {
    dir.join(format!("{job}.cast"))
}

impl Recording {
    /// Begins the recording of `job`, or goes on with it.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub(super) fn open(dir: &Path, job: &JobId, title: &str, now: Millis) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = path(dir, job);
        if !path.exists() {
            make_room(dir, ALL_MAX - RECORDING_MAX)?;
        }
        let open = File::options().read(true).append(true).create(true).mode(0o600).open(&path);
        let mut file = open?;
        let whole = whole_lines(&file)?;
        // A line that a crash has cut off would be the last one that a player reads.
        file.set_len(whole)?;
        let mut first = String::new();
        file.seek(SeekFrom::Start(0))?;
        BufReader::new(&file).read_line(&mut first)?;
        let begun = begun(&first);
        let mut recording = Self {
            file,
            begun: begun.unwrap_or(Millis(now.0 / 1000 * 1000)),
            size: whole,
            max: RECORDING_MAX,
            shown: Pieces::default(),
            typed: Pieces::default(),
        };
        if begun.is_none() {
            let Size { columns, rows } = Size::default();
            let header = serde_json::json!({
                "version": 2, "width": columns, "height": rows, "timestamp": recording.begun.0 / 1000,
                "title": title, "env": {"SHELL": "/bin/sh", "TERM": "xterm-256color"},
            });
            recording.append(&format!("{header}\n"))?;
            File::open(dir)?.sync_all()?;
        }
        Ok(recording)
    }

    /// Records a moment; returns when it is durable.
    ///
    /// # Errors
    /// When the recording is full or cannot be written: then it did not happen.
    pub(super) fn take(&mut self, moment: &Moment, now: Millis) -> Result<(), RecordError> {
        let (code, text) = match moment {
            Moment::Shown(bytes) => ("o", self.shown.text(bytes)),
            Moment::Typed(bytes) => ("i", self.typed.text(bytes)),
            Moment::Resized(size) => ("r", format!("{}x{}", size.columns, size.rows)),
            Moment::Mark(text) => ("m", text.clone()),
        };
        let ms = now.since(self.begun);
        let text = serde_json::Value::from(text);
        let line = format!("[{}.{:03}, {code:?}, {text}]\n", ms / 1000, ms % 1000);
        if self.size + line.len() as u64 > self.max {
            return Err(RecordError::Full);
        }
        Ok(self.append(&line)?)
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.size += line.len() as u64,
            // Half a line would spoil all that follow.
            Err(_) => self.file.set_len(self.size)?,
        }
        written
    }
}

/// When a recording began, as its first line says.
fn begun(header: &str) -> Option<Millis> {
    let header: serde_json::Value = serde_json::from_str(header).ok()?;
    Some(Millis(header["timestamp"].as_u64()?.saturating_mul(1000)))
}

/// Length of a file up to its last line break.
fn whole_lines(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut line, mut whole) = (Vec::new(), 0);
    loop {
        line.clear();
        let count = reader.read_until(b'\n', &mut line)? as u64;
        if !line.ends_with(b"\n") {
            return Ok(whole);
        }
        whole += count;
    }
}

/// Removes the oldest recordings until the others take at most `max` bytes.
fn make_room(dir: &Path, max: u64) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "cast") {
            all.push((entry.path(), entry.metadata()?.len()));
        }
    }
    // Jobs are numbered by the time of their order.
    all.sort();
    let mut left: u64 = all.iter().map(|(_, size)| size).sum();
    for (path, size) in all {
        if left <= max {
            break;
        }
        tracing::warn!(file = %path.display(), "the oldest recording makes room for a new one");
        fs::remove_file(path)?;
        left -= size;
    }
    Ok(())
}

/// Makes text of bytes that come in pieces; a character may be cut between two of them.
#[derive(Debug, Default)]
struct Pieces {
    /// The begun character at the end of the piece before.
    rest: Vec<u8>,
}

impl Pieces {
    fn text(&mut self, bytes: &[u8]) -> String {
        let all = [&std::mem::take(&mut self.rest)[..], bytes].concat();
        let end = match all.utf8_chunks().last() {
            Some(last) if std::str::from_utf8(last.invalid()).is_err_and(|e| e.error_len().is_none()) => {
                all.len() - last.invalid().len()
            }
            _ => all.len(),
        };
        self.rest = all[end..].to_vec();
        String::from_utf8_lossy(&all[..end]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: Millis = Millis(1_800_000_000_500);

    fn job(n: u128) -> JobId {
        JobId::new(Millis(1), n)
    }

    fn lines(dir: &Path, n: u128) -> Vec<Value> {
        let text = fs::read_to_string(path(dir, &job(n))).expect("recorded");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn a_recording_is_an_asciicast_that_goes_on_after_a_crash() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut one = Recording::open(dir.path(), &job(1), "n1", NOW).expect("made");
        for moment in [
            Moment::Mark("opened".into()),
            Moment::Resized(Size { columns: 100, rows: 50 }),
            Moment::Typed(b"ls\r".to_vec()),
            Moment::Shown(vec![b'a', 0xc3]),
            Moment::Shown(vec![0xa9, 0xff, b'\n']),
        ] {
            one.take(&moment, NOW.plus(1_000)).expect("recorded");
        }
        one.file.write_all(b"[3.0, \"o\", \"half").expect("written");
        drop(one);
        let mut again = Recording::open(dir.path(), &job(1), "n1", NOW.plus(5_000)).expect("opened");
        again.take(&Moment::Shown(b"later".to_vec()), NOW.plus(9_000)).expect("recorded");
        let lines = lines(dir.path(), 1);
        assert_eq!(lines[0]["version"], 2);
        assert_eq!(lines[0]["timestamp"], 1_800_000_000);
        let rest = [
            json!([1.5, "m", "opened"]),
            json!([1.5, "r", "100x50"]),
            json!([1.5, "i", "ls\r"]),
            json!([1.5, "o", "a"]),
            json!([1.5, "o", "é\u{fffd}\n"]),
            json!([9.5, "o", "later"]),
        ];
        assert_eq!(lines[1..], rest);
        let rights = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(path(dir.path(), &job(1))).expect("there").permissions(),
        );
        assert_eq!(rights & 0o777, 0o600, "p22: what is typed may be secret");
    }

    #[test]
    fn p22_what_does_not_fit_is_refused_and_the_oldest_make_room() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 1..4 {
            let mut recording = Recording::open(dir.path(), &job(n), "n1", NOW).expect("made");
            recording.max = recording.size + 40;
            recording.take(&Moment::Shown(vec![b'x'; 20]), NOW).expect("it fits");
            let full = recording.take(&Moment::Shown(vec![b'x'; 20]), NOW);
            assert!(matches!(full, Err(RecordError::Full)), "{full:?}");
        }
        assert_eq!(lines(dir.path(), 1).len(), 2);
        let one = fs::metadata(path(dir.path(), &job(1))).expect("there").len();
        make_room(dir.path(), 2 * one).expect("read");
        let left: Vec<bool> = (1..4).map(|n| path(dir.path(), &job(n)).exists()).collect();
        assert_eq!(left, [false, true, true]);
    }

    proptest! {
        #[test]
        fn p29_text_in_pieces_is_the_text_in_one(text in "\\PC{0,20}", cut in 0_usize..40) {
            let mut pieces = Pieces::default();
            let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(pieces.text(one) + &pieces.text(two), text);
        }

        #[test]
        fn p29_any_bytes_become_text(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut pieces = Pieces::default();
            for byte in bytes {
                pieces.text(&[byte]);
                prop_assert!(pieces.rest.len() < 4);
            }
        }
    }
}
