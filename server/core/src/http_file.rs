//! What a request for a file is answered with: all of it, a part of it, or a word about it.
//!
//! RFC 9110 §13 (conditional requests) and §14 (range requests). Times are seconds since 1970.

/// The file as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    /// Its strong entity tag, quotes included.
    pub etag: &'a str,
    /// When it was changed last.
    pub modified: Option<u64>,
    /// Its length in bytes.
    pub len: u64,
}

/// What the client said about the version it has or wants; header values as they came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// Whether the method is `GET`: only then is a range asked for (§14.2).
    pub get: bool,
    /// `If-Match`
    pub if_match: Option<&'a str>,
    /// `If-None-Match`
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`, when it is a date.
    pub if_modified_since: Option<u64>,
    /// `If-Unmodified-Since`, when it is a date.
    pub if_unmodified_since: Option<u64>,
    /// `If-Range`
    pub if_range: Option<&'a str>,
    /// `If-Range`, when it is a date.
    pub if_range_date: Option<u64>,
    /// `Range`
    pub range: Option<&'a str>,
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 200: everything.
    Whole,
    /// 206: the bytes from `first` up to and including `last`.
    Part {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
    /// 304: the client has it.
    NotModified,
    /// 412: it is not what the client thinks.
    PreconditionFailed,
    /// 416: the range begins behind the end.
    Unsatisfiable,
}

/// Decides, in the order of RFC 9110 §13.2.2.
#[must_use]
pub fn answer(file: Version<'_>, asked: Conditions<'_>) -> Answer {
    let failed = match (asked.if_match, asked.if_unmodified_since) {
        (Some(tags), _) => !any_tag(tags, |tag| tag == file.etag),
        (None, Some(since)) => file.modified.is_some_and(|modified| modified > since),
        (None, None) => false,
    };
    if failed {
        return Answer::PreconditionFailed;
    }
    let known = match (asked.if_none_match, asked.if_modified_since) {
        // Weak comparison (§13.1.2): `W/` does not matter here.
        (Some(tags), _) => any_tag(tags, |tag| tag.strip_prefix("W/").unwrap_or(tag) == file.etag),
        (None, Some(since)) => file.modified.is_some_and(|modified| modified <= since),
        (None, None) => false,
    };
    if known {
        return Answer::NotModified;
    }
    let same = match asked.if_range {
        None => true,
        // Only a strong tag, or exactly the date that was sent (§13.1.5).
        Some(tag) if tag.ends_with('"') => tag == file.etag,
        Some(_) => asked.if_range_date.is_some() && asked.if_range_date == file.modified,
    };
    match asked.range {
        Some(range) if asked.get && same => part(range, file.len),
        _ => Answer::Whole,
    }
}

fn any_tag(list: &str, fits: impl Fn(&str) -> bool) -> bool {
    list.split(',').map(str::trim).any(|tag| tag == "*" || fits(tag))
}

/// One range of bytes. Anything else (another unit, several ranges, nonsense) is passed over, as
/// RFC 9110 §14.2 allows: boot clients ask for one range, and several are a known way to make a
/// server work a lot for little.
fn part(range: &str, len: u64) -> Answer {
    let Some((first, last)) = split(range) else { return Answer::Whole };
    match (number(first), number(last)) {
        // The last bytes.
        (None, Some(count)) if first.is_empty() => match count.min(len) {
            0 => Answer::Unsatisfiable,
            count => Answer::Part { first: len - count, last: len - 1 },
        },
        (Some(first), None) if last.is_empty() => within(first, u64::MAX, len),
        (Some(first), Some(last)) if first <= last => within(first, last, len),
        _ => Answer::Whole,
    }
}

fn within(first: u64, last: u64, len: u64) -> Answer {
    if first < len { Answer::Part { first, last: last.min(len - 1) } } else { Answer::Unsatisfiable }
}

fn split(range: &str) -> Option<(&str, &str)> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.split_once('-')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some((first.trim(), last.trim()))
}

/// A number of digits alone; one that is too large counts as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Version<'_> = Version { etag: "\"a1\"", modified: Some(1000), len: 100 };

    fn ask(conditions: Conditions<'_>) -> Answer {
        answer(FILE, Conditions { get: true, ..conditions })
    }

    #[test]
    fn one_range_is_given_and_others_are_passed_over() {
        let part = |first, last| Answer::Part { first, last };
        for (range, expect) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=10-", part(10, 99)),
            ("Bytes = 10-1000", part(10, 99)),
            ("bytes=-7", part(93, 99)),
            ("bytes=-1000", part(0, 99)),
            ("bytes=99-99999999999999999999999", part(99, 99)),
            ("bytes=100-", Answer::Unsatisfiable),
            ("bytes=99999999999999999999999-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=5-4", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("bytes=0-1,3-4", Answer::Whole),
            ("bytes=1-2-3", Answer::Whole),
            ("lines=0-1", Answer::Whole),
            ("bytes", Answer::Whole),
            ("", Answer::Whole),
        ] {
            assert_eq!(ask(Conditions { range: Some(range), ..Conditions::default() }), expect, "{range:?}");
        }
        let head = Conditions { range: Some("bytes=0-0"), ..Conditions::default() };
        assert_eq!(answer(FILE, head), Answer::Whole, "HEAD has no ranges");
        let empty = Version { len: 0, ..FILE };
        for range in ["bytes=0-", "bytes=-1"] {
            let asked = Conditions { get: true, range: Some(range), ..Conditions::default() };
            assert_eq!(answer(empty, asked), Answer::Unsatisfiable);
        }
    }

    #[test]
    fn conditions_hold_in_their_order() {
        let none = Conditions::default();
        for (asked, expect) in [
            (Conditions { if_none_match: Some("\"a1\""), ..none }, Answer::NotModified),
            (Conditions { if_none_match: Some("\"x\", W/\"a1\""), ..none }, Answer::NotModified),
            (Conditions { if_none_match: Some("*"), ..none }, Answer::NotModified),
            (Conditions { if_none_match: Some("\"x\""), ..none }, Answer::Whole),
            // The tag counts, not the date beside it.
            (
                Conditions { if_none_match: Some("\"x\""), if_modified_since: Some(2000), ..none },
                Answer::Whole,
            ),
            (Conditions { if_modified_since: Some(1000), ..none }, Answer::NotModified),
            (Conditions { if_modified_since: Some(999), ..none }, Answer::Whole),
            (Conditions { if_match: Some("\"x\""), ..none }, Answer::PreconditionFailed),
            (Conditions { if_match: Some("W/\"a1\""), ..none }, Answer::PreconditionFailed),
            (Conditions { if_match: Some("\"a1\""), if_unmodified_since: Some(1), ..none }, Answer::Whole),
            (Conditions { if_unmodified_since: Some(999), ..none }, Answer::PreconditionFailed),
            (Conditions { if_unmodified_since: Some(1000), ..none }, Answer::Whole),
        ] {
            assert_eq!(ask(asked), expect, "{asked:?}");
        }
    }

    #[test]
    fn a_range_of_another_version_gets_everything() {
        let range = Conditions { range: Some("bytes=1-2"), ..Conditions::default() };
        let part = Answer::Part { first: 1, last: 2 };
        assert_eq!(ask(Conditions { if_range: Some("\"a1\""), ..range }), part);
        assert_eq!(ask(Conditions { if_range: Some("\"b\""), ..range }), Answer::Whole);
        assert_eq!(ask(Conditions { if_range: Some("W/\"a1\""), ..range }), Answer::Whole);
        let date = Conditions { if_range: Some("Thu, …"), ..range };
        assert_eq!(ask(Conditions { if_range_date: Some(1000), ..date }), part);
        assert_eq!(ask(Conditions { if_range_date: Some(2000), ..date }), Answer::Whole);
        assert_eq!(ask(date), Answer::Whole, "not a date");
    }
}
