//! `http`: throughput and cost of large files, plain and over TLS, and latency of small ones,
//! beside nginx with sendfile.

mod client;
mod peers;
mod tls;

use crate::bench::Bench;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples, percentile};
use crate::subject::{Port, Subject};
use anyhow::{Result, ensure};
use client::{Load, Outcome};
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::wait::secs;
use peers::{Files, LARGE_BYTES, NGINX, Place, SMALL_BYTES};
use std::net::SocketAddrV4;
use tls::Fetched;

/// Connections at once.
const CONNECTIONS: [usize; 3] = [1, 16, 256];
/// Seconds of each load.
const SECONDS: u64 = 3;
/// Bytes of a range: what a loader that reads block-wise asks for.
const RANGE_BYTES: u64 = 64 << 10;

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let files = Files::write(bench)?;
    let mut samples = Samples::default();
    for connections in CONNECTIONS {
        for _ in 0..bench.repeats(3) {
            for subject in [OURS, NGINX] {
                bench.ensure_wanted()?;
                let (server, place) = (files.start(bench, subject)?, files.place(subject));
                plain(bench, &mut samples, &server, subject, &place, connections)?;
                over_tls(bench, &mut samples, &server, subject, &place, connections)?;
            }
        }
    }
    for _ in 0..bench.repeats(3) {
        for subject in [OURS, NGINX] {
            bench.ensure_wanted()?;
            let (server, place) = (files.start(bench, subject)?, files.place(subject));
            small(bench, &mut samples, &server, subject, &place)?;
        }
    }
    tell(report, &samples);
    Ok(())
}

fn plain(
    bench: &Bench,
    samples: &mut Samples,
    server: &Subject,
    subject: &str,
    place: &Place,
    connections: usize,
) -> Result<()> {
    let load = Load {
        server: SocketAddrV4::new(SERVER, place.plain),
        path: place.large.clone(),
        range: None,
        file_bytes: LARGE_BYTES,
        connections,
        duration: secs(SECONDS),
    };
    let (outcome, cpu) = measure(bench, server, &load)?;
    let gigabytes = outcome.bytes as f64 / 1e9;
    let name = |what: &str| format!("http_plain_c{connections}_{what}");
    samples.add(&name("rate"), subject, gigabytes / outcome.seconds);
    samples.add(&name("cpu"), subject, cpu / gigabytes);
    samples.add(&name("rss"), subject, server.rss_mib()?);
    samples.add(&name("failed"), subject, outcome.failed as f64);
    Ok(())
}

/// Runs a load; what came of it, and the server's CPU seconds.
fn measure(bench: &Bench, server: &Subject, load: &Load) -> Result<(Outcome, f64)> {
    let cpu = server.cpu_seconds()?;
    let outcome = bench.pair().in_client(|| client::run(load))?;
    let cpu = server.cpu_seconds()? - cpu;
    if let Some(cause) = &outcome.cause {
        eprintln!("  {} of {} connections failed, one: {cause}", outcome.failed, load.connections);
    }
    ensure!(outcome.failed < load.connections, "every connection failed");
    Ok((outcome, cpu))
}

fn over_tls(
    bench: &Bench,
    samples: &mut Samples,
    server: &Subject,
    subject: &str,
    place: &Place,
    connections: usize,
) -> Result<()> {
    ensure!(server.is_bound(Port::Tcp(place.tls)), "{subject} has no TLS");
    let cpu = server.cpu_seconds()?;
    let Fetched { bytes, seconds, failed } =
        tls::fetch(bench, place.tls, &place.large, connections, SECONDS)?;
    let cpu = server.cpu_seconds()? - cpu;
    ensure!(bytes > 0.0, "every connection failed");
    let name = |what: &str| format!("http_tls_c{connections}_{what}");
    samples.add(&name("rate"), subject, bytes / 1e9 / seconds);
    samples.add(&name("cpu"), subject, cpu / (bytes / 1e9));
    samples.add(&name("failed"), subject, failed as f64);
    samples.add(&name("rss"), subject, server.rss_mib()?);
    Ok(())
}

/// Small answers: how long one takes, and how many there are at most.
fn small(bench: &Bench, samples: &mut Samples, server: &Subject, subject: &str, place: &Place) -> Result<()> {
    let load = Load {
        server: SocketAddrV4::new(SERVER, place.plain),
        path: place.small.clone(),
        range: None,
        file_bytes: SMALL_BYTES,
        connections: 1,
        duration: secs(SECONDS),
    };
    let (outcome, _) = measure(bench, server, &load)?;
    for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
        if let Some(value) = percentile(&outcome.answer_ms, share) {
            samples.add(&format!("http_4kib_{what}"), subject, value);
        }
    }
    let (large, file_bytes) = (place.large.clone(), LARGE_BYTES);
    let ranges = Load { path: large, range: Some(RANGE_BYTES), file_bytes, ..load.clone() };
    for (name, load) in [("http_4kib_c16", load), ("http_range64kib_c16", ranges)] {
        let (outcome, cpu) = measure(bench, server, &Load { connections: 16, ..load })?;
        let answers = outcome.answer_ms.len() as f64;
        samples.add(&format!("{name}_rate"), subject, answers / outcome.seconds);
        samples.add(&format!("{name}_cpu"), subject, cpu * 1000.0 / answers);
    }
    Ok(())
}

fn tell(report: &mut Report, samples: &Samples) {
    use Better::{Higher, Lower};
    let mut row = |name: String, unit, better, aim| {
        report.against(samples, &Metric::new(name, unit, better), NGINX, aim);
    };
    for door in ["plain", "tls"] {
        for connections in CONNECTIONS {
            let name = |what: &str| format!("http_{door}_c{connections}_{what}");
            row(name("rate"), "GB/s", Higher, Aim::Times(1.0));
            row(name("cpu"), "s/GB", Lower, Aim::Times(1.0));
            row(name("rss"), "MiB", Lower, Aim::None);
            row(name("failed"), "conns", Lower, Aim::Value(0.0));
        }
    }
    row("http_4kib_p50".into(), "ms", Lower, Aim::None);
    row("http_4kib_p99".into(), "ms", Lower, Aim::None);
    for name in ["http_4kib_c16", "http_range64kib_c16"] {
        row(format!("{name}_rate"), "1/s", Higher, Aim::None);
        row(format!("{name}_cpu"), "s/1000", Lower, Aim::None);
    }
}
