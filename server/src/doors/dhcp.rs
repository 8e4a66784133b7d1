//! The DHCP service's view of the application.

use crate::app::App;
use crate::clock;
use crate::net::dhcp::{Backend, BackendError, Knowledge, Lookup, Ping, Service};
use crate::net::rarely::Rarely;
use crate::store::{self, Index, Key, StoreError, Transaction, WriteError};
use kaltstart_core::dhcp::client::Client;
use kaltstart_core::dhcp::lease::{LeaseTable, LeaseWrite};
use kaltstart_core::dhcp::{Contact, Drop, Known};
use kaltstart_core::lifecycle::event::{Asker, Event, Happening};
use kaltstart_core::lifecycle::{self, Step};
use kaltstart_core::machine::{Machine, Node};
use kaltstart_core::trace::{Answer, Exchange, What};
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::ids::{Mac, NodeId};
use kaltstart_protocol::time::Millis;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// A machine that was changed, and what is told about it.
pub(super) type Told = (Machine, Vec<Happening>);

/// Connects the DHCP service with the store and the machines' life.
pub struct DhcpDoor {
    app: Arc<App>,
    exhausted: Exhausted,
}

impl DhcpDoor {
    /// The door of `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app, exhausted: Exhausted::default() }
    }
}

/// The DHCP service of `app` behind `door`: it goes on with the leases that are stored, and looks for free addresses
/// by `pinger`.
///
/// # Errors
/// When the store fails.
pub async fn dhcp_service<B: Backend>(
    app: &App,
    door: B,
    pinger: Option<Arc<dyn Ping>>,
) -> Result<Arc<Service<B>>, StoreError> {
    let subnets = app.config.subnets();
    let mut resumed = LeaseTable::resume(app.store.leases()?, clock::now());
    // What another server renews meanwhile must not become shorter again: then this one alone waits longer.
    if !app.store.is_shared() {
        app.store.put_leases(resumed.writes).await?;
        resumed.table.is_stored();
    }
    let restored = app.restored;
    let longest_ms = subnets.iter().map(|subnet| subnet.looking.longest_ms).max().unwrap_or(0);
    let left_ms = restored.map_or(0, |at| longest_ms.saturating_sub(resumed.now.since(at)));
    if left_ms > 0 {
        tracing::warn!(
            code = Code::LeasesRestored.number(),
            minutes_left = left_ms.div_ceil(60_000),
            "the database is a restored copy: leases given since it was made are not known; until all of them must \
             have ended free addresses are offered on a wire when nobody has them, and behind relays not at all"
        );
    }
    let watches = app.watches.clone();
    let service = Service::new(door, subnets, watches, resumed.table, resumed.now, restored, pinger);
    app.metrics.watch_dhcp(service.clone(), app.watches.clone());
    Ok(service)
}

/// Tells the log that there is no free address, but not too often.
#[derive(Debug, Default)]
pub(super) struct Exhausted(Rarely<()>);

impl Exhausted {
    pub(super) fn tell(&self, for_whom: &dyn std::fmt::Display) {
        if self.0.is_due((), Instant::now()) {
            let code = Code::PoolExhausted;
            tracing::warn!(%for_whom, code = code.number(), "{}: {}", code.title(), code.next());
        }
    }
}

impl Backend for DhcpDoor {
    fn known(&self, asking: &[Lookup]) -> Knowledge {
        let records_unknown = self.app.records_unknown();
        let index = self.app.store.index();
        let nodes = asking.iter().map(|one| known(&self.app, &index, one.mac?, one.client, records_unknown));
        Knowledge { nodes: nodes.collect(), reserved: index.reserved().clone() }
    }

    fn heard(&self, contact: &Contact) -> bool {
        if contact.unanswered == Some(Drop::PoolExhausted) {
            match contact.mac {
                Some(mac) => self.exhausted.tell(&mac),
                None => self.exhausted.tell(&"a client without hardware address"),
            }
        }
        let Some(mac) = contact.mac else { return false };
        self.app.observe_contact(mac, contact);
        // Where addresses are ours, leases say it.
        if let Some(address) = contact.address.filter(|address| !self.app.watches.gives(*address)) {
            self.app.claims.note(address, mac);
        }
        let Some(last) = events(contact).last() else { return false };
        let given = if let Event::AddressGiven { address, .. } = last { Some(address) } else { None };
        match self.app.store.index().get(mac) {
            Some(machine) => machine.may_change(given, clock::now()),
            None => contact.client.boots() && self.app.config.boot.discover_unknown,
        }
    }

    fn note(&self, mac: Mac, exchange: Exchange) {
        // A stranger's system that got its address is not a machine that does not start.
        let silent = matches!(exchange.answer, Answer::Silent { .. });
        if !silent && !exchange.client.boots() && self.app.store.index().get(mac).is_none() {
            return;
        }
        self.app.trace.note(mac, What::Dhcp(exchange));
    }

    fn commit(
        &self,
        leases: Vec<LeaseWrite>,
        contacts: Vec<Contact>,
        done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
    ) -> Result<(), BackendError> {
        let heard = contacts.iter().filter_map(|contact| {
            let (mac, boots) = (contact.mac?, contact.client.boots());
            Some(Heard { mac, boots, events: events(contact).collect() })
        });
        let addresses = leases.iter().map(|lease| lease.address.into()).collect();
        let put = move |transaction: &mut Transaction<'_>| {
            leases.iter().try_for_each(|lease| transaction.put_lease(lease))
        };
        commit(&self.app, heard.collect(), addresses, put, done)
    }
}

/// What a sign of life means for its machine.
fn events(contact: &Contact) -> impl Iterator<Item = Event> {
    let asker = if contact.client.boots() { Asker::Firmware } else { Asker::System };
    let asks = matches!(contact.kind, MessageType::Discover | MessageType::Request);
    let given = contact.address.filter(|_| contact.kind == MessageType::Request);
    let seen = asks.then_some(Event::DhcpSeen { asker });
    seen.into_iter().chain(given.map(|address| Event::AddressGiven { asker, address: address.into() }))
}

/// What a DHCP service knows of the machine with that hardware address.
pub(super) fn known(
    app: &App,
    index: &Index,
    mac: Mac,
    client: Client,
    records_unknown: bool,
) -> Option<Known> {
    let known = match index.get(mac) {
        Some(machine) => machine.known.clone(),
        // Systems nobody declared are none of our machines; only what wants to boot may be.
        None if client.boots() && records_unknown => Known::of(&newcomer(mac)),
        None => return None,
    };
    Some(if client.boots() { app.in_this_site(known, mac) } else { known })
}

/// Something that happened to a machine.
pub(super) struct Heard {
    pub(super) mac: Mac,
    /// Whether it is firmware or a loader.
    pub(super) boots: bool,
    pub(super) events: Vec<Event>,
}

/// Stores leases of `addresses`, and what happened to machines, as [`Backend::commit`] says; what is stored is told.
pub(super) fn commit(
    app: &Arc<App>,
    all: Vec<Heard>,
    addresses: Vec<IpAddr>,
    put_leases: impl FnOnce(&mut Transaction<'_>) -> store::Result<()> + Send + 'static,
    done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
) -> Result<(), BackendError> {
    let (records_unknown, now) = (app.records_unknown(), clock::now());
    let work = move |transaction: &mut Transaction<'_>| {
        put_leases(transaction)?;
        let mut told: Vec<Told> = Vec::new();
        for heard in &all {
            match transaction.attempt(|transaction| record(transaction, heard, records_unknown, now))? {
                Ok(changed) => told.extend(changed),
                // One broken record must not take the others' leases away.
                Err(error) => tracing::error!(mac = %heard.mac, %error, "sign of life not recorded"),
            }
        }
        Ok(told)
    };
    let failed = |error: WriteError| BackendError(error.to_string());
    let stored = app.clone();
    let done = move |outcome: Result<Vec<Told>, WriteError>| {
        let tell = |told: Vec<Told>| told.iter().for_each(|(machine, news)| stored.tell(machine, news));
        let is_refused = matches!(outcome, Err(WriteError::Refused(_)));
        done(outcome.map(tell).map_err(failed));
        // After the service has taken back what it believed.
        if is_refused {
            stored.store.doubt(addresses);
        }
    };
    app.store.submit(work, done).map_err(failed)
}

/// Lets a sign of life happen to its machine, which is made if nobody knows it and it boots.
fn record(
    transaction: &mut Transaction<'_>,
    heard: &Heard,
    records_unknown: bool,
    now: Millis,
) -> store::Result<Option<Told>> {
    let (mut machine, version, mut told) = match transaction.machine(Key::Mac(heard.mac))? {
        Some(found) => (found.machine, found.version, Vec::new()),
        None if heard.boots && records_unknown => {
            let machine = newcomer(heard.mac);
            let told = vec![Happening::NodeMoved(machine.node.state)];
            (machine, 0, told)
        }
        None => return Ok(None),
    };
    let mut changed = version == 0;
    for event in &heard.events {
        if let Step::Changed { machine: next, happenings } = lifecycle::step(&machine, event, now) {
            machine = next;
            told.extend(happenings);
            changed = true;
        }
    }
    if changed {
        transaction.put(machine.clone(), version, &told, now)?;
    }
    Ok(changed.then_some((machine, told)))
}

/// A machine of which nothing but its hardware address is known.
fn newcomer(mac: Mac) -> Machine {
    let id = NodeId::new(clock::now(), clock::random_bits());
    let name = format!("node-{}", mac.to_string().replace(':', ""));
    Machine { job: None, node: Node::new(id, name, mac, false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::UNDECLARED_MAX;
    use crate::app::tests::{app, mac};
    use kaltstart_core::dhcp::client::{Architecture, Client, Stage};
    use std::sync::mpsc;

    const FIRMWARE: Client = Client { architecture: Architecture::UefiX64, stage: Stage::Pxe };

    fn discover(n: u32) -> Contact {
        let kind = MessageType::Discover;
        Contact {
            mac: Some(mac(n)),
            client: FIRMWARE,
            kind,
            address: None,
            hostname: None,
            unanswered: None,
            claim: None,
        }
    }

    fn commit(door: &DhcpDoor, contacts: Vec<Contact>) {
        let (done, landed) = mpsc::channel();
        door.commit(vec![], contacts, move |outcome| drop(done.send(outcome))).expect("taken");
        landed.recv().expect("told").expect("durable");
    }

    #[tokio::test]
    async fn p32_a_flood_of_unknown_machines_is_recorded_only_up_to_a_limit() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let door = DhcpDoor::new(Arc::new(app(dir.path()).await));
        let all = u32::try_from(UNDECLARED_MAX).expect("small");
        for first in (0..all).step_by(256) {
            let batch: Vec<_> = (first..first + 256).map(discover).collect();
            assert!(batch.iter().all(|contact| door.heard(contact)), "new machines are stored first");
            commit(&door, batch);
        }
        let asking = |n| Lookup { mac: Some(mac(n)), client: FIRMWARE, kind: MessageType::Discover };
        let known = door.known(&[asking(0), asking(all)]).nodes;
        assert!(known[0].is_some() && known[1].is_none(), "one too many");
        commit(&door, vec![discover(all)]);
        assert_eq!(door.app.store.index().machines(), UNDECLARED_MAX);
        assert!(!door.heard(&discover(1)), "nothing new is not stored again");
        let given =
            Contact { address: Some([10, 0, 0, 1].into()), kind: MessageType::Request, ..discover(1) };
        assert!(door.heard(&given), "an address is news");
        commit(&door, vec![given.clone()]);
        assert!(!door.heard(&given));
    }
}
