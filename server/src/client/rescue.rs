//! `ks rescue` and `ks shell`: a machine in the hands of a person.

use super::api::{Api, ClientError, RETRY_AFTER};
use super::{Format, ensure_meant, find_job, output};
use crate::exit::Exit;
use crate::http::api::NodeView;
use crate::http::jobs::{JobView, OrderJob};
use crate::http::rescue::{CodeView, EnterShell, ShellView, Shown, TypeIn, Watch};
use clap::Args;
use kaltstart_core::machine::JobKind;
use kaltstart_core::recall::Via;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::rescue::{Octets, Size};
use kaltstart_protocol::secret::Secret;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use serde_json::json;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The key that leaves a shell without ending it: Ctrl-], as in `telnet` and `virsh console`.
const LEAVE: u8 = 0x1d;

/// Seconds the server may hold back what is shown.
const WAIT_SECONDS: u32 = 30;

/// Typed bytes that are read at once.
const TYPED_MAX: usize = 4096;

/// Pause between two looks at a machine that is not there yet.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a rescue shall be.
#[derive(Debug, Args)]
pub struct Rescue {
    /// Name, identifier or MAC
    node: String,
    /// A disk that may be written to, by its identity as `ks node show` tells it; all others are read-only
    #[arg(long, value_name = "DISK", requires = "confirm")]
    writable: Vec<String>,
    /// How the machine comes to the agent: `network`, or `kexec`, where its system asks for jobs and goes down for
    /// this one by itself
    #[arg(long, default_value = "network")]
    via: Via,
    /// The node's name once more: proof that it is meant; for --writable and --via kexec
    #[arg(long)]
    confirm: Option<String>,
}

/// Whose shell.
#[derive(Debug, Args)]
pub struct Shell {
    /// Node, or job
    node: String,
    /// File with the one-time code; left out: it is asked for, or is the first line of the input
    #[arg(long)]
    code_file: Option<PathBuf>,
}

/// Orders a rescue, unless one runs, and has a new code made for its shell.
pub(super) async fn order(api: &Api, wanted: &Rescue, format: Format) -> Result<Exit, ClientError> {
    let NodeView { summary: node, .. } = api.get(&Api::path(&["v1", "nodes", &wanted.node])).await?;
    let running = match &node.job {
        Some(id) => Some(api.get::<JobView>(&format!("/v1/jobs/{id}")).await?),
        None => None,
    };
    let job = match running.filter(|job| job.kind == JobKind::Rescue) {
        Some(job) if wanted.writable.is_empty() || job.writable.as_ref() == Some(&wanted.writable) => job,
        Some(job) => {
            let say =
                format!("{} is ordered already, with other disks; `ks job cancel {0}` it first", job.id);
            return Err(ClientError::Usage(say));
        }
        None => {
            if !wanted.writable.is_empty() || wanted.via == Via::Kexec {
                ensure_meant(api, &node.name, wanted.confirm.as_deref().unwrap_or_default()).await?;
            }
            let (via, writable) = (wanted.via, wanted.writable.clone());
            let body = OrderJob { via, writable, ..OrderJob::new(JobKind::Rescue) };
            api.order(&Api::path(&["v1", "nodes", &wanted.node, "jobs"]), &body).await?
        }
    };
    let made: CodeView = api.post(&format!("/v1/jobs/{}/code", job.id), &json!({})).await?;
    match format {
        Format::Name => output::print(&job.id.to_string())?,
        Format::Json | Format::Yaml => {
            let all = json!({"job": job, "code": made.code, "expires_at": made.expires_at});
            output::print(&output::structured(&all, format)?)?;
        }
        Format::Table => {
            output::print(&format!("JOB   {}", job.id))?;
            output::print(&format!("CODE  {}", made.code.expose()))?;
            let disks = match job.writable.as_deref().unwrap_or_default() {
                [] => "its disks are read-only".to_owned(),
                disks => format!("its disks are read-only but {}", disks.join(", ")),
            };
            eprintln!(
                "{} is held for you, {disks}; start it over the network if it does not come by itself.\n\
                 `ks shell {0}` asks for the code, which is good once, for an hour; `ks rescue {0}` makes a new one.",
                node.name
            );
        }
    }
    Ok(Exit::Done)
}

/// Opens the shell of a rescue and stays in it.
pub(super) async fn shell(api: &Api, wanted: &Shell) -> Result<Exit, ClientError> {
    let job = arrived(api, &wanted.node).await?;
    let code = match &wanted.code_file {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| ClientError::Local(format!("cannot read {}: {error}", file.display())))?,
        None => ask_for_code().map_err(|error| ClientError::Local(format!("no code: {error}")))?,
    };
    let path = |end: &str| format!("/v1/jobs/{}/shell{end}", job.id);
    let who = format!("{}@{}", variable("USER"), host_name());
    let enter = EnterShell { code: Secret::new(code.trim().to_owned()), who, size: size() };
    let inside: ShellView = api.post(&path(""), &enter).await?;
    eprintln!("You are on {}; all of it is recorded. Ctrl-] leaves without an end.", job.node_name);
    let raw = Raw::begin();
    let (output, input) = (path("/output"), path("/input"));
    let outcome = tokio::select! {
        outcome = show(api, &output, &inside) => outcome,
        outcome = type_in(api, &input, &inside.shell) => outcome,
    };
    drop(raw);
    let why = outcome?;
    eprintln!("\n{why}");
    Ok(Exit::Done)
}

/// Copies the recording of a job to the output, for `asciinema play`.
pub(super) async fn recording(api: &Api, target: &str) -> Result<Exit, ClientError> {
    let job = find_job(api, Some(target)).await?;
    let mut response = api.events(&format!("/v1/jobs/{}/recording", job.id)).await?;
    let local = |error: io::Error| ClientError::Local(error.to_string());
    while let Some(piece) = response.chunk().await.map_err(|error| api.unreachable(error))? {
        io::stdout().write_all(&piece).map_err(local)?;
    }
    io::stdout().flush().map_err(local)?;
    Ok(Exit::Done)
}

/// The rescue of a node, once its machine is there.
async fn arrived(api: &Api, target: &str) -> Result<JobView, ClientError> {
    let mut told = None;
    loop {
        let job = find_job(api, Some(target)).await?;
        if job.kind != JobKind::Rescue || job.state.ended() {
            let say = format!("no rescue waits or runs; order one with: ks rescue {}", job.node_name);
            return Err(ClientError::NotFound(say));
        }
        if job.phase == Phase::Handoff {
            return Ok(job);
        }
        if told.replace(job.phase) != Some(job.phase) {
            eprintln!("waiting for {}: {}", job.node_name, job.phase.name());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A line of the input; not shown where somebody types it.
fn ask_for_code() -> io::Result<String> {
    let stdin = io::stdin();
    let before = stdin.is_terminal().then(|| termios::tcgetattr(&stdin)).transpose()?;
    if let Some(before) = &before {
        eprint!("one-time code: ");
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    if let Some(before) = &before {
        termios::tcsetattr(&stdin, OptionalActions::Now, before)?;
        eprintln!();
    }
    read?;
    Ok(line)
}

/// Prints what is shown until it is over; tells why.
async fn show(api: &Api, path: &str, inside: &ShellView) -> Result<String, ClientError> {
    let mut after = inside.after;
    loop {
        let watch = Watch { shell: inside.shell.clone(), after, wait_seconds: WAIT_SECONDS };
        let shown: Shown = match api.post(path, &watch).await {
            Err(ClientError::Unreachable { .. }) => {
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
            outcome => outcome?,
        };
        if let Some(why) = shown.over {
            return Ok(why);
        }
        after = shown.first + shown.bytes.0.len() as u64;
        let printed = io::stdout().write_all(&shown.bytes.0).and_then(|()| io::stdout().flush());
        printed.map_err(|error| ClientError::Local(error.to_string()))?;
    }
}

/// Sends what is typed, and the terminal's new sizes; ends when somebody leaves.
async fn type_in(api: &Api, path: &str, shell: &Secret) -> Result<String, ClientError> {
    let mut keys = keys();
    let local = |error: io::Error| ClientError::Local(error.to_string());
    let mut resized = signal(SignalKind::window_change()).map_err(local)?;
    loop {
        let typed = tokio::select! {
            typed = keys.recv() => match typed {
                Some(typed) => typed,
                // Nobody types any more; what is shown goes on.
                None => std::future::pending().await,
            },
            _ = resized.recv() => Vec::new(),
        };
        let leaves = io::stdin().is_terminal().then(|| typed.iter().position(|key| *key == LEAVE)).flatten();
        let bytes = Octets(typed[..leaves.unwrap_or(typed.len())].to_vec());
        let body = TypeIn { shell: shell.clone(), bytes, size: size() };
        loop {
            match api.tell(path, &body).await {
                Err(ClientError::Unreachable { .. }) => {}
                Err(ClientError::Server(problem)) if problem.code == "not-taken" => {}
                outcome => break outcome?,
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        if leaves.is_some() {
            return Ok("You left; the shell goes on. `ks rescue` makes a new code for it.".into());
        }
    }
}

/// What is typed, read on a thread of its own: nothing else waits for it.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, keys) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut typed = vec![0; TYPED_MAX];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut typed) {
            if sender.blocking_send(typed[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    keys
}

/// A terminal that hands over every key; as before when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn begin() -> Self {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).ok().filter(|_| stdin.is_terminal());
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // A terminal that refuses is used as it is.
            let _ = termios::tcsetattr(&stdin, OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The size of the terminal; the usual one where there is none.
fn size() -> Size {
    let found = termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or_else(Size::default, |size| Size { columns: size.ws_col, rows: size.ws_row })
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "?".into())
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "?".into())
}
