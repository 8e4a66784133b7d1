//! The one thread that writes: many changes share one synchronisation with the disk.
//!
//! Changes that wait together are applied in order, each within a savepoint, and committed once.
//! A caller hears of its change only after that commit is durable.

use super::connection::{Connection, DatabaseError, Result as Outcome};
use std::sync::mpsc;
use std::thread;

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
    #[error("the database refused: {0}; check that it is in reach and its disk has space and works")]
    Database(String),
    /// The database did not say what became of the commit.
    #[error("the database did not say whether that was stored: {0}; look before you order it again")]
    Unknown(String),
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<DatabaseError> for WriteError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Refused(why) => Self::Refused(why),
            DatabaseError::Failed(why) => Self::Database(why),
        }
    }
}

/// A change: runs within its savepoint, then tells its caller how the commit went.
trait Change: Send {
    /// Whether its work succeeded.
    fn apply(&mut self, connection: &mut Connection) -> bool;
    fn answer(self: Box<Self>, commit: Result<(), WriteError>);
}

struct Pending<T, F, D> {
    work: Option<F>,
    outcome: Option<Outcome<T>>,
    done: D,
}

impl<T, F, D> Change for Pending<T, F, D>
where
    T: Send,
    F: FnOnce(&mut Connection) -> Outcome<T> + Send,
    D: FnOnce(Result<T, WriteError>) + Send,
{
    fn apply(&mut self, connection: &mut Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, commit: Result<(), WriteError>) {
        (self.done)(match (self.outcome, commit) {
            (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Err(error)), Ok(())) => Err(error.into()),
            (None, Ok(())) => Err(WriteError::Closed),
        });
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
                let commit = commit(&mut connection, &mut batch);
                if let Err(error) = &commit {
                    tracing::error!(%error, changes = batch.len(), "store");
                }
                for change in batch {
                    change.answer(commit.clone());
                }
            }
        })?;
        Ok(Self { queue })
    }

    /// Runs `work` in the next batch; once its commit is durable or has failed, the writing thread
    /// calls `done`, in the order of the calls. All later commits wait for it.
    ///
    /// # Errors
    /// When the change is not taken; `done` is not called then.
    pub(super) fn submit<T, F, D>(&self, work: F, done: D) -> Result<(), WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Outcome<T> + Send + 'static,
        D: FnOnce(Result<T, WriteError>) + Send + 'static,
    {
        let change = Box::new(Pending { work: Some(work), outcome: None, done });
        self.queue.try_send(change).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => WriteError::Database("too many changes wait".into()),
            mpsc::TrySendError::Disconnected(_) => WriteError::Closed,
        })
    }
}

fn commit(connection: &mut Connection, batch: &mut [Box<dyn Change>]) -> Result<(), WriteError> {
    let refused = |error: DatabaseError| WriteError::Database(error.to_string());
    connection.begin().map_err(refused)?;
    let outcome = match apply(connection, batch) {
        Ok(()) => connection.run("COMMIT").map_err(|error| WriteError::Unknown(error.to_string())),
        Err(error) => Err(refused(error)),
    };
    if connection.is_in_transaction() {
        // It failed; and if this fails too, so will the next one.
        connection.run("ROLLBACK").ok();
    }
    outcome
}

/// Carries out changes, each within its savepoint.
fn apply(connection: &mut Connection, batch: &mut [Box<dyn Change>]) -> Outcome<()> {
    for change in batch {
        connection.run("SAVEPOINT change")?;
        if !change.apply(connection) {
            if !connection.is_in_transaction() {
                // A full disk can end it, and each later savepoint would be a transaction by itself.
                return Err(DatabaseError::Failed("the transaction was ended".into()));
            }
            connection.run("ROLLBACK TO SAVEPOINT change")?;
        }
        connection.run("RELEASE SAVEPOINT change")?;
    }
    Ok(())
}
