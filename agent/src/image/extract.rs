//! From a POSIX archive to files (POSIX.1-2001 pax, GNU long names and sparse files).
//!
//! The archive is parsed by `tar-core`; what is done with an entry is decided here. Everything is
//! relative to the root's descriptor, no component of a name may be a symbolic link, and numbers
//! alone say who owns a file. What is not understood is refused by name, never skipped.

use super::CHUNK;
use super::acl;
use super::tree::{NAME_MAX, Tree, join, remove, split};
use crate::sys::xattr;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, PaxExtensions, SparseEntry};

/// Bytes of pax records and long names before one entry.
const METADATA_MAX: u32 = 1 << 20;
/// Bytes kept of directories, whose attributes are set at the end.
const DEFERRED_MAX: usize = 64 << 20;
/// Size of a tar block.
const BLOCK: u64 = 512;

/// Why an archive was not extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive is at fault.
    #[error("{entry}: {problem}")]
    Archive {
        /// Which entry.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk is at fault.
    #[error("{entry}: {error}")]
    Disk {
        /// Which entry was being written.
        entry: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Extracts the archive that `input` gives, at most `bytes_max` bytes, below `root`.
///
/// # Errors
/// See [`ExtractError`]; what was written until then stays.
pub fn run(input: impl Read, bytes_max: u64, root: &Path) -> Result<(), ExtractError> {
    let tree =
        Tree::open(root).map_err(|error| ExtractError::Disk { entry: root.display().to_string(), error })?;
    let mut extraction = Extraction {
        input: Input { from: input, buffer: Vec::new(), read: 0, max: bytes_max },
        tree,
        directories: Vec::new(),
        kept: 0,
    };
    let mut current = String::from("start of the archive");
    let result = extraction.run(&mut current);
    result.map_err(|problem| match problem {
        Problem::Archive(problem) => ExtractError::Archive { entry: current, problem },
        Problem::Io(error) if is_disks(&error) => ExtractError::Disk { entry: current, error },
        Problem::Io(error) => ExtractError::Archive { entry: current, problem: error.to_string() },
    })
}

/// Whether the kernel blames the disk, not the entry.
fn is_disks(error: &io::Error) -> bool {
    let disks =
        [libc::EIO, libc::ENOSPC, libc::EROFS, libc::ENODEV, libc::ENXIO, libc::ENOMEM, libc::EUCLEAN];
    error.raw_os_error().is_some_and(|code| disks.contains(&code))
}

enum Problem {
    Archive(String),
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<nix::errno::Errno> for Problem {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Io(errno.into())
    }
}

fn wrong<T>(problem: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Archive(problem.into()))
}

/// The archive's bytes, counted.
struct Input<R> {
    from: R,
    /// Headers not yet parsed.
    buffer: Vec<u8>,
    read: u64,
    max: u64,
}

impl<R: Read> Input<R> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Problem> {
        let n = match self.from.read(into) {
            // The error of the stream itself is reported by whoever decompresses it.
            Err(error) => return wrong(format!("cannot be read: {error}")),
            Ok(n) => n,
        };
        self.read += n as u64;
        if self.read > self.max {
            return wrong(format!("the archive is larger than the {} bytes its manifest allows", self.max));
        }
        Ok(n)
    }

    /// Fills the buffer up to `bytes`.
    fn fill(&mut self, bytes: usize) -> Result<(), Problem> {
        let mut at = self.buffer.len();
        self.buffer.resize(bytes.max(at), 0);
        while at < bytes {
            let mut piece = std::mem::take(&mut self.buffer);
            let n = self.read(&mut piece[at..]);
            self.buffer = piece;
            match n? {
                0 => return wrong("the archive ends in its middle"),
                n => at += n,
            }
        }
        Ok(())
    }

    /// Takes the next `bytes` bytes of contents in pieces.
    fn take(&mut self, mut bytes: u64, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Problem> {
        if !self.buffer.is_empty() {
            let n = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
            sink(&self.buffer[..n])?;
            self.buffer.drain(..n);
            bytes -= n as u64;
        }
        if bytes == 0 {
            return Ok(());
        }
        let mut piece = vec![0; CHUNK.min(usize::try_from(bytes).unwrap_or(CHUNK))];
        while bytes > 0 {
            let most = piece.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match self.read(&mut piece[..most])? {
                0 => return wrong("the archive ends in its middle"),
                n => {
                    sink(&piece[..n])?;
                    bytes -= n as u64;
                }
            }
        }
        Ok(())
    }
}

/// An entry's attributes, detached from the buffer it was parsed in.
struct Entry {
    kind: EntryType,
    path: Vec<u8>,
    link: Vec<u8>,
    mode: Mode,
    uid: Uid,
    gid: Gid,
    mtime: TimeSpec,
    device: (u32, u32),
    attributes: Vec<(CString, Vec<u8>)>,
    /// Bytes of contents in the archive, without padding.
    size: u64,
    sparse: Option<(Vec<SparseEntry>, u64)>,
}

impl Entry {
    fn kept(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.as_bytes().len() + value.len() + 64);
        size_of::<Self>() + self.path.len() + attributes.sum::<usize>()
    }
}

struct Extraction<R> {
    input: Input<R>,
    tree: Tree,
    /// Their attributes wait for the end: files below would change the times, and would inherit
    /// access control lists.
    directories: Vec<Entry>,
    kept: usize,
}

impl<R: Read> Extraction<R> {
    fn run(&mut self, current: &mut String) -> Result<(), Problem> {
        let limits = Limits {
            max_metadata_size: METADATA_MAX,
            max_path_len: u32::try_from(NAME_MAX).ok(),
            ..Limits::default()
        };
        let mut parser = Parser::new(limits);
        loop {
            let (consumed, entry) = match parser.parse(&self.input.buffer) {
                Ok(ParseEvent::NeedData { min_bytes }) => {
                    self.input.fill(min_bytes)?;
                    continue;
                }
                Ok(ParseEvent::Entry { consumed, entry }) => (consumed, Some(detach(&entry, None, current)?)),
                Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size }) => {
                    (consumed, Some(detach(&entry, Some((sparse_map, real_size)), current)?))
                }
                Ok(ParseEvent::GlobalExtensions { consumed, pax_data }) => {
                    // Comments are what git writes; anything else would change all entries.
                    check_pax(pax_data)?;
                    if PaxExtensions::new(pax_data).flatten().any(|record| record.key_bytes() != b"comment") {
                        return wrong("global pax records are not supported");
                    }
                    (consumed, None)
                }
                Ok(ParseEvent::End { consumed }) => {
                    self.input.buffer.drain(..consumed);
                    break;
                }
                Err(error) => return wrong(format!("after this entry: {error}")),
            };
            self.input.buffer.drain(..consumed);
            if let Some(entry) = entry {
                self.entry(entry)?;
            }
        }
        // Tar pads its last record; read it so that the stream comes to its own end.
        let mut rest = vec![0; CHUNK];
        while self.input.read(&mut rest)? > 0 {}
        for directory in std::mem::take(&mut self.directories).into_iter().rev() {
            *current = String::from_utf8_lossy(&directory.path).into_owned();
            self.finish_directory(&directory)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), Problem> {
        let padding = entry.size.next_multiple_of(BLOCK) - entry.size;
        let named = split(&entry.path).map_err(|problem| Problem::Archive(problem.to_owned()))?;
        let Some((parent, name)) = named else {
            if entry.kind != EntryType::Directory {
                return wrong("the root must be a directory");
            }
            let size = entry.size;
            self.defer(entry)?;
            return self.input.take(size + padding, |_| Ok(()));
        };
        let name = name.as_slice();
        match entry.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                let file = {
                    let parent = self.tree.parent(&parent)?;
                    remove(parent, name)?;
                    let flags = OFlag::O_WRONLY
                        | OFlag::O_CREAT
                        | OFlag::O_EXCL
                        | OFlag::O_NOFOLLOW
                        | OFlag::O_CLOEXEC;
                    File::from(openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?)
                };
                self.contents(&file, &entry)?;
                finish(&file, &entry)?;
                return self.input.take(padding, |_| Ok(()));
            }
            EntryType::Directory => {
                match mkdirat(self.tree.parent(&parent)?, name, Mode::S_IRWXU) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                // Something else of that name shows here, not at the end.
                self.tree.existing(&join(&parent, name))?;
                let size = entry.size;
                self.defer(entry)?;
                return self.input.take(size + padding, |_| Ok(()));
            }
            EntryType::Symlink => {
                let parent = self.tree.parent(&parent)?;
                remove(parent, name)?;
                symlinkat(entry.link.as_slice(), parent, name)?;
                finish_special(parent, name, &entry, false)?;
            }
            EntryType::Link => {
                let target =
                    split(&entry.link).map_err(|problem| Problem::Archive(format!("link {problem}")))?;
                let Some((target_parent, target)) = target else {
                    return wrong("is a hard link to the root");
                };
                let from = self.tree.existing(&target_parent)?;
                let parent_fd = self.tree.parent(&parent)?;
                if (&target_parent, &target[..]) != (&parent, name) {
                    remove(parent_fd, name)?;
                    linkat(&from, target.as_slice(), parent_fd, name, AtFlags::empty())?;
                }
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match entry.kind {
                    EntryType::Char => SFlag::S_IFCHR,
                    EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let (major, minor) = entry.device;
                let parent = self.tree.parent(&parent)?;
                remove(parent, name)?;
                let device =
                    if kind == SFlag::S_IFIFO { 0 } else { makedev(u64::from(major), u64::from(minor)) };
                mknodat(parent, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device)?;
                finish_special(parent, name, &entry, true)?;
            }
            other => return wrong(format!("type {other:?} is not supported")),
        }
        self.input.take(entry.size + padding, |_| Ok(()))
    }

    /// Writes a file's contents; the holes of a sparse one are left out.
    fn contents(&mut self, mut file: &File, entry: &Entry) -> Result<(), Problem> {
        let Some((map, real_size)) = &entry.sparse else {
            return self.input.take(entry.size, |bytes| file.write_all(bytes));
        };
        let mut end = 0;
        for region in map {
            let last = region.offset.checked_add(region.length).filter(|last| last <= real_size);
            if region.offset < end || last.is_none() {
                return wrong("sparse map is not in order or leads out of the file");
            }
            let mut offset = region.offset;
            end = offset + region.length;
            self.input.take(region.length, |bytes| {
                file.write_all_at(bytes, offset)?;
                offset += bytes.len() as u64;
                Ok(())
            })?;
        }
        Ok(file.set_len(*real_size)?)
    }

    fn defer(&mut self, entry: Entry) -> Result<(), Problem> {
        self.kept += entry.kept();
        if self.kept > DEFERRED_MAX {
            return wrong("too many directories");
        }
        self.directories.push(entry);
        Ok(())
    }

    fn finish_directory(&self, entry: &Entry) -> Result<(), Problem> {
        let named = split(&entry.path).map_err(|problem| Problem::Archive(problem.to_owned()))?;
        let path = named.map_or(Vec::new(), |(parent, name)| join(&parent, &name));
        let fd = self.tree.existing(&path)?;
        // Attributes need more than the path descriptor a look-up gives.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        finish(&File::from(openat(&fd, ".", flags, Mode::empty())?), entry)
    }
}

/// Owner, mode, attributes and time, in this order: a new owner clears set-uid bits and
/// capabilities, an access control list replaces mode bits, and everything changes times.
fn finish(file: &File, entry: &Entry) -> Result<(), Problem> {
    fchown(file, Some(entry.uid), Some(entry.gid))?;
    fchmod(file, entry.mode)?;
    for (name, value) in &entry.attributes {
        xattr::set(file, name, value).map_err(|error| attribute_problem(name, error))?;
    }
    Ok(futimens(file, &entry.mtime, &entry.mtime)?)
}

/// The same for what cannot be opened: links, devices, pipes.
fn finish_special(parent: impl AsFd, name: &[u8], entry: &Entry, has_mode: bool) -> Result<(), Problem> {
    let parent = parent.as_fd();
    fchownat(parent, name, Some(entry.uid), Some(entry.gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if has_mode {
        fchmodat(parent, name, entry.mode, FchmodatFlags::FollowSymlink)?;
    }
    if !entry.attributes.is_empty() {
        // The kernel has no setxattrat(2) before 6.13.
        let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat();
        let path = CString::new(path).map_err(|_| Problem::Archive("name contains NUL".into()))?;
        for (name, value) in &entry.attributes {
            xattr::set_at_path(&path, name, value).map_err(|error| attribute_problem(name, error))?;
        }
    }
    Ok(utimensat(parent, name, &entry.mtime, &entry.mtime, UtimensatFlags::NoFollowSymlink)?)
}

fn attribute_problem(name: &CString, error: io::Error) -> Problem {
    if is_disks(&error) {
        return Problem::Io(error);
    }
    Problem::Archive(format!("attribute {}: {error}", name.to_string_lossy()))
}

fn detach(
    entry: &ParsedEntry<'_>,
    sparse: Option<(Vec<SparseEntry>, u64)>,
    current: &mut String,
) -> Result<Entry, Problem> {
    *current = entry.path_lossy().into_owned();
    let id = |id: u64| u32::try_from(id).or_else(|_| wrong("owner is larger than 32 bits"));
    let mut attributes = Vec::new();
    let mut nanoseconds = 0;
    if let Some(pax) = entry.pax {
        check_pax(pax)?;
        for record in PaxExtensions::new(pax).flatten() {
            let text =
                || std::str::from_utf8(record.value_bytes()).or_else(|_| wrong("pax record is not UTF-8"));
            match record.key_bytes() {
                b"SCHILY.acl.access" => attributes.push(list(c"system.posix_acl_access", text()?)?),
                b"SCHILY.acl.default" => attributes.push(list(c"system.posix_acl_default", text()?)?),
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
        size,
        sparse,
    })
}

fn list(name: &std::ffi::CStr, text: &str) -> Result<(CString, Vec<u8>), Problem> {
    Ok((name.to_owned(), acl::encode(text).map_err(Problem::Archive)?))
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
fn check_pax(mut data: &[u8]) -> Result<(), Problem> {
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
