//! Changes that are stored as one.

use super::rows::{self, put_events, put_machine};
use super::writer::run;
use super::{Commit, Key, Versioned, leases, leases6};
use kaltstart_core::dhcp::lease::LeaseWrite;
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::Machine;
use kaltstart_protocol::time::Millis;
use rusqlite::{Connection, ErrorCode};
use std::net::Ipv6Addr;

/// What is read and written before one commit. Nobody else writes meanwhile: a machine that is
/// read here may be decided upon and stored without a conflict.
pub struct Transaction<'a> {
    connection: &'a Connection,
    pub(super) changed: Vec<Machine>,
    pub(super) newest_event: Option<i64>,
}

impl<'a> Transaction<'a> {
    pub(super) const fn new(connection: &'a Connection) -> Self {
        Self { connection, changed: Vec::new(), newest_event: None }
    }

    pub(super) const fn connection(&self) -> &'a Connection {
        self.connection
    }

    /// The machine found by `key`, as it is now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn machine(&self, key: Key<'_>) -> rusqlite::Result<Option<Versioned>> {
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
    ) -> rusqlite::Result<Commit> {
        let commit = put_machine(self.connection, &machine, expected)?;
        if commit == Commit::Done {
            let newest = put_events(self.connection, &machine, happenings, now)?;
            self.newest_event = newest.or(self.newest_event);
            self.changed.push(machine);
        }
        Ok(commit)
    }

    /// Stores a lease.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn put_lease(&mut self, lease: &LeaseWrite) -> rusqlite::Result<()> {
        leases::put_lease(self.connection, lease)
    }

    /// Stores a DHCPv6 lease.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn put_lease6(&mut self, lease: &LeaseWrite<Ipv6Addr>) -> rusqlite::Result<()> {
        leases6::put_lease(self.connection, lease)
    }

    /// Does `work` by itself: when a record or a rule stands against it, nothing of it is kept,
    /// the reason is returned, and the rest of the transaction goes on.
    ///
    /// # Errors
    /// When the database fails as a whole.
    pub fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Result<T, rusqlite::Error>> {
        let changed = self.changed.len();
        run(self.connection, "SAVEPOINT attempt")?;
        let outcome = work(self);
        match outcome {
            Ok(_) => {}
            Err(error) if is_of_the_database(&error) => return Err(error),
            Err(_) => {
                self.changed.truncate(changed);
                run(self.connection, "ROLLBACK TO attempt")?;
            }
        }
        run(self.connection, "RELEASE attempt")?;
        Ok(outcome)
    }
}

/// Whether the disk or the database failed, rather than a record or a rule.
pub(super) fn is_of_the_database(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code().is_some_and(|code| code != ErrorCode::ConstraintViolation)
}
