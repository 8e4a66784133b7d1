//! Files below a root directory, out of which no name and no symbolic link can lead.
//!
//! Two ways in: *strict*, for names of an archive, where no component may be a symbolic link; and
//! *rooted*, for files the agent reads and writes in the finished tree, where links are followed
//! as the installed system would follow them (openat2(2), `RESOLVE_IN_ROOT`).

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Longest name of an archive's entry, in bytes (Linux's `PATH_MAX`).
pub const NAME_MAX: usize = 4096;

const STRICT: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);
const ROOTED: ResolveFlag = ResolveFlag::RESOLVE_IN_ROOT.union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

/// A directory tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// Parent directory of the last strict look-up: archives list a directory's files in a row.
    last: Option<(Vec<u8>, OwnedFd)>,
}

/// Parent and last component of a name.
type Split = (Vec<u8>, Vec<u8>);

/// Splits an archive's name into parent and last component; none for the root itself.
///
/// # Errors
/// What is wrong with the name: absolute, `..`, NUL, too long.
pub fn split(name: &[u8]) -> Result<Option<Split>, &'static str> {
    if name.len() > NAME_MAX {
        return Err("name is too long");
    }
    if name.starts_with(b"/") {
        return Err("name is absolute");
    }
    if name.contains(&0) {
        return Err("name contains NUL");
    }
    let mut parts: Vec<&[u8]> = name.split(|&b| b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err("name contains \"..\"");
    }
    let last = parts.pop();
    Ok(last.map(|last| (parts.join(&b'/'), last.to_vec())))
}

impl Tree {
    /// The tree below `root`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { root: nix::fcntl::open(root, flags, Mode::empty())?, last: None })
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory `parent` of an archive's entry; missing ones are made (root's, mode 0755).
    ///
    /// # Errors
    /// `ELOOP` when a component is a symbolic link, `ENOTDIR` when it is another file.
    pub fn parent(&mut self, parent: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if parent.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            let fd = match self.strict(parent) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_parents(parent)?,
                other => other?,
            };
            self.last = Some((parent.to_vec(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Like [`Tree::parent`], for a directory that must be there already.
    ///
    /// # Errors
    /// Also when it is missing.
    pub fn existing(&self, directory: &[u8]) -> io::Result<OwnedFd> {
        if directory.is_empty() { self.root.try_clone() } else { self.strict(directory) }
    }

    fn strict(&self, directory: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(openat2(&self.root, directory, OpenHow::new().flags(flags).resolve(STRICT))?)
    }

    fn make_parents(&self, directory: &[u8]) -> io::Result<OwnedFd> {
        let ends = directory.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        let mut fd = self.root.try_clone()?;
        for end in ends.chain([directory.len()]) {
            let part = directory[..end].rsplit(|&b| b == b'/').next().unwrap_or_default();
            match mkdirat(&fd, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            fd = self.strict(&directory[..end])?;
        }
        Ok(fd)
    }

    /// Opens a file for reading, links followed within the tree.
    ///
    /// # Errors
    /// When it is missing or not a regular file.
    pub fn open_file(&self, path: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = File::from(openat2(&self.root, path, OpenHow::new().flags(flags).resolve(ROOTED))?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// A file's bytes, at most `max`.
    ///
    /// # Errors
    /// When it is missing, not a regular file, or larger.
    pub fn read(&self, path: &str, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(path)?.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Replaces a file: what had the name is removed, a link is not followed. Its owner is root.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.create(path, mode)?.write_all(bytes)
    }

    /// Like [`Tree::write`], for contents that are copied in.
    ///
    /// # Errors
    /// As the file system says.
    pub fn create(&self, path: &str, mode: u32) -> io::Result<File> {
        let (parent, name) = self.rooted_parent(path)?;
        remove(&parent, name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o600))?);
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// Replaces a name by a symbolic link.
    ///
    /// # Errors
    /// As the file system says.
    pub fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        let (parent, name) = self.rooted_parent(path)?;
        remove(&parent, name)?;
        Ok(symlinkat(target, &parent, name)?)
    }

    /// Makes a directory of that mode, owned by root, or sets an existing one to that.
    ///
    /// # Errors
    /// As the file system says.
    pub fn directory(&self, path: &str, mode: u32) -> io::Result<()> {
        let fd = self.rooted_directory(path.trim_matches('/'))?;
        fchownat(&fd, ".", Some(Uid::from_raw(0)), Some(Gid::from_raw(0)), AtFlags::empty())?;
        let directory = nix::fcntl::openat(&fd, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        File::from(directory).set_permissions(std::fs::Permissions::from_mode(mode))
    }

    fn rooted_parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let path = path.trim_start_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.rooted_directory(parent)?, name))
    }

    /// Opens a directory, links followed within the tree, and makes what is missing.
    fn rooted_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let open = |path: &str| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            openat2(
                &self.root,
                if path.is_empty() { "." } else { path },
                OpenHow::new().flags(flags).resolve(ROOTED),
            )
        };
        let mut fd = open("")?;
        let mut end = 0;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            end = path[end..].find(part).map_or(end, |at| end + at + part.len());
            fd = match open(&path[..end]) {
                Err(nix::errno::Errno::ENOENT) => {
                    mkdirat(&fd, part, Mode::from_bits_truncate(0o755))?;
                    open(&path[..end])?
                }
                other => other?,
            };
        }
        Ok(fd)
    }
}

/// The opposite of [`split`].
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Removes a name that is not a directory, if it is there.
pub(crate) fn remove<P: ?Sized + nix::NixPath>(parent: impl AsFd, name: &P) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p11_names_that_could_lead_out_are_refused() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b"] {
            assert!(split(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(split(&[b'a'; NAME_MAX + 1]).is_err());
        assert_eq!(split(b"./"), Ok(None));
        assert_eq!(split(b"./a//b/./c/"), Ok(Some((b"a/b".to_vec(), b"c".to_vec()))));
        assert_eq!(split(b"..."), Ok(Some((Vec::new(), b"...".to_vec()))));
    }

    #[test]
    fn p11_links_are_followed_within_the_tree_only() {
        let outside = tempfile::tempdir().expect("directory");
        std::fs::write(outside.path().join("secret"), "outside").expect("write");
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("mkdir");
        std::fs::write(root.join("etc/real"), "inside").expect("write");
        for (target, name) in [
            ("/etc/real", "absolute"),
            ("../../../../etc/real", "climbing"),
            ("../secret", "escaping"),
            ("/etc", "dir"),
        ] {
            std::os::unix::fs::symlink(target, root.join(name)).expect("symlink");
        }
        let mut tree = Tree::open(&root).expect("open");
        assert_eq!(tree.read("absolute", 100).expect("read"), b"inside");
        assert_eq!(tree.read("/climbing", 100).expect("read"), b"inside");
        assert!(tree.read("escaping", 100).is_err());
        assert!(tree.read("etc/real", 5).is_err());
        assert!(tree.read("etc", 5).is_err());
        // Strict look-ups refuse every link; writing replaces links instead of following them.
        assert!(tree.parent(b"dir").is_err() && tree.parent(b"dir/deeper").is_err());
        tree.write("/escaping", b"new", 0o600).expect("write");
        assert_eq!(std::fs::read(outside.path().join("secret")).expect("read"), b"outside");
        tree.write("dir/below/deeper/file", b"x", 0o644).expect("write");
        assert_eq!(std::fs::read(root.join("etc/below/deeper/file")).expect("read"), b"x");
    }
}
