//! `/v1`: jobs for people and portals, and the JSON they are shown as.

use super::actor::By;
use super::api::{FindingView, find};
use super::diagnosis::{self, CauseView};
use super::error::Problem;
use super::extract::{Body, Path, Query};
use super::guard::{permit, sees};
use super::idempotency;
use crate::app::{App, AppError};
use crate::clock;
use crate::store::{Key, StoredLine};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use kaltstart_core::access::{Permission, Principal};
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::machine::{
    BurnInOrder, Job, JobKind, JobState, Order, PhaseRecord, ReleaseOrder, RescueOrder,
};
use kaltstart_core::recall::Via;
use kaltstart_core::usual::{self, SAMPLE_MAX, Usual};
use kaltstart_protocol::burn_in::{MINUTES, MINUTES_USUAL};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::ids::{Digest, Fingerprint, JobId, NodeId};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::WipeGrant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Longest a job request is held back.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Jobs of a listing.
pub(super) const JOBS_MAX: usize = 200;

/// Log lines of one answer.
const LINES_MAX: usize = 1000;

/// A job as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobView {
    /// Never changes.
    pub id: JobId,
    /// The node's identifier.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// What kind.
    pub kind: JobKind,
    /// How it stands.
    pub state: JobState,
    /// Profile that is laid down, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Image that is laid down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<Digest>,
    /// Who ordered it, and so approved what is wiped.
    #[serde(default)]
    pub approver: String,
    /// Who else approved it, where one is not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// What it was granted to lose, when its agent took the task last.
    #[serde(default)]
    pub wipe: Vec<WipeGrant>,
    /// Labels of the partitions whose data is kept.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keep: BTreeSet<String>,
    /// Of a rescue, identities of the disks that may be written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable: Option<Vec<String>>,
    /// When a rescue ends by itself, once its machine is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Starts of the machine for this job.
    pub attempt: u32,
    /// The current phase.
    pub phase: Phase,
    /// The thirteen phases.
    pub phases: Vec<PhaseView>,
    /// What went wrong, and what to do.
    pub findings: Vec<FindingView>,
    /// Why its machine does not start, as far as packets show it; empty in listings, and once its
    /// agent speaks for itself.
    #[serde(default)]
    pub why: Vec<CauseView>,
    /// When it was ordered.
    pub created_at: Millis,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Seconds until it is done, if all goes as usual.
    pub eta_seconds: Option<u64>,
    /// The server's clock, to which all times here belong.
    pub now: Millis,
}

/// A phase as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseView {
    /// Its name.
    pub name: Phase,
    /// When it ran and what it did.
    #[serde(flatten)]
    pub record: PhaseRecord,
    /// What it usually takes.
    pub usual: Usual,
    /// Whether it takes longer than it usually does.
    pub overdue: bool,
}

/// The newest good jobs of a profile: one more than are looked back on, since a job is not
/// compared with itself.
fn good_jobs(app: &App, profile: &str) -> Result<Vec<Job>, Problem> {
    Ok(app.store.good_jobs(profile, SAMPLE_MAX + 1)?)
}

fn job_view(app: &App, job: &Job) -> Result<JobView, Problem> {
    let mut view = job_view_among(app, job, &good_jobs(app, job.order.profile())?)?;
    if let Some(found) = app.store.machine(Key::Id(&job.node))?
        && found.machine.node.job.as_ref() == Some(&job.id)
    {
        view.why = diagnosis::of_job(app, &found.machine);
    }
    Ok(view)
}

/// A job's view, with what is usual learned from `good` jobs of its profile.
fn job_view_among(app: &App, job: &Job, good: &[Job]) -> Result<JobView, Problem> {
    let alike = |other: &&Job| other.id != job.id && usual::alike(job, other);
    let others: Vec<&Job> = good.iter().filter(alike).take(SAMPLE_MAX).collect();
    let usuals = usual::usuals(job.kind, &others);
    let now = clock::now();
    let node_name =
        app.store.machine(Key::Id(&job.node))?.map_or_else(String::new, |found| found.machine.node.name);
    let phases = Phase::ALL
        .iter()
        .zip(&job.phases)
        .zip(&usuals)
        .map(|((name, record), usual)| {
            // Waiting for its machine is not the job's slowness.
            let running = *name != Phase::Queued && record.ended_at.is_none() && usual.sample > 0;
            let overdue = running && record.duration(now).is_some_and(|ms| ms > usual.p95_ms);
            PhaseView { name: *name, record: record.clone(), usual: *usual, overdue }
        })
        .collect();
    let findings = job.findings.iter().cloned().map(FindingView::from).collect();
    let system = job.order.system();
    Ok(JobView {
        id: job.id.clone(),
        node: job.node.clone(),
        node_name,
        kind: job.kind,
        state: job.state,
        profile: system.map(|order| order.profile.clone()),
        image: system.map(|order| order.image.clone()),
        image_digest: system.map(|order| order.image_digest),
        approver: job.approver.clone(),
        approved_by: job.approved_by.clone(),
        wipe: job.wipe.clone(),
        keep: job.order.keep().map(str::to_owned).collect(),
        writable: match &job.order {
            Order::Rescue(order) => Some(order.writable.clone()),
            Order::System(_) | Order::Release(_) | Order::BurnIn(_) => None,
        },
        until: job.rescue.until,
        attempt: job.attempt,
        phase: job.phase,
        phases,
        findings,
        why: Vec::new(),
        created_at: job.created_at,
        ended_at: job.ended_at,
        eta_seconds: usual::left(job, &usuals, now).map(|ms| ms.div_ceil(1000)),
        now,
    })
}

/// Body of `POST /v1/nodes/{node}/jobs`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderJob {
    /// What kind.
    pub kind: JobKind,
    /// Profile to lay down; none for a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What is given up: a disk's identity, and the fingerprint of what lies on it.
    #[serde(default)]
    pub erase: BTreeMap<String, Fingerprint>,
    /// Labels of the partitions of the profile's layout whose data is kept.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keep: BTreeSet<String>,
    /// How the system is started; left out: as the profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// By what way the machine comes to the agent; none for a release, which is over the network.
    #[serde(default)]
    pub via: Via,
    /// Identities of disks that may be written to during a rescue; all others are read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable: Vec<String>,
    /// Minutes of a burn-in; left out: ten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u32>,
}

impl OrderJob {
    /// An order of that kind, and nothing besides.
    #[must_use]
    pub fn new(kind: JobKind) -> Self {
        Self {
            kind,
            profile: None,
            erase: BTreeMap::new(),
            keep: BTreeSet::new(),
            restart: None,
            via: Via::default(),
            writable: Vec::new(),
            minutes: None,
        }
    }
}

/// `POST /v1/nodes/{node}/jobs`
pub(super) async fn order(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Extension(who): Extension<Principal>,
    By(actor): By,
    headers: HeaderMap,
    Body(wanted): Body<OrderJob>,
) -> Result<Response, Problem> {
    if matches!(wanted.kind, JobKind::Rescue | JobKind::BurnIn) {
        permit(&who, Permission::Operate)?;
    }
    let node = find(&app, &node)?.node;
    let request = idempotency::request(&headers, &who, &wanted)?;
    if let Some(request) = &request
        && let Some(job) = idempotency::ordered_before(&app, &node.id, request)?
    {
        return accepted(&app, &job);
    }
    if wanted.kind != JobKind::Rescue && !wanted.writable.is_empty() {
        return Err(Problem::bad_request("`writable` is for a rescue alone"));
    }
    if !matches!(wanted.kind, JobKind::Deploy | JobKind::Rebuild) && !wanted.keep.is_empty() {
        return Err(Problem::bad_request("`keep` is for a deploy or a rebuild alone"));
    }
    if wanted.kind != JobKind::BurnIn && wanted.minutes.is_some() {
        return Err(Problem::bad_request("`minutes` is for a burn-in alone"));
    }
    let order = match (wanted.kind, wanted.profile) {
        (JobKind::BurnIn, None)
            if wanted.restart.is_none() && wanted.via == Via::Network && wanted.erase.is_empty() =>
        {
            let minutes = wanted.minutes.unwrap_or(MINUTES_USUAL);
            if !MINUTES.contains(&minutes) {
                let (least, most) = (MINUTES.start(), MINUTES.end());
                return Err(Problem::bad_request(format!("a burn-in takes {least} to {most} minutes")));
            }
            Order::BurnIn(BurnInOrder { minutes })
        }
        (JobKind::BurnIn, _) => {
            return Err(Problem::bad_request(
                "a burn-in lays no profile down, gives nothing up, starts no system, and is over the network",
            ));
        }
        (JobKind::Rescue, None) if wanted.restart.is_none() && wanted.erase.is_empty() => {
            let disks = node.facts.iter().flat_map(|facts| &facts.disks);
            let known: Vec<&str> = disks.map(Disk::identity).collect();
            if let Some(disk) = wanted.writable.iter().find(|disk| !known.contains(&disk.as_str())) {
                return Err(Problem::bad_request(format!(
                    "the node has no disk {disk:?}; it has {known:?} (`ks node show`)"
                )));
            }
            Order::Rescue(RescueOrder { writable: wanted.writable, via: wanted.via })
        }
        (JobKind::Rescue, _) => {
            return Err(Problem::bad_request("a rescue lays no profile down and gives nothing up"));
        }
        (JobKind::Release, None) if wanted.restart.is_none() && wanted.via == Via::Network => {
            Order::Release(ReleaseOrder { erase: wanted.erase })
        }
        (JobKind::Release, _) => {
            return Err(Problem::bad_request(
                "a release lays no profile down, starts no system, and is over the network",
            ));
        }
        (JobKind::Deploy | JobKind::Rebuild, Some(profile)) => {
            app.system_order(&profile, wanted.via, wanted.restart, (wanted.erase, wanted.keep))?
        }
        (kind, None) => return Err(Problem::bad_request(format!("a {} needs a profile", kind.name()))),
    };
    let machine = app.order(&actor, Key::Id(&node.id), wanted.kind, order, request.clone()).await?;
    let job = machine.job.ok_or_else(|| Problem::not_found("the job has gone"))?;
    let job = request.map_or(Ok(job.clone()), |request| idempotency::same(job, &request))?;
    accepted(&app, &job)
}

fn accepted(app: &App, job: &Job) -> Result<Response, Problem> {
    let location = format!("/v1/jobs/{}", job.id);
    let view = job_view(app, job)?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// `GET /v1/jobs`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Vec<JobView>>, Problem> {
    let jobs = match who.team {
        None => app.store.jobs(JOBS_MAX)?,
        Some(_) => {
            let now = clock::now();
            let mut nodes = app.store.index().summaries();
            nodes.retain(|node| who.sees(node.owner(), now));
            let mut jobs = app.store.jobs_of(nodes.iter().map(|node| &node.id), JOBS_MAX)?;
            jobs.retain(|job| sees(&app, &who, job.node.as_str(), job.created_at));
            jobs
        }
    };
    let mut good = BTreeMap::new();
    let mut views = Vec::with_capacity(jobs.len());
    for job in &jobs {
        let profile = job.order.profile();
        if !good.contains_key(profile) {
            good.insert(profile.to_owned(), good_jobs(&app, profile)?);
        }
        views.push(job_view_among(&app, job, good.get(profile).map_or(&[], Vec::as_slice))?);
    }
    Ok(Json(views))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    /// As `60s` or `60`.
    wait: Option<String>,
}

/// `GET /v1/jobs/{job}?wait=60s`: with `wait`, answers when the job has ended or the time is over.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Json<JobView>, Problem> {
    let id = job_id(&id)?;
    let wait =
        match wait.wait {
            Some(text) => text.trim_end_matches('s').parse().map(Duration::from_secs).map_err(|_| {
                Problem::bad_request(format!("wait {text:?} is not a number of seconds, as 60s"))
            })?,
            None => Duration::ZERO,
        };
    let mut newest = app.store.newest_event();
    let ended = async {
        loop {
            newest.mark_unchanged();
            if find_job(&app, &id)?.state.ended() || newest.changed().await.is_err() {
                return Ok::<(), Problem>(());
            }
        }
    };
    if let Ok(looked) = tokio::time::timeout(wait.min(WAIT_MAX), ended).await {
        looked?;
    }
    job_view(&app, &find_job(&app, &id)?).map(Json)
}

pub(super) fn job_id(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|_| Problem::not_found(format!("{text:?} is not a job; `ks job list` shows them")))
}

pub(super) fn find_job(app: &App, id: &JobId) -> Result<Job, Problem> {
    app.store.job(id)?.ok_or_else(|| no_job(id))
}

/// Told of a job that is not there, also to those for whom it is not there.
pub(super) fn no_job(id: &JobId) -> Problem {
    Problem::not_found(format!("there is no job {id}"))
}

/// `POST /v1/jobs/{job}/cancel`
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    By(actor): By,
) -> Result<Json<JobView>, Problem> {
    let id = job_id(&id)?;
    let node = find_job(&app, &id)?.node;
    let cancelled = app
        .apply_by(&actor, Key::Id(&node), |machine| {
            if machine.node.job.as_ref() == Some(&id) {
                Ok(Event::JobCancelled)
            } else {
                Err(AppError::Refused("the job has ended".into()))
            }
        })
        .await?;
    let job = cancelled.machine.job.ok_or_else(|| Problem::not_found(format!("there is no job {id}")))?;
    job_view(&app, &job).map(Json)
}

#[derive(Debug, Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: i64,
}

/// `GET /v1/jobs/{job}/log?after=NUMBER`
pub(super) async fn log(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<Json<Vec<StoredLine>>, Problem> {
    let id = job_id(&id)?;
    find_job(&app, &id)?;
    Ok(Json(app.store.job_log(&id, after, LINES_MAX)?))
}
