//! The DHCPv6 service's view of the application.

use super::dhcp::{Exhausted, Heard, commit, known};
use crate::app::App;
use crate::clock;
use crate::metrics::Metrics;
use crate::net::dhcp::BackendError;
use crate::net::dhcp6::Backend;
use crate::store::Transaction;
use kaltstart_core::dhcp::Known;
use kaltstart_core::dhcp::client::Client;
use kaltstart_core::dhcp::lease::LeaseWrite;
use kaltstart_core::dhcp6::Contact;
use kaltstart_core::dhcp6::subnet::Prefix;
use kaltstart_core::lifecycle::event::{Asker, Event};
use kaltstart_core::trace::{Answer6, Exchange6, What};
use kaltstart_protocol::dhcp6::MessageType;
use kaltstart_protocol::ids::Mac;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Connects the DHCPv6 service with the store and the machines' life.
pub(crate) struct Dhcp6Door {
    app: Arc<App>,
    exhausted: Exhausted,
}

impl Dhcp6Door {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app, exhausted: Exhausted::default() }
    }
}

impl Backend for Dhcp6Door {
    fn known(&self, mac: Mac, client: Client) -> Option<Known> {
        known(&self.app, &self.app.store.index(), mac, client, self.app.records_unknown())
    }

    fn heard(&self, contact: &Contact) -> bool {
        let Some(last) = events(contact).last() else { return false };
        let given = if let Event::AddressGiven { address, .. } = last { Some(address) } else { None };
        match self.app.store.index().get(contact.mac) {
            Some(machine) => machine.may_change(given, clock::now()),
            None => contact.client.boots() && self.app.config.boot.discover_unknown,
        }
    }

    fn note(&self, mac: Mac, exchange: Exchange6) {
        // A stranger's system that got its address is not a machine that does not start.
        let silent = matches!(exchange.answer, Answer6::Silent { .. });
        if !silent && !exchange.client.boots() && self.app.store.index().get(mac).is_none() {
            return;
        }
        self.app.trace.note(mac, What::Dhcp6(exchange));
    }

    fn count(&self, name: &str, result: &str) {
        Metrics::count(&self.app.metrics.dhcp6, name, result);
    }

    fn exhausted(&self, subnet: Prefix) {
        self.exhausted.tell(&subnet);
    }

    fn commit(
        &self,
        leases: Vec<LeaseWrite<Ipv6Addr>>,
        contacts: Vec<Contact>,
        done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
    ) -> Result<(), BackendError> {
        let heard = contacts.iter().map(|contact| Heard {
            mac: contact.mac,
            boots: contact.client.boots(),
            events: events(contact).collect(),
        });
        let addresses = leases.iter().map(|lease| lease.address.into()).collect();
        let put = move |transaction: &mut Transaction<'_>| {
            leases.iter().try_for_each(|lease| transaction.put_lease6(lease))
        };
        commit(&self.app, heard.collect(), addresses, put, done)
    }
}

/// What a sign of life means for its machine. A client that boots nothing may be a system, or
/// firmware whose IPv6 wants an address of its own: it tells nothing.
fn events(contact: &Contact) -> impl Iterator<Item = Event> {
    use MessageType::{Request, Solicit};
    let (boots, asker) = (contact.client.boots(), Asker::Firmware);
    let asks = boots && matches!(contact.kind, Solicit | Request);
    let given = contact.address.filter(|_| boots && contact.kind == Request);
    let seen = asks.then_some(Event::DhcpSeen { asker });
    seen.into_iter().chain(given.map(|address| Event::AddressGiven { asker, address: address.into() }))
}
