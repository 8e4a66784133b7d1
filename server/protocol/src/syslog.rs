//! Lines of loaders and kernels by syslog, read leniently: RFC 3164 as iPXE and old senders write
//! it, RFC 5424, or text without any head.

use alloc::string::String;

/// Characters of a line that are kept.
pub const LINE_CHARS_MAX: usize = 1_000;

/// What every secret of this server begins with; a kernel logs its command line.
const SECRET: &str = "kst_";

/// A line, fit to be stored and shown: bounded, without control characters, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// The text, with the sender's tag.
    pub text: String,
}

impl Line {
    /// Reads a datagram; none when there is no text in it.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(datagram);
        let (severity, text) = priority(&text);
        let text = message(text).trim_matches(|c: char| c.is_whitespace() || c.is_control());
        (!text.is_empty()).then(|| Self { level: level(severity), text: clean(text) })
    }
}

/// The severity in the `<PRI>` part (RFC 5424 §6.2.1) and what follows it; "notice" without one.
fn priority(text: &str) -> (u8, &str) {
    let read = || {
        let (number, rest) = text.strip_prefix('<')?.split_once('>')?;
        let number: u8 = number.parse().ok().filter(|number| *number <= 191)?;
        Some((number % 8, rest))
    };
    read().unwrap_or((5, text))
}

const fn level(severity: u8) -> &'static str {
    match severity {
        0..=3 => "error",
        4 => "warn",
        5 | 6 => "info",
        _ => "debug",
    }
}

/// The message behind the head, whichever of the two forms that has.
fn message(text: &str) -> &str {
    rfc5424(text).or_else(|| rfc3164(text)).unwrap_or(text)
}

/// `1 TIMESTAMP HOST APP PROCID MSGID STRUCTURED-DATA MESSAGE` (RFC 5424 §6): from the
/// application on, without structured data.
fn rfc5424(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("1 ")?;
    let (time, rest) = rest.split_once(' ')?;
    if time != "-" && !time.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (_host, rest) = rest.split_once(' ')?;
    let mut fields = rest.splitn(4, ' ').skip(3);
    let behind = fields.next()?;
    let message = match behind.strip_prefix('-') {
        Some(message) => message,
        None => behind.rsplit_once(']').map_or(behind, |(_, message)| message),
    };
    Some(message.trim_start().trim_start_matches('\u{feff}'))
}

/// `Mmm dd hh:mm:ss HOST TAG: MESSAGE` (RFC 3164 §4.1): from the tag on.
fn rfc3164(text: &str) -> Option<&str> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = text.get(..16)?;
    let is_time = MONTHS.iter().any(|month| time.starts_with(month))
        && time.as_bytes()[9] == b':'
        && time.ends_with(' ');
    is_time.then(|| text[time.len()..].split_once(' ').map_or("", |(_host, rest)| rest))
}

fn clean(text: &str) -> String {
    let mut clean = String::new();
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            clean.push(' ');
        }
        match word.find(SECRET) {
            Some(at) => {
                clean.push_str(&word[..at]);
                clean.push_str("kst_***");
            }
            None => clean.push_str(word),
        }
    }
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    clean.chars().take(LINE_CHARS_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    #[test]
    fn lines_of_all_kinds_are_read() {
        for (datagram, level, text) in [
            ("<14>ipxe: http://10.77.0.1:8080/boot... ok", "info", "ipxe: http://10.77.0.1:8080/boot... ok"),
            ("<11>Nov 25 04:00:00 db-07 kernel: nvme0: down\n", "error", "kernel: nvme0: down"),
            ("<12>1 2026-11-25T04:00:00Z db-07 ipxe - - - it goes on", "warn", "it goes on"),
            ("<15>1 - - - - - [a b=\"c\"] \u{feff}detail", "debug", "detail"),
            ("no head at all", "info", "no head at all"),
            ("<999>odd", "info", "<999>odd"),
            (
                "<6>[    0.1] Kernel command line: a=b kaltstart.token=kst_boot_abc c",
                "info",
                "[    0.1] Kernel command line: a=b kaltstart.token=kst_*** c",
            ),
        ] {
            assert_eq!(
                Line::parse(datagram.as_bytes()),
                Some(Line { level, text: text.into() }),
                "{datagram}"
            );
        }
        assert_eq!(Line::parse(b"<14>  \r\n\0"), None);
    }

    #[test]
    fn p28_no_terminal_obeys_a_line() {
        let line = Line::parse(b"<14>a\x1b[2J\x07b\x9bc").expect("a line");
        assert!(!line.text.chars().any(char::is_control), "{:?}", line.text);
        assert_eq!(Line::parse(&[b'x'; 9_000]).expect("a line").text.len(), LINE_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn p29_no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            for datagram in [bytes, format!("<14>{text}").into_bytes(), format!("<14>1 - {text}").into_bytes()] {
                if let Some(line) = Line::parse(&datagram) {
                    prop_assert!(!line.text.chars().any(char::is_control));
                }
            }
        }
    }
}
