//! The agent's API; `kaltstart_protocol::agent_api` tells its contract.

use super::connection::Door;
use super::error::Problem;
use super::extract::Body;
use crate::app::observing::Speaker;
use crate::app::{App, AppError};
use crate::clock;
use crate::images::{Image, ImageError};
use crate::store::{Key, Versioned};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Extension, Json};
use kaltstart_core::lifecycle::event::{self, Event, SystemReport};
use kaltstart_core::lifecycle::{Assignment, assignment};
use kaltstart_core::machine::{BurnInOrder, Job, Machine, Order, RescueOrder, SystemOrder};
use kaltstart_core::observing::Kind;
use kaltstart_core::placement::place;
use kaltstart_core::trace::What;
use kaltstart_core::usual::{self, SAMPLE_MAX};
use kaltstart_protocol::agent_api::{
    Directive, DiskGrant, Encryption, EraseTask, Erased, Hello, Identity, ImagePlace, InstallTask, Installed,
    LogBatch, Neighbours, Report, Task, TaskRequest, Welcome,
};
use kaltstart_protocol::burn_in::{BurnInTask, NetworkLoad};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::{Digest, JobId, Mac, NodeId};
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::node_api::{NodeReport, ReportConfig};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::rescue::RescueTask;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::wipe::{SignedGrant, WipeGrant};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest a task request is held back, in seconds.
const WAIT_MAX: u32 = 60;

/// Lines of one log batch that are looked at.
const LOG_BATCH_MAX: usize = 1000;

/// What a machine fetches in its burn-in on average, so that a rack of them leaves room on the network for others.
const BURN_IN_BYTES_A_MINUTE: u64 = 256 << 20;

/// Bytes of a log line that are kept.
const LOG_LINE_MAX: usize = 2000;

/// Bytes of a log line's level that are kept.
const LOG_LEVEL_MAX: usize = 10;

/// Shortest session secret that is accepted: agents send 64 digits and a prefix, and one that
/// forgot to make a secret must not get a session that everybody knows.
const SESSION_LEN_MIN: usize = 32;

/// An agent that proved its session.
pub(super) struct Agent {
    pub(super) session: Digest,
    found: Versioned,
}

impl FromRequestParts<Arc<App>> for Agent {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let unknown = || Problem::unauthorized("this agent's session is not known (any more); restart it");
        let secret = super::bearer(&parts.headers).ok_or_else(unknown)?;
        let session = secret.fingerprint();
        let found = app.store.machine(Key::Session(session))?.ok_or_else(unknown)?;
        Ok(Self { session, found })
    }
}

/// What an agent says of a job.
pub(super) trait OfJob {
    /// The job, and what the agent does or has done.
    fn of_job(&self) -> (&JobId, String);
}

impl OfJob for Report {
    fn of_job(&self) -> (&JobId, String) {
        (&self.job, format!("its agent works on the job, in phase {}", self.phase.name()))
    }
}

impl OfJob for Installed {
    fn of_job(&self) -> (&JobId, String) {
        (&self.job, "its agent has laid down the job's system".into())
    }
}

impl OfJob for Erased {
    fn of_job(&self) -> (&JobId, String) {
        (&self.job, "its agent has erased the disks for the job".into())
    }
}

/// An agent, and what it says of its job.
///
/// Nobody's words are read who has not proved a session, but by a server that only observes: what an agent does that its
/// restored copy does not know is worth to be told.
pub(super) struct Says<T> {
    agent: Agent,
    said: T,
}

impl<T: OfJob + DeserializeOwned + Send> FromRequest<Arc<App>> for Says<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let agent = Agent::from_request_parts(&mut parts, app).await;
        let door = parts.extensions.get::<Door>().cloned();
        let said = Body::<T>::from_request(Request::from_parts(parts, body), app);
        match agent {
            Ok(agent) => Ok(Self { agent, said: said.await?.0 }),
            Err(unknown) => {
                if app.store.observing().is_some()
                    && let (Some(door), Ok(Body(said))) = (door, said.await)
                {
                    let (job, does) = said.of_job();
                    let job = Some(job.clone());
                    app.unknown(Kind::Agent, || (speaker(app, &door, &[]), job, does)).await;
                }
                Err(unknown)
            }
        }
    }
}

/// Who speaks at the other end, and says that it has these hardware addresses: the node that has one of them, else the
/// machine at that address.
pub(super) fn speaker(app: &App, door: &Door, macs: &[Mac]) -> Speaker {
    let named = macs.iter().copied().find(|mac| app.store.index().get(*mac).is_some());
    let mac = named.or_else(|| door.peer.machine(app).ok().flatten()).or(macs.first().copied());
    app.speaker(mac, Some(door.peer.address()))
}

/// `POST /agent/v1/hello`
pub(super) async fn hello(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Body(hello): Body<Hello>,
) -> Result<Json<Welcome>, Problem> {
    if hello.session.expose().len() < SESSION_LEN_MIN {
        return Err(Problem::bad_request("the session secret is too short to be one"));
    }
    let (token, session) = (hello.token.fingerprint(), hello.session.fingerprint());
    let macs: Vec<Mac> = hello.facts.nics.iter().map(|nic| nic.mac).collect();
    let event = Event::AgentHello(event::Hello {
        token,
        session,
        mode: hello.mode,
        boot_id: hello.boot_id,
        running_ms: hello.uptime_ms.saturating_sub(hello.started_uptime_ms),
        uptime_ms: hello.uptime_ms,
        facts: Box::new(hello.facts),
    });
    let mut outcome = app.apply(Key::BootToken(token), &event).await;
    // A repeated hello: its token is used up, perhaps only just now, by the one before.
    if matches!(outcome, Err(AppError::NotFound(_) | AppError::Refused(_))) {
        outcome = app.apply(Key::Session(session), &event).await;
    }
    match outcome {
        Ok(applied) => {
            let node = applied.machine.node;
            if let Some(mac) = node.macs.first().filter(|_| applied.changed) {
                app.trace.note(*mac, What::Agent { mode: hello.mode });
            }
            tracing::info!(node = node.name, mode = ?hello.mode, version = hello.agent_version, "agent says hello");
            let page = format!("{}/v1/nodes/{}", app.config.https_base(), node.name);
            let job = applied.machine.job.filter(|job| !job.state.ended());
            let usual = job.map(|job| usual(&app, &job)).transpose()?.unwrap_or_default();
            Ok(Json(Welcome { node: node.id, name: node.name, page, usual }))
        }
        Err(AppError::NotFound(_) | AppError::Refused(_)) => {
            tracing::warn!("an agent's hello was refused: its boot token is unknown, used or expired");
            app.unknown(Kind::Agent, || {
                let does = format!("its agent was started to {}", hello.mode.name());
                (speaker(&app, &door, &macs), None, does)
            })
            .await;
            Err(Problem::unauthorized("the boot token is unknown, used or expired; restart the machine"))
        }
        Err(error) => Err(error.into()),
    }
}

/// What the phases of a job usually take, in milliseconds.
fn usual(app: &App, job: &Job) -> Result<BTreeMap<Phase, u64>, Problem> {
    let good = app.store.good_jobs(job.order.profile(), SAMPLE_MAX)?;
    let alike: Vec<&Job> = good.iter().filter(|other| usual::alike(job, other)).collect();
    let usuals = usual::usuals(job.kind, &alike);
    Ok(Phase::ALL.into_iter().zip(usuals.iter().map(|usual| usual.p50_ms)).collect())
}

/// `POST /agent/v1/task`
pub(super) async fn task(
    State(app): State<Arc<App>>,
    agent: Agent,
    Extension(door): Extension<Door>,
    Body(request): Body<TaskRequest>,
) -> Result<Json<Task>, Problem> {
    let wait = Duration::from_secs(u64::from(request.wait_seconds.min(WAIT_MAX)));
    let mut newest = app.store.newest_event();
    let key = Key::Session(agent.session);
    let look = async {
        loop {
            newest.mark_unchanged();
            let machine = app.machine(key)?.machine;
            let assigned = match assignment(&machine, &app.trust()) {
                Assignment::Wait if app.goes_on(&machine) => Assignment::Reboot,
                assigned => assigned,
            };
            if assigned != Assignment::Wait || newest.changed().await.is_err() {
                return Ok::<_, AppError>((assigned, machine));
            }
        }
    };
    // Only the waiting is cut short: what is handed out is handed out as a whole.
    let Ok(found) = tokio::time::timeout(wait, look).await else { return Ok(Json(Task::Wait)) };
    match found? {
        (Assignment::Wait, _) => Ok(Json(Task::Wait)),
        (Assignment::Reboot, machine) => {
            let reason = match machine.job.filter(|job| !job.state.ended()) {
                Some(_) => "there is a job for this machine, for which its agent was not started",
                None => "it was looked at, and goes on with what is on its disk",
            };
            Ok(Json(Task::Reboot { reason: reason.into() }))
        }
        (Assignment::Job(job), machine) => match &job.order {
            Order::System(order) => {
                let caches = app.config.images.caches_of(door.peer.address());
                hand_out_system(&app, key, &machine, &job, order, caches).await.map(Json)
            }
            Order::Release(_) => hand_out_release(&app, key, &job).await.map(Json),
            Order::Rescue(order) => hand_out_rescue(&app, key, &job, order).await.map(Json),
            Order::BurnIn(order) => hand_out_burn_in(&app, key, &job, order).await.map(Json),
        },
    }
}

/// Hands out the task to erase all disks.
async fn hand_out_release(app: &App, key: Key<'_>, job: &Job) -> Result<Task, Problem> {
    let granted = match app.grant_wipe(key, job, [None; 3]).await? {
        Ok(granted) => granted,
        Err(task) => return Ok(task),
    };
    let disks = disk_grants(granted);
    Ok(Task::Erase(Box::new(EraseTask { job: job.id.clone(), attempt: job.attempt, disks })))
}

/// The grants as they travel, each with its disk.
fn disk_grants(granted: Vec<(WipeGrant, SignedGrant)>) -> Vec<DiskGrant> {
    granted.into_iter().map(|(WipeGrant { disk, .. }, grant)| DiskGrant { disk, grant }).collect()
}

/// Hands out the task to stay for a person.
async fn hand_out_rescue(app: &App, key: Key<'_>, job: &Job, order: &RescueOrder) -> Result<Task, Problem> {
    match app.grant_wipe(key, job, [None, None, None]).await? {
        Ok(_) => {
            let (job, attempt, writable) = (job.id.clone(), job.attempt, order.writable.clone());
            Ok(Task::Rescue(Box::new(RescueTask { job, attempt, writable })))
        }
        Err(task) => Ok(task),
    }
}

/// Hands out the task to let all parts work.
async fn hand_out_burn_in(app: &App, key: Key<'_>, job: &Job, order: &BurnInOrder) -> Result<Task, Problem> {
    let images = app.images.all();
    let network = images.first().map(|image| NetworkLoad {
        url: format!("{}/images/{}", app.config.http_base(), image.digest),
        digest: image.digest,
        bytes_a_minute: BURN_IN_BYTES_A_MINUTE,
    });
    match app.grant_wipe(key, job, [None; 3]).await? {
        Ok(_) => {
            let (job, attempt, minutes) = (job.id.clone(), job.attempt, order.minutes);
            Ok(Task::BurnIn(BurnInTask { job, attempt, minutes, network }))
        }
        Err(task) => Ok(task),
    }
}

/// Hands out the task to lay down a system, with a new token for its report and the caches that the machine shall ask.
async fn hand_out_system(
    app: &App,
    key: Key<'_>,
    machine: &Machine,
    job: &Job,
    order: &SystemOrder,
    caches: Vec<&str>,
) -> Result<Task, Problem> {
    let image = match image(app, order).and_then(|image| fits(machine, order, image)) {
        Ok(image) => image,
        Err(finding) => {
            app.apply(key, &Event::Hindered(finding.clone())).await?;
            return Ok(Task::Failed { finding });
        }
    };
    let report_token = clock::token("kst_report_");
    let recall_token = order.recall.then(|| clock::token("kst_recall_"));
    let is_encrypted = order.layout.partitions.iter().any(|partition| partition.encrypted);
    let unlock_token = is_encrypted.then(|| clock::token("kst_unlock_"));
    let tokens = [Some(&report_token), recall_token.as_ref(), unlock_token.as_ref()];
    let granted = match app.grant_wipe(key, job, tokens).await? {
        Ok(granted) => granted,
        Err(task) => return Ok(task),
    };
    let kept: Vec<Kept> = granted.iter().flat_map(|(grant, _)| &grant.keep).cloned().collect();
    let boot_mac = machine.node.macs.first().copied().unwrap_or(Mac([0; 6]));
    let list = image.manifest.format.chunks().map(|list| &list.digest);
    let had_at = |base: &str| {
        let url = |digest: &Digest| format!("{base}/images/{digest}");
        ImagePlace { image_url: url(&image.manifest.digest), chunks_url: list.map(url) }
    };
    let ImagePlace { image_url, chunks_url } = had_at(&app.config.http_base());
    let others =
        app.config.others().iter().map(|server| had_at(&format!("http://{}", server.listen))).collect();
    let talk = |path: &str, token| ReportConfig {
        urls: app.config.https_bases().into_iter().map(|base| base + path).collect(),
        token,
        job: Some(job.id.clone()),
        authority: app.tls.authority(),
        not_before: clock::now().0 / 1000,
    };
    let encryption = match unlock_token {
        Some(token) => {
            let key = disk_key(app, &machine.node.id, &order.uuids.disk).await?;
            Some(Encryption { key, unlock: talk("/node/v1/unlock", token) })
        }
        None => None,
    };
    Ok(Task::Install(Box::new(InstallTask {
        job: job.id.clone(),
        attempt: job.attempt,
        disk: order.disk.clone(),
        grants: disk_grants(granted),
        layout: order.layout.clone(),
        image_url,
        chunks_url,
        caches: caches.into_iter().map(had_at).collect(),
        others,
        image: image.signed,
        uuids: order.uuids.keeping(&kept),
        identity: Identity {
            hostname: machine.node.name.clone(),
            domain: String::new(),
            mac: boot_mac,
            authorized_keys: order.authorized_keys.clone(),
            report: talk("/node/v1/report", report_token),
            recall: recall_token.map(|token| talk("/node/v1/recall", token)),
        },
        restart: order.restart,
        encryption,
    })))
}

/// The image, if there is a place for it in the machine: what the agent would find out itself is known before it is
/// granted anything.
fn fits(machine: &Machine, order: &SystemOrder, image: Image) -> Result<Image, Finding> {
    if let Some(facts) = &machine.node.facts {
        place(facts, &order.disk, &order.layout, Some(&image.manifest)).plan?;
    }
    Ok(image)
}

/// The key of an installation's disks.
async fn disk_key(app: &App, node: &NodeId, installation: &str) -> Result<Secret, Problem> {
    app.disk_keys.keep(&app.store, node, installation).await.map_err(|error| {
        tracing::error!(%error, "a job with encrypted disks cannot be handed out");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the key of its disks cannot be kept")
    })
}

/// The image that was ordered, or why it cannot be laid down any more.
fn image(app: &App, order: &SystemOrder) -> Result<Image, Finding> {
    let name = &order.image;
    let image = app.images.find(name).map_err(|error| {
        let code = match error {
            ImageError::Unsigned { .. } | ImageError::Untrusted { .. } => Code::ImageUntrusted,
            ImageError::Name(_) | ImageError::Read { .. } | ImageError::Size { .. } => Code::ImageMissing,
        };
        Finding::new(code, error.to_string())
    })?;
    if image.manifest.digest == order.image_digest {
        Ok(image)
    } else {
        let detail = format!("image {name:?} was replaced by another version since the order; order again");
        Err(Finding::new(Code::ImageMissing, detail))
    }
}

/// `POST /agent/v1/report`
pub(super) async fn report(
    State(app): State<Arc<App>>,
    says: Says<Report>,
) -> Result<Json<Directive>, Problem> {
    told_of_job(&app, says, |report| Event::PhaseReported {
        job: report.job,
        attempt: report.attempt,
        phase: report.phase,
        state: report.state,
        progress: report.progress,
        detail: report.detail,
    })
    .await
}

/// Lets what an agent said of its job happen. What is refused the copy may have otherwise.
async fn told_of_job<T: OfJob>(
    app: &App,
    Says { agent, said }: Says<T>,
    event: impl FnOnce(T) -> Event,
) -> Result<Json<Directive>, Problem> {
    let (job, does) = said.of_job();
    let job = job.clone();
    let outcome = app.apply(Key::Session(agent.session), &event(said)).await;
    if matches!(outcome, Err(AppError::Refused(_))) {
        app.unknown(Kind::Agent, || (Speaker::node(&agent.found.machine.node), Some(job), does)).await;
    }
    directive(outcome)
}

/// `POST /agent/v1/installed`
pub(super) async fn installed(
    State(app): State<Arc<App>>,
    says: Says<Installed>,
) -> Result<Json<Directive>, Problem> {
    told_of_job(&app, says, Event::InstallDone).await
}

/// `POST /agent/v1/erased`
pub(super) async fn erased(
    State(app): State<Arc<App>>,
    says: Says<Erased>,
) -> Result<Json<Directive>, Problem> {
    let node = says.agent.found.machine.node.id.clone();
    let directive = told_of_job(&app, says, Event::DisksErased).await?;
    if directive.0 == Directive::Continue
        && let Err(error) = app.disk_keys.destroy(&app.store, &node).await
    {
        // The agent tells it again.
        tracing::error!(%error, "keys of erased disks are left");
        return Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "keys of its disks are left",
        ));
    }
    Ok(directive)
}

pub(super) fn directive(outcome: Result<crate::app::Applied, AppError>) -> Result<Json<Directive>, Problem> {
    match outcome {
        Ok(_) => Ok(Json(Directive::Continue)),
        Err(AppError::Refused(reason)) => Ok(Json(Directive::Stop { reason })),
        Err(error) => Err(error.into()),
    }
}

/// `POST /agent/v1/neighbours`
pub(super) async fn neighbours(
    State(app): State<Arc<App>>,
    agent: Agent,
    Body(told): Body<Neighbours>,
) -> Result<StatusCode, Problem> {
    app.apply(Key::Session(agent.session), &Event::NeighboursHeard(told.heard)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /agent/v1/log`
pub(super) async fn log(
    State(app): State<Arc<App>>,
    agent: Agent,
    Body(mut batch): Body<LogBatch>,
) -> Result<StatusCode, Problem> {
    let node = &agent.found.machine.node;
    cut(&mut batch);
    if let Some(session) = node.session.clone() {
        app.store.put_log(node.id.clone(), session, batch.first, batch.lines).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Leaves of a batch what is kept.
fn cut(batch: &mut LogBatch) {
    batch.lines.truncate(LOG_BATCH_MAX);
    for line in &mut batch.lines {
        line.level.truncate(line.level.floor_char_boundary(LOG_LEVEL_MAX));
        line.text.truncate(line.text.floor_char_boundary(LOG_LINE_MAX));
    }
}

/// `POST /node/v1/report`
pub(super) async fn system_report(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Body(report): Body<NodeReport>,
) -> Result<StatusCode, Problem> {
    let token: Secret = report.token;
    let (key, job) = (Key::ReportToken(token.fingerprint()), report.job);
    let does = format!(
        "its system reports itself as {:?}, {:?} on the root file system {:?}",
        report.hostname, report.os, report.root_uuid
    );
    let event = Event::SystemReported(SystemReport {
        hostname: report.hostname,
        kernel: report.kernel,
        root_device: report.root_device,
        root_uuid: report.root_uuid,
        os: report.os,
        machine_id: report.machine_id,
        ssh_host_keys: report.ssh_host_keys,
        boot_order: report.boot_order,
    });
    match app.apply(key, &event).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(AppError::NotFound(_) | AppError::Refused(_)) => {
            app.unknown(Kind::System, || {
                let found = app.store.machine(key).ok().flatten().map(|found| found.machine);
                match found.and_then(|machine| Some((Speaker::node(&machine.node), machine.job?.id))) {
                    Some((who, known)) => (who, Some(known), does),
                    None => (speaker(&app, &door, &[]), job, does),
                }
            })
            .await;
            Err(Problem::new(StatusCode::GONE, "refused", "nobody waits for this report"))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::agent_api::LogLine;

    #[test]
    fn p29_of_a_log_so_many_bytes_are_kept_whatever_they_mean() {
        let line =
            LogLine { uptime_ms: 1, level: "x".repeat(99), text: format!("x{}", "\u{1f4a1}".repeat(2000)) };
        let mut batch = LogBatch { first: 0, lines: vec![line; 1001] };
        cut(&mut batch);
        assert_eq!(batch.lines.len(), 1000);
        // No character is cut in two.
        let [level, text] = [&batch.lines[0].level, &batch.lines[0].text].map(String::len);
        assert_eq!((level, text), (10, 1997));
        let short = LogBatch {
            first: 1,
            lines: vec![LogLine { uptime_ms: 1, level: "info".into(), text: "\u{fc}".into() }],
        };
        let mut same = short.clone();
        cut(&mut same);
        assert_eq!(same, short);
    }
}
