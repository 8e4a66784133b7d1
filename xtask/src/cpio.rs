//! A deterministic writer for the kernel's initramfs format (cpio "newc";
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive in memory. Entries are written in path order, owned by root,
/// dated 1970, so equal contents give equal bytes.
#[derive(Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

impl Archive {
    /// Adds a directory (mode 0755) and its parents. Paths are relative to
    /// the root and have no leading slash.
    pub(crate) fn directory(&mut self, path: &str) {
        self.insert(path, DIRECTORY | 0o755, (0, 0), Vec::new());
    }

    /// Adds a regular file and its parent directories.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, data: Vec<u8>) {
        self.insert(path, FILE | permissions, (0, 0), data);
    }

    /// Adds a symbolic link and its parent directories.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.insert(path, SYMLINK | 0o777, (0, 0), target.into());
    }

    /// Adds a character device node and its parent directories.
    pub(crate) fn device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        let mode = CHARACTER_DEVICE | permissions;
        self.insert(path, mode, (major, minor), Vec::new());
    }

    fn insert(&mut self, path: &str, mode: u32, device: (u32, u32), data: Vec<u8>) {
        for (end, _) in path.match_indices('/') {
            let parent = Entry { mode: DIRECTORY | 0o755, device: (0, 0), data: Vec::new() };
            self.entries.entry(path[..end].to_owned()).or_insert(parent);
        }
        let entry = Entry { mode, device, data };
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            write_entry(&mut out, inode, path, entry);
        }
        let trailer = Entry { mode: 0, device: (0, 0), data: Vec::new() };
        write_entry(&mut out, 0, "TRAILER!!!", &trailer);
        out
    }
}

fn write_entry(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) {
    let links = if entry.mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
    let fields = [
        inode,
        entry.mode,
        0, // uid
        0, // gid
        links,
        0, // mtime
        entry.data.len() as u32,
        0, // major and minor of the file system
        0,
        entry.device.0,
        entry.device.1,
        path.len() as u32 + 1,
        0, // checksum, unused in newc
    ];
    out.extend(b"070701");
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(path.bytes());
    out.push(0);
    pad(out);
    out.extend(&entry.data);
    pad(out);
}

/// Pads with zeros to a multiple of four bytes, as the format and the kernel's
/// reader of concatenated archives require.
pub(crate) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_headers_are_aligned() {
        let mut archive = Archive::default();
        archive.file("a/b/file", 0o755, b"12345".to_vec());
        archive.device("dev/null", 0o666, 1, 3);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"070701")).collect();
        assert!(starts.iter().all(|start| start % 4 == 0));
        let names: Vec<String> = starts
            .iter()
            .map(|start| bytes[start + 110..].iter().take_while(|b| **b != 0).copied().collect())
            .map(|name| String::from_utf8(name).unwrap())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/file", "dev", "dev/null", "TRAILER!!!"]);
        assert_eq!(&bytes[starts[2] + 14..starts[2] + 22], b"000081ed");
        assert_eq!(&bytes[starts[2] + 54..starts[2] + 62], b"00000005");
    }

    #[test]
    fn the_order_of_insertion_does_not_matter() {
        let mut first = Archive::default();
        first.symlink("x", "y");
        first.directory("d");
        let mut second = Archive::default();
        second.directory("d");
        second.symlink("x", "y");
        assert_eq!(first.finish(), second.finish());
    }
}
