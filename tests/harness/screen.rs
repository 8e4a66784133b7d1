//! The screen and the keyboard of a machine with a VGA card.

use crate::guest::Guest;
use crate::process::{run, tethered};
use crate::wait::{Poll, secs, wait_for};
use anyhow::{Result, bail};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where VGA's text memory is, and how much of it.
const TEXT_MEMORY: (u64, usize) = (0xb_8000, 4000);
/// Characters in a row.
const COLUMNS: usize = 80;

impl Guest<'_> {
    /// What the VGA card shows in its text mode: 25 rows.
    pub fn screen_text(&mut self) -> Result<String> {
        let file = self.path("text");
        let arguments = json!({"val": TEXT_MEMORY.0, "size": TEXT_MEMORY.1, "filename": file});
        self.qmp()?.call("pmemsave", &arguments)?;
        // A character and its colours for each place.
        let bytes = fs::read(&file)?;
        let row = |row: &[u8]| row.iter().step_by(2).map(|byte| character(*byte)).collect::<String>();
        Ok(bytes.chunks(2 * COLUMNS).map(|bytes| row(bytes).trim_end().to_owned() + "\n").collect())
    }

    /// Waits until the screen says all of `words`; gives what it says.
    pub fn wait_screen(&mut self, words: &[&str], limit: Duration) -> Result<String> {
        let mut last = String::new();
        let found = wait_for(&format!("{words:?} on the screen"), limit, || {
            last = self.screen_text()?;
            let all = words.iter().all(|words| last.contains(words));
            Ok(if all { Poll::Ready(()) } else { Poll::pending("other words") })
        });
        match found {
            Ok(()) => Ok(last),
            Err(error) => bail!("{error}; it says:\n{last}"),
        }
    }

    /// A picture of the screen, as a file.
    pub fn screen_picture(&mut self) -> Result<PathBuf> {
        let file = self.path("ppm");
        self.qmp()?.call("screendump", &json!({"filename": file}))?;
        Ok(file)
    }

    /// What the QR code on the screen says to a reader of another make.
    pub fn screen_code(&mut self) -> Result<String> {
        let picture = self.screen_picture()?;
        let said = run(tethered("zbarimg").args(["--quiet", "--raw"]).arg(picture), secs(60))?;
        Ok(said.trim().to_owned())
    }

    /// Presses and releases a key, named as QEMU's `QKeyCode`.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let key = json!({"type": "qcode", "data": key});
        self.qmp()?.call("send-key", &json!({"keys": [key]})).map(drop)
    }

    /// Lets the kernel say something urgent on its consoles: an interrupt that nothing explains.
    pub fn alarm_kernel(&mut self) -> Result<()> {
        self.qmp()?.call("inject-nmi", &json!({})).map(drop)
    }
}

/// A character of VGA's font (code page 437).
fn character(byte: u8) -> char {
    match byte {
        b' '..=b'~' => byte.into(),
        0x81 => 'ü',
        0x84 => 'ä',
        0x8e => 'Ä',
        0x94 => 'ö',
        0x99 => 'Ö',
        0x9a => 'Ü',
        0xb0 => '░',
        0xdb => '█',
        0xdc => '▄',
        0xdf => '▀',
        0xe1 => 'ß',
        0 => ' ',
        _ => '?',
    }
}
