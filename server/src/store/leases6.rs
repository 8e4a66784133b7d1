//! The stored DHCPv6 leases, and who this server is to their holders.

use super::leases::{state_number, state_of};
use super::rows::to_i64;
use super::{Store, StoreError};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseWrite};
use kaltstart_protocol::dhcp6::duid;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use std::net::Ipv6Addr;

pub(super) const COLUMNS: &str = "address, duid, identity, mac, state, since, expires";

impl Store {
    /// The DUID of this server, made with its database (RFC 6355).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn duid(&self) -> Result<Vec<u8>, StoreError> {
        let uuid = |connection: &Connection| {
            connection.query_row("SELECT uuid FROM dhcp6_server", [], |row| row.get(0))
        };
        self.read(uuid).map(duid::of_uuid)
    }

    /// All DHCPv6 leases.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn leases6(&self) -> Result<Vec<LeaseWrite<Ipv6Addr>>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM leases6 ORDER BY address"))?
                .query_map([], lease)?
                .collect()
        })
    }

    /// Stores DHCPv6 leases, all or none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn put_leases6(&self, writes: Vec<LeaseWrite<Ipv6Addr>>) -> Result<(), StoreError> {
        self.transact(move |transaction| writes.iter().try_for_each(|write| transaction.put_lease6(write)))
            .await
    }
}

/// The hardware address of the lease of `address`.
pub(super) fn lessee(connection: &Connection, address: Ipv6Addr) -> rusqlite::Result<Option<Mac>> {
    let mac: Option<Option<[u8; 6]>> = connection
        .prepare_cached("SELECT mac FROM leases6 WHERE address = ?1")?
        .query_row([address.octets()], |row| row.get(0))
        .optional()?;
    Ok(mac.flatten().map(Mac))
}

pub(super) fn lease(row: &Row<'_>) -> rusqlite::Result<LeaseWrite<Ipv6Addr>> {
    let (duid, identity): (Vec<u8>, u32) = (row.get(1)?, row.get(2)?);
    let lease = Lease {
        key: ClientKey::of_identity(&duid, identity),
        mac: row.get::<_, Option<_>>(3)?.map(Mac),
        state: state_of(row.get(4)?)?,
        since: Millis(row.get::<_, i64>(5)?.unsigned_abs()),
        expires: Millis(row.get::<_, i64>(6)?.unsigned_abs()),
    };
    Ok(LeaseWrite { address: row.get::<_, [u8; 16]>(0)?.into(), lease })
}

pub(super) fn put_lease(connection: &Connection, write: &LeaseWrite<Ipv6Addr>) -> rusqlite::Result<()> {
    let Lease { key, mac, state, since, expires } = &write.lease;
    let (duid, identity) = key.identity();
    let (since, expires) = (to_i64(since.0), to_i64(expires.0));
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO leases6 ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
        ))?
        .execute(params![
            write.address.octets(),
            duid,
            identity,
            mac.map(|mac| mac.0),
            state_number(*state),
            since,
            expires
        ])?;
    Ok(())
}
