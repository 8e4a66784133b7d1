//! Everything the server remembers: in one SQLite file, or in a PostgreSQL that several servers share.
//!
//! Reads see the last commit, in microseconds out of the file and after a round trip from a server; writes go through
//! one thread ([`writer`]) and return when they are durable. Machines carry a version: a change that was decided on an
//! older one is a [`Commit::Conflict`] and must be decided again.

mod audit;
mod connection;
mod copied;
mod copy;
mod index;
mod leases;
mod leases6;
mod logs;
mod losses;
mod migrate;
mod others;
mod outage;
mod postgres;
mod rows;
mod secrets;
mod simulated;
mod sqlite;
mod tokens;
mod transaction;
mod transfer;
mod writer;

pub use audit::{Recorded, Sealer};
pub use connection::{DatabaseError, Result};
pub use copied::OF_STRANGERS_MAX;
pub use copy::{Snapshot, copy};
pub use index::{Brief, Index};
pub use leases::Wanted;
pub use logs::StoredLine;
pub use losses::Terms;
pub use others::Changed;
pub use postgres::Server;
pub use secrets::sealed_in;
pub use simulated::Way;
pub use transaction::Transaction;
pub use transfer::{export, import};
pub use writer::WriteError;

use audit::Audit;
use connection::{Connection, Row};
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{Job, Machine};
use kaltstart_core::observing::Restored;
use kaltstart_protocol::ids::{Digest, JobId, Mac, NodeId};
use kaltstart_protocol::time::Millis;
use others::Shared;
use outage::Outage;
use postgres::{Postgres, outside_of_the_runtime};
use rows::{job, to_i64};
use sqlite::Sqlite;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{oneshot, watch};
use transaction::Done;
use writer::Writer;

/// The database's file in the data directory.
pub const FILE: &str = "kaltstart.db";

/// Events that are kept.
const EVENTS_MAX: i64 = 200_000;

/// How many more there are before the oldest are removed.
const EVENTS_REMOVED_AT_ONCE: i64 = 100;

/// Jobs of a node that are kept.
const JOBS_OF_A_NODE_MAX: i64 = 50;

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
    /// The shared database cannot be reached or used.
    #[error("the database server cannot be used: {why}; check database.url, that server, and the way to it")]
    Connect {
        /// What it or the network says.
        why: String,
    },
    /// A copy cannot be put into it.
    #[error("the database takes no copy: {why}")]
    Copy {
        /// What stands against it.
        why: String,
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

/// The database.
pub struct Store {
    /// Which file, or which database of which server, it is.
    identity: String,
    reader: Mutex<Connection>,
    writer: Writer,
    index: Arc<RwLock<Index>>,
    newest_event: watch::Sender<i64>,
    /// If others may use it too.
    shared: Option<Shared>,
    /// The copy that it goes on from.
    copied: RwLock<Option<Restored>>,
    /// The key and the end of the audit log.
    audit: Arc<Audit>,
}

impl Store {
    /// Opens the database in `dir`, makes it when there is none.
    ///
    /// # Errors
    /// When it cannot be opened, or was written by a newer program.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let identity = make(&path).and_then(|()| copied::identity(&path));
        let identity = identity.map_err(|source| StoreError::Access { path: path.clone(), source })?;
        let open = |source| StoreError::Open { path: path.clone(), source };
        let mut writer = sqlite::connect(&path).map_err(open)?;
        if let Err(found) = migrate::migrate(&mut writer).map_err(open)? {
            return Err(StoreError::Newer { path, found });
        }
        let reader = sqlite::connect(&path).map_err(open)?;
        let [writer, reader] = [writer, reader].map(|one| Connection::Sqlite(Sqlite::new(one)));
        Self::of(identity, writer, reader, None)
    }

    /// Opens the database of a PostgreSQL `server`, makes its tables when there are none. Others may
    /// use it at the same time; `me` is another name than theirs.
    ///
    /// # Errors
    /// When it cannot be reached, or was written by a newer program.
    pub fn connect(server: &Server, me: &str) -> Result<Self, StoreError> {
        let outage = Outage::default();
        let mut writer = Postgres::connect(server, me, Some(&outage))?;
        writer.migrate()?;
        let identity = writer.identity()?;
        let [mut writer, reader] = [writer, Postgres::connect(server, me, Some(&outage))?]
            .map(|one| Connection::Postgres(Box::new(one)));
        // Before anything else is read: what changes meanwhile is heard of again.
        let shared = Shared::new(Some(server.clone()), me, outage, &mut writer)?;
        Self::of(identity, writer, reader, Some(shared))
    }

    fn of(
        identity: String,
        mut writer: Connection,
        reader: Connection,
        shared: Option<Shared>,
    ) -> Result<Self, StoreError> {
        let mut index = Index::default();
        let newest = rows::each_machine(&mut writer, |found| index.put(&found.machine, found.version))
            .and_then(|()| writer.first("SELECT coalesce(max(id), 0) FROM events", &[], |row| row.int(0)));
        let newest = newest.map_err(|error| StoreError::Read(error.to_string()))?.unwrap_or(0);
        let (index, newest_event) = (Arc::new(RwLock::new(index)), watch::Sender::new(newest));
        let (reader, writer) = (Mutex::new(reader), Writer::start(writer)?);
        let (copied, audit) = Default::default();
        Ok(Self { identity, reader, writer, index, newest_event, shared, copied, audit })
    }

    fn read<T>(&self, read: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T, StoreError> {
        let read = || {
            let mut connection = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            read(&mut connection).map_err(|error| StoreError::Read(error.to_string()))
        };
        // A file answers at once; for a server one waits, and for whoever asks it.
        if self.is_shared() { outside_of_the_runtime(read) } else { read() }
    }

    /// The machine found by `key`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn machine(&self, key: Key<'_>) -> Result<Option<Versioned>, StoreError> {
        self.read(|connection| rows::machine(connection, key))
    }

    /// The machine whose identifier, hardware address or name is `text`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn named(&self, text: &str) -> Result<Option<Versioned>, StoreError> {
        match (text.parse(), text.parse()) {
            (Ok(id), _) => self.machine(Key::Id(&id)),
            (_, Ok(mac)) => self.machine(Key::Mac(mac)),
            _ => self.machine(Key::Name(text)),
        }
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
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
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
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
        D: FnOnce(Result<T, WriteError>) + Send + 'static,
    {
        let (index, newest_event) = (self.index.clone(), self.newest_event.clone());
        let (audit, written) = (self.audit.clone(), self.audit.clone());
        let uncertain = self.shared.as_ref().map(Shared::uncertain);
        let write = move |connection: &mut Connection| {
            let mut transaction = Transaction::new(connection, audit);
            let value = work(&mut transaction)?;
            Ok((value, transaction.done()))
        };
        let tell = move |outcome: Result<(T, Done), WriteError>| {
            if let (Some(uncertain), Err(WriteError::Database(_) | WriteError::Unknown(_))) =
                (uncertain, &outcome)
            {
                uncertain.store(true, Ordering::Relaxed);
            }
            done(outcome.map(|(value, Done { changed, newest_event: newest, recorded })| {
                if let Some(recorded) = recorded {
                    written.wrote(recorded);
                }
                if !changed.is_empty() {
                    let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
                    changed.iter().for_each(|found| index.put(&found.machine, found.version));
                }
                if let Some(newest) = newest {
                    tell_newest(&newest_event, newest);
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
            let sql = "SELECT doc FROM jobs ORDER BY id DESC LIMIT ?1";
            connection.all(sql, &[(limit as i64).into()], |row| row.document(0))
        })
    }

    /// The newest jobs of these nodes, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn jobs_of<'a>(
        &self,
        nodes: impl Iterator<Item = &'a NodeId>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError> {
        let mut jobs = self.read(|connection| {
            let mut jobs = Vec::new();
            for node in nodes {
                let sql = "SELECT doc FROM jobs WHERE node = ?1 ORDER BY id DESC LIMIT ?2";
                let values = [node.as_str().into(), (limit as i64).into()];
                jobs.extend(connection.all(sql, &values, |row| row.document::<Job>(0))?);
            }
            Ok(jobs)
        })?;
        jobs.sort_by(|a, b| b.id.cmp(&a.id));
        jobs.truncate(limit);
        Ok(jobs)
    }

    /// The newest jobs of a profile that succeeded.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn good_jobs(&self, profile: &str, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.read(|connection| {
            let sql =
                "SELECT doc FROM jobs WHERE profile = ?1 AND state = 'succeeded' ORDER BY id DESC LIMIT ?2";
            connection.all(sql, &[profile.into(), (limit as i64).into()], |row| row.document(0))
        })
    }

    /// Nodes whose job has a deadline at or before `now`; all nodes with a deadline for none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn due(&self, now: Option<Millis>) -> Result<Vec<NodeId>, StoreError> {
        let limit = now.map_or(i64::MAX, |now| to_i64(now.0));
        self.read(|connection| {
            let sql = "SELECT node FROM jobs WHERE deadline <= ?1";
            connection.all(sql, &[limit.into()], |row| row.parsed(0))
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
        let read = |row: &dyn Row| {
            Ok(StoredEvent {
                id: row.int(0)?,
                time: Millis(row.int(1)?.unsigned_abs()),
                kind: row.text(2)?.to_owned(),
                node: row.text(3)?.to_owned(),
                job: row.maybe_text(4)?.map(str::to_owned),
                data: row.text(5)?.to_owned(),
            })
        };
        let (after, limit) = (after.into(), (limit as i64).into());
        self.read(|connection| match job {
            Some(job) => {
                let sql = "SELECT id, time, kind, node, job, data FROM events \
                           WHERE id > ?1 AND job = ?3 ORDER BY id LIMIT ?2";
                connection.all(sql, &[after, limit, job.as_str().into()], read)
            }
            None => {
                let sql =
                    "SELECT id, time, kind, node, job, data FROM events WHERE id > ?1 ORDER BY id LIMIT ?2";
                connection.all(sql, &[after, limit], read)
            }
        })
    }

    /// Tells the number of the newest event, and each time it grows.
    pub fn newest_event(&self) -> watch::Receiver<i64> {
        self.newest_event.subscribe()
    }
}

/// Wakes who waits for events, if `newest` is one that they were not told of.
fn tell_newest(newest_event: &watch::Sender<i64>, newest: i64) {
    newest_event.send_if_modified(|id| {
        let newer = newest > *id;
        *id = newest.max(*id);
        newer
    });
}

/// Makes the file when there is none, for its owner alone; SQLite gives the files beside it the same rights.
fn make(path: &Path) -> io::Result<()> {
    File::options().append(true).create(true).mode(0o600).open(path).map(|_| ())
}

#[cfg(test)]
mod chained;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod torn;
