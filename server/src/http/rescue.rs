//! A machine in the hands of a person: codes and shell for people, and the other end of the shell for the agent.

use super::actor::By;
use super::agent::Agent;
use super::connection::Door;
use super::error::Problem;
use super::extract::{Body, Path};
use super::files::{self, Served};
use super::jobs::{find_job, job_id};
use crate::app::{App, AppError};
use crate::shell::{Outside, RecordError};
use crate::store::Key;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::machine::{JobState, Machine};
use kaltstart_core::rescue::held;
use kaltstart_protocol::agent_api::Directive;
use kaltstart_protocol::rescue::{Input, InputQuestion, OUTPUT_MAX, Octets, Output, Rescued, Size};
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Longest a question is held back, in seconds.
const WAIT_MAX: u32 = 60;

/// Characters of what somebody calls himself that are kept.
const WHO_MAX: usize = 100;

/// A code, told once.
#[derive(Debug, Serialize, Deserialize)]
pub struct CodeView {
    /// What opens the shell, once.
    pub code: Secret,
    /// Not valid from here on.
    pub expires_at: Millis,
}

/// Body of `POST /v1/jobs/{job}/shell`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnterShell {
    /// The one-time code.
    pub code: Secret,
    /// Who comes, as he calls himself; stands in the recording.
    #[serde(default)]
    pub who: String,
    /// The size of his terminal.
    #[serde(default)]
    pub size: Size,
}

/// Somebody is in.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShellView {
    /// Proves it; valid until the next code is used.
    pub shell: Secret,
    /// Number of the first byte to be seen.
    pub after: u64,
}

/// Body of `POST /v1/jobs/{job}/shell/input`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeIn {
    /// As [`ShellView`] told it.
    pub shell: Secret,
    /// What was typed.
    #[serde(default)]
    pub bytes: Octets,
    /// The size of the terminal.
    #[serde(default)]
    pub size: Size,
}

/// Body of `POST /v1/jobs/{job}/shell/output`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// As [`ShellView`] told it.
    pub shell: Secret,
    /// Number of the first byte that was not seen.
    pub after: u64,
    /// Seconds the answer may be held back, at most 60.
    #[serde(default)]
    pub wait_seconds: u32,
}

/// What was shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shown {
    /// Number of the first byte; later than asked for where some are not kept any more.
    pub first: u64,
    /// What is to be seen.
    pub bytes: Octets,
    /// Why there will be no more, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
}

impl From<RecordError> for AppError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Full => Self::Refused(error.to_string()),
            RecordError::Write(source) => {
                tracing::error!(error = %source, "the recording of a rescue");
                Self::Recording
            }
        }
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        AppError::from(error).into()
    }
}

impl From<Outside> for Problem {
    fn from(outside: Outside) -> Self {
        let (status, code) = match outside {
            Outside::Replaced => (StatusCode::CONFLICT, "not-in-shell"),
            Outside::Full => (StatusCode::TOO_MANY_REQUESTS, "not-taken"),
        };
        Self::new(status, code, outside.to_string())
    }
}

/// `POST /v1/jobs/{job}/code`
pub(super) async fn code(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    By(actor): By,
) -> Result<Json<CodeView>, Problem> {
    let id = job_id(&id)?;
    let node = find_job(&app, &id)?.node;
    let (code, expires_at) = app.issue_code(&actor, &node, &id).await?;
    Ok(Json(CodeView { code, expires_at }))
}

/// `POST /v1/jobs/{job}/shell`
pub(super) async fn enter(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Extension(door): Extension<Door>,
    By(actor): By,
    Body(body): Body<EnterShell>,
) -> Result<Json<ShellView>, Problem> {
    let id = job_id(&id)?;
    let node = find_job(&app, &id)?.node;
    let name: String = body.who.chars().filter(|c| !c.is_control()).take(WHO_MAX).collect();
    let who = format!("the administrator at {}, who calls himself {name:?}", door.peer.address());
    match app.enter_shell(&actor, (&node, &id), &body.code, &who, body.size).await? {
        Ok(inside) => Ok(Json(ShellView { shell: inside.token, after: inside.after })),
        Err(left) => {
            let detail = match left {
                0 => "the code is wrong, was used, has expired, or was tried too often; `ks rescue NODE` makes a new one".into(),
                left => format!("the code is wrong; {left} tries are left"),
            };
            Err(Problem::new(StatusCode::FORBIDDEN, "wrong-code", detail))
        }
    }
}

/// `POST /v1/jobs/{job}/shell/input`
pub(super) async fn type_in(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Body(body): Body<TypeIn>,
) -> Result<StatusCode, Problem> {
    app.shells.entered(&job_id(&id)?)?.typed(&body.shell, body.bytes.0, body.size).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/jobs/{job}/shell/output`
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Body(body): Body<Watch>,
) -> Result<Json<Shown>, Problem> {
    let id = job_id(&id)?;
    let shell = app.shells.entered(&id)?;
    let (mut newest, mut changes) = (app.store.newest_event(), shell.changes());
    let look = async {
        loop {
            newest.mark_unchanged();
            changes.mark_unchanged();
            // Asked first: what was shown before the end is then surely seen.
            let state = find_job(&app, &id)?.state;
            let (first, bytes) = shell.shown(&body.shell, body.after)?;
            let over = (bytes.is_empty() && state.ended()).then(|| end(state));
            if !bytes.is_empty() || over.is_some() {
                return Ok::<_, Problem>(Shown { first, bytes: Octets(bytes), over });
            }
            tokio::select! {
                changed = newest.changed() => drop(changed),
                changed = changes.changed() => drop(changed),
            }
        }
    };
    let wait = Duration::from_secs(u64::from(body.wait_seconds.min(WAIT_MAX)));
    let nothing = Shown { first: body.after, bytes: Octets::default(), over: None };
    tokio::time::timeout(wait, look).await.unwrap_or(Ok(nothing)).map(Json)
}

/// What the end of a rescue is called.
fn end(state: JobState) -> String {
    match state {
        JobState::Succeeded => "the shell was left",
        JobState::Cancelled => "the rescue was cancelled, or its time is over",
        _ => "the job has failed",
    }
    .into()
}

/// `GET /v1/jobs/{job}/recording`
pub(super) async fn recording(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let id = job_id(&id)?;
    let path = app.shells.recording(&id);
    let path = path.ok_or_else(|| Problem::not_found(format!("nothing was recorded of {id}")))?;
    let served = Served { path: &path, content_type: "application/x-asciicast", digest: None };
    Ok(files::serve(&app, &served, &request, |_| {}))
}

/// `POST /agent/v1/shell/input`
pub(super) async fn input(
    State(app): State<Arc<App>>,
    agent: Agent,
    Body(question): Body<InputQuestion>,
) -> Result<Json<Input>, Problem> {
    let key = Key::Session(agent.session);
    let alive = Event::RescueAlive { job: question.job.clone(), attempt: question.attempt };
    let machine = match app.apply(key, &alive).await {
        Ok(applied) => applied.machine,
        Err(AppError::Refused(_)) => return Ok(Json(over(&app.machine(key)?.machine))),
        Err(error) => return Err(error.into()),
    };
    let shell = app.shell(&machine, &question.job)?;
    let (mut newest, mut changes) = (app.store.newest_event(), shell.changes());
    let look = async {
        loop {
            newest.mark_unchanged();
            changes.mark_unchanged();
            let machine = app.machine(key)?.machine;
            if held(&machine, &question.job, question.attempt).is_none() {
                return Ok::<_, Problem>(over(&machine));
            }
            if let Some(input) = shell.input(&question).await? {
                return Ok(input);
            }
            tokio::select! {
                changed = newest.changed() => drop(changed),
                changed = changes.changed() => drop(changed),
            }
        }
    };
    let wait = Duration::from_secs(u64::from(question.wait_seconds.min(WAIT_MAX)));
    let size = question.shell.unwrap_or_default();
    let nothing = Input { first: question.after, size, ..Input::default() };
    tokio::time::timeout(wait, look).await.unwrap_or(Ok(nothing)).map(Json)
}

/// What an agent is told whose rescue is over.
fn over(machine: &Machine) -> Input {
    let ended = machine.job.as_ref().filter(|job| job.state.ended());
    let why = ended.map_or_else(|| "the job began anew".into(), |job| end(job.state));
    Input { over: Some(why), ..Input::default() }
}

/// `POST /agent/v1/shell/output`
pub(super) async fn output(
    State(app): State<Arc<App>>,
    agent: Agent,
    Body(output): Body<Output>,
) -> Result<StatusCode, Problem> {
    let machine = app.machine(Key::Session(agent.session))?.machine;
    if held(&machine, &output.job, output.attempt).is_none() {
        return Err(AppError::Refused("the rescue is over".into()).into());
    }
    if output.bytes.0.len() > OUTPUT_MAX {
        return Err(Problem::bad_request(format!("more than {OUTPUT_MAX} bytes at once")));
    }
    let shell = app.shell(&machine, &output.job)?;
    // To its end, also when the agent hangs up meanwhile: what is recorded counts as shown.
    let shown = tokio::spawn(async move { shell.show(&output).await });
    shown.await.map_err(std::io::Error::other).map_err(RecordError::from)??;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /agent/v1/rescued`
pub(super) async fn rescued(
    State(app): State<Arc<App>>,
    agent: Agent,
    Body(Rescued { job, attempt }): Body<Rescued>,
) -> Result<Json<Directive>, Problem> {
    super::agent::directive(app.apply(Key::Session(agent.session), &Event::Rescued { job, attempt }).await)
}
