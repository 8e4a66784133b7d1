//! The agent's log: short lines on the console, all lines in a bounded ring for the server.
//!
//! `tracing` is the front: [`start`] installs a subscriber that writes `info` and worse to the
//! console and everything up to `debug` into the [`Ring`], from where [`Ring::wait`] hands
//! batches to the thread that posts them.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{BufRead, BufReader, Write as _};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kaltstart_protocol::agent_api::{LogBatch, LogLine};
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::language::Language;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::screen;
use crate::sys::kernel::uptime_ms;

/// Lines kept while the server does not take them; the oldest go first.
pub const RING_LINES: usize = 10_000;
/// Lines in one batch.
pub const BATCH_LINES: usize = 500;
/// Characters of a line; the rest is cut.
pub const LINE_CHARS: usize = 2_000;
/// Least severe kernel message taken over: `KERN_WARNING`.
const KERNEL_WARNING: u32 = 4;

/// The lines the server does not have yet.
#[derive(Debug, Default)]
pub struct Ring {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the first line in `lines`.
    first: u64,
    lines: VecDeque<LogLine>,
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { first: 0, lines: VecDeque::new() }), changed: Condvar::new() }
    }

    /// Appends a line; the oldest makes room for it when the ring is full.
    pub fn push(&self, uptime_ms: u64, level: &str, text: &str) {
        let line = LogLine { uptime_ms, level: level.into(), text: clean(text) };
        let mut state = self.lock();
        if state.lines.len() >= RING_LINES {
            state.lines.pop_front();
            state.first += 1;
        }
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    /// The oldest lines, at most [`BATCH_LINES`], after waiting up to `limit` for the first.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<LogBatch> {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, limit, |state| state.lines.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        if state.lines.is_empty() {
            return None;
        }
        Some(LogBatch { first: state.first, lines: state.lines.iter().take(BATCH_LINES).cloned().collect() })
    }

    /// The server has all lines before number `next`.
    pub fn acknowledged(&self, next: u64) {
        let mut state = self.lock();
        while state.first < next && state.lines.pop_front().is_some() {
            state.first += 1;
        }
        self.changed.notify_all();
    }

    /// Waits until the server has every line, at most `limit`; says whether it has.
    pub fn drained(&self, limit: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, limit, |state| !state.lines.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.lines.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces control characters, so that no device's name moves a terminal's cursor, and cuts.
fn clean(text: &str) -> String {
    text.chars().take(LINE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The process's ring.
pub static RING: Ring = Ring::new();

/// Sends `tracing` events to console and [`RING`] from now on. Later calls do nothing.
pub fn start() {
    let _ = tracing::subscriber::set_global_default(Front);
}

/// Writes a line to the console, whatever its state.
pub fn console(text: &str) {
    let mut out = std::io::stdout().lock();
    // A console that cannot be written to leaves nothing to be done.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Shows a finding on the screen and in a frame on the console, and logs it.
pub fn finding(finding: &Finding) {
    let now = uptime_ms();
    RING.push(now, "error", &finding.to_string());
    screen::found(finding);
    show(finding);
}

/// Shows a finding on the console alone, in the language that was chosen.
pub(crate) fn show(finding: &Finding) {
    console(&frame(finding, screen::language()));
}

/// A finding for people in front of the machine: what, seen how, what to do.
fn frame(finding: &Finding, language: Language) -> String {
    let (seen, next) = match language {
        Language::English => ("Seen", "Next"),
        Language::German => ("Gesehen", "Zu tun"),
    };
    let bar = "=".repeat(72);
    let code = finding.code;
    format!(
        "\n{bar}\n  {code}  {}\n\n  {seen}:  {}\n  {next}:  {}\n{bar}\n",
        code.title_in(language),
        clean(&finding.detail),
        code.next_in(language)
    )
}

/// The `tracing` subscriber.
struct Front;

impl Subscriber for Front {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let text = clean(&text.finish());
        let now = uptime_ms();
        let level = *event.metadata().level();
        if level <= Level::INFO {
            let mark = match level {
                Level::ERROR => "ERROR ",
                Level::WARN => "warning: ",
                _ => "",
            };
            console(&format!("[{:5}.{:03}] {mark}{text}", now / 1000, now % 1000));
        }
        RING.push(now, &level.as_str().to_ascii_lowercase(), &text);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Collects an event's message and its fields as `message key=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        self.message
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a `String` cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = if field.name() == "message" {
            self.message.write_str(value)
        } else {
            write!(self.fields, " {}={value}", field.name())
        };
    }
}

/// Copies the kernel's warnings and errors into [`RING`], for ever. Run on a thread of its own.
pub fn follow_kernel() {
    let Ok(file) = std::fs::File::open("/dev/kmsg") else { return };
    let mut reader = BufReader::new(file);
    let mut record = Vec::new();
    loop {
        record.clear();
        match reader.read_until(b'\n', &mut record) {
            Ok(0) => return,
            Ok(_) => {
                if let Some((uptime_ms, level, text)) = kernel_message(&String::from_utf8_lossy(&record)) {
                    RING.push(uptime_ms, level, &format!("kernel: {text}"));
                }
            }
            // Lines were overwritten before they were read (EPIPE): go on with the next ones.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return,
        }
    }
}

/// Reads a record of `/dev/kmsg` (`PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`).
///
/// Gives nothing for lesser messages, continuation lines and what a program wrote there.
fn kernel_message(record: &str) -> Option<(u64, &'static str, &str)> {
    let (head, text) = record.split_once(';')?;
    let mut head = head.split(',');
    let priority: u32 = head.next()?.parse().ok()?;
    let microseconds: u64 = head.nth(1)?.parse().ok()?;
    // The upper bits are the facility; 0 is the kernel itself.
    if priority > KERNEL_WARNING {
        return None;
    }
    let level = if priority == KERNEL_WARNING { "warn" } else { "error" };
    Some((microseconds / 1000, level, text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(batch: &LogBatch) -> Vec<&str> {
        batch.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_stay_until_they_are_acknowledged() {
        let ring = Ring::new();
        assert!(ring.wait(Duration::ZERO).is_none());
        ring.push(1, "info", "one");
        ring.push(2, "info", "two");
        let batch = ring.wait(Duration::ZERO).expect("two lines");
        assert_eq!((batch.first, texts(&batch)), (0, vec!["one", "two"]));
        ring.push(3, "info", "three");
        ring.acknowledged(2);
        ring.acknowledged(1);
        let batch = ring.wait(Duration::ZERO).expect("one line");
        assert_eq!((batch.first, texts(&batch)), (2, vec!["three"]));
        assert!(!ring.drained(Duration::ZERO));
        ring.acknowledged(3);
        assert!(ring.drained(Duration::ZERO));
    }

    #[test]
    fn a_full_ring_drops_the_oldest_and_the_numbers_show_it() {
        let ring = Ring::new();
        for i in 0..RING_LINES + 7 {
            ring.push(0, "info", &i.to_string());
        }
        let batch = ring.wait(Duration::ZERO).expect("full");
        assert_eq!((batch.first, batch.lines.len()), (7, BATCH_LINES));
        assert_eq!(batch.lines[0].text, "7");
    }

    #[test]
    fn p28_control_characters_of_devices_do_not_reach_a_terminal() {
        let ring = Ring::new();
        ring.push(0, "info", "disk \x1b[2J\u{9b}31m evil\r\nline");
        assert_eq!(texts(&ring.wait(Duration::ZERO).expect("one")), ["disk  [2J 31m evil  line"]);
    }

    #[test]
    fn only_the_kernels_own_warnings_and_errors_are_taken() {
        assert_eq!(kernel_message("4,1,5123456,-;eth0: slow\n"), Some((5123, "warn", "eth0: slow")));
        assert_eq!(kernel_message("3,1,1000,-;I/O error\n"), Some((1, "error", "I/O error")));
        for other in ["6,1,1,-;info", "12,1,1,-;from a program", " SUBSYSTEM=pci", "", "x,y"] {
            assert_eq!(kernel_message(other), None, "{other:?}");
        }
    }
}
