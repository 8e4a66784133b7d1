//! One entry of an archive, with what pax records add to its header.

use super::input::{Problem, wrong};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};
use std::ffi::{CStr, CString};
use tar_core::parse::ParsedEntry;
use tar_core::{EntryType, PaxExtensions, SparseEntry};

/// Size of a tar block.
pub(super) const BLOCK: u64 = 512;

/// An entry's attributes, detached from the buffer it was parsed in.
pub(super) struct Entry {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: Mode,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) mtime: TimeSpec,
    pub(super) device: (u32, u32),
    pub(super) attributes: Vec<(CString, Vec<u8>)>,
    /// Access control lists as text.
    pub(super) lists: Vec<(&'static CStr, String)>,
    /// Bytes of contents in the archive, without padding.
    pub(super) size: u64,
    pub(super) sparse: Option<(Vec<SparseEntry>, u64)>,
}

impl Entry {
    /// Bytes it keeps in memory, about.
    pub(super) fn kept(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.as_bytes().len() + value.len() + 64);
        size_of::<Self>() + self.path.len() + attributes.sum::<usize>()
    }
}

/// Takes an entry out of the parser's buffer; its name goes to `current` first, for messages.
pub(super) fn detach(
    entry: &ParsedEntry<'_>,
    sparse: Option<(Vec<SparseEntry>, u64)>,
    current: &mut String,
) -> Result<Entry, Problem> {
    *current = entry.path_lossy().into_owned();
    let id = |id: u64| u32::try_from(id).or_else(|_| wrong("owner is larger than 32 bits"));
    let mut attributes = Vec::new();
    let mut lists = Vec::new();
    let mut nanoseconds = 0;
    if let Some(pax) = entry.pax {
        check_pax(pax)?;
        for record in PaxExtensions::new(pax).flatten() {
            let text =
                || std::str::from_utf8(record.value_bytes()).or_else(|_| wrong("pax record is not UTF-8"));
            match record.key_bytes() {
                b"SCHILY.acl.access" => lists.push((c"system.posix_acl_access", text()?.to_owned())),
                b"SCHILY.acl.default" => lists.push((c"system.posix_acl_default", text()?.to_owned())),
                b"mtime" => nanoseconds = fraction(text()?),
                _ => {}
            }
        }
    }
    for (name, value) in &entry.xattrs {
        let name = CString::new(name.as_ref()).or_else(|_| wrong("attribute name contains NUL"))?;
        attributes.push((name, value.to_vec()));
    }
    let size = match &sparse {
        // The map and not the header says how much follows: tar-core 0.1 does not take the map's
        // own length off a pax `size` record.
        Some((map, _)) => map
            .iter()
            .try_fold(0u64, |sum, region| sum.checked_add(region.length))
            .map_or_else(|| wrong("sparse map overflows"), Ok)?,
        None => entry.size,
    };
    if size.checked_next_multiple_of(BLOCK).is_none() {
        return wrong("size overflows");
    }
    // Archives older than POSIX mark directories by a slash at the end.
    let kind = match entry.entry_type {
        EntryType::Regular if entry.path.ends_with(b"/") => EntryType::Directory,
        kind => kind,
    };
    let seconds = i64::try_from(entry.mtime).or_else(|_| wrong("time is out of range"))?;
    Ok(Entry {
        kind,
        path: entry.path.to_vec(),
        link: entry.link_target.as_deref().unwrap_or_default().to_vec(),
        mode: Mode::from_bits_truncate(entry.mode & 0o7777),
        uid: Uid::from_raw(id(entry.uid)?),
        gid: Gid::from_raw(id(entry.gid)?),
        mtime: TimeSpec::new(seconds, nanoseconds),
        device: (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0)),
        attributes,
        lists,
        size,
        sparse,
    })
}

/// Nanoseconds of a pax time such as `1700000000.25`.
fn fraction(text: &str) -> i64 {
    let digits = text.split_once('.').map_or("", |(_, digits)| digits);
    digits
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |value, digit| value * 10 + i64::from(if digit.is_ascii_digit() { digit - b'0' } else { 0 }))
}

/// Refuses records whose length field is no number or leads out of the data: the parser's own
/// iteration ends there silently, which would lose the records behind.
pub(super) fn check_pax(mut data: &[u8]) -> Result<(), Problem> {
    while !data.is_empty() {
        let length = data.split(|&b| b == b' ').next().and_then(|digits| std::str::from_utf8(digits).ok());
        let length: Option<usize> = length.and_then(|digits| digits.parse().ok());
        match length.filter(|&length| length > 0).and_then(|length| data.get(length..)) {
            Some(rest) => data = rest,
            None => return wrong("pax records are malformed"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_seconds() {
        assert_eq!(fraction("1700000000"), 0);
        assert_eq!(fraction("1700000000.25"), 250_000_000);
        assert_eq!(fraction("1.1234567899"), 123_456_789);
    }

    #[test]
    fn p11_pax_records_that_would_be_lost_are_refused() {
        assert!(check_pax(b"9 a=b\nxx\n").is_ok());
        for bad in [&b"x a=b\n"[..], b"99 a=b\n", b"0 a=b\n", b"6 a=b\nrest"] {
            assert!(check_pax(bad).is_err());
        }
    }
}
