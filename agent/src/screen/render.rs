//! What the screen shows, as text.
//!
//! On top the machine's name in large letters, at the right the QR code of its page, at the left what it
//! does, or what is wrong and the one instruction. Written for the 80 columns and 25 rows of a VGA console;
//! larger ones get larger letters, smaller ones less.

use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::language::Language;
use kaltstart_protocol::phase::{self, Progress};

use super::blocks::{self, LETTER_COLUMNS, LETTER_ROWS};
use super::words::{Words, with};
use super::{Doing, State};

/// Columns and rows that the screen is designed for.
const DESIGNED: (usize, usize) = (80, 25);
/// Fewest columns that are left for words beside a QR code.
const WORDS_MIN: usize = 40;
/// From so many seconds on, minutes are told.
const MINUTES_FROM: u64 = 120;

/// Columns and rows of a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// A screenful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drawing {
    /// One for each row, none longer than the console is wide.
    pub(super) rows: Vec<String>,
    /// Whether hands are needed.
    pub(super) is_alarm: bool,
}

/// What `state` looks like `now`, in milliseconds since the kernel started.
pub(super) fn render(state: &State, now: u64, size: Size, language: Language) -> Drawing {
    let words = Words::of(language);
    let mut canvas = Canvas::new(size);
    let scale = (size.columns / DESIGNED.0).min(size.rows / DESIGNED.1).max(1);
    canvas.put(1, 0, "KALTSTART");
    let server_at = size.columns.saturating_sub(state.server.chars().count() + 1);
    canvas.put(server_at.max(12), 0, &state.server);
    let name = if state.name.is_empty() { words.unnamed } else { &state.name };
    let name_rows = canvas.large(1, 1, name, scale, size.columns.saturating_sub(1));
    let top = 1 + name_rows + 1;

    let height = size.rows.saturating_sub(top);
    let code = (!state.page.is_empty())
        .then(|| blocks::qr(&state.page, size.columns.saturating_sub(WORDS_MIN + 2), height))
        .flatten();
    let code_columns = code.as_ref().and_then(|rows| rows.first()).map_or(0, |row| row.chars().count());
    for (row, text) in code.iter().flatten().enumerate() {
        canvas.put(size.columns - code_columns, top + row, text);
    }

    let width = size.columns.saturating_sub(code_columns + 2);
    let mut foot = foot(state, now, words);
    if code.is_none() && !state.page.is_empty() {
        foot.insert(1, named(words.page, &state.page));
    }
    // The keys come last, and stay when there is little room.
    let foot_at = size.rows.saturating_sub(foot.len()).max(top);
    for (row, text) in foot.iter().enumerate() {
        canvas.put_cut(1, foot_at + row, text, width);
    }
    let room = Room { column: 1, row: top, width, end: foot_at.saturating_sub(1) };
    match state.alarm() {
        Some(finding) => canvas.finding(room, finding, words, language, scale),
        None => canvas.work(room, state, now, words, scale),
    }
    Drawing { rows: canvas.finish(), is_alarm: state.alarm().is_some() || is_stuck(&state.doing) }
}

const fn is_stuck(doing: &Doing) -> bool {
    matches!(doing, Doing::Stuck(_))
}

fn foot(state: &State, now: u64, words: &Words) -> Vec<String> {
    let heard = state.heard.map_or_else(
        || words.not_heard.to_owned(),
        |heard| with(words.heard, now.saturating_sub(heard) / 1000),
    );
    let mut foot = vec![heard];
    if !state.serial.is_empty() {
        foot.push(named(words.serial, &state.serial));
    }
    if !state.address.is_empty() {
        foot.push(named(words.address, &state.address));
    }
    // As LLDP said it.
    foot.extend(state.plugged.get(&state.interface).cloned());
    foot.push(words.keys.to_owned());
    foot
}

fn named(name: &str, value: &str) -> String {
    format!("{name:<10}{value}")
}

/// A part of the screen.
#[derive(Clone, Copy)]
struct Room {
    column: usize,
    /// The next free row.
    row: usize,
    width: usize,
    /// The first row that is not its own.
    end: usize,
}

impl Room {
    fn left(self) -> usize {
        self.end.saturating_sub(self.row)
    }
}

struct Canvas(Vec<Vec<char>>);

impl Canvas {
    fn new(size: Size) -> Self {
        Self(vec![vec![' '; size.columns]; size.rows])
    }

    /// Writes over what is there; what is outside is cut.
    fn put(&mut self, column: usize, row: usize, text: &str) {
        let Some(cells) = self.0.get_mut(row).and_then(|row| row.get_mut(column..)) else { return };
        for (cell, char) in cells.iter_mut().zip(text.chars()) {
            *cell = shown(char);
        }
    }

    fn put_cut(&mut self, column: usize, row: usize, text: &str, width: usize) {
        self.put(column, row, &cut(text, width));
    }

    /// Large letters where they fit, else ordinary ones; the rows they took.
    fn large(&mut self, column: usize, row: usize, text: &str, scale: usize, width: usize) -> usize {
        let fitting = (1..=scale).rev().find(|scale| text.chars().count() * LETTER_COLUMNS * scale <= width);
        match fitting.and_then(|scale| blocks::letters(text, scale)) {
            Some(letters) => {
                for (offset, line) in letters.iter().enumerate() {
                    self.put(column, row + offset, line);
                }
                letters.len()
            }
            None => {
                self.put_cut(column, row, text, width);
                1
            }
        }
    }

    /// Puts `text`, wrapped, in at most `rows` rows of `room`.
    fn text(&mut self, room: &mut Room, text: &str, rows: usize) {
        let rows = rows.min(room.left());
        for line in wrap(text, room.width, rows) {
            self.put(room.column, room.row, &line);
            room.row += 1;
        }
    }

    /// What is done, and how far it is.
    fn work(&mut self, mut room: Room, state: &State, now: u64, words: &Words, scale: usize) {
        let (doing, why) = words.doing(state);
        if let Doing::Job { phase, .. } = &state.doing {
            self.text(&mut room, &with(words.step, phase.index() as u64 + 1), 1);
        }
        self.text(&mut room, &doing.to_uppercase(), 3);
        if let Some(why) = why {
            self.text(&mut room, why, 6);
        }
        if let Doing::Job { phase, since, progress, .. } = &state.doing {
            room.row += 1;
            if let Some(percent) = progress.as_ref().and_then(percent)
                && room.left() > LETTER_ROWS
            {
                room.row += self.large(room.column, room.row, &format!("{percent}%"), scale, room.width);
                let bar = room.width.min(40 * scale);
                let full = bar * percent as usize / 100;
                self.put(room.column, room.row, &"█".repeat(full));
                self.put(room.column + full, room.row, &"░".repeat(bar - full));
                room.row += 1;
            }
            if !state.usual.is_empty() {
                let usual = |phase| state.usual.get(&phase).copied().unwrap_or(0);
                let left = phase::left(*phase, now.saturating_sub(*since), *progress, usual).div_ceil(1000);
                let left = if left < MINUTES_FROM {
                    with(words.seconds_left, left)
                } else {
                    with(words.minutes_left, left.div_ceil(60))
                };
                self.text(&mut room, &left, 1);
            }
        }
        room.row += 1;
        let hands = if state.looks { words.looks } else { words.no_hands };
        if !is_stuck(&state.doing) {
            self.text(&mut room, hands, 2);
        }
    }

    /// What is wrong, and what is to be done about it.
    fn finding(
        &mut self,
        mut room: Room,
        finding: &Finding,
        words: &Words,
        language: Language,
        scale: usize,
    ) {
        let code = finding.code;
        // What is to be done counts more than large letters.
        let next = wrap(code.next_in(language), room.width, usize::MAX).len();
        let title = wrap(code.title_in(language), room.width, usize::MAX).len();
        if room.left() >= LETTER_ROWS * scale + title + next + 3 {
            room.row += self.large(room.column, room.row, code.number(), scale, room.width);
            self.text(&mut room, code.title_in(language), title);
        } else {
            self.text(&mut room, &format!("{code} {}", code.title_in(language)), title + 1);
        }
        room.row += 1;
        self.text(&mut room, words.to_do, 1);
        self.text(&mut room, code.next_in(language), next);
        if room.left() > 1 {
            room.row += 1;
            self.text(&mut room, &format!("{}{}", words.seen, finding.detail), usize::MAX);
        }
    }

    fn finish(self) -> Vec<String> {
        self.0.into_iter().map(|row| String::from_iter(row).trim_end().to_owned()).collect()
    }
}

/// Percent of what is counted, if all of it is known.
fn percent(progress: &Progress) -> Option<u64> {
    let done = u128::from(progress.done.min(progress.total)) * 100;
    u64::try_from(done.checked_div(u128::from(progress.total))?).ok()
}

/// Only what consoles have in their font, and nothing that controls them: devices and servers choose names.
fn shown(char: char) -> char {
    match char {
        ' '..='~' | '\u{a1}'..='\u{ff}' | '▀' | '▄' | '█' | '░' => char,
        '–' | '—' => '-',
        '„' | '“' | '”' => '"',
        '…' => '.',
        char if char.is_whitespace() => ' ',
        _ => '?',
    }
}

/// `text`, with dots in place of what is too long.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(2)).chain("..".chars()).take(width).collect()
}

/// `text` in lines of at most `width` characters, broken at spaces where there are some; with dots where
/// more than `rows` were needed.
fn wrap(text: &str, width: usize, rows: usize) -> Vec<String> {
    let pieces = text.split_whitespace().flat_map(|word| {
        let letters: Vec<char> = word.chars().collect();
        letters.chunks(width.max(1)).map(String::from_iter).collect::<Vec<_>>()
    });
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + piece.chars().count() <= width => {
                line.push(' ');
                line.push_str(&piece);
            }
            _ => lines.push(piece),
        }
    }
    if lines.len() > rows {
        lines.truncate(rows);
        if let Some(last) = lines.last_mut() {
            let kept: String = last.chars().take(width.saturating_sub(3)).collect();
            *last = format!("{} ..", kept.trim_end());
        }
    }
    lines
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
