//! Talking to the server: one call per message, four kinds of failure, and patience.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kaltstart_protocol::agent_api::{
    Directive, Erased, Hello, Installed, LogBatch, Neighbours, Report, Task, TaskRequest, Welcome,
};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::rescue::{Input, InputQuestion, Output, Rescued};
use kaltstart_protocol::secret::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backoff::{Policy, SERVER};
use crate::sys::kernel;
use crate::{clock, http, log, screen};

/// Longest time of a call that is answered at once.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Seconds the server may hold back the answer to a question for work.
pub const TASK_WAIT_SECONDS: u32 = 30;
/// Seconds the server may hold back the answer to a question for what was typed.
pub const SHELL_WAIT_SECONDS: u32 = 30;
/// Longest answer taken, in bytes.
const ANSWER_LIMIT: u64 = 4 << 20;
/// Failures in a row after which the console shows the finding, and again after so many more.
const SHOW_AFTER: u32 = 5;
const SHOW_EVERY: u32 = 40;

/// Why a call was not answered with success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// 401: the session or token is not known (any more).
    #[error("the server does not know this session: {0}")]
    Unauthorized(String),
    /// Another 4xx: the server understood and refuses; trying again is useless.
    #[error("the server refuses ({status}): {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// `title: detail` of the problem document, or the start of the body.
        text: String,
    },
    /// No answer, or one that says "later": try again.
    #[error("{0}")]
    Unreachable(String),
    /// Whoever answers could not prove to be the server, and was told nothing: try again, as it
    /// may be gone then.
    #[error("{0}")]
    Untrusted(String),
}

/// A connection to the servers of the site as one agent: to one of them, and to the next when it does not answer.
pub struct Link {
    servers: Vec<String>,
    /// Which of them is asked.
    at: AtomicUsize,
    http: ureq::Agent,
    session: Secret,
    retry: Policy,
    pause: fn(Duration),
}

impl Link {
    /// Prepares a link; nothing is sent. `servers` are their base addresses without closing slash, one at least,
    /// `http` the client that believes them alone.
    #[must_use]
    pub fn new(servers: &[String], http: ureq::Agent, session: Secret) -> Self {
        let (servers, at) = (servers.to_vec(), AtomicUsize::new(0));
        Self { servers, at, http, session, retry: SERVER, pause: std::thread::sleep }
    }

    /// The same with another way to wait, for tests in virtual time.
    #[cfg(test)]
    pub(crate) fn with_pause(self, pause: fn(Duration)) -> Self {
        Self { pause, ..self }
    }

    /// The address of the server that is asked.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.servers[self.at.load(Ordering::Relaxed)]
    }

    /// The secret this agent uses.
    #[must_use]
    pub fn session(&self) -> &Secret {
        &self.session
    }

    /// Says hello, once.
    ///
    /// # Errors
    /// See [`CallError`]; 401 means that the boot token is used up.
    pub fn hello(&self, hello: &Hello) -> Result<Welcome, CallError> {
        self.call("hello", hello, CALL_LIMIT)
    }

    /// Asks for work, once; the answer may take [`TASK_WAIT_SECONDS`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn task(&self) -> Result<Task, CallError> {
        let wait = Duration::from_secs(u64::from(TASK_WAIT_SECONDS));
        self.call("task", &TaskRequest { wait_seconds: TASK_WAIT_SECONDS }, wait + CALL_LIMIT)
    }

    /// Reports on a phase, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn report(&self, report: &Report) -> Result<Directive, CallError> {
        self.call("report", report, CALL_LIMIT)
    }

    /// Says that all disks are empty, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn erased(&self, erased: &Erased) -> Result<Directive, CallError> {
        self.call("erased", erased, CALL_LIMIT)
    }

    /// Says that the disk is complete, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn installed(&self, installed: &Installed) -> Result<Directive, CallError> {
        self.call("installed", installed, CALL_LIMIT)
    }

    /// Tells which switches were heard, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn neighbours(&self, heard: &Neighbours) -> Result<(), CallError> {
        self.post("neighbours", heard, CALL_LIMIT, |_| Ok(()))
    }

    /// Asks for what was typed, once; the answer may take [`SHELL_WAIT_SECONDS`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn shell_input(&self, question: &InputQuestion) -> Result<Input, CallError> {
        self.call("shell/input", question, Duration::from_secs(question.wait_seconds.into()) + CALL_LIMIT)
    }

    /// Tells what is shown, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn shell_output(&self, output: &Output) -> Result<(), CallError> {
        self.post("shell/output", output, CALL_LIMIT, |_| Ok(()))
    }

    /// Says that the shell was left, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn rescued(&self, rescued: &Rescued) -> Result<Directive, CallError> {
        self.call("rescued", rescued, CALL_LIMIT)
    }

    /// Hands over log lines, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn log(&self, batch: &LogBatch) -> Result<(), CallError> {
        self.post("log", batch, CALL_LIMIT, |_| Ok(()))
    }

    /// Repeats `call` while no server can be reached, for ever, and tells the console: at once
    /// when somebody else answers in its place, after some attempts when nobody does. It pauses when all have failed.
    ///
    /// # Errors
    /// The first answer that repeating cannot change.
    pub fn insist<T>(
        &self,
        what: &str,
        mut call: impl FnMut(&Self) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut failures = 0_u32;
        let mut shown = None;
        loop {
            let (why, code, show_after) = match self.ask_each(&mut call) {
                Err(CallError::Unreachable(why)) => (why, Code::ServerUnreachable, SHOW_AFTER),
                Err(CallError::Untrusted(why)) => (why, Code::ServerNotTrusted, 1),
                answer => {
                    if shown.is_some() {
                        screen::reached();
                        tracing::info!("{} answers again after {failures} failed attempts", self.server());
                    }
                    return answer;
                }
            };
            failures = failures.saturating_add(1);
            let wait = self.retry.delay(failures, kernel::random_u32());
            tracing::debug!("{what} failed ({why}); again in {} ms", wait.as_millis());
            let news = failures >= show_after && shown != Some(code);
            if news || failures.is_multiple_of(SHOW_EVERY) {
                let detail =
                    format!("{what} at {}: {why}; attempt {failures}, trying on", self.servers.join(", "));
                log::finding(&Finding::new(code, detail));
                shown = Some(code);
            }
            (self.pause)(wait);
        }
    }

    /// Calls until a server answers, once for each: a call that fails turns to the next.
    fn ask_each<T>(&self, call: &mut impl FnMut(&Self) -> Result<T, CallError>) -> Result<T, CallError> {
        let mut outcome = call(self);
        for _ in 1..self.servers.len() {
            match outcome {
                Err(CallError::Unreachable(_) | CallError::Untrusted(_)) => outcome = call(self),
                answer => return answer,
            }
        }
        outcome
    }

    fn call<A: Serialize, B: DeserializeOwned>(
        &self,
        path: &str,
        body: &A,
        limit: Duration,
    ) -> Result<B, CallError> {
        // Half a document or another program's answer: neither is the server's word.
        let read = |bytes: &[u8]| {
            serde_json::from_slice(bytes)
                .map_err(|error| CallError::Unreachable(format!("unusable answer: {error}")))
        };
        self.post(path, body, limit, read)
    }

    fn post<A: Serialize, B>(
        &self,
        path: &str,
        body: &A,
        limit: Duration,
        read: impl FnOnce(&[u8]) -> Result<B, CallError>,
    ) -> Result<B, CallError> {
        let at = self.at.load(Ordering::Relaxed);
        let url = format!("{}/agent/v1/{path}", self.servers[at]);
        let bytes = serde_json::to_vec(body).map_err(|error| CallError::Refused {
            status: 0,
            text: format!("message cannot be written: {error}"),
        })?;
        let mut request = self.http.post(&url).header("Content-Type", "application/json");
        if path != "hello" {
            request = request.header("Authorization", format!("Bearer {}", self.session.expose()));
        }
        let answer = request.config().timeout_global(Some(limit)).build().send(&bytes[..]);
        let answer = read_answer(answer).and_then(|bytes| read(&bytes));
        match &answer {
            Err(CallError::Unreachable(why) | CallError::Untrusted(why)) if self.servers.len() > 1 => {
                let next = (at + 1) % self.servers.len();
                // Another thread may have turned to it already.
                if self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    tracing::warn!("{} is asked from now on: {why}", self.servers[next]);
                }
            }
            Err(CallError::Unreachable(_) | CallError::Untrusted(_)) => {}
            _ => screen::heard(),
        }
        answer
    }
}

/// The body of a successful answer; sets the clock from its date.
pub(crate) fn read_answer(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Vec<u8>, CallError> {
    let mut answer = answer.map_err(|error| match http::refusal(&error) {
        Some(why) => CallError::Untrusted(why),
        None => CallError::Unreachable(error.to_string()),
    })?;
    let status = answer.status().as_u16();
    if let Some(date) = answer.headers().get("date").and_then(|date| date.to_str().ok()) {
        clock::follow(date);
    }
    let body = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec();
    let text = || problem(body.as_deref().unwrap_or_default());
    match status {
        200..=299 => body.map_err(|error| CallError::Unreachable(error.to_string())),
        401 => Err(CallError::Unauthorized(text())),
        // Too slow, too early, too many: later.
        408 | 425 | 429 => Err(CallError::Unreachable(format!("status {status}: {}", text()))),
        400..=499 => Err(CallError::Refused { status, text: text() }),
        _ => Err(CallError::Unreachable(format!("status {status}: {}", text()))),
    }
}

/// What a refusal says: `title: detail` of a problem document (RFC 9457), else the body's start.
fn problem(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        title: String,
        #[serde(default)]
        detail: String,
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem { title, detail }) if detail.is_empty() => title,
        Ok(Problem { title, detail }) => format!("{title}: {detail}"),
        Err(_) => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
