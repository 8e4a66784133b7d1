//! Files below one directory, and none beside it.

use super::{Content, Refusal, Resolver};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// Serves the regular files below a directory to everybody.
///
/// A name may start with slashes; they mean the directory itself. Names with `..`, with a
/// backslash, with control characters, or with a part that starts with a dot are refused. The
/// kernel refuses what symbolic links lead out of the directory, at the moment of opening
/// (`openat2`, Linux 5.6): there is no check that could be outrun.
#[derive(Debug, Clone)]
pub struct Directory {
    root: Arc<OwnedFd>,
}

impl Directory {
    /// Takes the directory at `path`. It stays the same one if the path is renamed later.
    ///
    /// # Errors
    /// When it is no directory that can be opened.
    pub fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Opens the file at once if the kernel knows the way to it without asking a disk (Linux 5.12).
    fn open_now(&self, name: &str) -> Option<Result<Content, Refusal>> {
        let cached = ResolveFlag::from_bits_retain(nix::libc::RESOLVE_CACHED);
        match open_below(&self.root, name, cached) {
            // It does not know; or it does not know the question.
            Err(Errno::EAGAIN | Errno::EINVAL) => None,
            opened => Some(opened.map_err(refusal).and_then(content)),
        }
    }
}

impl Resolver for Directory {
    async fn open(&self, _: IpAddr, name: &str) -> Result<Content, Refusal> {
        let name = inner_name(name)?;
        if let Some(opened) = self.open_now(&name) {
            return opened;
        }
        let root = Arc::clone(&self.root);
        let open = move || open_below(&root, &name, ResolveFlag::empty()).map_err(refusal).and_then(content);
        tokio::task::spawn_blocking(open).await.unwrap_or(Err(Refusal::Unavailable))
    }
}

fn open_below(root: &OwnedFd, name: &str, how: ResolveFlag) -> nix::Result<File> {
    // Without O_NONBLOCK opening a named pipe waits for its writer.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | how;
    openat2(root, name, OpenHow::new().flags(flags).resolve(resolve)).map(File::from)
}

fn content(file: File) -> Result<Content, Refusal> {
    let metadata = file.metadata().map_err(|_| Refusal::Unavailable)?;
    if !metadata.is_file() {
        return Err(Refusal::Denied);
    }
    Ok(Content::File { file: Arc::new(file), size: metadata.len() })
}

/// The name relative to the directory, in its only spelling.
fn inner_name(name: &str) -> Result<String, Refusal> {
    if name.contains(|c: char| c == '\\' || c.is_control()) {
        return Err(Refusal::Denied);
    }
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            hidden if hidden.starts_with('.') => return Err(Refusal::Denied),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { Err(Refusal::Denied) } else { Ok(parts.join("/")) }
}

fn refusal(error: Errno) -> Refusal {
    match error {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG => Refusal::NotFound,
        // A link that leads out (EXDEV), in a circle (ELOOP), a socket (ENXIO), no permission.
        Errno::EXDEV | Errno::ELOOP | Errno::ENXIO | Errno::EACCES | Errno::EPERM => Refusal::Denied,
        _ => Refusal::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p33_names_have_one_spelling_or_none() {
        for (name, inner) in [("a", "a"), ("/a", "a"), ("//a/./b//c", "a/b/c"), ("a..b/c.", "a..b/c.")] {
            assert_eq!(inner_name(name).as_deref(), Ok(inner), "{name:?}");
        }
        for name in [
            "", "/", ".", "..", "../a", "a/../b", "/..", "a/..", ".ssh/id", "a/.b", "a\\b", "..\\a", "a\0b",
            "a\nb",
        ] {
            assert_eq!(inner_name(name), Err(Refusal::Denied), "{name:?}");
        }
    }
}
