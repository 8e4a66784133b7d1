//! Disks: blocks from all over them are read, past the kernel's cache.

use super::{Read, Watch};
use crate::disk::region::Buffer;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::select::describe;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes that are read at once.
const BLOCK: u64 = 1 << 20;

/// Reads until the time is over or all was read; the first block that cannot be read is the disk's fault.
pub(super) fn run(disk: &Disk, dev: &Path, watch: &Watch) {
    let fault = |what: String| {
        watch.fault(Finding::new(Code::DiskUnreadable, format!("{}: {what}", describe(disk))));
    };
    let opened = File::options().read(true).custom_flags(libc::O_DIRECT).open(dev.join(&disk.name));
    let file = match opened {
        Ok(file) => file,
        Err(error) => return fault(format!("cannot be opened: {error}")),
    };
    let mut buffer = Buffer::new(BLOCK as usize);
    let blocks = disk.size / BLOCK;
    let (mut slowest, mut read) = (Duration::ZERO, 0);
    for offset in places(blocks) {
        if watch.over() {
            break;
        }
        let started = Instant::now();
        if let Err(error) = file.read_exact_at(&mut buffer, offset) {
            return fault(format!("read at byte {offset}: {error}"));
        }
        slowest = slowest.max(started.elapsed());
        read += 1;
        let told = Read { mib: read, of_mib: blocks, slowest };
        watch.done().disks.insert(disk.identity().to_owned(), told);
    }
}

/// The beginnings of all whole blocks, in an order that is all over the disk at any time.
fn places(blocks: u64) -> impl Iterator<Item = u64> {
    // Multiples of a number without a common divisor meet every block once.
    let step = (blocks * 5 / 8..).find(|step| divisor(*step, blocks) == 1).unwrap_or(1);
    (0..blocks).map(move |turn| (u128::from(turn) * u128::from(step) % u128::from(blocks)) as u64 * BLOCK)
}

const fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_block_has_its_turn_and_they_are_spread() {
        for blocks in [0, 1, 2, 3, 10, 97, 1024, 4096] {
            let mut all: Vec<u64> = places(blocks).collect();
            let early = all.iter().take(all.len() / 8);
            let highest = early.copied().max().unwrap_or(0);
            assert!(blocks < 97 || highest >= blocks * BLOCK * 3 / 4, "{blocks}: {highest}");
            all.sort_unstable();
            assert_eq!(all, (0..blocks).map(|block| block * BLOCK).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_disk_is_read_to_its_end_and_one_that_is_shorter_than_it_says_is_at_fault() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        fs::write(dir.path().join("sda"), vec![7; 5 << 20]).expect("a disk");
        let read = |size: u64| {
            let disk = Disk { name: "sda".into(), serial: "S1".into(), size, ..Disk::default() };
            let watch = Watch::new(Duration::from_secs(60));
            run(&disk, dir.path(), &watch);
            let told = watch.done().details();
            (told, watch.faults.into_inner().expect("lock"))
        };
        let (told, faults) = read(5 << 20);
        assert!(
            faults.is_empty() && told["disks"].starts_with("1 disks, 5 of 5 MiB read"),
            "{told:?} {faults:?}"
        );
        let (_, faults) = read(6 << 20);
        assert_eq!(faults[0].code, Code::DiskUnreadable);
        assert!(faults[0].detail.contains("read at byte 5242880"), "{faults:?}");
    }
}
