//! What the UDP doors ask of the application: who is there, what may start, what was promised.

mod dhcp;
mod syslog;

pub(crate) use dhcp::DhcpDoor;
pub(crate) use syslog::SyslogDoor;

use crate::app::App;
use crate::metrics::Metrics;
use crate::net::tftp::{Content, Directory, Event as TftpEvent, Observer, Refusal, Resolver};
use crate::store::{Key, StoreError};
use kaltstart_core::boot;
use kaltstart_core::machine::Machine;
use kaltstart_core::trace::{TftpTransfer, What};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// First-stage loaders by TFTP, for machines that may start from the network.
pub(crate) struct TftpDoor {
    pub(crate) app: Arc<App>,
    pub(crate) loaders: Directory,
}

impl TftpDoor {
    /// The machine at the address; none when nobody knows it.
    fn machine(&self, address: Ipv4Addr) -> Result<Option<Machine>, StoreError> {
        let Some(mac) = self.app.who_has(address)? else { return Ok(None) };
        Ok(self.app.store.machine(Key::Mac(mac))?.map(|found| found.machine))
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

/// Counts TFTP transfers, and takes note of them for the machine that asked.
pub(crate) struct TftpCounter(pub(crate) Arc<App>);

impl Observer for TftpCounter {
    fn note(&self, event: &TftpEvent<'_>) {
        if let Some((client, transfer)) = sighting(event) {
            self.0.saw_at(client, What::Tftp(transfer));
        }
        let (kind, result) = match event {
            TftpEvent::Started { .. } => return,
            TftpEvent::Finished { outcome, .. } => ("transfer", outcome.label()),
            TftpEvent::Refused { reason, .. } => ("refused", reason.label()),
            TftpEvent::Dropped { reason, .. } => ("dropped", reason.label()),
        };
        Metrics::count(&self.0.metrics.tftp, kind, result);
    }
}

/// How a request ended, and for whom; none for what is no end.
fn sighting(event: &TftpEvent<'_>) -> Option<(Ipv4Addr, TftpTransfer)> {
    match event {
        TftpEvent::Finished { client, name, outcome, report, duration } => {
            let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            Some((*client.ip(), TftpTransfer::ended(name, outcome, report, duration_ms)))
        }
        TftpEvent::Refused { client, name, reason } => {
            Some((*client.ip(), TftpTransfer::refused(name, *reason)))
        }
        TftpEvent::Started { .. } | TftpEvent::Dropped { .. } => None,
    }
}
