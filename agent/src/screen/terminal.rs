//! The thread that draws, on a virtual console of its own, and hears the keys.
//!
//! The kernel's messages and the agent's lines stay on the first one, where Alt+F1 shows them, and on the
//! serial console as ever: whoever is looked at is not torn by the other.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};

use super::render::{Drawing, Size, render};
use super::{IS_GERMAN, Ordering, board, language};
use crate::log;
use crate::sys::kernel::uptime_ms;
use crate::sys::vt;

/// Pause between looks at what is new.
const EVERY_MS: u16 = 250;
/// Every so many looks all is drawn anew, should something else have written there.
const WHOLE_LOOKS: u32 = 40;
/// Pause where there is no poll.
const PAUSE: Duration = Duration::from_millis(EVERY_MS as u64);
/// The console of the screen, `/dev/tty2`, and that of all other messages.
const SCREEN: u8 = 2;
const MESSAGES: u8 = 1;

/// Bright white on black: the cursor hidden, lines cut instead of wrapped, everything cleared.
const CALM: &str = "\x1b[0;1;37;40m\x1b[?25l\x1b[?7l\x1b[2J";
/// The same on red.
const ALARM: &str = "\x1b[0;1;37;41m\x1b[?25l\x1b[?7l\x1b[2J";

/// Begins to draw, on a thread of its own. A machine without virtual consoles goes without.
pub fn start() {
    std::thread::spawn(|| {
        if let Err(error) = run() {
            tracing::debug!("no screen: {error}");
        }
    });
}

fn run() -> io::Result<()> {
    // PID 1 would get it as its controlling terminal, whose keys send signals.
    let screen = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/tty2")?;
    let (columns, rows) = vt::size(&screen)?;
    hear_single_keys(&screen)?;
    vt::send_kernel_messages(&screen, MESSAGES)?;
    vt::show(&screen, SCREEN)?;
    // The serial console, or the first virtual one; none where the kernel has no console.
    let console = nix::unistd::dup(io::stdin()).ok().map(File::from);
    let mut keys = Keys { sources: vec![screen.try_clone()?] };
    keys.sources.extend(console.filter(|console| hear_single_keys(console).is_ok()));
    let size = Size { columns, rows };
    let mut shown = None;
    for look in 0_u32.. {
        let state = board().clone();
        let drawing = render(&state, uptime_ms(), size, language());
        let known = shown.take().filter(|_| !look.is_multiple_of(WHOLE_LOOKS));
        (&screen).write_all(changes(known.as_ref(), &drawing).as_bytes())?;
        shown = Some(drawing);
        keys.hear();
    }
    Ok(())
}

/// What is to be written where `known` is shown, so that `wanted` is.
fn changes(known: Option<&Drawing>, wanted: &Drawing) -> String {
    let known = known.filter(|known| known.is_alarm == wanted.is_alarm);
    let mut text = String::new();
    if known.is_none() {
        text.push_str(if wanted.is_alarm { ALARM } else { CALM });
    }
    for (number, row) in wanted.rows.iter().enumerate() {
        let before = known.and_then(|known| known.rows.get(number)).map_or("", String::as_str);
        if before != row {
            // Columns and rows count from 1 (ECMA-48 8.3.21); what was behind is cleared (8.3.41).
            text.push_str(&format!("\x1b[{};1H{row}\x1b[K", number + 1));
        }
    }
    text
}

/// Gives keys at once and unseen, and lets none of them stop the output.
fn hear_single_keys(console: &File) -> io::Result<()> {
    let mut settings = tcgetattr(console)?;
    settings.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
    settings.input_flags.remove(InputFlags::IXON);
    settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
    settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    Ok(tcsetattr(console, SetArg::TCSANOW, &settings)?)
}

/// Where keys come from.
struct Keys {
    sources: Vec<File>,
}

impl Keys {
    /// Waits a moment for keys, and does what they say.
    fn hear(&mut self) {
        let mut asked: Vec<PollFd<'_>> =
            self.sources.iter().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN)).collect();
        if poll(&mut asked, PollTimeout::from(EVERY_MS)).is_err() {
            std::thread::sleep(PAUSE);
            return;
        }
        let events: Vec<PollFlags> = asked.iter().filter_map(PollFd::revents).collect();
        // A console that was hung up would end every wait at once.
        let mut events = events.into_iter();
        self.sources.retain(|source| match events.next() {
            Some(events) if events.contains(PollFlags::POLLIN) => hear_of(source),
            Some(events) => events.is_empty(),
            None => true,
        });
    }
}

/// Takes the keys of `source`; says whether there may be more later.
fn hear_of(mut source: &File) -> bool {
    let mut keys = [0; 64];
    match source.read(&mut keys) {
        Ok(0) => false,
        Ok(count) => {
            keys[..count].iter().for_each(|key| press(*key));
            true
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
    }
}

/// Switches the language; what is wrong is said on the console too, in the new one.
fn press(key: u8) {
    let is_german = match key {
        b'd' | b'D' => true,
        b'e' | b'E' => false,
        _ => return,
    };
    if IS_GERMAN.swap(is_german, Ordering::Relaxed) != is_german {
        let finding = board().alarm().cloned();
        if let Some(finding) = finding {
            log::show(&finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(rows: &[&str], is_alarm: bool) -> Drawing {
        Drawing { rows: rows.iter().map(|row| (*row).to_owned()).collect(), is_alarm }
    }

    #[test]
    fn only_what_changed_is_written() {
        let first = drawing(&["one", "", "three"], false);
        assert_eq!(changes(None, &first), format!("{CALM}\x1b[1;1Hone\x1b[K\x1b[3;1Hthree\x1b[K"));
        assert_eq!(changes(Some(&first), &first), "");
        let second = drawing(&["one", "two", ""], false);
        assert_eq!(changes(Some(&first), &second), "\x1b[2;1Htwo\x1b[K\x1b[3;1H\x1b[K");
        let alarm = drawing(&["one", "", ""], true);
        assert_eq!(changes(Some(&second), &alarm), format!("{ALARM}\x1b[1;1Hone\x1b[K"));
    }
}
