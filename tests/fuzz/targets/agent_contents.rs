//! What lies on a disk: whatever it is, looking at it ends, reads little, and says the same each time.

#![no_main]

// As in `agent_dhcp`.
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/contents/mod.rs"]
mod contents;

use contents::Medium;
use libfuzzer_sys::fuzz_target;
use std::cell::Cell;
use std::io;

/// Sizes of disks, in bytes.
const SIZES: [u64; 8] = [0, 511, 4096, 1 << 20, 64 << 20, (1 << 40) + 512, u64::MAX - 511, u64::MAX];
/// Sizes of sectors.
const SECTORS: [u32; 4] = [512, 4096, 0, u32::MAX];
/// Where pieces lie; the last ones are counted from the end.
const PLACES: [u64; 12] =
    [0, 512, 1024, 4096, 8192, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 1 << 20, 2 << 20, 1 << 30];
/// Most that may be read, in bytes: both ends, and the heads of a thousand partitions.
const READ_MAX: u64 = 1 << 30;

/// A disk that is empty besides some pieces.
struct Sparse<'a> {
    size: u64,
    pieces: Vec<(u64, &'a [u8])>,
    read: Cell<u64>,
    /// Where it cannot be read.
    broken: Option<u64>,
}

impl Medium for Sparse<'_> {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = bytes.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let bytes = &mut bytes[..count];
        let end = offset + count as u64;
        if self.broken.is_some_and(|at| (offset..end).contains(&at)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.read.set(self.read.get() + count as u64);
        bytes.fill(0);
        for (at, piece) in &self.pieces {
            let first = offset.max(*at);
            let last = end.min(at.saturating_add(piece.len() as u64));
            if first < last {
                let (to, from) = ((first - offset) as usize, (first - at) as usize);
                let length = (last - first) as usize;
                bytes[to..to + length].copy_from_slice(&piece[from..from + length]);
            }
        }
        Ok(count)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [sizes, broken, pieces_follow @ ..] = bytes else { return };
    let mut rest = pieces_follow;
    let size = SIZES[usize::from(sizes & 7)];
    let sector = SECTORS[usize::from(sizes >> 3 & 3)];
    let mut pieces = Vec::new();
    // Place, how far behind it, length, and the bytes.
    while let [place, high, low, length, tail @ ..] = rest {
        let behind = u64::from(u16::from_be_bytes([*high, *low]));
        let place = match usize::from(*place) {
            place @ 0..=11 => PLACES[place] + behind,
            _ => size.saturating_sub(behind + 1),
        };
        let (piece, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        pieces.push((place, piece));
        rest = tail;
    }
    let broken = (*broken > 0).then(|| u64::from(broken - 1) << 12);
    let disk = Sparse { size, pieces, read: Cell::new(0), broken };
    let Ok(found) = contents::of_medium(&disk, size, sector) else {
        assert!(disk.broken.is_some(), "only what cannot be read is not known");
        return;
    };
    assert!(disk.read.get() <= READ_MAX, "{} bytes were read", disk.read.get());
    for area in &found.0 {
        let texts = [&area.kind, &area.id, &area.label];
        assert!(texts.iter().all(|text| !text.chars().any(char::is_control)), "{area:?}");
        assert!(texts.iter().all(|text| text.chars().count() <= 200), "{area:?}");
    }
    let again = contents::of_medium(&disk, size, sector).expect("it could be read");
    assert_eq!(found.fingerprint(), again.fingerprint());
    assert!(found.difference(&again).is_none());
});
