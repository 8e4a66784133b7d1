//! Whether the database is a copy that was put in place of the one that was written last.

use super::connection::{Connection, Result};
use super::{Store, StoreError};
use kaltstart_protocol::time::Millis;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Keys in the table `meta`.
const FILE: &str = "file";
const RESTORED: &str = "restored";

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
    /// is certain: that the newest lease was given, and a copy restored before. A copy that was
    /// written into the same file, or a whole file system set back, is not noticed.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn restored(&self, now: Millis) -> Result<Option<Millis>, StoreError> {
        let identity = self.identity.clone();
        self.transact(move |transaction| {
            let connection = transaction.connection();
            let written: Option<String> = get(connection, FILE)?;
            if written.as_ref() != Some(&identity) {
                put(connection, FILE, &identity)?;
                if written.is_some() {
                    let newest = "SELECT coalesce(max(since), 0) FROM leases";
                    let newest = connection.first(newest, &[], |row| row.int(0))?.unwrap_or(0);
                    let before: Option<u64> = get(connection, RESTORED)?.and_then(|at| at.parse().ok());
                    let at = now.0.max(newest.unsigned_abs()).max(before.map_or(0, |before| before + 1));
                    put(connection, RESTORED, &at.to_string())?;
                }
            }
            let restored = get(connection, RESTORED)?;
            Ok(restored.and_then(|at| at.parse().ok()).map(Millis))
        })
        .await
    }
}

fn get(connection: &mut Connection, key: &str) -> Result<Option<String>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    connection.first(sql, &[key.into()], |row| row.text(0).map(str::to_owned))
}

fn put(connection: &mut Connection, key: &str, value: &str) -> Result<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, &[key.into(), value.into()]).map(|_| ())
}
