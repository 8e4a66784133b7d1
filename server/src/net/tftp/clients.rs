//! Who is being served.

use super::DropReason;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The ports with a transfer, by address.
type Ports = HashMap<Ipv4Addr, Vec<u16>>;

/// The clients with a transfer.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    ports: Arc<Mutex<Ports>>,
    per_client_max: usize,
}

/// A client's place; given back on drop, so also when its task panics.
#[derive(Debug)]
pub(super) struct Claim {
    clients: Clients,
    client: SocketAddrV4,
}

impl Clients {
    pub(super) fn new(per_client_max: usize) -> Self {
        Self { ports: Arc::default(), per_client_max }
    }

    /// Takes a place for `client`, unless its port has one or its address has too many.
    pub(super) fn claim(&self, client: SocketAddrV4) -> Result<Claim, DropReason> {
        let mut ports = self.lock();
        let of_client = ports.entry(*client.ip()).or_default();
        if of_client.contains(&client.port()) {
            return Err(DropReason::Duplicate);
        }
        if of_client.len() >= self.per_client_max.max(1) {
            return Err(DropReason::ClientBusy);
        }
        of_client.push(client.port());
        Ok(Claim { clients: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, Ports> {
        // Nothing is left half done under this lock, so a panic elsewhere does not matter.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Entry::Occupied(mut of_client) = self.clients.lock().entry(*self.client.ip()) {
            of_client.get_mut().retain(|port| *port != self.client.port());
            if of_client.get().is_empty() {
                of_client.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p33_one_transfer_per_port_and_few_per_client() {
        let clients = Clients::new(2);
        let at = |port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), port);
        let first = clients.claim(at(1)).expect("nobody is served");
        assert_eq!(clients.claim(at(1)).map(|_| ()), Err(DropReason::Duplicate));
        let second = clients.claim(at(2)).expect("two are allowed");
        assert_eq!(clients.claim(at(3)).map(|_| ()), Err(DropReason::ClientBusy));
        drop(first);
        let third = clients.claim(at(3)).expect("a place was given back");
        drop((second, third));
        assert!(clients.lock().is_empty());
    }
}
