//! What other servers store in a database that is shared with them.
//!
//! Each learns of it within moments: PostgreSQL tells that something has changed, and the changed rows are
//! read by their numbers.

use super::connection::{Connection, DatabaseError, Result};
use super::copied;
use super::leases::{lease, leases};
use super::leases6::{lease as lease6, leases6};
use super::outage::Outage;
use super::postgres::{Postgres, Server};
use super::rows::{machines, versioned};
use super::{Store, StoreError, tell_newest};
use kaltstart_core::dhcp::lease::LeaseWrite;
use std::collections::BTreeSet;
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest time between two looks, and pause after a failure.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What others have stored of leases.
#[derive(Debug, Default)]
pub struct Changed {
    /// IPv4.
    pub leases: Vec<LeaseWrite>,
    /// IPv6.
    pub leases6: Vec<LeaseWrite<Ipv6Addr>>,
    /// Whether the database was out of reach until now.
    pub is_back: bool,
}

/// How what others store is heard of.
pub(super) struct Shared {
    /// The database that tells of changes by itself; simulated servers are let look.
    server: Option<Box<Server>>,
    /// The name under which this server writes.
    me: String,
    /// The number of the newest change that was read.
    seen: AtomicI64,
    /// Whether the database is out of reach.
    outage: Outage,
    /// Addresses whose leases are to be read once more.
    doubtful: Mutex<BTreeSet<IpAddr>>,
    /// Whether a commit of this server has failed, and may have become durable all the same.
    uncertain: Arc<AtomicBool>,
}

/// The number of the newest change.
const NEWEST: &str = "SELECT max(change) FROM (SELECT max(change) AS change FROM nodes \
                      UNION ALL SELECT max(change) FROM leases UNION ALL SELECT max(change) FROM leases6) AS newest";

impl Shared {
    pub(super) fn new(
        server: Option<Server>,
        me: &str,
        outage: Outage,
        connection: &mut Connection,
    ) -> Result<Self, StoreError> {
        let seen = newest(connection).map_err(|error| StoreError::Read(error.to_string()))?;
        Ok(Self {
            server: server.map(Box::new),
            me: me.to_owned(),
            seen: AtomicI64::new(seen),
            outage,
            doubtful: Mutex::default(),
            uncertain: Arc::default(),
        })
    }

    /// Is told that a commit of this server has failed.
    pub(super) fn uncertain(&self) -> Arc<AtomicBool> {
        self.uncertain.clone()
    }

    fn doubtful(&self) -> MutexGuard<'_, BTreeSet<IpAddr>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn newest(connection: &mut Connection) -> Result<i64> {
    Ok(connection.first(NEWEST, &[], |row| row.number(0))?.flatten().unwrap_or(0))
}

impl Store {
    /// Whether other servers may use the database too.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether the database is shared, and out of reach.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.outage.is_on())
    }

    /// The leases of these addresses are not as this server believed: what is stored of them is learned anew.
    pub fn doubt(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        if let Some(shared) = &self.shared {
            shared.doubtful().extend(addresses);
        }
    }

    /// Hears of what others store until it is told to stop, and lets `learn` know of their leases. Blocks its thread.
    pub fn follow(&self, learn: impl Fn(Changed), stop: &CancellationToken) {
        let Some(shared) = &self.shared else { return };
        let Some(server) = &shared.server else { return };
        while !stop.is_cancelled() {
            let Err(error) = self.hear(shared, server, &learn, stop) else { return };
            shared.outage.begin(&error);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn hear(
        &self,
        shared: &Shared,
        server: &Server,
        learn: &impl Fn(Changed),
        stop: &CancellationToken,
    ) -> Result<()> {
        let connect = || {
            let made = Postgres::connect(server, &shared.me, None);
            made.map_err(|error| DatabaseError::Failed(error.to_string()))
        };
        let mut listening = connect()?;
        listening.listen()?;
        let mut reading = Connection::Postgres(Box::new(connect()?));
        while !stop.is_cancelled() {
            let changed = self.catch_up_by(shared, &mut reading)?;
            let is_back = shared.outage.end();
            if is_back || !changed.leases.is_empty() || !changed.leases6.is_empty() {
                learn(Changed { is_back, ..changed });
            }
            listening.wait(LOOK_EVERY)?;
        }
        Ok(())
    }

    /// Learns what others have stored since the last time, as [`follow`](Self::follow) does by itself, and tells of their
    /// leases.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn catch_up(&self) -> Result<Changed, StoreError> {
        let Some(shared) = &self.shared else { return Ok(Changed::default()) };
        self.read(|connection| self.catch_up_by(shared, connection))
    }

    /// Reads what others have stored since the last time, and what is in doubt.
    fn catch_up_by(&self, shared: &Shared, connection: &mut Connection) -> Result<Changed> {
        let uncertain = shared.uncertain.swap(false, Ordering::Relaxed);
        let doubtful = mem::take(&mut *shared.doubtful());
        let changed = self.read_changes(shared, connection, uncertain, &doubtful);
        if changed.is_err() {
            shared.uncertain.fetch_or(uncertain, Ordering::Relaxed);
            shared.doubtful().extend(doubtful);
        }
        changed
    }

    fn read_changes(
        &self,
        shared: &Shared,
        connection: &mut Connection,
        uncertain: bool,
        doubtful: &BTreeSet<IpAddr>,
    ) -> Result<Changed> {
        let (seen, newest) = (shared.seen.load(Ordering::Relaxed), newest(connection)?);
        let values = [seen.into(), newest.into(), shared.me.as_str().into()];
        let nodes = machines!(" WHERE nodes.change > ?1 AND nodes.change <= ?2 AND nodes.writer <> ?3");
        let mut nodes = connection.all(nodes, &values, versioned)?;
        let leases = leases!(" WHERE change > ?1 AND change <= ?2 AND writer <> ?3 ORDER BY change");
        let mut leases = connection.all(leases, &values, lease)?;
        let leases6 = leases6!(" WHERE change > ?1 AND change <= ?2 AND writer <> ?3 ORDER BY change");
        let mut leases6 = connection.all(leases6, &values, lease6)?;
        if uncertain {
            // What was said on a connection that is lost is decided once nobody writes any more.
            connection.begin()?;
            connection.run("ROLLBACK")?;
            let me = [shared.me.as_str().into()];
            nodes.extend(connection.all(machines!(" WHERE nodes.writer = ?1"), &me, versioned)?);
            leases.extend(connection.all(leases!(" WHERE writer = ?1 ORDER BY change"), &me, lease)?);
            leases6.extend(connection.all(leases6!(" WHERE writer = ?1 ORDER BY change"), &me, lease6)?);
        }
        for address in doubtful {
            match address {
                IpAddr::V4(address) => leases.extend(connection.first(
                    leases!(" WHERE address = ?1"),
                    &[i64::from(address.to_bits()).into()],
                    lease,
                )?),
                IpAddr::V6(address) => leases6.extend(connection.first(
                    leases6!(" WHERE address = ?1"),
                    &[address.octets()[..].into()],
                    lease6,
                )?),
            }
        }
        self.learn_copy(copied::copy(connection)?);
        let newest_event = connection.first("SELECT max(id) FROM events", &[], |row| row.number(0))?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().for_each(|found| index.put(&found.machine, found.version));
        drop(index);
        tell_newest(&self.newest_event, newest_event.flatten().unwrap_or(0));
        shared.seen.store(newest, Ordering::Relaxed);
        Ok(Changed { leases, leases6, is_back: false })
    }
}
