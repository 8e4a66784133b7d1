//! Everything the server remembers, in one SQLite file.
//!
//! Reads see the last commit and take microseconds; writes go through one thread ([`writer`])
//! and return when they are durable. Machines carry a version: a change that was decided on an
//! older one is a [`Commit::Conflict`] and must be decided again.

mod copied;
mod copy;
mod index;
mod leases;
mod leases6;
mod losses;
mod migrate;
mod rows;
mod transaction;
mod writer;

pub use copy::{Snapshot, copy};
pub use index::{Brief, Index};
pub use leases::Wanted;
pub use transaction::Transaction;
pub use writer::WriteError;

use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{Job, Machine, Session};
use kaltstart_protocol::agent_api::LogLine;
use kaltstart_protocol::ids::{Digest, JobId, Mac, NodeId};
use kaltstart_protocol::syslog::Line;
use kaltstart_protocol::time::Millis;
use rows::{document, job, parsed, to_i64, trim};
use rusqlite::{Connection, params};
use serde::Serialize;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{oneshot, watch};
use writer::Writer;

/// The database's file in the data directory.
pub const FILE: &str = "kaltstart.db";

/// Events that are kept.
const EVENTS_MAX: i64 = 200_000;

/// Jobs of a node that are kept.
const JOBS_OF_A_NODE_MAX: i64 = 50;

/// Log lines that are kept.
const LOG_LINES_MAX: i64 = 1_000_000;

/// Why something could not be read or opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or is damaged.
    #[error(
        "database {path} cannot be opened, or is damaged; move data_dir away and restore a backup, or move the file away to begin anew"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file is not the server's to open or make.
    #[error("database {path} cannot be opened or made; it and data_dir must be the server's user's")]
    Access {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a newer program.
    #[error(
        "database {path} has version {found}, this program knows {}: use the newer program",
        migrate::SCHEMA_VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Its pages contradict each other.
    #[error("database {path} is damaged: {found}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite finds.
        found: String,
    },
    /// No writing thread.
    #[error("cannot start the store's thread")]
    Thread(#[from] io::Error),
    /// A read failed.
    #[error("reading the database: {0}")]
    Read(String),
    /// A write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// By what a machine is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// Its identifier.
    Id(&'a NodeId),
    /// A hardware address.
    Mac(Mac),
    /// Its name.
    Name(&'a str),
    /// The address that is reserved for it.
    Reservation(Ipv4Addr),
    /// Its boot token.
    BootToken(Digest),
    /// Its agent's session secret.
    Session(Digest),
    /// The token of its job with which the installed system reports.
    ReportToken(Digest),
    /// The token with which the installed system asks whether a job calls it back.
    RecallToken(Digest),
    /// The token with which the installed system asks for the key of its disks.
    UnlockToken(Digest),
}

impl Key<'_> {
    fn columns(&self) -> (&'static str, String) {
        match self {
            Self::Id(id) => ("id", id.to_string()),
            Self::Mac(mac) => ("mac", mac.to_string()),
            Self::Name(name) => ("name", (*name).to_owned()),
            Self::Reservation(address) => ("reservation", address.to_string()),
            Self::BootToken(digest) => ("boot_token", digest.to_string()),
            Self::Session(digest) => ("session", digest.to_string()),
            Self::ReportToken(digest) => ("report_token", digest.to_string()),
            Self::RecallToken(digest) => ("recall_token", digest.to_string()),
            Self::UnlockToken(digest) => ("unlock_token", digest.to_string()),
        }
    }
}

/// A machine with the version it was read at; 0 = not stored yet.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The machine.
    pub machine: Machine,
    /// Its version.
    pub version: i64,
}

/// What became of a change to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It is durable.
    Done,
    /// The machine has changed meanwhile: read and decide again.
    Conflict,
}

/// An event as subscribers get it.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Ascending number.
    pub id: i64,
    /// When.
    pub time: Millis,
    /// Type without prefix, as `job.phase_started`.
    pub kind: String,
    /// The node it is about.
    pub node: String,
    /// The job it is about.
    pub job: Option<String>,
    /// JSON object with the particulars.
    pub data: String,
}

/// A stored line of an agent's log.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct StoredLine {
    /// Ascending number.
    pub id: i64,
    /// When it was said, by the server's clock.
    pub time: Millis,
    /// `error`, `warn`, `info`, `debug`.
    pub level: String,
    /// The text.
    pub text: String,
}

/// The database.
pub struct Store {
    /// Which file it is.
    file: String,
    reader: Mutex<Connection>,
    writer: Writer,
    index: Arc<RwLock<Index>>,
    newest_event: watch::Sender<i64>,
}

impl Store {
    /// Opens the database in `dir`, makes it when there is none.
    ///
    /// # Errors
    /// When it cannot be opened, or was written by a newer program.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let file = make(&path).and_then(|()| copied::identity(&path));
        let file = file.map_err(|source| StoreError::Access { path: path.clone(), source })?;
        let open = |source| StoreError::Open { path: path.clone(), source };
        let mut connection = connect(&path).map_err(open)?;
        if let Err(found) = migrate::migrate(&mut connection).map_err(open)? {
            return Err(StoreError::Newer { path, found });
        }
        let newest: i64 = connection
            .query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0))
            .map_err(open)?;
        let mut index = Index::default();
        rows::each_machine(&connection, |found| index.put(&found.machine)).map_err(open)?;
        let reader = Mutex::new(connect(&path).map_err(open)?);
        let writer = Writer::start(connection)?;
        let (index, newest_event) = (Arc::new(RwLock::new(index)), watch::Sender::new(newest));
        Ok(Self { file, reader, writer, index, newest_event })
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let connection = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        read(&connection).map_err(|error| StoreError::Read(error.to_string()))
    }

    /// The machine found by `key`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn machine(&self, key: Key<'_>) -> Result<Option<Versioned>, StoreError> {
        self.read(|connection| rows::machine(connection, key))
    }

    /// All machines, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn machines(&self) -> Result<Vec<Versioned>, StoreError> {
        let mut machines = Vec::new();
        self.read(|connection| rows::each_machine(connection, |found| machines.push(found)))?;
        machines.sort_by(|a, b| a.machine.node.name.cmp(&b.machine.node.name));
        Ok(machines)
    }

    /// Stores a machine that was decided upon at `expected`, with what is told about it.
    ///
    /// # Errors
    /// When the database cannot be written; nothing is stored then.
    pub async fn commit(
        &self,
        machine: &Machine,
        expected: i64,
        happenings: &[Happening],
        now: Millis,
    ) -> Result<Commit, StoreError> {
        let (machine, happenings) = (machine.clone(), happenings.to_vec());
        self.transact(move |transaction| transaction.put(machine, expected, &happenings, now)).await
    }

    /// Does `work` within a transaction, and returns when it is durable.
    async fn transact<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        // A caller that no longer waits (its connection closed) misses nothing it can use.
        self.submit(work, move |outcome| drop(caller.send(outcome)))?;
        Ok(answer.await.unwrap_or(Err(WriteError::Closed))?)
    }

    /// Does `work` within a transaction. Once that is durable or has failed, the writing thread
    /// calls `done`: in the order of the calls, and while all later commits wait.
    ///
    /// # Errors
    /// When the work is not taken; `done` is not called then.
    pub fn submit<T, F, D>(&self, work: F, done: D) -> Result<(), WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
        D: FnOnce(Result<T, WriteError>) + Send + 'static,
    {
        let (index, newest_event) = (self.index.clone(), self.newest_event.clone());
        let write = move |connection: &Connection| {
            let mut transaction = Transaction::new(connection);
            let value = work(&mut transaction)?;
            Ok((value, transaction.changed, transaction.newest_event))
        };
        let tell = move |outcome: Result<(T, Vec<Machine>, Option<i64>), WriteError>| {
            done(outcome.map(|(value, changed, newest)| {
                if !changed.is_empty() {
                    let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
                    changed.iter().for_each(|machine| index.put(machine));
                }
                if let Some(newest) = newest {
                    newest_event.send_if_modified(|id| {
                        let newer = newest > *id;
                        *id = newest.max(*id);
                        newer
                    });
                }
                value
            }));
        };
        self.writer.submit(write, tell)
    }

    /// A job by its identifier.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn job(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        self.read(|connection| job(connection, id))
    }

    /// The newest jobs, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn jobs(&self, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT doc FROM jobs ORDER BY id DESC LIMIT ?1")?
                .query_map([limit as i64], |row| document(row, 0))?
                .collect()
        })
    }

    /// The newest jobs of a profile that succeeded.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn good_jobs(&self, profile: &str, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT doc FROM jobs WHERE profile = ?1 AND state = 'succeeded' ORDER BY id DESC LIMIT ?2",
                )?
                .query_map(params![profile, limit as i64], |row| document(row, 0))?
                .collect()
        })
    }

    /// Nodes whose job has a deadline at or before `now`; all nodes with a deadline for none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn due(&self, now: Option<Millis>) -> Result<Vec<NodeId>, StoreError> {
        let limit = now.map_or(i64::MAX, |now| to_i64(now.0));
        self.read(|connection| {
            connection
                .prepare_cached("SELECT node FROM jobs WHERE deadline <= ?1")?
                .query_map([limit], |row| parsed(row, 0))?
                .collect()
        })
    }

    /// At most `limit` events after number `after`; of one job only, when given.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn events(
        &self,
        after: i64,
        job: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, time, kind, node, job, data FROM events \
                     WHERE id > ?1 AND (?2 IS NULL OR job = ?2) ORDER BY id LIMIT ?3",
                )?
                .query_map(params![after, job.map(JobId::as_str), limit as i64], |row| {
                    Ok(StoredEvent {
                        id: row.get(0)?,
                        time: Millis(row.get::<_, i64>(1)?.unsigned_abs()),
                        kind: row.get(2)?,
                        node: row.get(3)?,
                        job: row.get(4)?,
                        data: row.get(5)?,
                    })
                })?
                .collect()
        })
    }

    /// Tells the number of the newest event, and each time it grows.
    pub fn newest_event(&self) -> watch::Receiver<i64> {
        self.newest_event.subscribe()
    }

    /// Stores lines of the log of a session's agent; lines that are there already are left alone.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn put_log(
        &self,
        node: NodeId,
        session: Session,
        first: u64,
        lines: Vec<LogLine>,
    ) -> Result<(), StoreError> {
        let write = move |transaction: &mut Transaction<'_>| {
            let connection = transaction.connection();
            let mut insert = connection.prepare_cached(
                "INSERT OR IGNORE INTO log_lines (node, job, boot, line, time, level, text) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            let (job, boot) = (session.job.as_ref().map(JobId::as_str), session.secret.to_string());
            for (i, line) in lines.iter().enumerate() {
                let number = to_i64(first.saturating_add(i as u64));
                insert.execute(params![
                    node.as_str(),
                    job,
                    boot,
                    number,
                    to_i64(session.booted_at.plus(line.uptime_ms).0),
                    line.level,
                    line.text
                ])?;
            }
            trim(connection, "log_lines", LOG_LINES_MAX)
        };
        self.transact(write).await
    }

    /// Stores lines that a machine's loader or kernel said during a job.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn put_syslog(
        &self,
        node: NodeId,
        job: JobId,
        lines: Vec<Line>,
        now: Millis,
    ) -> Result<(), StoreError> {
        let write = move |transaction: &mut Transaction<'_>| {
            let connection = transaction.connection();
            // Nobody repeats such lines, so each gets a number of its own.
            let mut insert = connection.prepare_cached(
                "INSERT INTO log_lines (node, job, boot, line, time, level, text) VALUES (?1, ?2, 'syslog', \
                 (SELECT coalesce(max(line), 0) + 1 FROM log_lines WHERE boot = 'syslog'), ?3, ?4, ?5)",
            )?;
            for line in &lines {
                insert.execute(params![node.as_str(), job.as_str(), to_i64(now.0), line.level, line.text])?;
            }
            trim(connection, "log_lines", LOG_LINES_MAX)
        };
        self.transact(write).await
    }

    /// At most `limit` lines of a job's log after number `after`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn job_log(&self, job: &JobId, after: i64, limit: usize) -> Result<Vec<StoredLine>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, time, level, text FROM log_lines WHERE job = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
                )?
                .query_map(params![job.as_str(), after, limit as i64], |row| {
                    Ok(StoredLine {
                        id: row.get(0)?,
                        time: Millis(row.get::<_, i64>(1)?.unsigned_abs()),
                        level: row.get(2)?,
                        text: row.get(3)?,
                    })
                })?
                .collect()
        })
    }
}

/// Makes the file when there is none, for its owner alone; SQLite gives the files beside it the same rights.
fn make(path: &Path) -> io::Result<()> {
    File::options().append(true).create(true).mode(0o600).open(path).map(|_| ())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // Every statement there is: one that falls out is parsed anew at each commit.
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    // FULL: a commit is on the disk before it is acknowledged, also in WAL mode. MEMORY: the server
    // may write nowhere but beneath its data directory, so SQLite makes no temporary files.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
         PRAGMA temp_store = MEMORY;",
    )?;
    Ok(connection)
}

#[cfg(test)]
mod tests;
