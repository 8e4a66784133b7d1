//! `commits` and `year`: the server's store alone, with each database.
//!
//! A load program that is built out of the server's own library lets machines live through it.

mod commits;
mod year;

pub(crate) use commits::run as commits;
pub(crate) use year::run as year;

use crate::bench::Bench;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::process::run;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The other database.
const POSTGRES: &str = "postgresql";

/// The figures that the load program tells, by name.
fn load(bench: &Bench, place: [&OsStr; 2], what: &[&str], limit: Duration) -> Result<Vec<(String, f64)>> {
    let text = run(Command::new(bench.store()).args(place).args(what), limit)?;
    let figure = |line: &str| -> Result<_> {
        let (name, value) = line.split_once(' ').with_context(|| format!("no figure: {line}"))?;
        Ok((name.to_owned(), value.parse()?))
    };
    let figures: Vec<_> = text.lines().map(figure).collect::<Result<_>>()?;
    ensure!(!figures.is_empty(), "the load program told nothing");
    Ok(figures)
}

/// An empty directory for a database.
fn empty(bench: &Bench) -> Result<PathBuf> {
    let dir = bench.dir().join("store");
    fs::remove_dir_all(&dir).ok();
    fs::create_dir(&dir)?;
    Ok(dir)
}
