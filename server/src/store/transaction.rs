//! Changes that are stored as one.

use super::audit::Audit;
use super::connection::{Connection, DatabaseError, Result};
use super::rows::{self, put_events, put_machine};
use super::{Commit, Key, Versioned, leases, leases6};
use kaltstart_core::audit::Head;
use kaltstart_core::dhcp::lease::LeaseWrite;
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::Machine;
use kaltstart_protocol::time::Millis;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// What is read and written before one commit. Nobody else writes meanwhile: a machine that is
/// read here may be decided upon and stored without a conflict.
pub struct Transaction<'a> {
    connection: &'a mut Connection,
    pub(super) audit: Arc<Audit>,
    changed: Vec<Versioned>,
    pub(super) newest_event: Option<i64>,
    pub(super) recorded: Option<Head>,
}

/// What is to be told of a transaction, once it is durable.
pub(super) struct Done {
    /// Machines as they are now.
    pub(super) changed: Vec<Versioned>,
    /// Number of the newest event, if there are any.
    pub(super) newest_event: Option<i64>,
    /// Where the audit log ends, if anything was recorded.
    pub(super) recorded: Option<Head>,
}

impl<'a> Transaction<'a> {
    pub(super) const fn new(connection: &'a mut Connection, audit: Arc<Audit>) -> Self {
        Self { connection, audit, changed: Vec::new(), newest_event: None, recorded: None }
    }

    pub(super) fn done(self) -> Done {
        let Self { changed, newest_event, recorded, .. } = self;
        Done { changed, newest_event, recorded }
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
        let (changed, recorded) = (self.changed.len(), self.recorded);
        self.connection.run("SAVEPOINT attempt")?;
        let outcome = work(self);
        match outcome {
            Ok(_) => {}
            Err(error @ DatabaseError::Failed(_)) => return Err(error),
            Err(DatabaseError::Refused(_)) => {
                self.changed.truncate(changed);
                self.recorded = recorded;
                self.connection.run("ROLLBACK TO SAVEPOINT attempt")?;
            }
        }
        self.connection.run("RELEASE SAVEPOINT attempt")?;
        Ok(outcome)
    }
}
