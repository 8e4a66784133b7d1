//! The DHCP service: addresses and boot file names for machines.
//!
//! One [`Listener`] per interface reads what has arrived, up to [`BATCH_MAX`] packets at once.
//! [`Service::process`] asks the [`Backend`] about the senders, lets [`kaltstart_core::dhcp`]
//! decide, has the changed leases of the whole batch committed at once, and only then are the
//! replies sent: what arrives during a commit becomes the next batch, so a storm costs few
//! commits. If the commit fails, nothing is sent and the lease table is as it was.

mod socket;
mod stats;
#[cfg(test)]
mod tests;

pub use socket::Listener;
pub use stats::Stats;

use kaltstart_core::dhcp::client::Client;
use kaltstart_core::dhcp::lease::{LeaseTable, LeaseWrite};
use kaltstart_core::dhcp::subnet::Subnet;
use kaltstart_core::dhcp::{Contact, Decision, Drop, Known, Reply, Seen, View, decide, triage};
use kaltstart_core::trace::Exchange;
use kaltstart_protocol::dhcp::{Message, MessageType};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// Packets that are decided and committed together. Bounds the memory of a batch and the wait of
/// its first packet.
pub const BATCH_MAX: usize = 256;
/// Pause after a failed receive, so that a broken interface does not keep a core busy.
const RECEIVE_PAUSE: Duration = Duration::from_secs(1);

/// Somebody who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// Hardware address.
    pub mac: Mac,
    /// What it is.
    pub client: Client,
    /// What it sent.
    pub kind: MessageType,
}

/// What the backend knows.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// One entry per [`Lookup`], in its order. Who has none is not answered.
    pub nodes: Vec<Known>,
    /// The addresses reserved for any machine.
    pub reserved: Arc<BTreeSet<Ipv4Addr>>,
}

/// The backend cannot do it now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// What the service needs of the rest of the server.
pub trait Backend: Send + Sync + 'static {
    /// Looks up the senders of a batch.
    fn known(&self, asking: &[Lookup]) -> impl Future<Output = Result<Knowledge, BackendError>> + Send;

    /// Stores changed leases, all or none, in their order; they survive a crash once this returns.
    /// Contacts are told along and need not survive.
    fn commit(
        &self,
        leases: &[LeaseWrite],
        contacts: &[Contact],
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Takes note of a client's message and what became of it. Called while others wait: it must
    /// not block.
    fn note(&self, _mac: Mac, _exchange: Exchange) {}
}

/// The service, shared by its listeners.
pub struct Service<B> {
    backend: B,
    subnets: Vec<Subnet>,
    /// Held for a batch, its commit included: what is decided next must see what is stored.
    table: Mutex<LeaseTable>,
    /// Time of the leases at an instant: it follows no jump of the clock on the wall.
    clock: (Millis, Instant),
    stats: Arc<Stats>,
}

impl<B: Backend> Service<B> {
    /// Takes up the stored leases at the wall clock's time `now`.
    ///
    /// # Errors
    /// When leases had to be prolonged (see [`LeaseTable::resume`]) and that cannot be stored.
    pub async fn new(
        backend: B,
        subnets: Vec<Subnet>,
        stored: impl IntoIterator<Item = LeaseWrite>,
        now: Millis,
    ) -> Result<Self, BackendError> {
        let resumed = LeaseTable::resume(stored, now);
        if !resumed.writes.is_empty() {
            backend.commit(&resumed.writes, &[]).await?;
        }
        Ok(Self {
            backend,
            subnets,
            table: Mutex::new(resumed.table),
            clock: (resumed.now, Instant::now()),
            stats: Arc::default(),
        })
    }

    /// The counters.
    #[must_use]
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The time of the leases.
    #[must_use]
    pub fn now(&self) -> Millis {
        let (start, at) = self.clock;
        start.plus(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Answers on one interface until it is told to stop; a batch that is begun is finished.
    pub async fn serve(&self, listener: &Listener, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let received = tokio::select! {
                () = stop.cancelled() => return,
                received = listener.receive(&mut batch, &self.stats) => received,
            };
            if let Err(error) = received {
                warn!(interface = listener.interface(), %error, "cannot receive DHCP messages");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RECEIVE_PAUSE) => {}
                }
            }
            for reply in self.process(batch.drain(..), listener.interface(), listener.address()).await {
                match listener.send(&reply).await {
                    Ok(()) => self.stats.sent(reply.kind),
                    Err(error) => {
                        self.stats.dropped("send");
                        let mac = reply.message.mac().map(tracing::field::display);
                        warn!(interface = listener.interface(), mac, %error, "cannot send a DHCP reply");
                    }
                }
            }
        }
    }

    /// Decides about a batch that arrived on `interface`, which has the address `arrival`, and
    /// stores what must be stored; returns what may be sent.
    pub async fn process(
        &self,
        batch: impl IntoIterator<Item = Message>,
        interface: &str,
        arrival: Ipv4Addr,
    ) -> Vec<Reply> {
        let mut seen = Vec::new();
        for message in batch {
            let asked = Exchange::of(&message);
            match triage(&self.subnets, message, arrival) {
                Ok(one) => {
                    self.stats.received(one.kind);
                    seen.push(one);
                }
                Err(why) => {
                    self.stats.dropped(why.name());
                    let mac = asked.as_ref().map(|(mac, _)| tracing::field::display(*mac));
                    debug!(interface, mac, %why, "DHCP message not answered");
                    if let Some((mac, exchange)) = asked {
                        self.backend.note(mac, exchange.answered(Err(why)));
                    }
                }
            }
        }
        if seen.is_empty() {
            return Vec::new();
        }
        match self.decide_and_commit(&seen, interface).await {
            Ok(replies) => replies,
            Err(error) => {
                seen.iter().for_each(|_| self.stats.dropped("backend"));
                error!(interface, messages = seen.len(), %error, "DHCP messages not answered");
                Vec::new()
            }
        }
    }

    async fn decide_and_commit(
        &self,
        seen: &[Seen<'_>],
        interface: &str,
    ) -> Result<Vec<Reply>, BackendError> {
        let lookups: Vec<_> =
            seen.iter().map(|seen| Lookup { mac: seen.mac, client: seen.client, kind: seen.kind }).collect();
        let Knowledge { nodes, reserved } = self.backend.known(&lookups).await?;
        let mut table = self.table.lock().await;
        let now = self.now();
        let (mut replies, mut leases, mut contacts, mut undo) = (vec![], vec![], vec![], vec![]);
        let mut noted = Vec::with_capacity(seen.len());
        for (seen, node) in seen.iter().zip(&nodes) {
            let view = View { table: &table, reserved: &reserved, node, now };
            let Decision { reply, write, contact } = decide(seen, view);
            if let Some(write) = write {
                if write.is_durable() {
                    leases.push(write.clone());
                }
                undo.push(table.apply(write));
            }
            let outcome = reply.as_ref().map(Option::as_ref).map_err(|why| *why);
            noted.extend(Exchange::of(&seen.message).map(|(mac, asked)| (mac, asked.answered(outcome))));
            match reply {
                Ok(reply) => replies.extend(reply.map(|reply| (seen, reply))),
                Err(why) => {
                    self.stats.dropped(why.name());
                    log_drop(seen, why, interface);
                }
            }
            contacts.push(contact);
        }
        if let Err(error) = self.backend.commit(&leases, &contacts).await {
            undo.into_iter().rev().for_each(|undo| table.undo(undo));
            return Err(error);
        }
        drop(table);
        for (mac, exchange) in noted {
            self.backend.note(mac, exchange);
        }
        replies.iter().for_each(|(seen, reply)| log_reply(seen, reply, interface));
        Ok(replies.into_iter().map(|(_, reply)| reply).collect())
    }
}

/// Says what is sent; offers only to those who look closely, there are many and they bind nobody.
fn log_reply(seen: &Seen<'_>, reply: &Reply, interface: &str) {
    let Seen { mac, client, .. } = seen;
    let (kind, address) = (reply.kind, reply.message.yiaddr);
    let file = String::from_utf8_lossy(&reply.message.file);
    if kind == MessageType::Offer {
        debug!(interface, %mac, %client, kind = %kind, %address, %file, "DHCP reply");
    } else {
        info!(interface, %mac, %client, kind = %kind, %address, %file, "DHCP reply");
    }
}

/// Says why a message gets no answer; loudly when that shows another server on the wire.
fn log_drop(seen: &Seen<'_>, why: Drop, interface: &str) {
    let Seen { mac, client, kind, .. } = seen;
    if matches!(why, Drop::OtherServer(_)) {
        info!(interface, %mac, %client, kind = %kind, %why, "DHCP message not answered");
    } else {
        debug!(interface, %mac, %client, kind = %kind, %why, "DHCP message not answered");
    }
}
