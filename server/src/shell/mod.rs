//! Shells on machines that people work on: what is typed goes one way and what is shown the other, and both are
//! recorded before they go on.
//!
//! Agents and people ask for what is new; nobody is connected to. What waits is in memory only: after a restart of
//! the server the shell goes on, and a new code lets people in again.

mod flow;
mod recording;

pub(crate) use recording::RecordError;

use crate::clock;
use flow::Flow;
use kaltstart_protocol::ids::{Digest, JobId};
use kaltstart_protocol::rescue::{Input, InputQuestion, OUTPUT_MAX, Octets, Output, Size};
use kaltstart_protocol::secret::Secret;
use recording::{Moment, Recording};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Shells that are remembered; the oldest is forgotten for a new one.
const SHELLS_MAX: usize = 256;

/// Typed bytes that may wait for the machine.
const INPUT_MAX: usize = 64 << 10;

/// Shown bytes that are kept for people. Who is slower misses some, the machine waits for nobody.
const SHOWN_MAX: usize = 256 << 10;

/// Shown bytes from before that somebody sees who comes in.
const BEFORE_MAX: u64 = 4 << 10;

/// All shells.
pub struct Shells {
    dir: PathBuf,
    shells: Mutex<BTreeMap<JobId, Arc<Shell>>>,
}

impl Shells {
    /// None yet; recordings are kept beneath `data_dir`.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { dir: recording::dir(data_dir), shells: Mutex::default() }
    }

    /// The shell of a job on the node of that name.
    ///
    /// # Errors
    /// When its recording cannot be opened.
    pub(crate) fn of(&self, job: &JobId, node: &str) -> io::Result<Arc<Shell>> {
        let mut shells = self.shells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shells.get(job) {
            return Ok(known.clone());
        }
        let recording = Recording::open(&self.dir, job, &format!("{node} {job}"), clock::now())?;
        let shell = Arc::new(Shell {
            recording: Arc::new(tokio::sync::Mutex::new(recording)),
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(State::new(0)),
            changed: watch::Sender::new(()),
        });
        while shells.len() >= SHELLS_MAX {
            shells.pop_first();
        }
        shells.insert(job.clone(), shell.clone());
        Ok(shell)
    }

    /// The same, if somebody came to it since the server started.
    ///
    /// # Errors
    /// When nobody did.
    pub(crate) fn entered(&self, job: &JobId) -> Result<Arc<Shell>, Outside> {
        let shells = self.shells.lock().unwrap_or_else(PoisonError::into_inner);
        shells.get(job).cloned().ok_or(Outside::Replaced)
    }

    /// Where the recording of a job is, if there is one.
    pub(crate) fn recording(&self, job: &JobId) -> Option<PathBuf> {
        Some(recording::path(&self.dir, job)).filter(|path| path.exists())
    }
}

/// The shell of one rescue.
pub(crate) struct Shell {
    recording: Arc<tokio::sync::Mutex<Recording>>,
    /// Whose turn it is to show something.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    /// The start of the machine to which all of it belongs.
    attempt: u32,
    /// Whether somebody came with the right code.
    open: bool,
    /// Fingerprint of the token of who is in.
    inside: Option<Digest>,
    size: Size,
    input: Flow,
    output: Flow,
    /// Whether the agent has asked for input: its first question tells where counting is.
    counts_input: bool,
    /// The same of output.
    counts_output: bool,
}

impl State {
    const fn new(attempt: u32) -> Self {
        Self {
            attempt,
            open: false,
            inside: None,
            size: Size { columns: 80, rows: 24 },
            input: Flow::new(INPUT_MAX),
            output: Flow::new(SHOWN_MAX),
            counts_input: false,
            counts_output: false,
        }
    }

    fn is_inside(&self, token: &Secret) -> bool {
        self.inside.is_some_and(|inside| token.matches(&inside))
    }
}

/// Why somebody is not in the shell (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Outside {
    /// Another came in, or the server was restarted.
    #[error(
        "somebody else came in with a newer code, or machine or server were restarted; `ks rescue NODE` gives a new code"
    )]
    Replaced,
    /// Too much waits for the machine.
    #[error("the machine does not take what was typed; try again")]
    Full,
}

impl Shell {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells each time something changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    async fn record(&self, moment: Moment) -> Result<(), RecordError> {
        let mut recording = self.recording.clone().lock_owned().await;
        let taken = tokio::task::spawn_blocking(move || recording.take(&moment, clock::now()));
        taken.await.map_err(io::Error::other)?
    }

    /// The agent of that start is there; what was before belongs to another shell.
    async fn begin(&self, attempt: u32) -> Result<(), RecordError> {
        if self.state().attempt == attempt {
            return Ok(());
        }
        self.record(Moment::Mark(format!("start {attempt} of the machine for this rescue"))).await?;
        let mut state = self.state();
        // Others may have come first meanwhile.
        if state.attempt != attempt {
            *state = State::new(attempt);
        }
        drop(state);
        self.changed.send_replace(());
        Ok(())
    }

    /// Lets somebody in who had the right code, during that start of the machine, and tells where what is shown
    /// begins.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub(crate) async fn enter(
        &self,
        attempt: u32,
        who: &str,
        token: &Secret,
        size: Size,
    ) -> Result<u64, RecordError> {
        self.begin(attempt).await?;
        self.record(Moment::Mark(format!("opened by {who}"))).await?;
        self.record(Moment::Resized(size)).await?;
        let mut state = self.state();
        (state.open, state.inside, state.size) = (true, Some(token.fingerprint()), size);
        let after = state.output.next().saturating_sub(BEFORE_MAX).max(state.output.first());
        drop(state);
        self.changed.send_replace(());
        Ok(after)
    }

    /// Takes what somebody typed who is in, at a terminal of that size.
    ///
    /// # Errors
    /// When it cannot be recorded; within, why it is not taken.
    pub(crate) async fn typed(
        &self,
        token: &Secret,
        bytes: Vec<u8>,
        size: Size,
    ) -> Result<Result<(), Outside>, RecordError> {
        let resized = {
            let state = self.state();
            if !state.is_inside(token) {
                return Ok(Err(Outside::Replaced));
            }
            if state.input.room() < bytes.len() {
                return Ok(Err(Outside::Full));
            }
            state.size != size
        };
        if resized {
            self.record(Moment::Resized(size)).await?;
        }
        if !bytes.is_empty() {
            self.record(Moment::Typed(bytes.clone())).await?;
        }
        let mut state = self.state();
        if !state.is_inside(token) {
            return Ok(Err(Outside::Replaced));
        }
        state.input.push(&bytes);
        state.size = size;
        drop(state);
        self.changed.send_replace(());
        Ok(Ok(()))
    }

    /// What was shown since number `after`, where it begins, and what comes next; for who is in.
    pub(crate) fn shown(&self, token: &Secret, after: u64) -> Result<(u64, Vec<u8>), Outside> {
        let state = self.state();
        if state.is_inside(token) {
            Ok(state.output.since(after, OUTPUT_MAX))
        } else {
            Err(Outside::Replaced)
        }
    }

    /// What there is for the agent that asks; none as long as it knows all.
    ///
    /// # Errors
    /// When the start of the agent cannot be recorded.
    pub(crate) async fn input(&self, question: &InputQuestion) -> Result<Option<Input>, RecordError> {
        self.begin(question.attempt).await?;
        let mut state = self.state();
        // After a restart of the server the agent has counted on.
        if !std::mem::replace(&mut state.counts_input, true) {
            state.input.count_from(question.after);
        }
        state.input.forget(question.after);
        let (first, bytes) = state.input.since(question.after, OUTPUT_MAX);
        let news = state.open && (!bytes.is_empty() || question.shell != Some(state.size));
        Ok(news.then_some(Input { open: true, first, bytes: Octets(bytes), size: state.size, over: None }))
    }

    /// Takes what the agent shows; what came before is not taken twice.
    ///
    /// # Errors
    /// When it cannot be recorded: then nobody sees it.
    pub(crate) async fn show(&self, output: &Output) -> Result<(), RecordError> {
        let _turn = self.turn.lock().await;
        self.begin(output.attempt).await?;
        let bytes = {
            let mut state = self.state();
            if !std::mem::replace(&mut state.counts_output, true) {
                state.output.count_from(output.first);
            }
            let known = state.output.next().saturating_sub(output.first);
            let known = usize::try_from(known).unwrap_or(usize::MAX).min(output.bytes.0.len());
            output.bytes.0[known..].to_vec()
        };
        if bytes.is_empty() {
            return Ok(());
        }
        self.record(Moment::Shown(bytes.clone())).await?;
        self.state().output.push(&bytes);
        self.changed.send_replace(());
        Ok(())
    }
}
