//! The one thread that writes: many changes share one synchronisation with the disk.
//!
//! Changes that wait together are applied in order, each within a savepoint, and committed once.
//! A caller hears of its change only after that commit is durable.

use super::transaction::is_of_the_database;
use rusqlite::Connection;
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
    #[error("the database refused: {0}; check that its disk has space and works")]
    Database(String),
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

/// A change: runs within its savepoint, then tells its caller how the commit went.
trait Change: Send {
    /// Whether its work succeeded.
    fn apply(&mut self, connection: &Connection) -> bool;
    fn answer(self: Box<Self>, commit: Result<(), WriteError>);
}

struct Pending<T, F, D> {
    work: Option<F>,
    outcome: Option<rusqlite::Result<T>>,
    done: D,
}

impl<T, F, D> Change for Pending<T, F, D>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    D: FnOnce(Result<T, WriteError>) + Send,
{
    fn apply(&mut self, connection: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, commit: Result<(), WriteError>) {
        (self.done)(match (self.outcome, commit) {
            (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            // Only a broken rule is the change's own fault; a full disk is not.
            (Some(Err(error)), Ok(())) if is_of_the_database(&error) => {
                Err(WriteError::Database(error.to_string()))
            }
            (Some(Err(error)), Ok(())) => Err(WriteError::Refused(error.to_string())),
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
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (queue, changes) = mpsc::sync_channel::<Box<dyn Change>>(QUEUE_MAX);
        thread::Builder::new().name("store-writer".into()).spawn(move || {
            while let Ok(first) = changes.recv() {
                let mut batch = vec![first];
                batch.extend(changes.try_iter().take(BATCH_MAX - 1));
                let commit =
                    commit(&connection, &mut batch).map_err(|error| WriteError::Database(error.to_string()));
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

    /// Runs `work` in the next batch; once its commit is durable or has failed, the writing thread
    /// calls `done`, in the order of the calls. All later commits wait for it.
    ///
    /// # Errors
    /// When the change is not taken; `done` is not called then.
    pub(super) fn submit<T, F, D>(&self, work: F, done: D) -> Result<(), WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        D: FnOnce(Result<T, WriteError>) + Send + 'static,
    {
        let change = Box::new(Pending { work: Some(work), outcome: None, done });
        self.queue.try_send(change).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => WriteError::Database("too many changes wait".into()),
            mpsc::TrySendError::Disconnected(_) => WriteError::Closed,
        })
    }
}

fn commit(connection: &Connection, batch: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
    run(connection, "BEGIN IMMEDIATE")?;
    let outcome = apply(connection, batch).and_then(|()| run(connection, "COMMIT"));
    if !connection.is_autocommit() {
        // It failed; and if this fails too, so will the next one.
        run(connection, "ROLLBACK").ok();
    }
    outcome
}

/// Carries out changes, each within its savepoint.
fn apply(connection: &Connection, batch: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
    for change in batch {
        run(connection, "SAVEPOINT change")?;
        if !change.apply(connection) {
            if connection.is_autocommit() {
                // A full disk can end it, and each later savepoint would be a transaction by itself.
                let ended = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT);
                return Err(rusqlite::Error::SqliteFailure(ended, Some("the transaction was ended".into())));
            }
            run(connection, "ROLLBACK TO change")?;
        }
        run(connection, "RELEASE change")?;
    }
    Ok(())
}

/// Executes a statement without parsing it each time.
pub(super) fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}
