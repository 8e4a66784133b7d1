//! The demonstration: a blank machine is powered on, installed, and proves that it is.
//!
//! `cargo xtask demo` builds everything and runs this. Exit status: 0 = deployed and proven,
//! 1 = not, 64 = wrong arguments, 130 = interrupted.

mod options;
mod proof;
mod summary;

use anyhow::{Context as _, Result, bail};
use kaltstart_tests::api::Job;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::console::Mark;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::process::Process;
use kaltstart_tests::server::Server;
use kaltstart_tests::ssh;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, interrupted, secs, stop_on_signals, wait_for};
use options::Options;
use std::process::ExitCode;
use std::time::Duration;

/// The machine's name.
const NODE: &str = "demo-1";
/// The machine's address.
const ADDRESS: &str = "10.77.0.50";
/// Size of the machine's disk; sparse.
const DISK_MIB: u64 = 4096;
/// The live display ends by itself with the job; this is for the rest of its drawing.
const DISPLAY_LIMIT: Duration = secs(5);
/// `--keep` ends with Ctrl-C; a lab that was forgotten ends after a day.
const KEEP_LIMIT: Duration = secs(24 * 3600);
/// The last words of a kernel, as of one that has too little memory.
const PANIC: &str = "end Kernel panic";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{}", options::USAGE);
        // Not success: `cargo xtask demo` must not go on to build.
        return ExitCode::from(64);
    }
    let options = match Options::parse(&args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error:#}\n{}", options::USAGE);
            return ExitCode::from(64);
        }
    };
    if options.check {
        return ExitCode::SUCCESS;
    }
    let result = stop_on_signals().and_then(|()| story("demo", |lab| demo(lab, &options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupted() => {
            eprintln!("interrupted; everything is cleaned up");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nFAILED: {}", error.root_cause());
            eprintln!("  {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(lab: &Lab, options: &Options) -> Result<()> {
    let artefacts = kaltstart_tests::artefacts::Artefacts::at(&options.artefacts)?;
    let key = ssh::key(lab)?;
    let file = lab.dir().join("disk.raw");
    disk::blank(&file, DISK_MIB)?;
    let machine = GuestConfig::new(NODE, options.firmware.clone(), 1)
        .memory(options.memory_mib)
        .disk(&file, "DEMO-0001");

    let mut config = ServerConfig::new(&artefacts, &options.ramdisk, &[&options.image]);
    config.profiles[0].authorized_keys = vec![key];
    if options.firmware == Firmware::UefiSecure {
        config.uefi_loader = "signed";
    }
    let config = config.node(NODE, &machine.mac, Some(ADDRESS));
    eprintln!(
        "A blank machine ({}, {} MiB RAM, {DISK_MIB} MiB disk) gets {} in the namespace {}.",
        options.firmware_name(),
        options.memory_mib,
        options.image,
        lab.name()
    );
    let server = Server::start(lab, &artefacts, &config)?;
    let mut guest = Guest::new(lab, machine)?;

    let ordered = server.deploy(NODE, &options.image)?;
    let mut display = Process::start_attached("ks watch", &mut server.ks_command(&["watch", &ordered.id]))?;
    guest.power_on()?;
    server.power_observed(NODE)?;
    let outcome = wait_for("the end of the job", options.limit, || {
        guest.ensure_running()?;
        if let Some(last) = guest.console().find(PANIC, Mark::default()) {
            bail!("the machine stands still: {last}");
        }
        let job = server.job(&ordered.id)?;
        Ok(if job.ended() { Poll::Ready(job) } else { Poll::pending(job.to_string()) })
    });
    display.wait(DISPLAY_LIMIT).ok();
    drop(display);

    // Figures are written for failures too: they show how far it came.
    let job = server.job(&ordered.id).ok();
    let proven = outcome.and_then(Job::succeeded).and_then(|_| proof::prove(lab, &server, options, &file));
    if let (Some(path), Some(job)) = (&options.json, &job) {
        summary::write_json(path, options, job, proven.as_ref(), guest.cpu_seconds().ok())?;
    }
    let proven = proven?;
    let job = job.context("the job cannot be read any more")?;
    summary::print(&job, &proven, guest.cpu_seconds()?);
    if options.keep {
        keep(lab, &server, &guest)?;
    }
    Ok(())
}

/// Says how to reach everything and waits for Ctrl-C.
fn keep(lab: &Lab, server: &Server<'_>, guest: &Guest<'_>) -> Result<()> {
    let (name, dir) = (lab.name(), lab.dir().display());
    println!("\nKept up until Ctrl-C. From another terminal, as root:");
    println!("  log in:   ip netns exec {name} {}", ssh::words(lab, ADDRESS).join(" "));
    println!(
        "  client:   KS_SERVER=https://10.77.0.1:8443 KS_TOKEN_FILE={} ip netns exec {name} {dir}/ks node list",
        server.token_file().display()
    );
    println!("  console:  tail -f {dir}/{}.serial.log", guest.config().name);
    println!("  server:   tail -f {dir}/server.log");
    let ended = wait_for::<()>("Ctrl-C", KEEP_LIMIT, || Ok(Poll::pending("kept up")));
    // Ctrl-C is the way this is meant to end.
    if interrupted() { Ok(()) } else { ended }
}
