//! A start of the agent: the product's own library, around a simulated disk.

use crate::disk::{Disk, ROOT_PARTITION};
use crate::wire::{Paced, Wire};
use crate::{KERNEL, Machine, Next, facts, stop};
use kaltstart_agent::cmdline::{self, Settings};
use kaltstart_agent::disk::gpt;
use kaltstart_agent::gate::{Gate, Permit};
use kaltstart_agent::http_source::HttpSource;
use kaltstart_agent::image::fetch::{FetchError, ImageSource, Part, Retry};
use kaltstart_agent::image::{self, Destination, Source};
use kaltstart_agent::install::{Observer as _, Stop};
use kaltstart_agent::job::{self, Installer, NotDone};
use kaltstart_agent::link::{CallError, Link};
use kaltstart_agent::reporter::Reporter;
use kaltstart_agent::run::VERSION;
use kaltstart_agent::sys::kernel::{random_now, uptime_ms, wall_seconds};
use kaltstart_agent::work::{self, End};
use kaltstart_agent::{http, log, log_sender};
use kaltstart_protocol::agent_api::{EraseTask, Erased, Hello, InstallTask, Installed, ReportState};
use kaltstart_protocol::facts::{self as hardware, Firmware};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::layout::fit::fit;
use kaltstart_protocol::node_api::REPORT_CONFIG;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::select::describe;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::HostIdentity;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

/// How long a disk of metal is cleared and formatted, and files are written.
const FORMAT: Duration = Duration::from_millis(800);
const CONFIGURE: Duration = Duration::from_millis(600);

/// Starts an agent with these kernel arguments, and lets it work until the machine starts anew.
pub(crate) fn start(machine: &Machine, wire: &Wire, disk: &Disk, arguments: &str) -> Next {
    sleep(KERNEL);
    let settings = match cmdline::parse(arguments) {
        Ok(settings) => settings,
        Err(error) => stop(&format!("the agent cannot begin: {error}")),
    };
    let started = uptime_ms();
    let verb = settings.mode.name();
    tracing::info!("server {} of {}, started to {verb}", settings.servers.join(", "), settings.authority);
    let address = wire.lease(machine);
    tracing::info!("eth0 {address}");
    let http = match http::pinned(settings.authority, settings.time) {
        Ok(http) => http,
        Err(error) => stop(&format!("there is no TLS: {error}")),
    };
    let link = Arc::new(Link::new(&settings.servers, http, session(&settings.token)));
    let facts = facts(machine, disk);
    let (grants, images) = (settings.grants, settings.images.clone());
    let gate = Gate { grants, images, host: HostIdentity::of(&facts) };
    let installer = Simulated { disk, gate };
    let end = match greet(&link, &settings, facts, started) {
        Some(end) => end,
        None => {
            log_sender::go_on();
            let log_link = link.clone();
            std::thread::spawn(move || log_sender::run(&log_link));
            let carry_out = |task: &work::JobTask| job::carry_out(&link, task, &installer);
            work::work(&link, Some(&carry_out), sleep)
        }
    };
    match end {
        End::Restart(why) => log::console(&format!("restarting: {why}")),
        End::Kexec => log::console("restarting: there is no kernel to start by kexec"),
        End::Unknown(why) => {
            log::console(&format!("the server does not know this start: {why}"));
            sleep(work::unknown_pause());
        }
    }
    Next::Firmware
}

/// Says hello until the server answers; gives an end when it does not want this agent.
fn greet(link: &Link, settings: &Settings, facts: hardware::Facts, started: u64) -> Option<End> {
    let hello = Hello {
        token: settings.token.clone(),
        session: link.session().clone(),
        mode: settings.mode,
        boot_id: boot_id(),
        agent_version: VERSION.into(),
        started_uptime_ms: started,
        uptime_ms: uptime_ms(),
        facts,
    };
    match link.insist("hello", |link| link.hello(&hello)) {
        Ok(welcome) => {
            tracing::info!("the server knows this machine as {} ({})", welcome.name, welcome.node);
            None
        }
        Err(CallError::Unauthorized(why)) => Some(End::Unknown(why)),
        Err(error) => Some(End::Unknown(error.to_string())),
    }
}

/// The secret of this session, as the agent makes it.
fn session(token: &Secret) -> Secret {
    let mut random = [0; Secret::RANDOM_BYTES];
    random_now(&mut random);
    Secret::from_random("kss_", &Digest::of(&[token.expose().as_bytes(), &random].concat()).0)
}

/// What tells this start of a kernel from all others.
pub(crate) fn boot_id() -> String {
    let mut random = [0; 16];
    random_now(&mut random);
    hex(&random)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Installs on the simulated disk.
struct Simulated<'a> {
    disk: &'a Disk,
    gate: Gate,
}

impl Installer for Simulated<'_> {
    fn disks(&self) -> Vec<hardware::Disk> {
        vec![self.disk.measured()]
    }

    fn install(
        &self,
        task: &InstallTask,
        disks: &[hardware::Disk],
        reporter: &Reporter,
    ) -> Result<Installed, NotDone> {
        let running = |phase| reporter.phase(phase, ReportState::Running, None, BTreeMap::new());
        let done = |phase, progress, detail| reporter.phase(phase, ReportState::Done, progress, detail);
        // As the agent's own installation: nothing is written before all is verified.
        running(Phase::Disk);
        let manifest = self.gate.image(task).map_err(NotDone::Failed)?;
        let permits = self.gate.admit(task, disks, now()).map_err(NotDone::Failed)?;
        let chosen: Vec<&hardware::Disk> = permits.iter().map(Permit::disk).collect();
        let plan = fit(&task.layout, Some(&manifest), &chosen, Firmware::Uefi).map_err(NotDone::Failed)?;
        let table =
            gpt::encode(&plan, &task.uuids.on_disk(0), &[]).map_err(|error| failed("table", error))?;
        self.disk.clear().map_err(|error| failed("clearing", error))?;
        sleep(FORMAT);
        let described = chosen.into_iter().map(describe).collect::<Vec<_>>().join("; ");
        done(Phase::Disk, None, BTreeMap::from([("disk".to_owned(), described)]));

        running(Phase::Image);
        let files = Slow(HttpSource::new(&task.image_url, task.chunks_url.as_deref()));
        let source = Source { files: &files, retry: Retry::default(), observer: reporter };
        image::lay_down(&manifest, source, Destination::Tree(self.disk.root())).map_err(
            |stop| match stop {
                Stop::Failed(finding) => NotDone::Failed(finding),
                Stop::Cancelled(_) => NotDone::Cancelled,
            },
        )?;
        let (size, unit) = (manifest.size, Unit::Bytes);
        done(Phase::Image, Some(Progress { done: size, total: size, unit }), BTreeMap::new());

        running(Phase::Configure);
        let machine_id = boot_id();
        self.configure(task, &machine_id).map_err(|error| failed("writing the identity", error))?;
        sleep(CONFIGURE);
        if reporter.cancelled().is_some() {
            return Err(NotDone::Cancelled);
        }
        self.disk.partition(&table).map_err(|error| failed("writing the partition table", error))?;
        done(Phase::Configure, None, BTreeMap::new());
        let disk = permits.iter().map(|permit| permit.disk().identity()).collect();
        Ok(Installed {
            job: task.job.clone(),
            attempt: task.attempt,
            disk,
            ssh_host_keys: Vec::new(),
            machine_id,
            boot_entry: true,
            restart: Restart::Firmware,
        })
    }

    fn erase(&self, _: &EraseTask, _: &[hardware::Disk], _: &Reporter) -> Result<Erased, NotDone> {
        let told = Finding::new(Code::NotErased, "a simulated disk has no way to be erased for good");
        Err(NotDone::Failed(told))
    }
}

impl Simulated<'_> {
    /// What the installed system must know of itself, and what its kernel would show: the agent's reporter reads both.
    fn configure(&self, task: &InstallTask, machine_id: &str) -> io::Result<()> {
        let write = |path: &str, text: &str| {
            let path = self.disk.root().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(path, text)
        };
        let (host, uuid) = (&task.identity.hostname, &task.uuids.root);
        write("/etc/hostname", host)?;
        write("/etc/machine-id", machine_id)?;
        write(REPORT_CONFIG, &serde_json::to_string(&task.identity.report)?)?;
        let device = format!("/dev/{ROOT_PARTITION}");
        write(&device, "")?;
        write("/dev/disk/by-uuid/.keep", "")?;
        let link = self.disk.root().join("dev/disk/by-uuid").join(uuid);
        std::os::unix::fs::symlink(format!("../../{ROOT_PARTITION}"), link)?;
        write("/proc/self/mountinfo", &format!("20 1 259:3 / / rw - ext4 {device} rw\n"))?;
        write("/proc/sys/kernel/hostname", host)?;
        write("/proc/sys/kernel/osrelease", "simulated")
    }
}

/// An image by HTTP, as fast as a network of metal.
struct Slow(HttpSource);

impl ImageSource for Slow {
    fn open(&self, part: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
        Ok(Box::new(Paced(self.0.open(part, offset, end)?)))
    }
}

fn failed(stage: &str, error: impl std::fmt::Display) -> NotDone {
    NotDone::Failed(Finding::new(Code::DiskFailed, format!("{stage}: {error}")))
}

fn now() -> Millis {
    Millis(u64::try_from(wall_seconds()).unwrap_or(0).saturating_mul(1_000))
}
