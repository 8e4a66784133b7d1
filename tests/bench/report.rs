//! What was measured: samples, rows that compare, and how they are shown.

use anyhow::{Context as _, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Name of our server among the subjects.
pub(crate) const OURS: &str = "ours";

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What a figure shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// Nothing was promised.
    None,
    /// This value or a better one.
    Value(f64),
    /// This many times the peer's value, or better.
    Times(f64),
}

/// One comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    metric: String,
    unit: &'static str,
    /// Median of our runs.
    ours: f64,
    peer: Option<String>,
    /// Median of the peer's runs.
    peer_value: Option<f64>,
    /// What the floor needs: a program that does nothing else.
    floor: Option<f64>,
    /// Above 1: ours is better than the peer.
    ratio: Option<f64>,
    /// The value ours should reach, in the metric's unit.
    aim: Option<f64>,
    /// Whether it does.
    met: Option<bool>,
    /// Our runs, and the peer's.
    n: (usize, usize),
    /// Least and largest of our runs.
    range: (f64, f64),
}

/// Samples by metric and subject.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<(String, String), Vec<f64>>);

impl Samples {
    /// Notes the result of one run; shown at once, since a whole run takes long.
    pub(crate) fn add(&mut self, metric: &str, subject: &str, value: f64) {
        eprintln!("  {metric} {subject}: {}", number(value));
        self.0.entry((metric.to_owned(), subject.to_owned())).or_default().push(value);
    }

    /// Notes the last figures of `subject` in `from` here too: what is `theirs_…` there is `ours_…` here.
    pub(crate) fn copy(&mut self, ours: &str, subject: &str, from: &Self, theirs: &str) {
        for ((metric, of), values) in &from.0 {
            if let (Some(rest), true, Some(last)) =
                (metric.strip_prefix(theirs), of == subject, values.last())
            {
                self.0.entry((format!("{ours}{rest}"), of.clone())).or_default().push(*last);
            }
        }
    }

    fn of(&self, metric: &str, subject: &str) -> &[f64] {
        self.0.get(&(metric.to_owned(), subject.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The median of a subject's runs.
    pub(crate) fn median(&self, metric: &str, subject: &str) -> Option<f64> {
        median(self.of(metric, subject))
    }
}

/// All rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// A metric to report on.
#[derive(Debug, Clone)]
pub(crate) struct Metric {
    name: String,
    unit: &'static str,
    better: Better,
    floor: Option<&'static str>,
}

impl Metric {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self { name: name.into(), unit, better, floor: None }
    }

    /// Which of `peers` is the best.
    pub(crate) fn best<'a>(&self, samples: &Samples, peers: &[&'a str]) -> Option<&'a str> {
        let value = |peer: &str| samples.median(&self.name, peer);
        let measured = peers.iter().copied().filter_map(|peer| Some((peer, value(peer)?)));
        let best = measured.max_by(|(_, a), (_, b)| match self.better {
            Better::Higher => a.total_cmp(b),
            Better::Lower => b.total_cmp(a),
        });
        best.map(|(peer, _)| peer)
    }

    /// The same, with the subject that is the floor.
    pub(crate) fn floor(self, subject: &'static str) -> Self {
        Self { floor: Some(subject), ..self }
    }
}

impl Report {
    /// Adds our figure without a peer.
    pub(crate) fn alone(&mut self, samples: &Samples, metric: &Metric, aim: Aim) {
        self.row(samples, metric, None, aim);
    }

    /// Adds a row for `peer`.
    pub(crate) fn against(&mut self, samples: &Samples, metric: &Metric, peer: &str, aim: Aim) {
        self.row(samples, metric, Some(peer), aim);
    }

    /// Adds a row for each of `peers`; the aim is against `best`, which [`Metric::best`] found.
    pub(crate) fn against_all(
        &mut self,
        samples: &Samples,
        metric: &Metric,
        peers: &[&str],
        best: Option<&str>,
        aim: Aim,
    ) {
        for peer in peers {
            self.row(samples, metric, Some(peer), if Some(*peer) == best { aim } else { Aim::None });
        }
    }

    fn row(&mut self, samples: &Samples, metric: &Metric, peer: Option<&str>, aim: Aim) {
        let Metric { name, unit, better, floor } = metric;
        let (unit, better) = (*unit, *better);
        let own = samples.of(name, OURS);
        let Some(ours) = median(own) else { return };
        let peer_value = peer.and_then(|peer| samples.median(name, peer));
        let aim = match aim {
            Aim::None => None,
            Aim::Value(value) => Some(value),
            Aim::Times(factor) => peer_value.map(|value| value * factor),
        };
        let ratio = peer_value.map(|peer| if better == Better::Higher { ours / peer } else { peer / ours });
        self.rows.push(Row {
            metric: name.to_owned(),
            unit,
            ours,
            peer: peer.map(str::to_owned),
            peer_value,
            floor: floor.and_then(|floor| samples.median(name, floor)),
            ratio: ratio.filter(|ratio| ratio.is_finite()),
            aim,
            met: aim.map(|aim| if better == Better::Higher { ours >= aim } else { ours <= aim }),
            n: (own.len(), peer.map_or(0, |peer| samples.of(name, peer).len())),
            range: (
                own.iter().copied().fold(f64::INFINITY, f64::min),
                own.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ),
        });
    }

    /// Prints the rows as a table.
    pub(crate) fn print(&self) {
        println!(
            "{:<40} {:<9} {:>9} {:>19}  {:<14} {:>9} {:>9} {:>6} {:>9}  n",
            "metric", "unit", "ours", "[least..largest]", "peer", "its value", "floor", "ratio", "aim"
        );
        for row in &self.rows {
            let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
            let missed = if row.met == Some(false) { "  short" } else { "" };
            println!(
                "{:<40} {:<9} {:>9} {:>19}  {:<14} {:>9} {:>9} {:>6} {:>9}  {}/{}{missed}",
                row.metric,
                row.unit,
                number(row.ours),
                format!("[{}..{}]", number(row.range.0), number(row.range.1)),
                row.peer.as_deref().unwrap_or("-"),
                optional(row.peer_value),
                optional(row.floor),
                row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
                optional(row.aim),
                row.n.0,
                row.n.1,
            );
        }
    }

    /// Writes the rows.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.rows)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The middle of `values`; of the two in the middle, their mean.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The value below which that share of `sorted` lies.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share * last as f64).round() as usize).copied()
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 10.0 => format!("{value:.3}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[(&str, f64)]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|(subject, value)| samples.add("rate", subject, *value));
        samples
    }

    #[test]
    fn the_aim_is_against_the_best_peer() {
        let samples = samples(&[(OURS, 100.0), ("slow", 10.0), ("fast", 90.0)]);
        let mut report = Report::default();
        let (rate, peers) = (Metric::new("rate", "1/s", Better::Higher), ["slow", "fast", "absent"]);
        report.against_all(&samples, &rate, &peers, rate.best(&samples, &peers), Aim::Times(1.5));
        let met: Vec<_> = report.rows.iter().map(|row| row.met).collect();
        assert_eq!(met, [None, Some(false), None]);
        assert_eq!(report.rows[0].ratio, Some(10.0));
        assert_eq!(report.rows[1].aim, Some(135.0));
    }

    #[test]
    fn lower_can_be_better() {
        let samples = samples(&[(OURS, 2.0), ("peer", 4.0)]);
        let mut report = Report::default();
        report.against(&samples, &Metric::new("rate", "s", Better::Lower), "peer", Aim::Times(0.4));
        assert_eq!((report.rows[0].ratio, report.rows[0].met), (Some(2.0), Some(false)));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.5), Some(2.0));
    }
}
