//! `ks`: the client of `/v1`.
//!
//! Data goes to stdout, words for people to stderr.

pub(crate) mod api;
mod audit;
mod boot;
mod dhcp;
mod enc;
mod grant_key;
mod hardware;
mod inventory;
mod layout;
mod node;
pub(crate) mod output;
mod rescue;
mod restored;
mod token;
pub(crate) mod waterfall;
mod why;

use crate::cli::told;
use crate::exit::Exit;
use crate::http::api::{NodeView, RefusedImage};
use crate::http::diagnosis::DiagnosisView;
use crate::http::jobs::{JobView, OrderJob};
use crate::http::node_about::Approve;
use crate::image_export::Export;
use crate::image_import::Import;
use api::{Api, ClientError};
use clap::{Args, Subcommand, ValueEnum};
use kaltstart_core::machine::JobKind;
use kaltstart_core::recall::Via;
use kaltstart_protocol::burn_in::MINUTES_USUAL;
use kaltstart_protocol::ids::{Digest, Fingerprint};
use kaltstart_protocol::restart::Restart;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the server, and how to print.
#[derive(Debug, Args)]
pub struct Connection {
    /// Base address of the server; of several that share a database, with commas: the next is asked where one is away
    #[arg(
        long = "server",
        value_name = "SERVER",
        global = true,
        env = "KS_SERVER",
        default_value = "https://127.0.0.1:8443",
        value_delimiter = ','
    )]
    servers: Vec<String>,
    /// File with the token; the server makes it as admin.token in its data directory
    #[arg(long, global = true, env = "KS_TOKEN_FILE", default_value = "/var/lib/kaltstart/admin.token")]
    token_file: PathBuf,
    /// Certificate of the server's authority; found as tls/ca.pem beside the token file if left out
    #[arg(long, global = true, env = "KS_CA", conflicts_with = "fingerprint")]
    ca: Option<PathBuf>,
    /// Fingerprint of the server's authority instead, as the server's log and `kaltstart tls show` tell it
    #[arg(long, global = true, env = "KS_FINGERPRINT")]
    fingerprint: Option<Digest>,
    /// Why something is done, for the audit log
    #[arg(long, global = true, env = "KS_REASON", value_name = "TEXT")]
    reason: Option<String>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Format,
}

impl Connection {
    /// To the server at `server`, whose data directory has the file with the token.
    pub(crate) fn to(server: String, token_file: PathBuf) -> Self {
        let (ca, fingerprint, reason) = Default::default();
        Self { servers: vec![server], token_file, ca, fingerprint, reason, output: Format::Table }
    }
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// The API's JSON
    Json,
    /// The same as YAML
    Yaml,
    /// Names or identifiers, one a line
    Name,
}

/// What `ks` can do.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Machines
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Jobs
    #[command(subcommand)]
    Job(JobCommand),
    /// What machines are given to start
    #[command(subcommand)]
    Boot(boot::BootCommand),
    /// The key that signs wipe grants
    #[command(subcommand)]
    GrantKey(grant_key::GrantKeyCommand),
    /// Who may use the API, and as whom
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// As whom the server knows you
    Whoami,
    /// The audit log: who did what, and whether the log is whole
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Profiles
    #[command(subcommand)]
    Profile(ListCommand),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Layouts, and what one would make of a node's disk
    #[command(subcommand)]
    Layout(layout::LayoutCommand),
    /// Nodes for Ansible, Prometheus, Telegraf and spreadsheets
    #[command(subcommand)]
    Inventory(inventory::InventoryCommand),
    /// What a node is to Puppet, which runs this as its external node classifier
    Enc(enc::Enc),
    /// DHCP: how it is served, other servers, and what to tell them
    #[command(subcommand)]
    Dhcp(dhcp::DhcpCommand),
    /// Lay down a profile on a node that holds nothing of ours
    Deploy(Order),
    /// Lay down a profile anew on a deployed node; what is on its disk is lost, but for what `--keep` names
    Rebuild {
        /// What is ordered
        #[command(flatten)]
        order: Order,
        /// The node's name once more: proof that it is meant
        #[arg(long, value_name = "NODE")]
        confirm: String,
    },
    /// Erase all disks of a node whose purpose is gone; then it is free again
    Release {
        /// What is ordered
        #[command(flatten)]
        work: Work,
        /// The node's name once more: proof that it is meant
        #[arg(long, value_name = "NODE")]
        confirm: String,
    },
    /// Let all parts of a machine work for a while, before it is trusted with anything; nothing is written to its
    /// disks
    BurnIn {
        /// Name, identifier or MAC
        node: String,
        /// How long, a week at most; `--wait` needs a `--timeout` beyond that
        #[arg(long, default_value_t = MINUTES_USUAL)]
        minutes: u32,
        /// Whether to wait for it
        #[command(flatten)]
        patience: Patience,
    },
    /// Agree to what somebody else may order on a critical node within an hour: two people for what may write to its disks
    Approve {
        /// Name, identifier or MAC
        node: String,
        /// What may be ordered: `deploy`, `rebuild`, `release` or `rescue`
        #[arg(long, value_parser = writing_kind)]
        kind: JobKind,
        /// What is laid down by it
        #[arg(long)]
        profile: Option<String>,
        /// The node's name once more: proof that it is meant
        #[arg(long, value_name = "NODE")]
        confirm: String,
    },
    /// Hold a machine for a person, and make a one-time code for its shell; its disks are read-only
    Rescue(rescue::Rescue),
    /// Work on a machine that is held; the code of `ks rescue` lets you in, and all of it is recorded
    Shell(rescue::Shell),
    /// What the fleet says that a restored copy of the database does not; until that is accepted the server only
    /// observes
    Restored {
        /// Left out: show it
        #[command(subcommand)]
        command: Option<restored::RestoredCommand>,
    },
    /// Why a machine does not start: the likeliest cause, its proof, what to do next
    Why {
        /// Name, identifier or MAC; also of a machine nobody declared
        node: String,
    },
    /// Follow a job, or the job of a node, until it ends
    Watch {
        /// Job or node; the newest job when left out
        target: Option<String>,
    },
}

/// An order's words.
#[derive(Debug, Args)]
pub struct Order {
    /// Profile
    #[arg(long)]
    profile: String,
    /// How the system is started: `firmware`, or `kexec`, which leaves the firmware's self-test out;
    /// left out: as the profile says
    #[arg(long)]
    restart: Option<Restart>,
    /// How the machine comes to the agent: `network`, or `kexec`, where its system asks for jobs and starts the
    /// agent itself
    #[arg(long, default_value = "network")]
    via: Via,
    /// A partition of the profile's layout whose data is kept: it must lie on the disk as the layout has it
    #[arg(long, value_name = "PARTITION")]
    keep: Vec<String>,
    #[command(flatten)]
    work: Work,
}

/// What every order says.
#[derive(Debug, Args)]
pub struct Work {
    /// Name, identifier or MAC
    node: String,
    /// What may be lost: a disk and the fingerprint of what lies on it, as `ks node show` tells them
    #[arg(long, value_name = "DISK=FINGERPRINT", value_parser = given_up)]
    erase: Vec<(String, Fingerprint)>,
    #[command(flatten)]
    patience: Patience,
}

/// Whether to wait for a job.
#[derive(Debug, Args)]
pub struct Patience {
    /// Return when the job has ended
    #[arg(long)]
    wait: bool,
    /// Seconds to wait at most
    #[arg(long, default_value_t = 3600, requires = "wait")]
    timeout: u64,
}

impl Order {
    fn body(&self, kind: JobKind) -> OrderJob {
        let Self { profile, restart, via, keep, work } = self;
        let (profile, erase) = (Some(profile.clone()), work.erase());
        let keep = keep.iter().cloned().collect();
        OrderJob { profile, erase, keep, restart: *restart, via: *via, ..OrderJob::new(kind) }
    }
}

impl Work {
    fn erase(&self) -> BTreeMap<String, Fingerprint> {
        self.erase.iter().cloned().collect()
    }
}

fn writing_kind(text: &str) -> Result<JobKind, String> {
    let kinds = [JobKind::Deploy, JobKind::Rebuild, JobKind::Release, JobKind::Rescue];
    kinds.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
        let all = kinds.map(JobKind::name).join(", ");
        format!("it is one of {all}")
    })
}

/// A disk's identity, which may hold any character, and a fingerprint.
fn given_up(text: &str) -> Result<(String, Fingerprint), String> {
    let (disk, fingerprint) = text.rsplit_once('=').ok_or("no `=` between disk and fingerprint")?;
    Ok((disk.to_owned(), fingerprint.parse().map_err(|error| format!("{error}"))?))
}

/// `ks job …`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// The newest jobs
    List,
    /// One job with its phases
    Show {
        /// Job, or node (its current or last job)
        job: String,
    },
    /// What the agent said
    Log {
        /// Job, or node
        job: String,
        /// Go on until the job has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// What was typed and shown during a rescue, as `asciinema play` reads it
    Recording {
        /// Job, or node
        job: String,
    },
    /// Stop a job
    Cancel {
        /// Job, or node
        job: String,
    },
}

/// `ks image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// All of them
    List,
    /// Make an image of a root file system; needs no server
    Import(Import),
    /// Lay out the files of all images as a bucket or a web server has them; needs no server
    Export(Export),
}

/// `ks profile …`
#[derive(Debug, Subcommand)]
pub enum ListCommand {
    /// All of them
    List,
}

/// Does one command.
#[must_use]
pub fn run(command: ClientCommand, connection: &Connection) -> Exit {
    match &command {
        ClientCommand::Image(ImageCommand::Import(import)) => return told(import.run()),
        ClientCommand::Image(ImageCommand::Export(export)) => return told(export.run()),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(command, connection)),
        Err(error) => Err(ClientError::Local(format!("cannot start: {error}"))),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit()
    })
}

async fn dispatch(command: ClientCommand, connection: &Connection) -> Result<Exit, ClientError> {
    let api = Api::new(connection)?;
    let format = connection.output;
    match command {
        ClientCommand::Node(command) => node::run(&api, command, format).await,
        ClientCommand::Job(command) => job(&api, command, format).await,
        ClientCommand::Boot(command) => boot::run(&api, command, format).await,
        ClientCommand::GrantKey(command) => grant_key::run(&api, command, format).await,
        ClientCommand::Token(command) => token::run(&api, command, format).await,
        ClientCommand::Whoami => token::whoami(&api, format).await,
        ClientCommand::Audit(command) => audit::run(&api, command, format).await,
        ClientCommand::Profile(ListCommand::List) => {
            let profiles: Vec<crate::http::api::ProfileView> = api.get("/v1/profiles").await?;
            output::list(&profiles, format)
        }
        // The others are done before anybody is asked.
        ClientCommand::Image(_) => {
            let images: Vec<kaltstart_protocol::image::Manifest> = api.get("/v1/images").await?;
            let refused: Vec<RefusedImage> = api.get("/v1/images/refused").await?;
            let listed = output::list(&images, format)?;
            for image in refused {
                eprintln!("not usable: {}", output::printable(&image.problem));
            }
            Ok(listed)
        }
        ClientCommand::Layout(command) => layout::run(&api, command, format).await,
        ClientCommand::Inventory(command) => inventory::run(&api, command).await,
        ClientCommand::Enc(enc) => enc::run(&api, &enc).await,
        ClientCommand::Dhcp(command) => dhcp::run(&api, command, format).await,
        ClientCommand::Deploy(order) => {
            let Work { node, patience, .. } = &order.work;
            place(&api, &order.body(JobKind::Deploy), node, patience, format).await
        }
        ClientCommand::BurnIn { node, minutes, patience } => {
            let body = OrderJob { minutes: Some(minutes), ..OrderJob::new(JobKind::BurnIn) };
            place(&api, &body, &node, &patience, format).await
        }
        ClientCommand::Rebuild { order, confirm } => {
            ensure_meant(&api, &order.work.node, &confirm).await?;
            let Work { node, patience, .. } = &order.work;
            place(&api, &order.body(JobKind::Rebuild), node, patience, format).await
        }
        ClientCommand::Release { work, confirm } => {
            ensure_meant(&api, &work.node, &confirm).await?;
            let body = OrderJob { erase: work.erase(), ..OrderJob::new(JobKind::Release) };
            place(&api, &body, &work.node, &work.patience, format).await
        }
        ClientCommand::Approve { node, kind, profile, confirm } => {
            ensure_meant(&api, &node, &confirm).await?;
            let path = Api::path(&["v1", "nodes", &node, "approval"]);
            let node: NodeView = api.post(&path, &Approve { kind, profile }).await?;
            output::one(&node, format)
        }
        ClientCommand::Rescue(wanted) => rescue::order(&api, &wanted, format).await,
        ClientCommand::Shell(wanted) => rescue::shell(&api, &wanted).await,
        ClientCommand::Restored { command } => restored::run(&api, command, format).await,
        ClientCommand::Why { node } => {
            let diagnosis: DiagnosisView = api.get(&Api::path(&["v1", "nodes", &node, "diagnosis"])).await?;
            match format {
                Format::Json | Format::Yaml => output::print(&output::structured(&diagnosis, format)?)?,
                Format::Table => output::print(&why::text(&diagnosis))?,
                Format::Name => {
                    for cause in &diagnosis.causes {
                        output::print(cause.code.number())?;
                    }
                }
            }
            Ok(Exit::Done)
        }
        ClientCommand::Watch { target } => {
            let job = find_job(&api, target.as_deref()).await?;
            waterfall::watch(&api, &job.id.to_string()).await
        }
    }
}

async fn job(api: &Api, command: JobCommand, format: Format) -> Result<Exit, ClientError> {
    match command {
        JobCommand::List => {
            let jobs: Vec<JobView> = api.get("/v1/jobs").await?;
            output::list(&jobs, format)
        }
        JobCommand::Show { job } => {
            let job = find_job(api, Some(&job)).await?;
            if format == Format::Table {
                output::print(waterfall::text(&job, waterfall::Style::plain()).trim_end())?;
                for line in
                    output::burned_in(&job).into_iter().chain(job.findings.iter().map(output::finding))
                {
                    output::print(&line)?;
                }
                output::print(&output::approval(&job))?;
                Ok(Exit::Done)
            } else {
                output::one(&job, format)
            }
        }
        JobCommand::Log { job, follow } => log(api, &job, follow, format).await,
        JobCommand::Recording { job } => rescue::recording(api, &job).await,
        JobCommand::Cancel { job } => {
            let job = find_job(api, Some(&job)).await?;
            let job: JobView =
                api.post(&format!("/v1/jobs/{}/cancel", job.id), &serde_json::json!({})).await?;
            output::one(&job, format)
        }
    }
}

/// Prints a job's log; `follow` goes on until the job has ended.
async fn log(api: &Api, target: &str, follow: bool, format: Format) -> Result<Exit, ClientError> {
    let job = find_job(api, Some(target)).await?;
    let mut after = 0;
    loop {
        // Asked first: what was said before the end is then surely printed.
        let ended = api.get::<JobView>(&format!("/v1/jobs/{}", job.id)).await?.state.ended();
        let lines: Vec<crate::store::StoredLine> =
            api.get(&format!("/v1/jobs/{}/log?after={after}", job.id)).await?;
        for line in &lines {
            output::print(&line.row_for_log(format)?)?;
        }
        match lines.last() {
            Some(last) => after = last.id,
            None if !follow || ended => return Ok(Exit::Done),
            None => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Refuses an order that loses data unless it names the node a second time.
async fn ensure_meant(api: &Api, node: &str, confirm: &str) -> Result<(), ClientError> {
    let node: NodeView = api.get(&Api::path(&["v1", "nodes", node])).await?;
    if confirm == node.summary.name {
        return Ok(());
    }
    let say = format!("--confirm={confirm} does not name the node; type --confirm={}", node.summary.name);
    Err(ClientError::Usage(say))
}

async fn place(
    api: &Api,
    body: &OrderJob,
    node: &str,
    patience: &Patience,
    format: Format,
) -> Result<Exit, ClientError> {
    let mut job: JobView = api.order(&Api::path(&["v1", "nodes", node, "jobs"]), body).await?;
    if !patience.wait {
        eprintln!("ordered; follow it with: ks watch {}", job.id);
        return output::one(&job, format);
    }
    let waited = tokio::time::timeout(Duration::from_secs(patience.timeout), async {
        while !job.state.ended() {
            job = api.get_patiently(&format!("/v1/jobs/{}?wait=30s", job.id)).await?;
        }
        Ok::<_, ClientError>(())
    });
    match waited.await {
        Ok(outcome) => outcome?,
        Err(_) => {
            eprintln!("still running after {} s; follow it with: ks watch {}", patience.timeout, job.id);
            return Ok(Exit::WaitTimedOut);
        }
    }
    output::one(&job, format)?;
    Ok(output::explain(&job))
}

/// The job of that identifier, or the current or last job of that node; the newest for none.
async fn find_job(api: &Api, target: Option<&str>) -> Result<JobView, ClientError> {
    let id = match target {
        Some(id) if id.starts_with("job_") => id.to_owned(),
        Some(node) => {
            let node: NodeView = api.get(&Api::path(&["v1", "nodes", node])).await?;
            let node = node.summary;
            let job = node.job.or(node.last_job).ok_or_else(|| {
                ClientError::NotFound(format!(
                    "{} has had no job; order one with: ks deploy {0} --profile PROFILE",
                    node.name
                ))
            })?;
            job.to_string()
        }
        None => {
            let jobs: Vec<JobView> = api.get("/v1/jobs").await?;
            return jobs.into_iter().next().ok_or_else(|| ClientError::NotFound("there is no job".into()));
        }
    };
    api.get(&Api::path(&["v1", "jobs", &id])).await
}
