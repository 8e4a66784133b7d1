//! The one thread that writes: many changes share one synchronisation with the disk.
//!
//! Changes that wait together are applied in order, each within a savepoint, and committed once.
//! A caller hears of its change only after that commit is durable.

use rusqlite::{Connection, ErrorCode};
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;

/// Most changes that share one commit.
const BATCH_MAX: usize = 256;

/// Changes that may wait before callers are held back.
const QUEUE_MAX: usize = 4096;

/// Why a change did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The change itself was refused; nothing of it is stored.
    #[error("{0}")]
    Refused(String),
    /// The disk or the database refused; nothing of the whole batch is stored.
    #[error("the database refused: {0}; check that its disk has space and works")]
    Database(String),
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

/// A change: runs within its savepoint, then tells its caller how the commit went.
trait Change: Send {
    fn apply(&mut self, connection: &Connection) -> bool;
    fn answer(self: Box<Self>, commit: Result<(), WriteError>);
}

struct Pending<T, F, A> {
    work: Option<F>,
    after: A,
    outcome: Option<rusqlite::Result<T>>,
    caller: oneshot::Sender<Result<T, WriteError>>,
}

impl<T, F, A> Change for Pending<T, F, A>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    A: FnOnce(&T) + Send,
{
    fn apply(&mut self, connection: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, commit: Result<(), WriteError>) {
        let answer = match (self.outcome, commit) {
            (Some(Ok(value)), Ok(())) => {
                (self.after)(&value);
                Ok(value)
            }
            // Only a broken rule is the change's own fault; a full disk is not.
            (Some(Err(error)), Ok(())) => match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => Err(WriteError::Refused(error.to_string())),
                _ => Err(WriteError::Database(error.to_string())),
            },
            (_, Err(error)) => Err(error),
            (None, Ok(())) => Err(WriteError::Closed),
        };
        // A caller that no longer waits (its connection closed) misses nothing it can use.
        let _ = self.caller.send(answer);
    }
}

/// Handle to the writing thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::SyncSender<Box<dyn Change>>,
}

impl Writer {
    /// Starts the thread on `connection`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(mut connection: Connection) -> std::io::Result<Self> {
        let (queue, changes) = mpsc::sync_channel::<Box<dyn Change>>(QUEUE_MAX);
        thread::Builder::new().name("store-writer".into()).spawn(move || {
            while let Ok(first) = changes.recv() {
                let mut batch = vec![first];
                batch.extend(changes.try_iter().take(BATCH_MAX - 1));
                let commit = commit(&mut connection, &mut batch)
                    .map_err(|error| WriteError::Database(error.to_string()));
                if let Err(error) = &commit {
                    tracing::error!(%error, changes = batch.len(), "store: nothing was written");
                }
                for change in batch {
                    change.answer(commit.clone());
                }
            }
        })?;
        Ok(Self { queue })
    }

    /// Runs `work` in the next batch and returns when its commit is durable.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_then(work, |_| {}).await
    }

    /// As [`write`](Self::write); once the commit is durable `after` runs, also when the caller
    /// has gone meanwhile (a client that hangs up ends the task that serves it).
    pub(super) async fn write_then<T, F, A>(&self, work: F, after: A) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let change = Box::new(Pending { work: Some(work), after, outcome: None, caller });
        self.queue.try_send(change).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => WriteError::Database("too many changes wait".into()),
            mpsc::TrySendError::Disconnected(_) => WriteError::Closed,
        })?;
        answer.await.unwrap_or(Err(WriteError::Closed))
    }
}

fn commit(connection: &mut Connection, batch: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
    let mut transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for change in batch {
        let savepoint = transaction.savepoint()?;
        if change.apply(&savepoint) {
            savepoint.commit()?;
        }
        // Otherwise the savepoint rolls back when it is dropped.
    }
    transaction.commit()
}
