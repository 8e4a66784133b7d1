//! Which machines lose data, and which jobs must not go on.

use super::rows::to_i64;
use super::{Store, StoreError};
use kaltstart_core::losses::WINDOW_MS;
use kaltstart_protocol::ids::NodeId;
use kaltstart_protocol::time::Millis;

impl Store {
    /// How many machines, besides the node `but`, were ordered or granted to lose data within [`WINDOW_MS`] before `now`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn losing(&self, but: &NodeId, now: Millis) -> Result<u64, StoreError> {
        let values = [to_i64(now.minus(WINDOW_MS).0).into(), but.as_str().into()];
        let count = self.read(|connection| {
            let sql = "SELECT count(DISTINCT node) FROM jobs WHERE loses_at > ?1 AND node <> ?2";
            connection.first(sql, &values, |row| row.int(0))
        })?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    /// Nodes whose queued or running job was ordered in another epoch than `epoch`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn of_other_epochs(&self, epoch: u64) -> Result<Vec<NodeId>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT node FROM jobs WHERE state IN ('queued', 'running') \
                       AND coalesce(CAST(doc ->> 'epoch' AS BIGINT), 0) <> ?1";
            connection.all(sql, &[to_i64(epoch).into()], |row| row.parsed(0))
        })
    }
}
