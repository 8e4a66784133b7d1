//! A start of the agent as PID 1, from mounts to restart.

use std::path::Path;
use std::sync::Arc;

use kaltstart_protocol::agent_api::{Hello, Mode};
use kaltstart_protocol::facts::Facts;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::secret::Secret;

use crate::aside::Aside;
use crate::cmdline::{self, Settings};
use crate::devices::Devices;
use crate::link::{CallError, Link};
use crate::neighbours::Listener;
use crate::screen::{self, Doing};
use crate::sys::kernel::{random_now, uptime_ms};
#[cfg(feature = "install")]
use crate::work::JobTask;
use crate::work::{self, End, Jobs};
use crate::{clock, http, inventory, log, log_sender, net, pid1};

/// Version told to the server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the machine and never returns.
pub fn run() -> ! {
    pid1::show_panics();
    // When PID 1 ends, the kernel panics and the reason is gone from the screen.
    let _ = std::panic::catch_unwind(|| {
        begin();
    });
    log::console("\n==== the agent stops here; restart the machine ====\n");
    screen::doing(Doing::Stuck(String::new()));
    pid1::hold()
}

fn begin() -> ! {
    let started = uptime_ms();
    log::start();
    pid1::mount_kernel_file_systems();
    screen::start();
    std::thread::spawn(log::follow_kernel);
    tracing::info!("Kaltstart agent {VERSION}");
    match read("/proc/cmdline").as_deref().map(cmdline::parse) {
        Ok(Ok(settings)) => start(&settings, started),
        Ok(Err(error)) => stay(&error.to_string()),
        Err(error) => stay(&format!("/proc/cmdline cannot be read: {error}")),
    }
}

/// Says why the agent cannot begin, and stays.
fn stay(why: &str) -> ! {
    log::console(&format!(
        "\n==== the agent cannot begin ====\n{why}\nNo disk was touched. Restart the machine when mended.\n"
    ));
    screen::doing(Doing::Stuck(why.into()));
    pid1::hold()
}

fn start(settings: &Settings, started: u64) -> ! {
    let verb = match settings.mode {
        Mode::Discover => "looks only, writes nothing",
        Mode::Install => "may carry out a granted job",
        Mode::Rescue => "stays for a person or a burn-in, disks read-only",
    };
    tracing::info!("server {} of {}, this start {verb}", settings.servers.join(", "), settings.authority);
    screen::started(&settings.servers[0], settings.mode == Mode::Discover);
    if settings.mode != Mode::Discover && !cfg!(feature = "install") {
        // The job was granted between script and ramdisk, or the ramdisks are mixed up.
        let pause = work::unknown_pause();
        log::console(&format!(
            "\n==== this agent only looks, and was told to carry out a job ====\n\
             Compare boot.ramdisk and boot.discovery of the server. Restarting in {} s.\n",
            pause.as_secs()
        ));
        screen::doing(Doing::Restarting("this agent only looks, and was told to carry out a job".into()));
        std::thread::sleep(pause);
        pid1::restart("the next start is given the ramdisk for jobs");
    }
    clock::begin(settings.time);
    let devices = Devices::watch(&read("/proc/sys/kernel/osrelease").unwrap_or_default(), settings.mode);
    let mut listener = Listener::start();
    let aside = Aside::start();
    // Disks may go on appearing while the network comes up.
    let network = net::bring_up(settings.boot_mac);
    screen::addressed(&network.interface, network.lease.address.to_string());
    let http = http::pinned(settings.authority, settings.time)
        .unwrap_or_else(|error| stay(&format!("there is no TLS: {error}")));
    let link = Arc::new(Link::new(&settings.servers, http, session(&settings.token)));
    let mut facts = facts(settings, &devices);
    aside.add_to(&mut facts);
    listener.add_to(&mut facts.nics);
    let jobs = jobs(&link, settings, devices, &facts);
    if let Some(end) = greet(&link, settings, facts, started) {
        finish(end);
    }
    let log_link = link.clone();
    std::thread::spawn(move || log_sender::run(&log_link));
    let told = link.clone();
    std::thread::spawn(move || listener.tell(&told));
    finish(work::work(&link, jobs.as_deref(), std::thread::sleep))
}

/// Carries out jobs, if this start may do more than look.
#[cfg(feature = "install")]
fn jobs(
    link: &Arc<Link>,
    settings: &Settings,
    devices: Devices,
    facts: &Facts,
) -> Option<Box<Jobs<'static>>> {
    let link = link.clone();
    match settings.mode {
        Mode::Discover => None,
        Mode::Install => {
            let installer = crate::installer::Real::new(settings, devices, facts);
            Some(Box::new(move |task| crate::job::carry_out(&link, task, &installer)))
        }
        Mode::Rescue => Some(Box::new(move |task| match task {
            JobTask::Rescue(task) => crate::rescue::carry_out(&link, task, &devices),
            JobTask::BurnIn(task) => crate::job::burn_in(&link, task, &devices.settled_disks()),
            JobTask::Install(_) | JobTask::Erase(_) => {
                tracing::warn!("{} refused: this start is for a rescue or a burn-in alone", task.start().0);
                None
            }
        })),
    }
}

/// This program only looks.
#[cfg(not(feature = "install"))]
fn jobs(_: &Arc<Link>, _: &Settings, _: Devices, _: &Facts) -> Option<Box<Jobs<'static>>> {
    None
}

/// What this machine is, once no more devices appear.
fn facts(settings: &Settings, devices: &Devices) -> Facts {
    #[cfg_attr(not(feature = "install"), allow(unused_mut))]
    let mut disks = devices.settled_disks();
    #[cfg(feature = "install")]
    if settings.mode == Mode::Install && crate::erase::recover(Path::new("/dev"), &disks) {
        // What was locked can be read now.
        disks = devices.settled_disks();
    }
    let mut facts = inventory::facts(Path::new("/"), settings.boot_mac);
    facts.disks = disks;
    screen::serial(&facts.system.serial);
    inventory::ask_drivers(&mut facts.nics);
    inventory::ask_disks(&mut facts.disks);
    // Readable when there is a job, whose installation writes it anew.
    #[cfg(feature = "install")]
    if let Some(finding) = crate::boot_order::look(Path::new(pid1::EFIVARS)).finding() {
        log::finding(&finding);
    }
    for disk in &facts.disks {
        let contents = disk.holds.as_ref().map_or_else(|| "cannot be read".into(), ToString::to_string);
        let gib = disk.size >> 30;
        tracing::info!(
            "disk {} {gib} GiB {} {} {}: {contents}",
            disk.name,
            disk.transport,
            disk.model,
            disk.identity()
        );
    }
    facts
}

/// Says hello until the server answers; gives an end when it does not want this agent.
fn greet(link: &Link, settings: &Settings, facts: Facts, started: u64) -> Option<End> {
    let mut hello = Hello {
        token: settings.token.clone(),
        session: link.session().clone(),
        mode: settings.mode,
        boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        agent_version: VERSION.into(),
        started_uptime_ms: started,
        uptime_ms: 0,
        facts,
    };
    loop {
        let answer = link.insist("hello", |link| {
            hello.uptime_ms = uptime_ms();
            link.hello(&hello)
        });
        match answer {
            Ok(welcome) => {
                tracing::info!("the server knows this machine as {} ({})", welcome.name, welcome.node);
                screen::welcomed(&welcome);
                return None;
            }
            Err(CallError::Unauthorized(text)) => return Some(End::Unknown(text)),
            Err(error) => {
                log::finding(&Finding::new(Code::ServerUnreachable, format!("{}: {error}", link.server())));
                std::thread::sleep(work::UNKNOWN_PAUSE);
            }
        }
    }
}

fn finish(end: End) -> ! {
    match end {
        End::Restart(reason) => pid1::restart(&reason),
        End::Kexec => pid1::start_loaded_kernel(),
        End::Unknown(text) => {
            let pause = work::unknown_pause();
            log::console(&format!(
                "\n==== the server does not know this start of the machine (any more) ====\n{text}\n\
                 Its token may be used up, or a later start took over. Restarting in {} s.\n",
                pause.as_secs()
            ));
            screen::doing(Doing::Restarting(text));
            std::thread::sleep(pause);
            pid1::restart("the server gives each start a token of its own")
        }
    }
}

/// The secret of this session. The kernel's pool may not be ready so soon after power-on, so the
/// boot token, which nobody else should know, is mixed in.
fn session(token: &Secret) -> Secret {
    let mut random = [0; Secret::RANDOM_BYTES];
    random_now(&mut random);
    let mixed = [token.expose().as_bytes(), &random, &uptime_ms().to_be_bytes()].concat();
    Secret::from_random("kss_", &Digest::of(&mixed).0)
}

fn read(path: &str) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}
