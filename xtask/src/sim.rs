//! `cargo xtask sim`: the simulated fleet, one seed in full or many.

use anyhow::{Context, Result, bail};

use crate::SaidNo;
use crate::artefacts::cargo;

/// More seeds than there is time for.
const SEEDS_MAX: u64 = 1_000_000_000;
/// Minutes without an end of their own.
const MINUTES_MAX: u64 = 60 * 24 * 7;

/// `cargo xtask sim --seed N | --seeds N [--minutes M] [--from N]`
pub(crate) fn task(args: &[String]) -> Result<()> {
    const USAGE: &str = "usage: cargo xtask sim --seed N | [--seeds N] [--minutes M] [--from N]";
    let (mut seed, mut seeds, mut minutes, mut from) = (None, None, None, 1);
    for pair in args.chunks(2) {
        let [option, number] = pair else { bail!(USAGE) };
        let number: u64 = number.parse().context(USAGE)?;
        match option.as_str() {
            "--seed" => seed = Some(number),
            "--seeds" => seeds = Some(number),
            "--minutes" => minutes = Some(number),
            "--from" => from = number,
            _ => bail!(USAGE),
        }
    }
    let wanted = match (seed, seeds.or(minutes)) {
        (Some(seed), None) => format!("seed {seed}"),
        (None, Some(_)) => {
            let (seeds, minutes) = (seeds.unwrap_or(SEEDS_MAX), minutes.unwrap_or(MINUTES_MAX));
            format!("seeds {from} {seeds} {}", minutes.saturating_mul(60))
        }
        _ => bail!(USAGE),
    };
    let status = cargo()
        .args(["test", "--quiet", "--package", "kaltstart-tests", "--test", "sim", "--"])
        .args(["--exact", "p36_a_simulated_fleet_keeps_its_promises", "--nocapture"])
        .env("KALTSTART_SIM", wanted)
        .env("RUST_BACKTRACE", "0")
        .status();
    SaidNo::check(status.context("cannot start cargo")?)
}
