//! Durable changes a second, beside what the disk and others give in the same run.

use super::{POSTGRES, empty, load};
use crate::bench::Bench;
use crate::fleet::Postgres;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::process::{run as run_program, run_with};
use kaltstart_tests::wait::secs;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Who waits for his own change at the same time.
const CALLERS: [u32; 3] = [1, 16, 256];
/// What is changed: an agent's report is a node, its job and an event; a lease is one row.
const CHANGES: [&str; 2] = ["reports", "leases"];
/// How long each measurement takes.
const SECONDS: u64 = 5;
/// Changes that the peer without callers makes.
const STATEMENTS: u32 = 2_000;
/// What a disk writes at the least for a commit.
const PAGE: usize = 4_096;
/// The subjects beside ours.
const FLOOR: &str = "fdatasync";
const SQLITE3: &str = "sqlite3";
const PGBENCH: &str = "pgbench";
/// The table of the peers, and what they do: the same as ours do with a lease.
const TABLE: &str = "CREATE TABLE leases (address BIGINT PRIMARY KEY, client BYTEA, mac BYTEA, state BIGINT, \
                     since BIGINT, expires BIGINT)";
const INSERT: &str = "INSERT INTO leases VALUES (";
const UPDATE: &str = ", '0123456789abcdef0123456', '012345', 1, 1, 2) ON CONFLICT (address) DO UPDATE \
                      SET since = leases.since + 1, expires = leases.expires + 1;\n";

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    for _ in 0..bench.repeats(3) {
        let database = Postgres::start(bench, &["-c", "max_connections=300"])?;
        for callers in CALLERS {
            for change in CHANGES {
                bench.ensure_wanted()?;
                let dir = empty(bench)?;
                let what = [change, &callers.to_string(), &SECONDS.to_string()];
                for (name, place) in [
                    (SQLITE3, [OsStr::new("--dir"), dir.as_os_str()]),
                    (POSTGRES, [OsStr::new("--url"), OsStr::new(&database.url)]),
                ] {
                    let figures = load(bench, place, &what, secs(60))?;
                    let (_, rate) = figures.first().context("a rate")?;
                    samples.add(&metric(name, change, callers), OURS, *rate);
                    database.empty()?;
                }
            }
            let name = metric(POSTGRES, "leases", callers);
            if let Some(rate) = pgbench(bench, &database, callers)? {
                samples.add(&name, PGBENCH, rate);
            }
        }
        for change in CHANGES {
            samples.add(&metric(SQLITE3, change, 1), FLOOR, floor(&empty(bench)?)?);
        }
        samples.add(&metric(SQLITE3, "leases", 1), SQLITE3, sqlite3(bench, &empty(bench)?)?);
    }
    for database in [SQLITE3, POSTGRES] {
        let peer = if database == SQLITE3 { SQLITE3 } else { PGBENCH };
        for (change, callers) in CHANGES.iter().flat_map(|change| CALLERS.map(|callers| (change, callers))) {
            let metric = Metric::new(metric(database, change, callers), "1/s", Better::Higher).floor(FLOOR);
            report.against(&samples, &metric, peer, Aim::None);
        }
    }
    Ok(())
}

fn metric(database: &str, change: &str, callers: u32) -> String {
    let database = if database == SQLITE3 { "sqlite" } else { database };
    format!("store_{database}_{change}_{callers}")
}

/// How often a second this disk makes a page durable that is added to a file.
fn floor(dir: &Path) -> Result<f64> {
    let mut file = File::create(dir.join("floor"))?;
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < secs(SECONDS) {
        file.write_all(&[1; PAGE])?;
        file.sync_data()?;
        done += 1;
    }
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}

/// SQLite's own shell, which commits one statement after another.
fn sqlite3(bench: &Bench, dir: &Path) -> Result<f64> {
    let mut script = format!("PRAGMA journal_mode = WAL;\nPRAGMA synchronous = FULL;\n{TABLE};\n");
    for n in 0..STATEMENTS {
        write!(script, "{INSERT}{}{UPDATE}", n % 16)?;
    }
    let file = dir.join("script");
    fs::write(&file, script)?;
    let mut shell = bench.peer("usr/bin/sqlite3");
    let began = Instant::now();
    let output = run_with(shell.arg(dir.join("peer.db")), Stdio::from(File::open(&file)?), secs(120))?;
    ensure!(output.status.success(), "sqlite3: {}", String::from_utf8_lossy(&output.stderr));
    Ok(f64::from(STATEMENTS) / began.elapsed().as_secs_f64())
}

/// PostgreSQL's own load program, with a connection for each caller; none where it has not connected all in time, as on
/// a busy machine.
fn pgbench(bench: &Bench, database: &Postgres, callers: u32) -> Result<Option<f64>> {
    database.run(&format!("DROP TABLE IF EXISTS leases; {TABLE}"))?;
    let script = bench.dir().join("pgbench.sql");
    fs::write(&script, format!("\\set address :client_id * 16 + random(0, 15)\n{INSERT}:address{UPDATE}"))?;
    let mut command = Command::new(database.program("pgbench"));
    command
        .arg("-h")
        .arg(database.socket())
        .args(["-U", "postgres", "-n", "-M", "prepared", "-j", "2", "-T"]);
    command
        .arg(SECONDS.to_string())
        .arg("-c")
        .arg(callers.to_string())
        .arg("-f")
        .arg(&script)
        .arg("postgres");
    let text = run_program(&mut command, secs(60))?;
    database.run("DROP TABLE leases")?;
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    Ok(rate.map(str::parse).transpose()?)
}
