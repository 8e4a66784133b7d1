//! Changes that are stored as one.

use super::connection::{Connection, DatabaseError, Result};
use super::rows::{self, put_events, put_machine};
use super::{Commit, Key, Versioned, leases, leases6};
use kaltstart_core::dhcp::lease::LeaseWrite;
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::Machine;
use kaltstart_protocol::time::Millis;
use std::net::Ipv6Addr;

/// What is read and written before one commit. Nobody else writes meanwhile: a machine that is
/// read here may be decided upon and stored without a conflict.
pub struct Transaction<'a> {
    connection: &'a mut Connection,
    pub(super) changed: Vec<Versioned>,
    pub(super) newest_event: Option<i64>,
}

impl<'a> Transaction<'a> {
    pub(super) const fn new(connection: &'a mut Connection) -> Self {
        Self { connection, changed: Vec::new(), newest_event: None }
    }

    pub(super) const fn connection(&mut self) -> &mut Connection {
        self.connection
    }

    /// The machine found by `key`, as it is now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn machine(&mut self, key: Key<'_>) -> Result<Option<Versioned>> {
        rows::machine(self.connection, key)
    }

    /// Stores a machine that was decided upon at `expected`, with what is told about it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn put(
        &mut self,
        machine: Machine,
        expected: i64,
        happenings: &[Happening],
        now: Millis,
    ) -> Result<Commit> {
        let commit = put_machine(self.connection, &machine, expected)?;
        if commit == Commit::Done {
            let newest = put_events(self.connection, &machine, happenings, now)?;
            self.newest_event = newest.or(self.newest_event);
            self.changed.push(Versioned { machine, version: expected + 1 });
        }
        Ok(commit)
    }

    /// Stores a lease.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn put_lease(&mut self, lease: &LeaseWrite) -> Result<()> {
        leases::put_lease(self.connection, lease)
    }

    /// Stores a DHCPv6 lease.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn put_lease6(&mut self, lease: &LeaseWrite<Ipv6Addr>) -> Result<()> {
        leases6::put_lease(self.connection, lease)
    }

    /// Does `work` by itself: when a record or a rule stands against it, nothing of it is kept,
    /// the reason is returned, and the rest of the transaction goes on.
    ///
    /// # Errors
    /// When the database fails as a whole.
    pub fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<Result<T>> {
        let changed = self.changed.len();
        self.connection.run("SAVEPOINT attempt")?;
        let outcome = work(self);
        match outcome {
            Ok(_) => {}
            Err(error @ DatabaseError::Failed(_)) => return Err(error),
            Err(DatabaseError::Refused(_)) => {
                self.changed.truncate(changed);
                self.connection.run("ROLLBACK TO SAVEPOINT attempt")?;
            }
        }
        self.connection.run("RELEASE SAVEPOINT attempt")?;
        Ok(outcome)
    }
}
