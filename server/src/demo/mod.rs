//! `kaltstart demo`: a server and six simulated machines on this one, without rights.
//!
//! The server is the one that `kaltstart server` runs, confined in the same way, on free ports of a loopback address.
//! Each machine is a process of its own, which knows nothing but its cable (see [`kaltstart_demo`]). Whoever shows how
//! they fare asks `/v1`, as `ks` does.

mod show;
mod site;

use crate::client::Connection;
use crate::client::api::Api;
use crate::confinement;
use crate::exit::Exit;
use crate::http::api::{NodeView, Power, PowerState};
use crate::http::jobs::{JobView, OrderJob};
use crate::serve;
use crate::sockets::Ports;
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use kaltstart_core::machine::JobKind;
use kaltstart_demo::Machine;
use show::{Outcome, Show};
use site::{MACHINES, PROFILE, Site};
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How often it is looked how the machines fare.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long `--once` waits for all of them.
const ONCE_MAX: Duration = Duration::from_secs(180);

/// `kaltstart demo`
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End when every machine has come to its end; the exit status tells whether that is as promised
    #[arg(long)]
    once: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Demo {
    /// Shows it until told to stop (SIGINT, SIGTERM, SIGHUP); nothing is left then.
    #[must_use]
    pub(crate) fn run(&self) -> Exit {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = runtime.context("cannot start").and_then(|runtime| runtime.block_on(self.conduct()));
        outcome.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Exit::Failed
        })
    }

    async fn conduct(&self) -> Result<Exit> {
        // Before there is anything to remove.
        let told = told_to_stop()?;
        let site = Arc::new(Site::make()?);
        log_to(File::create(site.log_file())?);
        confinement::prepare()?;
        let stop = CancellationToken::new();
        let (ready, serving) = oneshot::channel();
        let (served, stopped) = (site.clone(), stop.clone());
        let server = thread::spawn(move || {
            serve::on_threads(|gate| async move { served.serve(&gate, ready, stopped).await })
        });
        let shown = tokio::select! {
            () = told => Ok(Exit::Done),
            shown = self.show(&site, serving) => shown,
        };
        stop.cancel();
        let served = match server.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.context("the server ended")),
            Err(_) => Err(anyhow!("the server has a defect")),
        };
        let outcome = match (served, shown) {
            // Who reads no more has seen enough.
            (Ok(()), Err(error)) if is_broken_pipe(&error) => Ok(Exit::Done),
            (Ok(()), shown) => shown,
            (Err(error), _) => Err(error),
        };
        if outcome.is_err() {
            show::last_words(&site.log_file());
        }
        // The server's thread is gone, and with it the other holder.
        Arc::into_inner(site).map_or(Ok(()), Site::remove)?;
        outcome
    }

    /// Orders a system for all machines, switches them on and shows what becomes of them.
    async fn show(&self, site: &Site, serving: oneshot::Receiver<Ports>) -> Result<Exit> {
        let began = Instant::now();
        let ports = serving.await.context("the server does not come up")?;
        let machine = site.machine(1, ports);
        let server = format!("https://{}:{}", machine.server, ports.https);
        let api = Api::new(&Connection::to(server.clone(), site.token_file()))?;
        let mut show = Show::begin(self.json, site, &server)?;
        let mut machines = Machines::default();
        let mut jobs = Vec::new();
        for number in 1..=MACHINES {
            let name = site::name(number);
            let order = OrderJob { profile: Some(PROFILE.into()), ..OrderJob::new(JobKind::Deploy) };
            jobs.push(api.post::<JobView>(&Api::path(&["v1", "nodes", &name, "jobs"]), &order).await?);
            let power = Power { observed: PowerState::On };
            let _: NodeView = api.post(&Api::path(&["v1", "nodes", &name, "power"]), &power).await?;
            machines.switch_on(&site.machine(number, ports))?;
        }
        loop {
            for job in &mut jobs {
                // What has ended stays as it is.
                if !job.state.ended() {
                    *job = api.get(&format!("/v1/jobs/{}", job.id)).await?;
                }
            }
            show.draw(&jobs)?;
            let outcomes: Option<Vec<Outcome>> =
                jobs.iter().zip(1..).map(|(job, number)| Outcome::last(job, number)).collect();
            if let Some(outcomes) = outcomes {
                let kept = show.end(&outcomes, began.elapsed(), self.once)?;
                if self.once {
                    return Ok(if kept { Exit::Done } else { Exit::Failed });
                }
                std::future::pending::<()>().await;
            }
            if self.once && began.elapsed() > ONCE_MAX {
                return Err(anyhow!("not all machines came to an end within {} s", ONCE_MAX.as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Listens for all that ends it from now on.
fn told_to_stop() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let [mut interrupt, mut terminate, mut hangup] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// What the server says goes into a file: the terminal is the machines'.
fn log_to(file: File) {
    tracing_subscriber::fmt().with_writer(Arc::new(file)).with_ansi(false).init();
}

/// The machines that are on.
#[derive(Default)]
struct Machines(Vec<Child>);

impl Machines {
    fn switch_on(&mut self, machine: &Machine) -> Result<()> {
        let context = || format!("cannot switch on {}", machine.name);
        std::fs::create_dir_all(&machine.directory).with_context(context)?;
        let console = File::create(machine.directory.join("console")).with_context(context)?;
        let mut child = Command::new("/proc/self/exe")
            .arg0("kaltstart")
            .arg("demo-machine")
            .stdin(Stdio::piped())
            .stdout(console.try_clone().with_context(context)?)
            .stderr(console)
            .spawn()
            .with_context(context)?;
        let mut line = serde_json::to_vec(machine)?;
        line.push(b'\n');
        let written = child.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&line));
        self.0.push(child);
        written.with_context(context)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in &mut self.0 {
            // It may have ended by itself.
            let _ = machine.kill();
            let _ = machine.wait();
        }
    }
}

/// `kaltstart demo-machine`: the machine that a line of stdin describes; it is switched off when stdin ends, which it
/// does with the demonstration, however that ends.
///
/// # Errors
/// When the line is none.
pub(crate) fn machine() -> Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let machine: Machine = serde_json::from_str(&line).context("started by `kaltstart demo` alone")?;
    thread::spawn(move || kaltstart_demo::run(&machine));
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(String::new())
}
