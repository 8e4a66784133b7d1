//! What the database of 10,000 nodes weighs, month by month.

use super::{POSTGRES, empty, load};
use crate::bench::Bench;
use crate::fleet::Postgres;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use anyhow::{Context as _, Result};
use kaltstart_tests::wait::secs;
use std::ffi::OsStr;
use std::time::Duration;

const NODES: &str = "10000";
const MONTHS: u32 = 12;
/// Lines of logs that are kept.
const LINES: f64 = 1e6;
/// What docs/scale.md states.
const SIZE_AIM_MB: f64 = 1_000.0;
const LIMIT: Duration = secs(3 * 3_600);

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    let mut names = Vec::new();
    for subject in [OURS, POSTGRES] {
        bench.ensure_wanted()?;
        let dir = empty(bench)?;
        let database = if subject == POSTGRES { Some(Postgres::start(bench, &[])?) } else { None };
        let place = match &database {
            Some(database) => [OsStr::new("--url"), OsStr::new(&database.url)],
            None => [OsStr::new("--dir"), dir.as_os_str()],
        };
        let worst = load(bench, place, &["worst"], secs(600))?;
        let (_, bytes) = worst.first().context("a line's bytes")?;
        samples.add("year_worst_logs", subject, bytes * LINES / 1e6);
        match &database {
            Some(database) => database.empty()?,
            None => drop(empty(bench)?),
        }
        let figures = load(bench, place, &["year", NODES, &MONTHS.to_string()], LIMIT)?;
        for (name, value) in &figures {
            samples.add(&format!("year_{name}"), subject, *value);
        }
        let of = |month: u32| {
            let name = format!("month_{month:02}");
            figures.iter().find_map(|(of, value)| (*of == name).then_some(*value)).context(name)
        };
        let half = MONTHS / 2;
        samples.add("year_a_month", subject, (of(MONTHS)? - of(half)?) / f64::from(half));
        names.extend(figures.into_iter().map(|(name, _)| format!("year_{name}")));
    }
    names.extend(["year_a_month", "year_worst_logs"].map(String::from));
    names.sort();
    names.dedup();
    let last = format!("year_month_{MONTHS:02}");
    for name in names {
        let aim = if name == last { Aim::Value(SIZE_AIM_MB) } else { Aim::None };
        report.against(&samples, &Metric::new(name, "MB", Better::Lower), POSTGRES, aim);
    }
    Ok(())
}
