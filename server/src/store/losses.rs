//! Which machines lose data, and which jobs must not go on.

use super::connection::{Connection, Result};
use super::rows::to_i64;
use super::{Commit, Store, StoreError};
use kaltstart_core::audit::Act;
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::losses::{WINDOW_MS, admit};
use kaltstart_core::machine::Machine;
use kaltstart_protocol::ids::NodeId;
use kaltstart_protocol::time::Millis;

/// On what a change to a machine depends besides its version.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The machine is let lose data now, and no more than so many machines may be within [`WINDOW_MS`].
    pub losses_max: Option<u32>,
    /// Somebody's act, which is recorded.
    pub act: Option<Act>,
}

impl Store {
    /// How many machines, besides the node `but`, were ordered or granted to lose data within [`WINDOW_MS`] before `now`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn losing(&self, but: &NodeId, now: Millis) -> Result<u64, StoreError> {
        self.read(|connection| losing(connection, but, now))
    }

    /// As [`commit`](Self::commit), on `terms`: a conflict, too, when others than were counted before were let lose data
    /// meanwhile, here or at another server, and with this one they would be too many.
    ///
    /// # Errors
    /// When the database cannot be read or written, or takes no record; nothing is stored then.
    pub async fn commit_on(
        &self,
        machine: &Machine,
        expected: i64,
        happenings: &[Happening],
        now: Millis,
        Terms { losses_max, act }: Terms,
    ) -> Result<Commit, StoreError> {
        let (machine, happenings) = (machine.clone(), happenings.to_vec());
        self.transact(move |transaction| {
            // Nobody else writes until this is stored.
            if let Some(max) = losses_max
                && admit(losing(transaction.connection(), &machine.node.id, now)?, max).is_err()
            {
                return Ok(Commit::Conflict);
            }
            let commit = transaction.put(machine, expected, &happenings, now)?;
            if let (Commit::Done, Some(act)) = (commit, &act) {
                transaction.record(act, now)?;
            }
            Ok(commit)
        })
        .await
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

fn losing(connection: &mut Connection, but: &NodeId, now: Millis) -> Result<u64> {
    let sql = "SELECT count(DISTINCT node) FROM jobs WHERE loses_at > ?1 AND node <> ?2";
    let values = [to_i64(now.minus(WINDOW_MS).0).into(), but.as_str().into()];
    Ok(connection.first(sql, &values, |row| row.int(0))?.unwrap_or(0).unsigned_abs())
}
