//! The database as a file of this machine: SQLite in WAL mode.

use super::connection::{DatabaseError, Result, Row, Value};
use super::simulated::{Way, cut_off};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, params_from_iter};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a statement waits for another program, as one that makes a backup.
pub(super) const BUSY: Duration = Duration::from_secs(10);

/// Bytes that the log of what is not in the file yet keeps on the disk: it grows beyond while somebody reads for long, as
/// one who makes a backup, and would stay so large.
const WAL_MAX: u32 = 16 << 20;

/// A connection.
pub(super) struct Sqlite {
    file: rusqlite::Connection,
    /// That of a simulated server.
    way: Option<Arc<dyn Way>>,
}

impl Sqlite {
    pub(super) const fn new(file: rusqlite::Connection) -> Self {
        Self { file, way: None }
    }

    /// One that may fail on its way.
    pub(super) const fn reached_by(file: rusqlite::Connection, way: Arc<dyn Way>) -> Self {
        Self { file, way: Some(way) }
    }

    pub(super) fn begin(&self) -> Result<()> {
        if let Some(way) = &self.way {
            way.begins();
        }
        self.execute("BEGIN IMMEDIATE", &[]).map(|_| ())
    }

    pub(super) fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        self.arrive()?;
        let changed = self.file.prepare_cached(sql)?.execute(params_from_iter(values))?;
        if sql == "COMMIT" && self.way.as_ref().is_some_and(|way| !way.hears_commit()) {
            return Err(cut_off());
        }
        Ok(changed as u64)
    }

    /// Fails when the way is cut off; the other end takes back then what it was told.
    fn arrive(&self) -> Result<()> {
        if self.way.as_ref().is_none_or(|way| way.is_open()) {
            return Ok(());
        }
        if self.is_in_transaction() {
            self.file.execute_batch("ROLLBACK")?;
        }
        Err(cut_off())
    }

    pub(super) fn each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(&dyn Row) -> Result<()>,
    ) -> Result<()> {
        self.arrive()?;
        let mut statement = self.file.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            take(row)?;
        }
        Ok(())
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        !self.file.is_autocommit()
    }
}

/// Opens the database in the file `path`.
pub(super) fn connect(path: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(path)?;
    // Every statement there is: one that falls out is parsed anew at each commit.
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(BUSY)?;
    // FULL: a commit is on the disk before it is acknowledged, also in WAL mode. MEMORY: the server
    // may write nowhere but beneath its data directory, so SQLite makes no temporary files.
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
         PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = {WAL_MAX};"
    ))?;
    Ok(connection)
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Row for rusqlite::Row<'_> {
    fn number(&self, column: usize) -> Result<Option<i64>> {
        Ok(self.get(column)?)
    }

    fn maybe_text(&self, column: usize) -> Result<Option<&str>> {
        let text = self.get_ref(column)?.as_str_or_null();
        text.map_err(|error| DatabaseError::Refused(error.to_string()))
    }

    fn maybe_bytes(&self, column: usize) -> Result<Option<&[u8]>> {
        let bytes = self.get_ref(column)?.as_blob_or_null();
        bytes.map_err(|error| DatabaseError::Refused(error.to_string()))
    }
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        // Only a broken rule is a change's own fault; a full disk is not.
        match error.sqlite_error_code() {
            None | Some(ErrorCode::ConstraintViolation) => Self::Refused(error.to_string()),
            Some(_) => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_that_grew_while_somebody_read_gives_its_room_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (file, log) = (dir.path().join("db"), dir.path().join("db-wal"));
        let length = || log.metadata().expect("there").len();
        let [writer, reader] = [(); 2].map(|()| connect(&file).expect("opened"));
        writer.execute_batch("CREATE TABLE t (x BLOB NOT NULL)").expect("made");
        reader.execute_batch("BEGIN; SELECT * FROM t").expect("read");
        let write =
            |bytes: u32| writer.execute("INSERT INTO t VALUES (zeroblob(?1))", [bytes]).expect("stored");
        write(2 * WAL_MAX);
        assert!(length() > u64::from(2 * WAL_MAX));
        reader.execute_batch("COMMIT").expect("read");
        // The first moves all of it into the file, the second begins it anew.
        write(1);
        write(1);
        assert!(length() <= u64::from(WAL_MAX), "{}", length());
    }
}
