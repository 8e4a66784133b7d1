//! A machine's serial console: every line with the time it came, to a file and to memory.

use anyhow::{Result, bail};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::wait::{Poll, wait_for};

/// Lines kept in memory; the file has them all.
const LINES_MAX: usize = 20_000;
/// Lines shown when an awaited text did not come.
const LINES_SHOWN: usize = 15;

/// The console of one machine.
#[derive(Debug, Clone, Default)]
pub struct Console {
    text: Arc<Mutex<Text>>,
}

#[derive(Debug, Default)]
struct Text {
    lines: VecDeque<String>,
    /// Number of lines dropped from the front, so that a [`Mark`] stays right.
    dropped: usize,
    /// The line that has no end yet: a prompt, or a line being written.
    partial: String,
    /// When that line began: firmware draws dots for a minute, and the start is what matters.
    since: Duration,
}

/// A place in the console: what came before it is not looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark(usize);

impl Console {
    /// Reads `source` until its end in a thread, stamping each line with the seconds since `start`.
    pub fn follow(&self, mut source: impl Read + Send + 'static, path: &Path, start: Instant) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(path)?;
        let console = self.clone();
        thread::spawn(move || {
            let mut filter = Filter::default();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                for &byte in &buffer[..count] {
                    let mut text = console.lock();
                    match filter.take(byte) {
                        None => {}
                        Some('\n') => text.end_line(&mut file),
                        Some(' ') if text.partial.is_empty() => {}
                        Some(char) => {
                            if text.partial.is_empty() {
                                text.since = start.elapsed();
                            }
                            text.partial.push(char);
                        }
                    }
                }
            }
            console.lock().end_line(&mut file);
        });
        Ok(())
    }

    /// The place where the console is now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let text = self.lock();
        Mark(text.dropped + text.lines.len())
    }

    /// The first line with `pattern` after `mark`.
    #[must_use]
    pub fn find(&self, pattern: &str, mark: Mark) -> Option<String> {
        let text = self.lock();
        let lines = text.lines.iter().skip(mark.0.saturating_sub(text.dropped));
        lines.chain([&text.partial]).find(|line| line.contains(pattern)).cloned()
    }

    /// Waits for a line with `pattern` after `mark`; the error shows the last lines.
    pub fn wait(&self, pattern: &str, mark: Mark, limit: Duration) -> Result<String> {
        self.wait_any(&[pattern], mark, limit)
    }

    /// Waits for a line with one of `patterns` after `mark`.
    pub fn wait_any(&self, patterns: &[&str], mark: Mark, limit: Duration) -> Result<String> {
        let what = format!("{patterns:?} on the serial console");
        let result = wait_for(&what, limit, || {
            let found = patterns.iter().find_map(|pattern| self.find(pattern, mark));
            Ok(found.map_or_else(|| Poll::pending("other lines"), Poll::Ready))
        });
        match result {
            Ok(line) => Ok(line),
            Err(error) => bail!("{error}; the console's last lines:\n{}", self.last(LINES_SHOWN)),
        }
    }

    /// The last `count` lines.
    #[must_use]
    pub fn last(&self, count: usize) -> String {
        let text = self.lock();
        let skip = text.lines.len().saturating_sub(count);
        let lines: Vec<&str> =
            text.lines.iter().skip(skip).chain([&text.partial]).map(String::as_str).collect();
        lines.join("\n")
    }

    /// A reader that panicked leaves whole lines behind: its poison says nothing here.
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Text {
    /// Takes the partial line, if there is one, as a whole one.
    fn end_line(&mut self, file: &mut File) {
        if self.partial.trim().is_empty() {
            self.partial.clear();
            return;
        }
        let line = std::mem::take(&mut self.partial);
        writeln!(file, "{:9.3} {line}", self.since.as_secs_f64()).ok();
        self.lines.push_back(line);
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
    }
}

/// Takes terminal control out of the bytes: firmware draws menus, people read logs.
#[derive(Debug, Default)]
enum Filter {
    #[default]
    Text,
    Escape,
    Control,
}

impl Filter {
    fn take(&mut self, byte: u8) -> Option<char> {
        match (&*self, byte) {
            (Self::Text, 0x1b) => *self = Self::Escape,
            (Self::Text, b'\n' | b'\r') => return Some('\n'),
            (Self::Text, b'\t' | b' '..=b'~') => return Some(byte.into()),
            (Self::Text, 0x80..) => return Some('?'),
            (Self::Text, _) => {}
            (Self::Escape, b'[') => *self = Self::Control,
            (Self::Escape, _) => *self = Self::Text,
            // A control sequence ends with its first letter (ECMA-48 5.4); a move of the cursor
            // starts a new piece of text, so it counts as the end of a line.
            (Self::Control, b'@'..=b'~') => {
                *self = Self::Text;
                return matches!(byte, b'H' | b'f').then_some('\n');
            }
            (Self::Control, _) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_are_stamped_and_control_sequences_dropped() {
        let path = std::env::temp_dir().join(format!("kt-console-{}", std::process::id()));
        let console = Console::default();
        let bytes: &[u8] = b"\x1b[2J\x1b[1;1HSeaBIOS\r\n\r\n\x1b[31mred\x1b[0m line\nlogin: ";
        console.follow(bytes, &path, Instant::now()).expect("a file in the temporary directory");
        console.wait("login:", Mark::default(), Duration::from_secs(5)).expect("the rest of the text");
        console.wait("red line", Mark::default(), Duration::from_secs(5)).expect("it was written");
        assert!(console.find("SeaBIOS", console.mark()).is_none());
        let file = fs::read_to_string(&path).expect("it was written");
        assert!(file.lines().any(|line| line.ends_with(" SeaBIOS")), "{file}");
        fs::remove_file(path).expect("it was made");
    }
}
