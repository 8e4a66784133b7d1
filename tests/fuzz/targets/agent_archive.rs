//! Archives of images: whatever is in one, nothing is made or changed outside of the directory it is laid
//! down in.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

// As in `agent_dhcp`; the modules lie as in the agent.
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/image"]
mod image {
    pub(crate) const CHUNK: usize = 4096;
    mod acl;
    mod entry;
    pub(crate) mod extract;
    mod input;
    mod tree;
}
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/sys"]
mod sys {
    pub(crate) mod xattr;
}

/// A directory in memory, with one to lay down in and one to be left alone.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = PathBuf::from(format!("/dev/shm/kaltstart-fuzz-{}", std::process::id()));
    fs::remove_dir_all(&directory).ok();
    fs::create_dir_all(directory.join("outside")).expect("a directory in memory");
    fs::write(directory.join("outside/file"), WORDS).expect("a file in memory");
    directory
});
/// What the file outside says.
const WORDS: &[u8] = b"left alone";
/// Most that may be unpacked, in bytes.
const UNPACKED_MAX: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let root = DIRECTORY.join("root");
    fs::create_dir(&root).expect("it was removed");
    // Sums that are right, so that more than them is tried.
    let mut archive = bytes.to_vec();
    for header in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if let Err(error) = image::extract::run(&archive[..], UNPACKED_MAX, &root) {
        assert!(!error.to_string().is_empty());
    }
    let names = |path: PathBuf| {
        let mut names: Vec<_> = fs::read_dir(path).expect("it is there").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(DIRECTORY.clone()), ["outside", "root"]);
    assert_eq!(names(DIRECTORY.join("outside")), ["file"]);
    assert_eq!(fs::read(DIRECTORY.join("outside/file")).expect("it is there"), WORDS);
    fs::remove_dir_all(&root).expect("removed");
});
