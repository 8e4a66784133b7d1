//! Which machines lose data, and which jobs must not go on.

use super::rows::{parsed, to_i64};
use super::{Store, StoreError};
use kaltstart_core::losses::WINDOW_MS;
use kaltstart_protocol::ids::NodeId;
use kaltstart_protocol::time::Millis;
use rusqlite::params;

impl Store {
    /// How many machines, besides the node `but`, were ordered or granted to lose data within [`WINDOW_MS`] before `now`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn losing(&self, but: &NodeId, now: Millis) -> Result<u64, StoreError> {
        let since = to_i64(now.minus(WINDOW_MS).0);
        self.read(|connection| {
            let mut count = connection
                .prepare_cached("SELECT count(DISTINCT node) FROM jobs WHERE loses_at > ?1 AND node <> ?2")?;
            count.query_row(params![since, but.as_str()], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
        })
    }

    /// Nodes whose queued or running job was ordered in another epoch than `epoch`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn of_other_epochs(&self, epoch: u64) -> Result<Vec<NodeId>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT node FROM jobs WHERE state IN ('queued', 'running') \
                     AND coalesce(doc ->> '$.epoch', 0) <> ?1",
                )?
                .query_map([to_i64(epoch)], |row| parsed(row, 0))?
                .collect()
        })
    }
}
