//! The stored leases: one row per address, small and without text.

use super::{Store, StoreError, leases6};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::net::{IpAddr, Ipv4Addr};

const COLUMNS: &str = "address, client, mac, state, since, expires";

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
            let mut found = select(connection, &format!("{COLUMNS} FROM leases"), wanted, limit, lease)?;
            let from = format!("{} FROM leases6", leases6::COLUMNS);
            found.extend(select(connection, &from, wanted, limit - found.len(), leases6::lease)?);
            Ok(found)
        })
    }

    /// All leases.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn leases(&self) -> Result<Vec<LeaseWrite>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM leases ORDER BY address"))?
                .query_map([], lease)?
                .collect()
        })
    }

    /// Addresses of IPv4 for which somebody answered who was not given them, and which are therefore held.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn in_use(&self, now: Millis) -> Result<u32, StoreError> {
        self.read(|connection| {
            let state = state_number(LeaseState::InUse);
            connection
                .prepare_cached("SELECT count(*) FROM leases WHERE state = ?1 AND expires > ?2")?
                .query_row(params![state, super::rows::to_i64(now.0)], |row| row.get(0))
        })
    }

    /// The hardware address of who has, or had last, the lease of `address`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn lessee(&self, address: IpAddr) -> Result<Option<Mac>, StoreError> {
        self.read(|connection| {
            let address = match address {
                IpAddr::V4(address) => address,
                IpAddr::V6(address) => return leases6::lessee(connection, address),
            };
            connection
                .prepare_cached("SELECT mac FROM leases WHERE address = ?1")?
                .query_row([address.to_bits()], |row| mac(row, 0))
                .optional()
                .map(Option::flatten)
        })
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

/// The first `limit` of the wanted leases of a table, by address.
fn select<A: Into<IpAddr>>(
    connection: &Connection,
    from: &str,
    wanted: Wanted,
    limit: usize,
    read: fn(&Row<'_>) -> rusqlite::Result<LeaseWrite<A>>,
) -> rusqlite::Result<Vec<LeaseWrite<IpAddr>>> {
    let (condition, value) = match wanted {
        Wanted::All => ("?1 IS NULL", Value::Null),
        // The tables hold their addresses in different types: one of the other family equals none.
        Wanted::Address(IpAddr::V4(address)) => ("address = ?1", Value::Integer(address.to_bits().into())),
        Wanted::Address(IpAddr::V6(address)) => ("address = ?1", Value::Blob(address.octets().into())),
        Wanted::Mac(mac) => ("mac = ?1", Value::Blob(mac.0.into())),
    };
    let widened = |row: &Row<'_>| {
        let LeaseWrite { address, lease } = read(row)?;
        Ok(LeaseWrite { address: address.into(), lease })
    };
    connection
        .prepare_cached(&format!("SELECT {from} WHERE {condition} ORDER BY address LIMIT ?2"))?
        .query_map(params![value, i64::try_from(limit).unwrap_or(i64::MAX)], widened)?
        .collect()
}

/// A hardware address; empty for none.
fn mac(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Mac>> {
    Ok(row.get_ref(column)?.as_blob()?.try_into().ok().map(Mac))
}

fn lease(row: &Row<'_>) -> rusqlite::Result<LeaseWrite> {
    let client = row.get_ref(1)?.as_blob()?.to_vec();
    let lease = Lease {
        key: ClientKey::from(client),
        mac: mac(row, 2)?,
        state: state_of(row.get(3)?)?,
        since: Millis(row.get::<_, i64>(4)?.unsigned_abs()),
        expires: Millis(row.get::<_, i64>(5)?.unsigned_abs()),
    };
    Ok(LeaseWrite { address: Ipv4Addr::from_bits(row.get(0)?), lease })
}

/// How an address is held, by its number in the database.
pub(super) fn state_of(number: i64) -> rusqlite::Result<LeaseState> {
    match number {
        1 => Ok(LeaseState::Bound),
        2 => Ok(LeaseState::Released),
        3 => Ok(LeaseState::Declined),
        4 => Ok(LeaseState::InUse),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(3, other)),
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

pub(super) fn put_lease(connection: &Connection, write: &LeaseWrite) -> rusqlite::Result<()> {
    let Lease { key, mac, state, since, expires } = &write.lease;
    let state = state_number(*state);
    let (since, expires) = (super::rows::to_i64(since.0), super::rows::to_i64(expires.0));
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO leases ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        ))?
        .execute(params![
            write.address.to_bits(),
            key.as_bytes(),
            mac.as_ref().map_or(&[][..], |mac| &mac.0),
            state,
            since,
            expires
        ])?;
    Ok(())
}
