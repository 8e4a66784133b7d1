//! `fleet`: as many jobs at the same time as a big site ever has, on few and on many known nodes, with each database.
//!
//! The machines speak the agent's API over plain HTTP from the server's own side; they bring no hardware and take no
//! time. All of them are in the same phase at once: a storm, as after an outage.

mod machine;
mod postgres;
mod power_on;

pub(crate) use postgres::Postgres;

use crate::bench::Bench;
use crate::connection::Connection;
use crate::memory::seed;
use crate::ours::{self, HTTP_PORT, Site};
use crate::report::{Aim, Better, Metric, OURS, Report, Samples, median, percentile};
use crate::subject::{Port, Subject};
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_protocol::ids::Digest;
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::signing::sign;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use machine::{Machine, Times};
use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Names, known nodes, how many of them have a job, and how many watch the events.
const FLEETS: [(&str, u32, u32, usize); 3] =
    [("100", 100, 100, 0), ("10000", 10_000, 1_000, 0), ("watched", 10_000, 1_000, WATCHERS)];
/// Connections at once.
const CONNECTIONS: usize = 64;
/// Who watches the events of a fleet that is watched.
const WATCHERS: usize = 200;
/// The other database, and the same server with it.
const POSTGRES: &str = "postgresql";
/// What machines ask.
const ASKED: [&str; 7] = ["script", "ramdisk", "hello", "task", "report", "installed", "system"];
/// The list of all nodes, ms; and how much more a job may cost on many nodes.
const LIST_AIM_MS: f64 = 100.0;
const FLAT_AIM: f64 = 1.2;

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    for _ in 0..bench.repeats(3) {
        for subject in [OURS, POSTGRES] {
            for fleet in FLEETS {
                bench.ensure_wanted()?;
                storm(bench, &mut samples, subject, fleet)?;
            }
            let cost = |fleet: &str| samples.median(&format!("fleet_{fleet}_cpu_job"), subject);
            if let (Some(few), Some(many)) = (cost(FLEETS[0].0), cost(FLEETS[1].0)) {
                samples.add("fleet_cost_growth", subject, many / few);
            }
        }
    }
    for _ in 0..bench.repeats(3) {
        bench.ensure_wanted()?;
        power_on::power_on(bench, &mut samples)?;
    }
    tell(report, &samples);
    Ok(())
}

fn storm(
    bench: &Bench,
    samples: &mut Samples,
    subject: &str,
    (fleet, known, jobs, watchers): (&str, u32, u32, usize),
) -> Result<()> {
    let database = if subject == POSTGRES { Some(Postgres::start(bench, &[])?) } else { None };
    let images = bench.dir().join("images");
    let key = image_of(&images, b"nobody unpacks it")?;
    let mut more = String::from("[[profile]]\nname = \"good\"\nimage = \"tiny\"\n");
    if let Some(database) = &database {
        more += &format!("[database]\nurl = {:?}\n", database.url);
    }
    let site = Site { images: &images, image_key: Some(&key), more, ..Site::new(bench) };
    let server = ours::start(bench, &site, Port::Tcp(HTTP_PORT))?;
    // The port is bound before anything else is done.
    let token = wait_for("the server's token", secs(20), || {
        let token = fs::read_to_string(site.data.join("admin.token"));
        Ok(token.map_or_else(|error| Poll::pending(error.to_string()), Poll::Ready))
    })?;
    let token = token.trim();
    let nodes = seed::nodes(bench, token, known)?;
    ensure!(nodes == known, "{nodes} of {known} nodes could be declared");
    let name = |what: &str| format!("fleet_{fleet}_{what}");
    let used = || -> Result<f64> {
        let database = database.as_ref().map_or(Ok(0.0), |database| database.server.cpu_seconds())?;
        Ok(server.cpu_seconds()? + database)
    };
    bench.pair().in_server(|| {
        watch(token, watchers);
        samples.add(&name("list"), subject, list(token)?);
        let (cpu, began) = (used()?, Instant::now());
        let machines: Vec<_> = (0..jobs).map(|number| Mutex::new((number, Machine::new(number)))).collect();
        all(&machines, |number, _, connection| {
            let body = r#"{"kind":"deploy","profile":"good"}"#;
            connection.ask("POST", &format!("/v1/nodes/node-{number}/jobs"), token, body).map(|_| ())
        })?;
        samples.add(&name("orders"), subject, f64::from(jobs) / began.elapsed().as_secs_f64());
        all(&machines, |_, machine, connection| machine.start(connection))?;
        all(&machines, |_, machine, connection| machine.install(connection))?;
        all(&machines, |_, machine, connection| machine.report(connection))?;
        let seconds = began.elapsed().as_secs_f64();
        samples.add(&name("jobs"), subject, f64::from(jobs) * 60.0 / seconds);
        samples.add(&name("cpu_job"), subject, (used()? - cpu) * 1000.0 / f64::from(jobs));
        samples.add(&name("memory"), subject, server.rss_mib()?);
        let mut times = Times::new();
        for machine in machines {
            let (_, machine) = machine.into_inner().unwrap_or_else(PoisonError::into_inner);
            for (what, some) in machine.times {
                times.entry(what).or_default().extend(some);
            }
        }
        for (what, mut times) in times {
            times.sort_by(f64::total_cmp);
            for (share, part) in [("p50", 0.5), ("p99", 0.99)] {
                if let Some(value) = percentile(&times, part) {
                    samples.add(&name(&format!("{what}_{share}")), subject, value);
                }
            }
        }
        let deployed = deployed(token)?;
        ensure!(deployed == jobs as usize, "{deployed} of {jobs} machines are deployed");
        Ok(())
    })?;
    drop::<Subject>(server);
    Ok(())
}

fn connect() -> Result<Connection> {
    Connection::open(SocketAddrV4::new(SERVER, HTTP_PORT))
}

/// Lets every machine do something, so many at once.
fn all(
    machines: &[Mutex<(u32, Machine)>],
    work: impl Fn(u32, &mut Machine, &mut Connection) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        let mut connection = connect()?;
        while let Some(machine) = machines.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            let (number, machine) = &mut *machine;
            work(*number, machine, &mut connection)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

/// Watchers that hear of every event until the server ends.
fn watch(token: &str, watchers: usize) {
    for _ in 0..watchers {
        let token = token.to_owned();
        // What becomes of them shows in the server's time: they are its load, not what is measured.
        thread::spawn(move || connect().and_then(|connection| connection.watch("/v1/events", &token)));
    }
}

/// ms until the list of all nodes is there.
fn list(token: &str) -> Result<f64> {
    let mut connection = connect()?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let asked = Instant::now();
        connection.ask("GET", "/v1/nodes", token, "")?;
        times.push(asked.elapsed().as_secs_f64() * 1000.0);
    }
    median(&times).context("no list")
}

fn deployed(token: &str) -> Result<usize> {
    let nodes = connect()?.ask("GET", "/v1/nodes", token, "")?;
    let nodes: serde_json::Value = serde_json::from_slice(&nodes)?;
    let nodes = nodes.as_array().context("a list")?;
    Ok(nodes.iter().filter(|node| node["state"] == "deployed").count())
}

/// An image that nobody lays down; its key.
fn image_of(images: &Path, bytes: &[u8]) -> Result<String> {
    let dir = images.join("tiny");
    fs::remove_dir_all(&dir).ok();
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("tiny.tar"), bytes)?;
    let digest = Digest::of(bytes);
    let manifest = serde_json::json!({
        "schema": 1, "name": "tiny", "version": "1", "digest": digest, "size": bytes.len(), "unpacked_size": 17,
        "format": "tar", "compression": "none", "file": "tiny.tar", "min_disk": 1,
        "boot": {"kernel": "/vmlinuz", "initrd": "/initrd.img", "cmdline": "", "efi": [], "bios": null},
    });
    fs::write(dir.join("manifest.json"), manifest.to_string())?;
    sign(&dir)
}

fn tell(report: &mut Report, samples: &Samples) {
    use Better::{Higher, Lower};
    let mut row = |name: String, unit, better, aim| {
        report.against(samples, &Metric::new(name, unit, better), POSTGRES, aim);
    };
    for (fleet, ..) in FLEETS {
        let name = |what: &str| format!("fleet_{fleet}_{what}");
        row(name("orders"), "1/s", Higher, Aim::None);
        row(name("jobs"), "1/min", Higher, Aim::None);
        row(name("cpu_job"), "ms", Lower, Aim::None);
        row(name("memory"), "MiB", Lower, Aim::None);
        row(name("list"), "ms", Lower, Aim::Value(LIST_AIM_MS));
        for what in ASKED {
            row(name(&format!("{what}_p50")), "ms", Lower, Aim::None);
            row(name(&format!("{what}_p99")), "ms", Lower, Aim::None);
        }
    }
    row("fleet_cost_growth".into(), "times", Lower, Aim::Value(FLAT_AIM));
    for (what, unit, better, aim) in [
        ("dhcp_time", "s", Lower, Aim::None),
        ("dhcp_failed", "machines", Lower, Aim::Value(0.0)),
        ("dhcp_lost", "packets", Lower, Aim::None),
        ("tftp_time", "s", Lower, Aim::None),
        ("tftp_failed", "machines", Lower, Aim::Value(0.0)),
        ("scripts_time", "s", Lower, Aim::None),
        ("script_p99_beside_images", "ms", Lower, Aim::None),
        ("images_rate", "MB/s", Higher, Aim::None),
        ("written", "B", Lower, Aim::Value(0.0)),
        ("jobs_time", "s", Lower, Aim::None),
    ] {
        report.alone(samples, &Metric::new(format!("power_on_{what}"), unit, better), aim);
    }
}
