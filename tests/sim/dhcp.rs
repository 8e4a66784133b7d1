//! The server's DHCP socket, its look for addresses in use, and its door to the rest of the server.

use crate::database::Road;
use crate::mutants::Mutant;
use kaltstart_core::dhcp::lease::{Lease, LeaseState, LeaseWrite};
use kaltstart_core::dhcp::{Contact, Reply};
use kaltstart_core::trace::Exchange;
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use kaltstart_server::app::App;
use kaltstart_server::doors::DhcpDoor;
use kaltstart_server::net::dhcp::{Backend, BackendError, Knowledge, Link, Lookup, Ping, Stats};
use kaltstart_server::store::{Key, Store, Wanted};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reply on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) to: Mac,
    pub(crate) bytes: Vec<u8>,
    /// An acknowledged address, and for how many seconds.
    pub(crate) promised: Option<(Ipv4Addr, u32)>,
    /// If that was not stored when it was sent, what was.
    pub(crate) missing: Option<String>,
}

/// The interface: keeps what is sent until the world takes it.
pub(crate) struct Wire {
    app: Weak<App>,
    /// Sees what is stored in a shared database.
    eye: Option<Arc<Store>>,
    address: Ipv4Addr,
    sent: Mutex<Vec<Sent>>,
}

impl Wire {
    pub(crate) fn new(app: &Arc<App>, eye: Option<Arc<Store>>, address: Ipv4Addr) -> Arc<Self> {
        Arc::new(Self { app: Arc::downgrade(app), eye, address, sent: Mutex::default() })
    }

    pub(crate) fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut *locked(&self.sent))
    }

    /// Whether an address is acknowledged by what was sent.
    pub(crate) fn promises(&self) -> bool {
        locked(&self.sent).iter().any(|sent| sent.promised.is_some())
    }

    /// What is stored of `address`, if that is neither a lease of `mac`, for as long as was promised where others look
    /// there too, nor a reservation.
    fn missing(&self, address: Ipv4Addr, mac: Mac, seconds: u32) -> Option<String> {
        let app = self.app.upgrade()?;
        let store = self.eye.as_deref().unwrap_or(&app.store);
        let found = store.find_leases(Wanted::Address(address.into()), 1).expect("readable");
        let reserved = || store.machine(Key::Mac(mac)).expect("readable")?.machine.node.reservation;
        let until = self.eye.as_ref().map(|_| crate::time::wall().plus(u64::from(seconds) * 1_000));
        let promised =
            |lease: &Lease| lease.mac == Some(mac) && until.is_none_or(|until| lease.expires >= until);
        let is_stored = found.iter().any(|write| promised(&write.lease))
            || self.eye.is_some() && reserved() == Some(address);
        (!is_stored).then(|| format!("{found:?}"))
    }
}

impl Link for Wire {
    fn interface(&self) -> &str {
        "sim0"
    }

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn send(&self, replies: &[&Reply], _stats: &Stats) {
        for reply in replies {
            let Some(to) = reply.message.mac() else { continue };
            let (address, seconds) = (reply.message.yiaddr, reply.message.lease_seconds());
            let promised =
                seconds.filter(|_| reply.kind == MessageType::Ack).map(|seconds| (address, seconds));
            let missing = promised.and_then(|(address, seconds)| self.missing(address, to, seconds));
            locked(&self.sent).push(Sent { to, bytes: reply.encode(), promised, missing });
        }
    }
}

/// Who answers for an address on the wire.
#[derive(Default)]
pub(crate) struct Neighbours {
    /// Addresses that running machines use.
    pub(crate) used: Mutex<BTreeSet<Ipv4Addr>>,
    asked: Mutex<Vec<Ipv4Addr>>,
}

impl Neighbours {
    /// Addresses that were looked for since, and are used.
    pub(crate) fn answers(&self) -> Option<Vec<Ipv4Addr>> {
        let asked = std::mem::take(&mut *locked(&self.asked));
        let used = locked(&self.used);
        (!asked.is_empty()).then(|| asked.into_iter().filter(|address| used.contains(address)).collect())
    }
}

impl Ping for Neighbours {
    fn ping(&self, address: Ipv4Addr) -> std::io::Result<()> {
        locked(&self.asked).push(address);
        Ok(())
    }

    fn on_wires(&self) -> BTreeSet<Ipv4Addr> {
        locked(&self.used).clone()
    }
}

/// The server's own door, which a crash closes.
pub(crate) struct Door {
    door: Mutex<Option<Arc<DhcpDoor>>>,
    road: Option<Arc<Road>>,
    mutant: Option<Mutant>,
    /// What a mutant calls durable before it is.
    early: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Door {
    pub(crate) fn new(app: Arc<App>, road: Option<Arc<Road>>, mutant: Option<Mutant>) -> Arc<Self> {
        Arc::new(Self {
            door: Mutex::new(Some(Arc::new(DhcpDoor::new(app)))),
            road,
            mutant,
            early: Mutex::default(),
        })
    }

    /// Says of what was handed over just now that it is durable, if a mutant wants that.
    pub(crate) fn tell_early(&self) {
        let early = std::mem::take(&mut *locked(&self.early));
        early.into_iter().for_each(|tell| tell());
    }

    /// The server has crashed.
    pub(crate) fn close(&self) {
        locked(&self.door).take();
    }

    fn open(&self) -> Arc<DhcpDoor> {
        locked(&self.door).clone().expect("a crashed server is asked nothing")
    }
}

/// What the service holds of a [`Door`].
pub(crate) struct Handle(pub(crate) Arc<Door>);

impl Backend for Handle {
    fn known(&self, asking: &[Lookup]) -> Knowledge {
        self.0.open().known(asking)
    }

    fn heard(&self, contact: &Contact) -> bool {
        self.0.open().heard(contact)
    }

    fn note(&self, mac: Mac, exchange: Exchange) {
        self.0.open().note(mac, exchange);
    }

    fn commit(
        &self,
        leases: Vec<LeaseWrite>,
        contacts: Vec<Contact>,
        done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
    ) -> Result<(), BackendError> {
        let door = self.0.open();
        match self.0.mutant {
            Some(Mutant::AckBeforeCommit) => {
                locked(&self.0.early).push(Box::new(move || done(Ok(()))));
                door.commit(leases, contacts, |_| ())
            }
            Some(Mutant::LeaseNotStored) => door.commit(Vec::new(), contacts, done),
            Some(Mutant::CutOffPromises) if self.0.road.as_ref().is_some_and(|road| road.is_cut()) => {
                locked(&self.0.early).push(Box::new(move || done(Ok(()))));
                Ok(())
            }
            Some(Mutant::LeasesNotGuarded) => {
                // As if all others' had ended long ago.
                let let_go = leases.iter().map(|write| {
                    let (state, since) = (LeaseState::Released, write.lease.since.plus(u64::from(u32::MAX)));
                    let lease = Lease { state, since, expires: Millis(0), ..write.lease.clone() };
                    LeaseWrite { lease, ..write.clone() }
                });
                let leases = let_go.chain(leases.iter().cloned()).collect();
                door.commit(leases, contacts, done)
            }
            _ => door.commit(leases, contacts, done),
        }
    }
}
