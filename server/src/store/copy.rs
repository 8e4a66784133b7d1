//! A copy of the database of one moment, while the server goes on writing to it.

use super::migrate::SCHEMA_VERSION;
use super::sqlite::BUSY;
use super::{StoreError, make};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::path::Path;

/// What is in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Nodes.
    pub nodes: u64,
    /// Jobs, those that have ended included.
    pub jobs: u64,
}

/// Copies the database in the file `from` to the file `to`, which must not exist, and reads all of the copy. It is on
/// the disk when this returns. A server that starts with the copy notices that it is one.
///
/// # Errors
/// When there is no database, it is damaged, or another program's; or `to` cannot be written. Then `to` is not to be
/// used.
pub fn copy(from: &Path, to: &Path) -> Result<Snapshot, StoreError> {
    let open = |source| StoreError::Open { path: from.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let original = Connection::open_with_flags(from, flags).map_err(open)?;
    original.busy_timeout(BUSY).map_err(open)?;
    let found: i64 = original.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(open)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer { path: from.to_owned(), found });
    }
    let access = |source| StoreError::Access { path: to.to_owned(), source };
    // SQLite would make it readable for everybody.
    make(to).map_err(access)?;
    original.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(open)?;
    let copy = || {
        let copy = Connection::open(to)?;
        // Whoever opens it notices that it is a copy: `Store::restored`.
        copy.execute("UPDATE meta SET value = 'a copy' WHERE key = 'file'", [])?;
        let sound: String = copy.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
        let counts = "SELECT (SELECT count(*) FROM nodes), (SELECT count(*) FROM jobs)";
        let (nodes, jobs): (i64, i64) = copy.query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((sound, Snapshot { nodes: nodes.unsigned_abs(), jobs: jobs.unsigned_abs() }))
    };
    let (sound, snapshot) = copy().map_err(|source| StoreError::Open { path: to.to_owned(), source })?;
    if sound != "ok" {
        return Err(StoreError::Damaged { path: from.to_owned(), found: sound });
    }
    File::open(to).and_then(|file| file.sync_all()).map_err(access)?;
    Ok(snapshot)
}
