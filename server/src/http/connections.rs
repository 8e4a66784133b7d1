//! How many connections may be open, in all and from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that are open at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// Connections from one address: enough for a rack behind one translated address, and for one
/// client that fetches in parallel; not enough to shut the others out.
const PER_ADDRESS_MAX: usize = 512;

/// Room for connections.
#[derive(Clone)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    open: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS_MAX)), open: Arc::default() }
    }

    /// Waits until one more connection may be open.
    pub(super) async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.all.clone().acquire_owned().await.ok()
    }

    /// The place of a connection from `address`; none when it has too many.
    pub(super) fn enter(&self, address: IpAddr, one: OwnedSemaphorePermit) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { room: self.clone(), address, _one: one })
    }
}

/// The place of an open connection; free again when dropped.
pub(super) struct Place {
    room: Room,
    address: IpAddr,
    _one: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.room.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn one_address_cannot_take_all_the_room() {
        let room = Room::new();
        let [greedy, other] = [1, 2].map(|n| IpAddr::from(Ipv4Addr::new(10, 0, 0, n)));
        let mut places = Vec::new();
        for _ in 0..PER_ADDRESS_MAX {
            let one = room.wait().await.expect("room");
            places.push(room.enter(greedy, one).expect("still allowed"));
        }
        let one = room.wait().await.expect("room");
        assert!(room.enter(greedy, one).is_none(), "one too many");
        let one = room.wait().await.expect("room");
        assert!(room.enter(other, one).is_some());
        places.pop();
        let one = room.wait().await.expect("room");
        assert!(room.enter(greedy, one).is_some(), "a place that was left is free");
        drop(places);
        assert!(room.open.lock().expect("not poisoned").is_empty(), "nothing is remembered");
        assert_eq!(room.all.available_permits(), CONNECTIONS_MAX);
    }
}
