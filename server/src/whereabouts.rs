//! Which machine is at an address, whoever gave it that address.

use crate::app::App;
use crate::clock;
use crate::net::neighbours;
use crate::store::StoreError;
use kaltstart_core::dhcp::whereabouts::Whereabouts;
use kaltstart_protocol::ids::Mac;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

/// What clients told other DHCP servers.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Whereabouts>);

impl Claims {
    /// `mac` takes or has `address`.
    pub(crate) fn note(&self, address: Ipv4Addr, mac: Mac) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(address, mac, clock::now());
    }

    fn who_has(&self, address: Ipv4Addr) -> Option<Mac> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).who_has(address, clock::now())
    }
}

impl App {
    /// The hardware address of the machine at `address`: the holder of the lease where addresses
    /// are ours, else who answers for it on the wire, else who said that it takes it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn who_has(&self, address: IpAddr) -> Result<Option<Mac>, StoreError> {
        let lessee = || match self.store.lessee(address) {
            // What the wire says is known without the database.
            Err(_) if self.store.is_lost() => Ok(None),
            found => found,
        };
        let IpAddr::V4(address) = address else { return lessee() };
        if self.watches.gives(address)
            && let Some(mac) = lessee()?
        {
            return Ok(Some(mac));
        }
        Ok(neighbours::who_has(address).or_else(|| self.claims.who_has(address)))
    }
}
