//! Whether the database is a copy that was put in place of the one that was written last, and what the fleet says
//! that the copy does not know.

use super::connection::{Connection, Result, from_json, to_json};
use super::rows::put_event;
use super::{Store, StoreError, Transaction};
use kaltstart_core::audit::Act;
use kaltstart_core::observing::{Accepted, Difference, Kind, Restored};
use kaltstart_protocol::time::Millis;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::time::UNIX_EPOCH;

/// Keys in the table `meta`.
const FILE: &str = "file";
/// The epoch.
pub(super) const RESTORED: &str = "restored";
/// The copy of which the epoch began, as [`Restored`].
const COPY: &str = "copy";
/// Differences, each behind its subject.
const DIFFERENCE: &str = "difference ";

/// Differences of machines that are no nodes: whoever sends packets can make them up.
pub const OF_STRANGERS_MAX: usize = 1000;

/// Addresses of a node that are noted, each as a difference of its own: who sends packets in its name can ask for all.
const ADDRESSES_OF_A_NODE_MAX: i64 = 16;

/// What tells a file from its copies: its number, which a file system may give again, and its birth
/// where the file system notes it.
pub(super) fn identity(path: &Path) -> io::Result<String> {
    let file = fs::metadata(path)?;
    let born = file.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{} {}", file.ino(), born.unwrap_or_default().as_nanos()))
}

impl Store {
    /// Since when the database is known to be a copy: what was written after it was made is lost. That
    /// is noted at `now` when its file, or shared database, is another than the one that was written last, and no earlier than what
    /// is certain: that the newest lease was given, and a copy restored before. From then on servers only observe
    /// ([`Store::observing`]). A copy that was written into the same file, or a whole file system set back, is not noticed.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn restored(&self, now: Millis) -> Result<Option<Millis>, StoreError> {
        let identity = self.identity.clone();
        let (epoch, copy) = self
            .transact(move |transaction| {
                let connection = transaction.connection();
                let written = get(connection, FILE)?;
                if written.as_ref() != Some(&identity) {
                    put(connection, FILE, &identity)?;
                    if written.is_some() {
                        begin_epoch(transaction, now)?;
                    }
                }
                let connection = transaction.connection();
                let epoch = get(connection, RESTORED)?.and_then(|at| at.parse().ok()).map(Millis);
                Ok((epoch, copy(connection)?))
            })
            .await?;
        self.learn_copy(copy);
        Ok(epoch)
    }

    /// The copy that the servers go on from, if it is one and was restored by a server that notes it.
    #[must_use]
    pub fn copied(&self) -> Option<Restored> {
        self.copied.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same as long as nobody has compared it with the fleet: then nothing is done that may lose data.
    #[must_use]
    pub fn observing(&self) -> Option<Restored> {
        self.copied().filter(|copy| copy.accepted.is_none())
    }

    pub(super) fn learn_copy(&self, copy: Option<Restored>) {
        *self.copied.write().unwrap_or_else(PoisonError::into_inner) = copy;
    }

    /// What was noted by [`note`](Self::note), and whether there may be more of strangers.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn differences(&self) -> Result<(Vec<Difference>, bool), StoreError> {
        self.read(|connection| {
            let sql = "SELECT value FROM meta WHERE key LIKE 'difference %' ORDER BY key";
            let all: Vec<Difference> = connection.all(sql, &[], |row| row.document(0))?;
            let strangers = all.iter().filter(|one| one.node.is_none()).count();
            Ok((all, strangers >= OF_STRANGERS_MAX))
        })
    }

    /// Notes a difference, as [`Transaction::note`] does.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn note(&self, difference: Difference) -> Result<bool, StoreError> {
        self.transact(move |transaction| transaction.note(&difference)).await
    }

    /// Takes the copy as it is: servers order again. Keeps `shown`, what the machines show at this moment, beside what
    /// was noted, and records it as `act`. None if there is no copy, or it was taken before.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn accept(
        &self,
        accepted: Accepted,
        shown: Vec<Difference>,
        act: Act,
    ) -> Result<Option<Restored>, StoreError> {
        let taken = self
            .transact(move |transaction| {
                let Some(found) = copy(transaction.connection())?.filter(|copy| copy.accepted.is_none())
                else {
                    return Ok(None);
                };
                shown.iter().try_for_each(|difference| transaction.note(difference).map(drop))?;
                let taken = Restored { accepted: Some(accepted.clone()), ..found };
                put(transaction.connection(), COPY, &to_json(&taken)?)?;
                transaction.tell_accepted(&taken, &accepted)?;
                transaction.record(&act, accepted.at)?;
                Ok(Some(taken))
            })
            .await?;
        if taken.is_some() {
            self.learn_copy(taken.clone());
        }
        Ok(taken)
    }
}

impl Transaction<'_> {
    /// Notes a difference, if it says anything new of its subject, and unless it is one too many of strangers or of a
    /// node's addresses; whether it did.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub fn note(&mut self, difference: &Difference) -> Result<bool> {
        let connection = self.connection();
        let key = format!("{DIFFERENCE}{}", difference.subject());
        let before: Option<Difference> = get(connection, &key)?.as_deref().map(from_json).transpose()?;
        if before.as_ref().is_some_and(|before| difference.repeats(before)) {
            return Ok(false);
        }
        if before.is_none() && difference.node.is_none() {
            let sql =
                "SELECT count(*) FROM meta WHERE key LIKE 'difference %' AND value LIKE '%\"node\":null%'";
            let strangers = connection.first(sql, &[], |row| row.int(0))?.unwrap_or(0);
            if strangers >= OF_STRANGERS_MAX as i64 {
                return Ok(false);
            }
        }
        if let (None, Kind::Address, Some(node)) = (&before, difference.kind, &difference.node) {
            let of_node = format!("{DIFFERENCE}{} {node} %", difference.kind);
            let sql = "SELECT count(*) FROM meta WHERE key LIKE ?1";
            let addresses = connection.first(sql, &[(&of_node).into()], |row| row.int(0))?.unwrap_or(0);
            if addresses >= ADDRESSES_OF_A_NODE_MAX {
                return Ok(false);
            }
        }
        put(connection, &key, &to_json(difference)?)?;
        Ok(true)
    }

    /// Tells subscribers that servers order again, and on whose word.
    fn tell_accepted(&mut self, copy: &Restored, accepted: &Accepted) -> Result<()> {
        let data = serde_json::json!({
            "since": copy.since,
            "copied": copy.copied,
            "approver": accepted.by,
            "differences": accepted.differences,
            "not_heard": accepted.not_heard,
        });
        let about = ("restored", None);
        let newest = put_event(self.connection(), accepted.at, "restored.accepted", about, &data)?;
        self.newest_event = newest.or(self.newest_event);
        Ok(())
    }
}

/// The copy of which the epoch began.
pub(super) fn copy(connection: &mut Connection) -> Result<Option<Restored>> {
    get(connection, COPY)?.as_deref().map(from_json).transpose()
}

/// A new epoch, in which servers only observe.
fn begin_epoch(transaction: &mut Transaction<'_>, now: Millis) -> Result<()> {
    let seen = transaction.seen_epoch();
    let connection = transaction.connection();
    let mut newest = |sql| -> Result<Millis> {
        Ok(Millis(connection.first(sql, &[], |row| row.int(0))?.unwrap_or(0).unsigned_abs()))
    };
    let lease = newest("SELECT coalesce(max(since), 0) FROM leases")?;
    let copied = lease.max(newest("SELECT coalesce(max(time), 0) FROM events")?);
    let before: Option<u64> = get(connection, RESTORED)?.and_then(|at| at.parse().ok());
    let later = Millis(before.unwrap_or(0).max(seen.0) + 1);
    let since = now.max(lease).max(later);
    put(connection, RESTORED, &since.0.to_string())?;
    connection.execute("DELETE FROM meta WHERE key LIKE 'difference %'", &[])?;
    put(connection, COPY, &to_json(&Restored { since, copied, accepted: None })?)?;
    transaction.record_restored(since, copied, now)
}

pub(super) fn get(connection: &mut Connection, key: &str) -> Result<Option<String>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    connection.first(sql, &[key.into()], |row| row.text(0).map(str::to_owned))
}

pub(super) fn put(connection: &mut Connection, key: &str, value: &str) -> Result<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, &[key.into(), value.into()]).map(|_| ())
}
