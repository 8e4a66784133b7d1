//! From a POSIX archive to files (POSIX.1-2001 pax, GNU long names and sparse files).
//!
//! The archive is parsed by `tar-core`; what is done with an entry is decided here. Everything is
//! relative to the root's descriptor, no component of a name may be a symbolic link, and numbers
//! alone say who owns a file. What is not understood is refused by name, never skipped.

use super::CHUNK;
use super::acl::{self, Names};
use super::entry::{BLOCK, Entry, check_pax, detach};
use super::input::{Input, Problem, wrong};
use super::tree::{NAME_MAX, Tree, join, remove, split};
use crate::sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use tar_core::parse::{Limits, ParseEvent, Parser};
use tar_core::{EntryType, PaxExtensions};

/// Bytes of pax records and long names before one entry.
const METADATA_MAX: u32 = 1 << 20;
/// Bytes kept of directories, whose attributes are set at the end.
const DEFERRED_MAX: usize = 64 << 20;
/// Largest list of users or groups that is read.
const USERS_MAX: u64 = 16 << 20;

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
        lists: Vec::new(),
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

struct Extraction<R> {
    input: Input<R>,
    tree: Tree,
    /// Their attributes wait for the end: files below would change the times, and would inherit
    /// access control lists.
    directories: Vec<Entry>,
    /// Access control lists (name, attribute, text) wait too: for the image's list of users.
    lists: Vec<(Vec<u8>, &'static CStr, String)>,
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
                    // Of a sparse map whose line does not end, tar-core 0.1 wants what it has, for ever.
                    if min_bytes <= self.input.buffer.len() {
                        return wrong("after this entry: the map of a sparse file has a line without end");
                    }
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
            if let Some(mut entry) = entry {
                for (name, text) in std::mem::take(&mut entry.lists) {
                    self.keep(entry.path.len() + text.len())?;
                    self.lists.push((entry.path.clone(), name, text));
                }
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
        let lists = std::mem::take(&mut self.lists);
        if !lists.is_empty() {
            let read = |path| self.tree.read(path, USERS_MAX).unwrap_or_default();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let names = Names::new(&text(&read("/etc/passwd")), &text(&read("/etc/group")));
            for (path, attribute, list) in &lists {
                *current = String::from_utf8_lossy(path).into_owned();
                self.finish_list(path, attribute, list, &names)?;
            }
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
                    match linkat(&from, target.as_slice(), parent_fd, name, AtFlags::empty()) {
                        // The layout has a file system of its own for one of the names.
                        Err(Errno::EXDEV) => {
                            copy_linked(&from, &target, parent_fd, name)?;
                            self.copy_lists(&entry)?;
                        }
                        linked => linked?,
                    }
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

    /// Lets the copy of a file have its access control lists too.
    fn copy_lists(&mut self, copy: &Entry) -> Result<(), Problem> {
        let linked = split(&copy.link).ok();
        let of_it = self.lists.iter().filter(|(path, ..)| split(path).ok() == linked);
        let more: Vec<_> = of_it.map(|(_, name, text)| (copy.path.clone(), *name, text.clone())).collect();
        self.keep(more.iter().map(|(path, _, text)| path.len() + text.len()).sum())?;
        self.lists.extend(more);
        Ok(())
    }

    fn defer(&mut self, entry: Entry) -> Result<(), Problem> {
        self.keep(entry.kept())?;
        self.directories.push(entry);
        Ok(())
    }

    /// Counts what is kept in memory until the end.
    fn keep(&mut self, bytes: usize) -> Result<(), Problem> {
        self.kept += bytes;
        if self.kept > DEFERRED_MAX { wrong("too many directories or access control lists") } else { Ok(()) }
    }

    /// Sets a list on whatever has that name.
    fn finish_list(&self, path: &[u8], attribute: &CStr, text: &str, names: &Names) -> Result<(), Problem> {
        let list = acl::encode(text, names).map_err(Problem::Archive)?;
        let (parent, name) = split(path)
            .map_err(|problem| Problem::Archive(problem.to_owned()))?
            .unwrap_or((Vec::new(), b".".to_vec()));
        let parent = self.tree.existing(&parent)?;
        let path = by_descriptor(&parent, &name)?;
        xattr::set_at_path(&path, attribute, &list).map_err(|error| attribute_problem(attribute, error))
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

/// Makes `name` in `parent` a file like `target` in `from`, which lies in another file system.
fn copy_linked(from: impl AsFd, target: &[u8], parent: impl AsFd, name: &[u8]) -> Result<(), Problem> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut target = File::from(openat(from, target, flags | OFlag::O_RDONLY, Mode::empty())?);
    let about = target.metadata()?;
    if !about.is_file() {
        return wrong("is a hard link into another file system, to something that is no file");
    }
    let flags = flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let mut file = File::from(openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    io::copy(&mut target, &mut file)?;
    fchown(&file, Some(Uid::from_raw(about.uid())), Some(Gid::from_raw(about.gid())))?;
    fchmod(&file, Mode::from_bits_truncate(about.mode()))?;
    for (name, value) in xattr::all(&target)? {
        xattr::set(&file, &name, &value).map_err(|error| attribute_problem(&name, error))?;
    }
    let mtime = TimeSpec::new(about.mtime(), about.mtime_nsec());
    Ok(futimens(&file, &mtime, &mtime)?)
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
        let path = by_descriptor(parent, name)?;
        for (name, value) in &entry.attributes {
            xattr::set_at_path(&path, name, value).map_err(|error| attribute_problem(name, error))?;
        }
    }
    Ok(utimensat(parent, name, &entry.mtime, &entry.mtime, UtimensatFlags::NoFollowSymlink)?)
}

/// A path to `name` in an open directory: the kernel has no setxattrat(2) before 6.13.
fn by_descriptor(parent: impl AsFd, name: &[u8]) -> Result<CString, Problem> {
    let path = [format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).as_bytes(), name].concat();
    CString::new(path).map_err(|_| Problem::Archive("name contains NUL".into()))
}

fn attribute_problem(name: &CStr, error: io::Error) -> Problem {
    if is_disks(&error) {
        return Problem::Io(error);
    }
    Problem::Archive(format!("attribute {}: {error}", name.to_string_lossy()))
}
