//! A file that several servers of one process share as they would a PostgreSQL: for those that are simulated, and for
//! them alone.
//!
//! Changed rows have numbers and writers as in `postgres.sql`, and the way to the file can fail as one over a network.

use super::connection::{Connection, DatabaseError, Result};
use super::others::Shared;
use super::outage::Outage;
use super::sqlite::{Sqlite, connect};
use super::{FILE, Store, StoreError, copied, make, migrate};
use rusqlite::Connection as File;
use std::path::Path;
use std::sync::Arc;

/// The way of one server to the file.
pub trait Way: Send + Sync {
    /// The server is about to write, and waits until this returns.
    fn begins(&self);

    /// Whether what is said now arrives. If not, an open transaction is taken back.
    fn is_open(&self) -> bool;

    /// Whether the server hears that what it wrote is durable.
    fn hears_commit(&self) -> bool;
}

/// The same way for who reads, and waits for nobody.
struct Reading(Arc<dyn Way>);

impl Way for Reading {
    fn begins(&self) {}

    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn hears_commit(&self) -> bool {
        self.0.hears_commit()
    }
}

/// What `nodes`, `leases` and `leases6` have in PostgreSQL only.
const COLUMNS: &str = "
    ALTER TABLE nodes ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE nodes ADD COLUMN writer TEXT NOT NULL DEFAULT '';
    ALTER TABLE leases ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE leases ADD COLUMN writer TEXT NOT NULL DEFAULT '';
    ALTER TABLE leases6 ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE leases6 ADD COLUMN writer TEXT NOT NULL DEFAULT '';
    CREATE TABLE changes (last INTEGER NOT NULL) STRICT;
    INSERT INTO changes VALUES (0);";

impl Store {
    /// Opens the database in `dir`, makes it when there is none. Others of this process may use it at the same time;
    /// `me` is another name than theirs, without quotes.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_simulated(dir: &Path, me: &str, way: Arc<dyn Way>) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let access = |source| StoreError::Access { path: path.clone(), source };
        let open = |source| StoreError::Open { path: path.clone(), source };
        if !way.is_open() {
            return Err(StoreError::Connect { why: "it is out of reach".into() });
        }
        make(&path).map_err(access)?;
        let identity = copied::identity(&path).map_err(access)?;
        let mut writer = connect(&path).map_err(open)?;
        if let Err(found) = migrate::migrate(&mut writer).map_err(open)? {
            return Err(StoreError::Newer { path, found });
        }
        number_changes(&writer, me).map_err(open)?;
        let reader = connect(&path).map_err(open)?;
        let mut writer = Connection::Sqlite(Sqlite::reached_by(writer, way.clone()));
        let reader = Connection::Sqlite(Sqlite::reached_by(reader, Arc::new(Reading(way))));
        let shared = Shared::new(None, me, Outage::default(), &mut writer)?;
        Self::of(identity, writer, reader, Some(shared))
    }
}

/// Lets what this connection changes be numbered, under the name `me`.
fn number_changes(file: &File, me: &str) -> rusqlite::Result<()> {
    if !file.table_exists(None, "changes")? {
        file.execute_batch(COLUMNS)?;
    }
    for (table, key, columns) in [
        ("nodes", "id", "version, doc"),
        ("leases", "address", "client, mac, state, since, expires"),
        ("leases6", "address", "duid, identity, mac, state, since, expires"),
    ] {
        for (event, name) in [("INSERT".to_owned(), "made"), (format!("UPDATE OF {columns}"), "changed")] {
            file.execute_batch(&format!(
                "CREATE TEMP TRIGGER {table}_{name} AFTER {event} ON main.{table} BEGIN \
                 UPDATE changes SET last = last + 1; \
                 UPDATE {table} SET change = (SELECT last FROM changes), writer = '{me}' WHERE {key} = NEW.{key}; \
                 END"
            ))?;
        }
    }
    Ok(())
}

/// What a statement comes to that does not arrive.
pub(super) fn cut_off() -> DatabaseError {
    DatabaseError::Failed("the way to the database is cut off".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::WriteError;
    use crate::store::tests::{bound, machine};
    use kaltstart_protocol::ids::Mac;
    use kaltstart_protocol::time::Millis;
    use std::sync::atomic::{AtomicBool, Ordering};

    const NOW: Millis = Millis(7);

    /// One that is cut while it tells of a commit, until somebody mends it.
    #[derive(Default)]
    struct Frail {
        breaks: AtomicBool,
        broken: AtomicBool,
    }

    impl Way for Frail {
        fn begins(&self) {}

        fn is_open(&self) -> bool {
            !self.broken.load(Ordering::Relaxed)
        }

        fn hears_commit(&self) -> bool {
            let breaks = self.breaks.swap(false, Ordering::Relaxed);
            self.broken.fetch_or(breaks, Ordering::Relaxed);
            !breaks
        }
    }

    #[tokio::test]
    async fn p13_what_is_stored_without_its_servers_knowledge_is_learned_once_the_database_is_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let way = Arc::new(Frail::default());
        let one = Store::open_simulated(dir.path(), "one", way.clone()).expect("a database");
        let two = Store::open_simulated(dir.path(), "two", Arc::new(Frail::default())).expect("the same");
        way.breaks.store(true, Ordering::Relaxed);
        let outcome = one.commit(&machine(1), 0, &[], NOW).await;
        assert!(matches!(outcome, Err(StoreError::Write(WriteError::Unknown(_)))), "{outcome:?}");
        assert!(one.catch_up().is_err(), "cut off");
        // Others hear of it at once, and what one of them stores does not let the first forget its own.
        two.catch_up().expect("read");
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        assert!(two.index().get(mac).is_some() && one.index().get(mac).is_none());
        two.put_leases(vec![bound(1, 1, NOW)]).await.expect("stored");
        way.broken.store(false, Ordering::Relaxed);
        let changed = one.catch_up().expect("read");
        assert!(one.index().get(mac).is_some() && changed.leases == [bound(1, 1, NOW)]);
        way.breaks.store(true, Ordering::Relaxed);
        one.put_leases(vec![bound(2, 2, NOW)]).await.expect_err("not heard");
        way.broken.store(false, Ordering::Relaxed);
        assert_eq!(one.catch_up().expect("read").leases, [bound(2, 2, NOW)]);
        assert!(one.catch_up().expect("read").leases.is_empty(), "once");
    }
}
