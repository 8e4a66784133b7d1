//! The stored DHCPv6 leases, and who this server is to their holders.

use super::connection::{Connection, DatabaseError, Result, Row};
use super::leases::{Wanted, held_by_another, state_number, state_of, widened};
use super::rows::to_i64;
use super::{Store, StoreError};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseWrite};
use kaltstart_protocol::dhcp6::duid;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use std::net::{IpAddr, Ipv6Addr};

/// DHCPv6 leases that fulfil a condition.
macro_rules! leases6 {
    ($condition:literal) => {
        concat!("SELECT address, duid, identity, mac, state, since, expires FROM leases6", $condition)
    };
}
pub(super) use leases6;

impl Store {
    /// The DUID of this server, made with its database (RFC 6355).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn duid(&self) -> Result<Vec<u8>, StoreError> {
        let uuid = self
            .read(|connection| connection.first("SELECT uuid FROM dhcp6_server", &[], |row| sized(row, 0)))?;
        uuid.map(duid::of_uuid).ok_or_else(|| StoreError::Read("there is no DUID".into()))
    }

    /// All DHCPv6 leases.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn leases6(&self) -> Result<Vec<LeaseWrite<Ipv6Addr>>, StoreError> {
        self.read(|connection| connection.all(leases6!(" ORDER BY address"), &[], lease))
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

/// The first `limit` of the wanted leases, by address.
pub(super) fn find(
    connection: &mut Connection,
    wanted: Wanted,
    limit: usize,
) -> Result<Vec<LeaseWrite<IpAddr>>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).into();
    match wanted {
        Wanted::All => connection.all(leases6!(" ORDER BY address LIMIT ?1"), &[limit], widened(lease)),
        Wanted::Address(IpAddr::V4(_)) => Ok(Vec::new()),
        Wanted::Address(IpAddr::V6(address)) => {
            let sql = leases6!(" WHERE address = ?1 LIMIT ?2");
            connection.all(sql, &[address.octets()[..].into(), limit], widened(lease))
        }
        Wanted::Mac(mac) => {
            let sql = leases6!(" WHERE mac = ?1 ORDER BY address LIMIT ?2");
            connection.all(sql, &[mac.0[..].into(), limit], widened(lease))
        }
    }
}

fn sized<const N: usize>(row: &dyn Row, column: usize) -> Result<[u8; N]> {
    let bytes = row.bytes(column)?;
    bytes.try_into().map_err(|_| DatabaseError::Refused(format!("{} bytes instead of {N}", bytes.len())))
}

pub(super) fn lease(row: &dyn Row) -> Result<LeaseWrite<Ipv6Addr>> {
    let identity = u32::try_from(row.int(2)?);
    let identity = identity.map_err(|_| DatabaseError::Refused("an identity of more than 32 bits".into()))?;
    let lease = Lease {
        key: ClientKey::of_identity(row.bytes(1)?, identity),
        mac: row.maybe_bytes(3)?.and_then(|mac| mac.try_into().ok()).map(Mac),
        state: state_of(row.int(4)?)?,
        since: Millis(row.int(5)?.unsigned_abs()),
        expires: Millis(row.int(6)?.unsigned_abs()),
    };
    Ok(LeaseWrite { address: sized::<16>(row, 0)?.into(), lease })
}

/// Stores a lease as [`put_lease`](super::leases::put_lease) does.
pub(super) fn put_lease(connection: &mut Connection, write: &LeaseWrite<Ipv6Addr>) -> Result<()> {
    let Lease { key, mac, state, since, expires } = &write.lease;
    let (duid, identity) = key.identity();
    let stored = connection.execute(
        "INSERT INTO leases6 (address, duid, identity, mac, state, since, expires) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (address) DO UPDATE SET duid = excluded.duid, \
         identity = excluded.identity, mac = excluded.mac, state = excluded.state, since = excluded.since, \
         expires = excluded.expires WHERE leases6.state = 4 OR leases6.expires <= excluded.since \
         OR (leases6.duid = excluded.duid AND leases6.identity = excluded.identity) \
         OR leases6.mac = excluded.mac",
        &[
            write.address.octets()[..].into(),
            duid.into(),
            i64::from(identity).into(),
            mac.as_ref().map(|mac| &mac.0[..]).into(),
            state_number(*state).into(),
            to_i64(since.0).into(),
            to_i64(expires.0).into(),
        ],
    )?;
    held_by_another(stored, &write.address)
}
