//! `memory`: what the server holds at rest and per lease, and how long it takes to start with a
//! hundred thousand leases and nodes.

pub(crate) mod seed;

use crate::bench::Bench;
use crate::dhcp::machines;
use crate::dhcp::peers::{self, KEA, Reach};
use crate::ours::{self, HTTP_PORT, Site};
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use crate::subject::Port;
use anyhow::{Context as _, Result, bail};
use kaltstart_tests::http::{self, Request};
use kaltstart_tests::packets::DHCP_SERVER_PORT;
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::wait::secs;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// Leases of the measured growth.
const SOME: u32 = 10_000;
/// Leases, and nodes, of the measured start.
const MANY: u32 = 100_000;
/// A start that takes longer has failed.
const START_LIMIT: Duration = secs(60);
/// Pause between two questions to a server that starts.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// A network with room for many: the server's own lies at its end.
const WIDE: (&str, Ipv4Addr, Ipv4Addr) =
    ("10.96.0.0/14", Ipv4Addr::new(10, 96, 1, 0), Ipv4Addr::new(10, 98, 255, 255));

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    bench.pair().unaddress_client()?;
    for _ in 0..bench.repeats(3) {
        for subject in [OURS, KEA] {
            bench.ensure_wanted()?;
            growth(bench, &mut samples, subject)?;
        }
    }
    starts(bench, &mut samples)?;
    tell(report, &samples);
    Ok(())
}

/// Memory at rest, and what leases add.
fn growth(bench: &Bench, samples: &mut Samples, subject: &str) -> Result<()> {
    let server = peers::start(bench, subject, Reach::Broadcast)?;
    let rest = server.rss_mib()?;
    samples.add("memory_rest", subject, rest);
    let leases = seed::leases(bench, 1, SOME)?;
    if leases < SOME {
        bail!("{subject} lent {leases} of {SOME} addresses");
    }
    samples.add("memory_10000_leases", subject, server.rss_mib()? - rest);
    Ok(())
}

/// Fills a server, then starts it again and again.
fn starts(bench: &Bench, samples: &mut Samples) -> Result<()> {
    let site = Site { subnet: WIDE, ..Site::new(bench) };
    start_up(bench, samples, &site, "empty")?;
    {
        let _server = ours::start(bench, &site, Port::Udp(DHCP_SERVER_PORT))?;
        let token = fs::read_to_string(site.data.join("admin.token")).context("the server's token")?;
        let filling = Instant::now();
        let nodes = seed::nodes(bench, token.trim(), MANY)?;
        samples.add("startup_nodes", OURS, nodes.into());
        let rate = f64::from(nodes) / filling.elapsed().as_secs_f64();
        samples.add("declare_rate", OURS, rate);
        samples.add("startup_leases", OURS, seed::leases(bench, 1, MANY)?.into());
    }
    for _ in 0..bench.repeats(3) {
        bench.ensure_wanted()?;
        start_up(bench, samples, &site, "100000")?;
    }
    Ok(())
}

/// Starts the server; the seconds until it answers at its doors.
fn start_up(bench: &Bench, samples: &mut Samples, site: &Site<'_>, name: &str) -> Result<()> {
    let started = Instant::now();
    let server = ours::spawn(bench, site)?;
    let (http, dhcp) = thread::scope(|scope| -> Result<_> {
        let http = scope.spawn(|| bench.pair().in_server(|| http_answers(started)));
        let dhcp = bench.pair().in_client(|| machines::first_answer(started, START_LIMIT, ASK_EVERY))?;
        let Ok(http) = http.join() else { bail!("a thread panicked") };
        Ok((http?, dhcp))
    })?;
    samples.add(&format!("startup_{name}_http"), OURS, http);
    samples.add(&format!("startup_{name}_dhcp"), OURS, dhcp);
    samples.add(&format!("startup_{name}_memory"), OURS, server.rss_mib()?);
    Ok(())
}

fn http_answers(started: Instant) -> Result<f64> {
    let request = Request { method: "GET", path: "/healthz", ..Request::default() };
    while started.elapsed() < START_LIMIT {
        let answer = http::send(SocketAddr::from((SERVER, HTTP_PORT)), &request, START_LIMIT);
        if answer.is_ok_and(|answer| answer.status == 200) {
            return Ok(started.elapsed().as_secs_f64());
        }
        thread::sleep(ASK_EVERY);
    }
    bail!("no answer over HTTP within {} s", START_LIMIT.as_secs())
}

fn tell(report: &mut Report, samples: &Samples) {
    use Better::{Higher, Lower};
    for name in ["memory_rest", "memory_10000_leases"] {
        report.against(samples, &Metric::new(name, "MiB", Lower), KEA, Aim::None);
    }
    let second = Aim::Value(1.0);
    for (name, unit, better, aim) in [
        ("startup_empty_http", "s", Lower, Aim::None),
        ("startup_empty_dhcp", "s", Lower, Aim::None),
        ("startup_nodes", "nodes", Higher, Aim::Value(MANY.into())),
        ("startup_leases", "leases", Higher, Aim::Value(MANY.into())),
        ("startup_100000_http", "s", Lower, second),
        ("startup_100000_dhcp", "s", Lower, second),
        ("startup_100000_memory", "MiB", Lower, Aim::None),
        ("declare_rate", "1/s", Higher, Aim::None),
    ] {
        report.alone(samples, &Metric::new(name, unit, better), aim);
    }
}
