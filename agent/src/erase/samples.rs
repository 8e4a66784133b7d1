//! What is read of a disk before and after it is erased: blocks from all over it.

use super::PIECE;
use crate::disk::device::Device;
use kaltstart_protocol::erasure::EraseMethod;
use kaltstart_protocol::finding::{Code, Finding};
use sha2::{Digest as _, Sha256};

/// Bytes of a block that is read.
const SAMPLE: u64 = 64 << 10;
/// Fewest and most blocks that are read of a disk; between these, one of each [`PIECE`].
const SAMPLES_MIN: u64 = 64;
const SAMPLES_MAX: u64 = 4096;
/// The parts of a block that are compared with what was there before.
const PART: usize = 4096;

/// Blocks of a disk, as they were before it is erased.
pub(super) struct Samples {
    /// Where each begins, and marks of its parts; none when it could not be read.
    blocks: Vec<(u64, Option<Vec<Mark>>)>,
    size: usize,
}

/// The first bytes of a digest: enough to tell two contents apart, where nobody looks for a second one.
type Mark = [u8; 8];

/// What was read after the erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// Blocks that hold nothing of before.
    pub(super) samples: u64,
    /// Those of them that are not empty.
    pub(super) changed: u64,
}

/// How a block is that was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is empty.
    Empty,
    /// It is not, but every part of it is another than before.
    Changed,
    /// Something may be left; the first byte of it.
    Left(usize),
}

impl Samples {
    /// Reads the blocks of a disk that is about to be erased. What cannot be read is no reason not to erase.
    pub(super) fn before(device: &Device, random: impl FnMut() -> u32) -> Self {
        let size = SAMPLE.min(device.size) as usize;
        let mut block = vec![0; size];
        let read = |offset| {
            let marks = device.read_at(offset, &mut block).ok().map(|()| marks(&block));
            (offset, marks)
        };
        Self { blocks: places(device.size, random).into_iter().map(read).collect(), size }
    }

    /// Reads them again.
    ///
    /// # Errors
    /// [`Code::DiskFailed`] when one cannot be read, or may hold what it held before.
    pub(super) fn after(&self, device: &Device, method: EraseMethod) -> Result<Seen, Finding> {
        let mut block = vec![0; self.size];
        let mut seen = Seen::default();
        for (offset, before) in &self.blocks {
            device.read_at(*offset, &mut block)?;
            match judge(method, before.as_deref(), &block) {
                State::Empty => {}
                State::Changed => seen.changed += 1,
                State::Left(at) => {
                    let place = offset + at as u64;
                    let detail = format!("{} is not empty afterwards: byte {place}", device.name());
                    return Err(Finding::new(Code::DiskFailed, detail));
                }
            }
            seen.samples += 1;
        }
        Ok(seen)
    }
}

/// How a block is after that method, by its marks of before.
fn judge(method: EraseMethod, before: Option<&[Mark]>, block: &[u8]) -> State {
    let zeros = method.leaves_zeros();
    // Erased flash reads as ones, unless the disk shows zeros for it.
    let is_empty = |byte: u8| block.iter().all(|other| *other == byte);
    if is_empty(0) || !zeros && is_empty(0xff) {
        return State::Empty;
    }
    if let Some(before) = before.filter(|_| !zeros) {
        let mut parts = marks(block).into_iter().zip(before);
        return match parts.position(|(now, then)| now == *then) {
            Some(part) => State::Left(part * PART),
            None => State::Changed,
        };
    }
    State::Left(block.iter().position(|byte| *byte != 0).unwrap_or(0))
}

fn marks(block: &[u8]) -> Vec<Mark> {
    let mark = |part: &[u8]| Sha256::digest(part).first_chunk().copied().unwrap_or_default();
    block.chunks(PART).map(mark).collect()
}

/// Where blocks are read: both ends of a disk, and one at random of each of its equal parts.
fn places(size: u64, mut random: impl FnMut() -> u32) -> Vec<u64> {
    let last = size.saturating_sub(SAMPLE);
    let parts = (size / PIECE).clamp(SAMPLES_MIN, SAMPLES_MAX);
    let within = |part: u64| {
        let (start, end) = (last / parts * part, last / parts * (part + 1));
        let offset = ((u128::from(end - start) * u128::from(random())) >> 32) as u64;
        start + offset
    };
    let mut all: Vec<u64> = (0..parts).map(within).collect();
    all.extend([0, last]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn p10_samples_lie_on_the_disk_and_reach_every_part(size in 1u64 << 20..1 << 50, seed in any::<u32>()) {
            let mut state = seed;
            let all = places(size, || { state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); state });
            prop_assert!(all.iter().all(|offset| offset + SAMPLE <= size));
            prop_assert!(all.contains(&0) && all.contains(&(size - SAMPLE)));
            let mut sorted = all.clone();
            sorted.sort_unstable();
            let widest = sorted.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0);
            prop_assert!(widest <= size / (all.len() as u64 - 2) * 2 + SAMPLE, "{widest} of {size}");
        }
    }

    #[test]
    fn p10_what_is_left_of_before_is_no_erasure() {
        use EraseMethod::{FormatErase, Overwrite, SanitizeCrypto, SecureErase};
        let data: Vec<u8> = (0..4 * PART).map(|at| (at / 7) as u8).collect();
        let before = marks(&data);
        let other: Vec<u8> = data.iter().map(|byte| byte ^ 0x55).collect();
        let (zeros, ones) = (vec![0; 4 * PART], vec![0xff; 4 * PART]);
        for method in [FormatErase, SanitizeCrypto] {
            let judged = |block: &[u8]| judge(method, Some(&before), block);
            assert_eq!((judged(&zeros), judged(&ones)), (State::Empty, State::Empty));
            assert_eq!(judged(&other), State::Changed);
            assert_eq!(judged(&data), State::Left(0));
            // One part in the middle is as it was.
            let mut partly = other.clone();
            partly[PART..2 * PART].copy_from_slice(&data[PART..2 * PART]);
            assert_eq!(judged(&partly), State::Left(PART));
            // What could not be read before cannot be known to be another.
            assert_eq!(judge(method, None, &other), State::Left(0));
            assert_eq!(judge(method, None, &zeros), State::Empty);
        }
        for method in [Overwrite, SecureErase] {
            assert_eq!(judge(method, Some(&before), &zeros), State::Empty);
            assert_eq!(judge(method, Some(&before), &ones), State::Left(0));
            let mut one = zeros.clone();
            one[9] = 1;
            assert_eq!(judge(method, Some(&before), &one), State::Left(9));
        }
    }
}
