//! Processors: every core computes the same over and over, and the result is known.

use kaltstart_protocol::finding::{Code, Finding};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use sha2::{Digest as _, Sha256};
use std::hint::black_box;

/// Digests of digests in a round.
const CHAIN: u32 = 20_000;
/// The last of them, which began with zeros.
const LAST: [u8; 32] = [
    0xbe, 0x28, 0x4e, 0xf8, 0x2c, 0xb4, 0xcc, 0x73, 0x87, 0x57, 0x0b, 0xda, 0x86, 0x28, 0x9e, 0xee, 0xcd,
    0x04, 0xb4, 0xfa, 0x69, 0xd5, 0x3b, 0xf3, 0x10, 0x11, 0x36, 0xc1, 0x98, 0x95, 0x5f, 0xea,
];
/// Rows of the matrices.
const ROWS: usize = 96;

/// Numbers of the cores that this program may use.
pub(super) fn cores() -> Vec<usize> {
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|core| all.is_set(*core) == Ok(true)).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// Keeps the calling thread on a core.
pub(super) fn stay_on(core: usize) -> nix::Result<()> {
    let mut only = CpuSet::new();
    only.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &only)
}

/// Computes on the calling thread's core, with whole numbers and broken ones.
pub(super) fn round(core: usize) -> Result<(), Finding> {
    let wrong = |what: &str| Finding::new(Code::ProcessorFaulty, format!("core {core}: {what}"));
    if chain(black_box(CHAIN)) != LAST {
        return Err(wrong("a SHA-256 is wrong"));
    }
    if product(black_box(3)) != expected(3) {
        return Err(wrong("a product of matrices is wrong"));
    }
    Ok(())
}

fn chain(length: u32) -> [u8; 32] {
    (0..length).fold([0; 32], |digest, _| Sha256::digest(digest).into())
}

/// The sum of the elements of A × B with A = (row + factor), B = (column), in floating point; all numbers on the way
/// are whole and below 2⁵³, so there is one right result.
fn product(factor: usize) -> f64 {
    let a: Vec<f64> = (0..ROWS * ROWS).map(|at| (at / ROWS + factor) as f64).collect();
    let b: Vec<f64> = (0..ROWS * ROWS).map(|at| (at % ROWS) as f64).collect();
    let element = |row: usize, column: usize| -> f64 {
        (0..ROWS).map(|k| black_box(a[row * ROWS + k]) * b[k * ROWS + column]).sum()
    };
    (0..ROWS * ROWS).map(|at| element(at / ROWS, at % ROWS)).sum()
}

/// The same by Gauss' sums.
const fn expected(factor: usize) -> f64 {
    let sum = ROWS * (ROWS - 1) / 2;
    (ROWS * (sum + ROWS * factor) * sum) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_one_result_and_others_are_noticed() {
        assert_eq!(round(0), Ok(()), "{:?}", chain(CHAIN));
        assert_ne!(chain(CHAIN - 1), LAST);
        for factor in [0, 3, 1000] {
            assert_eq!(product(factor), expected(factor));
        }
        assert_ne!(product(3), expected(4));
    }

    #[test]
    fn the_cores_are_those_of_the_system() {
        assert_eq!(cores().len(), std::thread::available_parallelism().expect("cores").get());
    }
}
