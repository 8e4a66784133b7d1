//! Figures of the boot services and of the agent, each beside its peers in the same run.
//!
//! `cargo xtask bench boot`, `bench agent` and `bench fleet` build everything and run this. Servers run in one network namespace
//! and clients in another, joined by a veth pair. The subjects of a measurement take turns, and a
//! figure is the median of its rounds. Exit status: 0 = measured, whatever the figures are; 1 =
//! not, 64 = wrong arguments, 130 = interrupted.

mod bench;
mod cgroup;
mod connection;
mod dhcp;
mod fleet;
mod http;
mod lay_down;
mod memory;
mod options;
mod ours;
mod report;
mod store;
mod subject;
mod tftp;

use anyhow::{Context as _, Result};
use bench::Bench;
use kaltstart_tests::wait::{interrupted, stop_on_signals};
use options::{Options, Part, USAGE};
use report::Report;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, file] = args.as_slice()
        && flag == "--respond"
    {
        // A floor, started by this program itself.
        return match dhcp::responder::run(Path::new(file)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    let options = match Options::parse(&args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error:#}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    if options.check {
        return ExitCode::SUCCESS;
    }
    match stop_on_signals().and_then(|()| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupted() => {
            eprintln!("interrupted; everything is cleaned up");
            ExitCode::from(130)
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn measure(options: &Options) -> Result<()> {
    let mut report = Report::default();
    println!("load average before: {}", load_average()?);
    let measured = options.parts.iter().try_for_each(|part| measure_part(*part, options, &mut report));
    println!("load average after: {}", load_average()?);
    // Also what was measured before a failure.
    report.print();
    measured?;
    options.json.as_ref().map_or(Ok(()), |path| report.write(path))
}

fn measure_part(part: Part, options: &Options, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    // A laboratory of its own: what a part leaves behind hinders no other.
    let bench = Bench::new(options)?;
    let measured = match part {
        Part::Dhcp => dhcp::run(&bench, report),
        Part::Tftp => tftp::run(&bench, report),
        Part::Http => http::run(&bench, report),
        Part::Memory => memory::run(&bench, report),
        Part::Machines => fleet::run(&bench, report),
        Part::Commits => store::commits(&bench, report),
        Part::Year => store::year(&bench, report),
        Part::LayDown => lay_down::run(&bench, &options.lay_down, report),
    };
    eprintln!("{part:?}: {} s", started.elapsed().as_secs());
    measured.with_context(|| format!("part {part:?}"))
}

/// How busy the machine is: figures of a machine that does something else are worth little.
fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
