//! `tftp`: transfers per second, their cost, fairness and loss, beside tftpd-hpa, atftpd, dnsmasq.

pub(crate) mod client;
pub(crate) mod load;
mod peers;

use crate::bench::Bench;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use anyhow::{Context as _, Result};
use client::Request;
use kaltstart_tests::wait::secs;
use load::{Load, Outcome};
use peers::PEERS;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Data bytes of a block that fits an Ethernet frame.
const BLOCK_BYTES: usize = 1468;
/// The files have names that a boot server may serve.
const SMALL: (&str, u64) = ("undionly.kpxe", 1 << 20);
const LARGE: (&str, u64) = ("snponly.efi", 64 << 20);
/// From so many clients on fairness is told.
const MANY: u16 = 100;
/// A transfer without loss that takes longer is stuck.
const LIMIT: Duration = secs(60);
/// Clients under loss; each is one transfer of the median.
const LOSSY_CLIENTS: u16 = 10;
/// Longest transfer under loss: then it counts as that long, and as failed.
const LOSSY_LIMIT: Duration = secs(20);

/// A load without loss.
struct Point {
    file: (&'static str, u64),
    clients: u16,
    window: u16,
    /// How often it is run within one measurement, so that CPU time is more than a few ticks.
    repeats: usize,
    /// How often it is measured.
    n: usize,
}

impl Point {
    fn name(&self) -> String {
        let mib = self.file.1 >> 20;
        format!("tftp_{mib}mib_w{}_c{}", self.window, self.clients)
    }

    fn load(&self) -> Load {
        let request = Request { file: self.file.0, block_bytes: BLOCK_BYTES, window: self.window };
        Load { request, file_bytes: self.file.1, clients: self.clients, limit: LIMIT }
    }
}

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let root = bench.dir().join("tftp");
    write_files(&root)?;
    let mut samples = Samples::default();
    let points = points(bench.repeats(3));
    for point in &points {
        for _ in 0..point.n {
            for subject in subjects() {
                bench.ensure_wanted()?;
                measure(bench, &mut samples, &root, subject, point)?;
            }
        }
        tell(report, &samples, point);
    }
    for (percent, window) in [(1, 1), (1, 16), (5, 1), (5, 16)] {
        let name = format!("tftp_loss{percent}_w{window}");
        for _ in 0..bench.repeats(1) {
            // The others have no windows: nothing new would be seen in their twenty seconds.
            for subject in subjects().filter(|subject| window == 1 || [OURS, "atftpd"].contains(subject)) {
                bench.ensure_wanted()?;
                measure_lossy(bench, &mut samples, &root, subject, percent, window, &name)?;
            }
        }
        tell_lossy(report, &samples, &name, percent, window);
    }
    Ok(())
}

fn subjects() -> impl Iterator<Item = &'static str> {
    [OURS].into_iter().chain(PEERS)
}

fn points(n: usize) -> Vec<Point> {
    let mut points = Vec::new();
    for window in [1, 16] {
        for (clients, repeats) in [(1, 32), (10, 20), (100, 5), (500, 1)] {
            // Ten seconds each: half a gigabyte, one round trip per block.
            let n = if clients == 500 { n.min(2) } else { n };
            points.push(Point { file: SMALL, clients, window, repeats, n });
        }
        for clients in [1, 4] {
            points.push(Point { file: LARGE, clients, window, repeats: 1, n });
        }
    }
    points
}

fn write_files(root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    for (name, bytes) in [SMALL, LARGE] {
        let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        fs::write(root.join(name), data).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn measure(bench: &Bench, samples: &mut Samples, root: &Path, subject: &str, point: &Point) -> Result<()> {
    let server = peers::start(bench, subject, root)?;
    let (load, repeats) = (point.load(), point.repeats);
    // What a server still does after its start is not the transfers' cost.
    bench.pair().in_client(|| load::run(&Load { clients: 1, ..load.clone() }))?;
    let cpu = server.cpu_seconds()?;
    let started = Instant::now();
    let outcomes: Vec<Outcome> = bench.pair().in_client(|| {
        let mut all = Vec::new();
        for _ in 0..repeats {
            all.extend(load::run(&load)?);
        }
        Ok(all)
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = server.cpu_seconds()? - cpu;
    let failed = outcomes.iter().filter_map(|outcome| outcome.failed.as_ref());
    let failures = failed.clone().count();
    if let Some(why) = failed.into_iter().next() {
        eprintln!("  {subject}: {failures} of {} transfers failed, the first: {why}", outcomes.len());
    }
    let name = point.name();
    samples.add(&format!("{name}_failed"), subject, failures as f64);
    let megabytes = (outcomes.len() - failures) as f64 * point.file.1 as f64 / 1e6;
    if failures == 0 {
        // A rate with time-outs of failures in it would say nothing.
        samples.add(&format!("{name}_rate"), subject, megabytes / seconds);
        samples.add(&format!("{name}_cpu"), subject, cpu * 1000.0 / megabytes);
    }
    if point.clients >= MANY {
        let rounds = outcomes.chunks(point.clients.into());
        let jain = rounds.map(load::jain).fold(f64::INFINITY, f64::min);
        samples.add(&format!("{name}_jain"), subject, jain);
    }
    Ok(())
}

fn tell(report: &mut Report, samples: &Samples, point: &Point) {
    let name = point.name();
    let metric = |suffix, unit, better| Metric::new(format!("{name}_{suffix}"), unit, better);
    let wide = point.window > 1;
    let many = point.clients >= MANY;
    let (rate, cpu) = match (wide, many) {
        (true, true) => (Aim::Times(2.5), Aim::Times(1.0 / 3.0)),
        (true, false) => (Aim::None, Aim::None),
        (false, _) => (Aim::Times(1.0), Aim::None),
    };
    let rates = metric("rate", "MB/s", Better::Higher);
    let best = rates.best(samples, &PEERS);
    report.against_all(samples, &rates, &PEERS, best, rate);
    // "Its CPU" is that of the fastest.
    report.against_all(samples, &metric("cpu", "ms/MB", Better::Lower), &PEERS, best, cpu);
    for peer in PEERS {
        let failures = metric("failed", "transfers", Better::Lower);
        report.against(samples, &failures, peer, Aim::Value(0.0));
        if many {
            let jain = if point.clients == 500 { Aim::Value(0.95) } else { Aim::None };
            report.against(samples, &metric("jain", "Jain", Better::Higher), peer, jain);
        }
    }
}

fn measure_lossy(
    bench: &Bench,
    samples: &mut Samples,
    root: &Path,
    subject: &str,
    percent: u32,
    window: u16,
    name: &str,
) -> Result<()> {
    let server = peers::start(bench, subject, root)?;
    let request = Request { file: SMALL.0, block_bytes: BLOCK_BYTES, window };
    let load = Load { request, file_bytes: SMALL.1, clients: LOSSY_CLIENTS, limit: LOSSY_LIMIT };
    bench.pair().lose(percent)?;
    let outcomes = bench.pair().in_client(|| load::run(&load));
    bench.pair().lose(0)?;
    drop(server);
    for outcome in outcomes? {
        samples.add(&format!("{name}_time"), subject, outcome.seconds);
        samples.add(&format!("{name}_failed"), subject, f64::from(u8::from(outcome.failed.is_some())));
    }
    Ok(())
}

fn tell_lossy(report: &mut Report, samples: &Samples, name: &str, percent: u32, window: u16) {
    let metric = Metric::new(format!("{name}_time"), "s", Better::Lower);
    for peer in PEERS {
        let aim = match (percent, window, peer) {
            (1, 1, "tftpd-hpa") => Aim::Times(0.1),
            _ => Aim::None,
        };
        report.against(samples, &metric, peer, aim);
    }
}
