//! Memory: each core writes its share full, and reads it back, with other bytes each time.

use super::Watch;
use super::processor::cores;
use kaltstart_protocol::finding::{Code, Finding};
use std::fs;
use std::hint::black_box;

/// Bytes that stay free for the agent and the kernel: these, or a tenth of what is available if that is more.
const KEPT_FREE: u64 = 96 << 20;
/// Words that are written or read between two looks at the clock.
const PIECE: usize = 1 << 20;
/// An odd number whose multiples have no pattern (2⁶⁴ divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Words of 8 bytes that each core may use.
pub(super) fn share() -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    words(&text, cores().len() as u64)
}

fn words(meminfo: &str, cores: u64) -> usize {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
    let available = kib << 10;
    let used = available.saturating_sub(KEPT_FREE.max(available / 10));
    usize::try_from(used / 8 / cores.max(1)).unwrap_or(0)
}

/// The memory that one core writes and reads.
pub(super) struct Share {
    words: Vec<u64>,
    seed: u64,
    passes: u64,
}

impl Share {
    /// Memory for so many words; less, if there is not so much.
    pub(super) fn new(words: usize) -> Self {
        let mut memory = Vec::new();
        if memory.try_reserve_exact(words).is_ok() {
            memory.resize(words, 0);
        }
        Self { words: memory, seed: 0, passes: 0 }
    }

    /// Passes so far, and the share's size in MiB.
    pub(super) fn told(&self) -> (u64, usize) {
        (self.passes, self.words.len() >> 17)
    }

    /// Writes all of it and reads it back, twice: every bit was one and zero then. A pass that the clock ends does
    /// not count.
    pub(super) fn pass(&mut self, core: usize, watch: &Watch) -> Result<(), Finding> {
        self.seed = self.seed.wrapping_add(SPREAD);
        for seed in [self.seed, !self.seed] {
            for (index, piece) in self.words.chunks_mut(PIECE).enumerate() {
                fill(piece, index * PIECE, seed);
                if watch.over() {
                    return Ok(());
                }
            }
            for (index, piece) in self.words.chunks(PIECE).enumerate() {
                if let Some((at, found)) = compare(black_box(piece), index * PIECE, seed) {
                    let expected = word(at, seed);
                    let wrong = (expected ^ found).count_ones();
                    return Err(Finding::new(
                        Code::MemoryFaulty,
                        format!(
                            "{found:#018x} instead of {expected:#018x} ({wrong} bits differ), written and read by core \
                             {core}, at word {at} of its {} MiB",
                            self.words.len() >> 17
                        ),
                    ));
                }
                if watch.over() {
                    return Ok(());
                }
            }
        }
        self.passes += 1;
        Ok(())
    }
}

/// What lies at word `at`.
const fn word(at: usize, seed: u64) -> u64 {
    (at as u64).wrapping_mul(SPREAD) ^ seed
}

fn fill(piece: &mut [u64], first: usize, seed: u64) {
    for (index, place) in piece.iter_mut().enumerate() {
        *place = word(first + index, seed);
    }
}

/// The first word that is not as it was written.
fn compare(piece: &[u64], first: usize, seed: u64) -> Option<(usize, u64)> {
    let wrong = piece.iter().enumerate().position(|(index, found)| *found != word(first + index, seed))?;
    Some((first + wrong, piece[wrong]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bit_that_falls_over_is_found_with_its_place() {
        let mut piece = vec![0; 5000];
        for bit in 0..64 {
            fill(&mut piece, 777, 42);
            assert_eq!(compare(&piece, 777, 42), None);
            piece[bit * 70] ^= 1 << bit;
            assert_eq!(compare(&piece, 777, 42), Some((777 + bit * 70, piece[bit * 70])));
        }
    }

    #[test]
    fn every_bit_is_one_and_zero_in_a_pass() {
        for at in [0, 1, 12345] {
            assert_eq!(word(at, 7) ^ word(at, !7), u64::MAX);
        }
        let mut share = Share::new(3 * PIECE + 5);
        let watch = Watch::new(Duration::from_secs(60));
        for _ in 0..2 {
            assert!(share.pass(0, &watch).is_ok());
        }
        assert_eq!(share.passes, 2);
        let over = Watch::new(Duration::ZERO);
        assert!(share.pass(0, &over).is_ok());
        assert_eq!(share.passes, 2, "the clock ended the third");
    }

    #[test]
    fn something_stays_free_for_the_agent() {
        let told = |kib: u64| words(&format!("MemTotal: 1 kB\nMemAvailable:   {kib} kB\n"), 4);
        assert_eq!(told(64 << 10), 0, "a machine too small for it");
        assert_eq!(told(96 << 10), 0);
        assert_eq!(told((96 << 10) + 32), 1024);
        assert_eq!(told(100 << 20) as u64, (90 << 30) / 32);
        assert_eq!(words("", 4), 0);
    }
}
