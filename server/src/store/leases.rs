//! The stored leases: one row per address, small and without text.

use super::connection::{Connection, DatabaseError, Result, Row};
use super::rows::to_i64;
use super::{Store, StoreError, leases6};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use std::net::{IpAddr, Ipv4Addr};

/// Leases that fulfil a condition.
macro_rules! leases {
    ($condition:literal) => {
        concat!("SELECT address, client, mac, state, since, expires FROM leases", $condition)
    };
}
pub(super) use leases;

/// Which leases are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All.
    All,
    /// That of an address.
    Address(IpAddr),
    /// Those of a hardware address.
    Mac(Mac),
}

impl Store {
    /// The first `limit` of the wanted leases, IPv4 before IPv6, by address.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn find_leases(&self, wanted: Wanted, limit: usize) -> Result<Vec<LeaseWrite<IpAddr>>, StoreError> {
        self.read(|connection| {
            let mut found = find(connection, wanted, limit)?;
            found.extend(leases6::find(connection, wanted, limit - found.len())?);
            Ok(found)
        })
    }

    /// All leases.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn leases(&self) -> Result<Vec<LeaseWrite>, StoreError> {
        self.read(|connection| connection.all(leases!(" ORDER BY address"), &[], lease))
    }

    /// Addresses of IPv4 for which somebody answered who was not given them, and which are therefore held.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn in_use(&self, now: Millis) -> Result<u32, StoreError> {
        let values = [state_number(LeaseState::InUse).into(), to_i64(now.0).into()];
        let count = self.read(|connection| {
            let sql = "SELECT count(*) FROM leases WHERE state = ?1 AND expires > ?2";
            connection.first(sql, &values, |row| row.int(0))
        })?;
        Ok(count.and_then(|count| count.try_into().ok()).unwrap_or(0))
    }

    /// The hardware address of who has, or had last, the lease of `address`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn lessee(&self, address: IpAddr) -> Result<Option<Mac>, StoreError> {
        Ok(self.find_leases(Wanted::Address(address), 1)?.pop().and_then(|write| write.lease.mac))
    }

    /// Stores leases, all or none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn put_leases(&self, leases: Vec<LeaseWrite>) -> Result<(), StoreError> {
        self.transact(move |transaction| leases.iter().try_for_each(|write| transaction.put_lease(write)))
            .await
    }
}

/// The first `limit` of the wanted leases, by address.
fn find(connection: &mut Connection, wanted: Wanted, limit: usize) -> Result<Vec<LeaseWrite<IpAddr>>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).into();
    match wanted {
        Wanted::All => connection.all(leases!(" ORDER BY address LIMIT ?1"), &[limit], widened(lease)),
        Wanted::Address(IpAddr::V4(address)) => {
            let values = [i64::from(address.to_bits()).into(), limit];
            connection.all(leases!(" WHERE address = ?1 LIMIT ?2"), &values, widened(lease))
        }
        Wanted::Address(IpAddr::V6(_)) => Ok(Vec::new()),
        Wanted::Mac(mac) => {
            let sql = leases!(" WHERE mac = ?1 ORDER BY address LIMIT ?2");
            connection.all(sql, &[mac.0[..].into(), limit], widened(lease))
        }
    }
}

/// A lease of either family.
pub(super) fn widened<A: Into<IpAddr>>(
    read: impl Fn(&dyn Row) -> Result<LeaseWrite<A>>,
) -> impl Fn(&dyn Row) -> Result<LeaseWrite<IpAddr>> {
    move |row| {
        let LeaseWrite { address, lease } = read(row)?;
        Ok(LeaseWrite { address: address.into(), lease })
    }
}

pub(super) fn lease(row: &dyn Row) -> Result<LeaseWrite> {
    let address = u32::try_from(row.int(0)?);
    let address = address.map_err(|_| DatabaseError::Refused("an address of more than 32 bits".into()))?;
    let lease = Lease {
        key: ClientKey::from(row.bytes(1)?.to_vec()),
        // Empty for none.
        mac: row.bytes(2)?.try_into().ok().map(Mac),
        state: state_of(row.int(3)?)?,
        since: Millis(row.int(4)?.unsigned_abs()),
        expires: Millis(row.int(5)?.unsigned_abs()),
    };
    Ok(LeaseWrite { address: Ipv4Addr::from_bits(address), lease })
}

/// How an address is held, by its number in the database.
pub(super) fn state_of(number: i64) -> Result<LeaseState> {
    match number {
        1 => Ok(LeaseState::Bound),
        2 => Ok(LeaseState::Released),
        3 => Ok(LeaseState::Declined),
        4 => Ok(LeaseState::InUse),
        other => Err(DatabaseError::Refused(format!("{other} is no state of a lease"))),
    }
}

/// The number of how an address is held.
pub(super) const fn state_number(state: LeaseState) -> i64 {
    match state {
        // A hold is stored when it binds; whoever stores an offer may bind it.
        LeaseState::Offered | LeaseState::Bound => 1,
        LeaseState::Released => 2,
        LeaseState::Declined => 3,
        LeaseState::InUse => 4,
    }
}

/// Stores a lease, unless another client, by key and hardware address, holds the address meanwhile: the decision of
/// another server stands, also when it has not been heard of and its client was found at the address. Who uses an address
/// that nobody was given shows when it is renewed.
pub(super) fn put_lease(connection: &mut Connection, write: &LeaseWrite) -> Result<()> {
    let Lease { key, mac, state, since, expires } = &write.lease;
    let stored = connection.execute(
        "INSERT INTO leases (address, client, mac, state, since, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (address) DO UPDATE SET client = excluded.client, mac = excluded.mac, \
         state = excluded.state, since = excluded.since, expires = excluded.expires \
         WHERE leases.state = 4 OR leases.expires <= excluded.since OR leases.client = excluded.client OR (leases.mac = excluded.mac AND length(excluded.mac) > 0)",
        &[
            i64::from(write.address.to_bits()).into(),
            key.as_bytes().into(),
            mac.as_ref().map_or(&[][..], |mac| &mac.0).into(),
            state_number(*state).into(),
            to_i64(since.0).into(),
            to_i64(expires.0).into(),
        ],
    )?;
    held_by_another(stored, &write.address)
}

/// Refuses a lease that was not stored.
pub(super) fn held_by_another(stored: u64, address: &dyn std::fmt::Display) -> Result<()> {
    if stored == 1 {
        return Ok(());
    }
    Err(DatabaseError::Refused(format!("{address} is held by another client, as another server has decided")))
}
