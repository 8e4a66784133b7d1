//! What the UDP doors ask of the application: who is there, what may start, what was promised.

use crate::app::{App, AppError};
use crate::metrics::Metrics;
use crate::net::dhcp::{Backend, BackendError, Knowledge, Lookup};
use crate::net::tftp::{Content, Directory, Event as TftpEvent, Observer, Refusal, Resolver};
use crate::store::{Key, StoreError};
use kaltstart_core::boot::{self, BootDecision};
use kaltstart_core::dhcp::lease::LeaseWrite;
use kaltstart_core::dhcp::{Contact, Drop, Known};
use kaltstart_core::lifecycle::event::{Asker, Event};
use kaltstart_core::machine::Machine;
use kaltstart_core::trace::{Exchange, What};
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::ids::Mac;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A lease as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredLease {
    pub(crate) address: Ipv4Addr,
    pub(crate) lease: kaltstart_core::dhcp::lease::Lease,
}

/// The DHCP service's view of the application.
pub(crate) struct DhcpDoor(pub(crate) Arc<App>);

impl DhcpDoor {
    async fn look_up(&self, asking: &Lookup) -> Result<Known, AppError> {
        let app = &self.0;
        let known = match app.store.machine(Key::Mac(asking.mac))? {
            Some(found) => Some(found.machine),
            // Systems nobody declared are none of our machines; only what wants to boot may be.
            None if asking.client.boots() && app.config.boot.discover_unknown => app.meet(asking.mac).await?,
            None => None,
        };
        Ok(match known {
            Some(machine) => Known {
                reservation: machine.node.reservation,
                hostname: Some(machine.node.name.clone()),
                boot: boot::decide(&machine),
            },
            None => Known { reservation: None, hostname: None, boot: BootDecision::Local },
        })
    }

    async fn heard(&self, contact: &Contact) -> Result<(), AppError> {
        if contact.unanswered == Some(Drop::PoolExhausted) {
            let code = Code::PoolExhausted;
            tracing::warn!(mac = %contact.mac, code = code.number(), "{}: {}", code.title(), code.next());
        }
        let asker = if contact.client.boots() { Asker::Firmware } else { Asker::System };
        let mut events = Vec::new();
        if matches!(contact.kind, MessageType::Discover | MessageType::Request) {
            events.push(Event::DhcpSeen { asker });
        }
        if let (MessageType::Request, Some(address), None) =
            (contact.kind, contact.address, contact.unanswered)
        {
            events.push(Event::AddressGiven { asker, address });
        }
        for event in events {
            match self.0.apply(Key::Mac(contact.mac), &event).await {
                Ok(_) | Err(AppError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Backend for DhcpDoor {
    async fn known(&self, asking: &[Lookup]) -> Result<Knowledge, BackendError> {
        let mut nodes = Vec::with_capacity(asking.len());
        for one in asking {
            nodes.push(self.look_up(one).await.map_err(|error| BackendError(error.to_string()))?);
        }
        Ok(Knowledge { nodes, reserved: self.0.reserved() })
    }

    async fn commit(&self, leases: &[LeaseWrite], contacts: &[Contact]) -> Result<(), BackendError> {
        let failed = |error: AppError| BackendError(error.to_string());
        if !leases.is_empty() {
            let documents = leases
                .iter()
                .map(|LeaseWrite { address, lease }| {
                    let stored = StoredLease { address: *address, lease: lease.clone() };
                    serde_json::to_string(&stored).map(|doc| (address.to_string(), doc))
                })
                .collect::<Result<_, _>>()
                .map_err(|error| BackendError(error.to_string()))?;
            self.0.store.put_leases(documents).await.map_err(|error| failed(error.into()))?;
        }
        for contact in contacts {
            self.heard(contact).await.map_err(failed)?;
        }
        Ok(())
    }

    fn note(&self, mac: Mac, exchange: Exchange) {
        self.0.trace.note(mac, What::Dhcp(exchange));
    }
}

/// First-stage loaders by TFTP, for machines that may start from the network.
pub(crate) struct TftpDoor {
    pub(crate) app: Arc<App>,
    pub(crate) loaders: Directory,
}

impl TftpDoor {
    /// The machine that was given the address; none when another DHCP server gave it.
    fn machine(&self, address: Ipv4Addr) -> Result<Option<Machine>, StoreError> {
        let Some(held) = self.app.store.lease::<StoredLease>(address)? else { return Ok(None) };
        Ok(self.app.store.machine(Key::Mac(held.lease.mac))?.map(|found| found.machine))
    }
}

impl Resolver for TftpDoor {
    async fn open(&self, client: Ipv4Addr, name: &str) -> Result<Content, Refusal> {
        let machine = self.machine(client).map_err(|error| {
            tracing::error!(%error, %client, "TFTP");
            Refusal::Unavailable
        })?;
        if machine.is_some_and(|machine| !boot::decide(&machine).is_network()) {
            tracing::info!(%client, file = name, "not served: the machine shall start from its own disk");
            return Err(Refusal::NotFound);
        }
        self.loaders.open(client, name).await
    }
}

/// Counts TFTP transfers.
pub(crate) struct TftpCounter(pub(crate) Arc<App>);

impl Observer for TftpCounter {
    fn note(&self, event: &TftpEvent<'_>) {
        let (kind, result) = match event {
            TftpEvent::Started { .. } => return,
            TftpEvent::Finished { outcome, .. } => ("transfer", outcome.label()),
            TftpEvent::Refused { reason, .. } => ("refused", reason.label()),
            TftpEvent::Dropped { reason, .. } => ("dropped", reason.label()),
        };
        Metrics::count(&self.0.metrics.tftp, kind, result);
    }
}
