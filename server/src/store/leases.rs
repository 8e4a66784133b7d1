//! The stored leases: one row per address, small and without text.

use super::{Store, StoreError};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::net::{IpAddr, Ipv4Addr};

const COLUMNS: &str = "address, client, mac, state, since, expires";

impl Store {
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

    /// The hardware address of who has, or had last, the lease of `address`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn lessee(&self, address: IpAddr) -> Result<Option<Mac>, StoreError> {
        let IpAddr::V4(address) = address else { return Ok(None) };
        self.read(|connection| {
            connection
                .prepare_cached("SELECT mac FROM leases WHERE address = ?1")?
                .query_row([address.to_bits()], |row| row.get(0).map(Mac))
                .optional()
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

fn lease(row: &Row<'_>) -> rusqlite::Result<LeaseWrite> {
    let client = row.get_ref(1)?.as_blob()?.to_vec();
    let lease = Lease {
        key: ClientKey::from(client),
        mac: Mac(row.get(2)?),
        state: match row.get(3)? {
            1 => LeaseState::Bound,
            2 => LeaseState::Released,
            3 => LeaseState::Declined,
            4 => LeaseState::InUse,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(3, other)),
        },
        since: Millis(row.get::<_, i64>(4)?.unsigned_abs()),
        expires: Millis(row.get::<_, i64>(5)?.unsigned_abs()),
    };
    Ok(LeaseWrite { address: Ipv4Addr::from_bits(row.get(0)?), lease })
}

pub(super) fn put_lease(connection: &Connection, write: &LeaseWrite) -> rusqlite::Result<()> {
    let Lease { key, mac, state, since, expires } = &write.lease;
    let state = match state {
        // A hold is stored when it binds; whoever stores an offer may bind it.
        LeaseState::Offered | LeaseState::Bound => 1,
        LeaseState::Released => 2,
        LeaseState::Declined => 3,
        LeaseState::InUse => 4,
    };
    let (since, expires) = (super::rows::to_i64(since.0), super::rows::to_i64(expires.0));
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO leases ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        ))?
        .execute(params![write.address.to_bits(), key.as_bytes(), mac.0, state, since, expires])?;
    Ok(())
}
