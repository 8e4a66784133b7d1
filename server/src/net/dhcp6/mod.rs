//! The DHCPv6 service: addresses and boot file URLs for machines that start over IPv6.
//!
//! A [`Listener`] per interface reads what has arrived. [`Service::process`] asks the [`Backend`]
//! about the senders, lets [`kaltstart_core::dhcp6`] decide, hands what must be durable to the
//! backend as one commit, waits for it, and sends. One batch at a time is decided: what arrives
//! meanwhile waits in the socket and shares the next commit.
//!
//! If a commit fails, the batch is undone and decided again under the rule that nothing can be
//! stored: reserved addresses and the rest of stored leases are still given.

mod socket;
#[cfg(test)]
mod tests;

pub use socket::Listener;

use crate::clock::Steady;
use crate::net::dhcp::BackendError;
use crate::net::rarely::Rarely;
use kaltstart_core::dhcp::Known;
use kaltstart_core::dhcp::client::Client;
use kaltstart_core::dhcp::lease::{LeaseTable, LeaseWrite, Undo, Usage};
use kaltstart_core::dhcp6::subnet::{Prefix, Subnet};
use kaltstart_core::dhcp6::{Arrival, Contact, Decision, Drop, Reply, Seen, View, decide, triage};
use kaltstart_core::trace::Exchange6;
use kaltstart_protocol::dhcp6::Packet;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// Packets that are decided and committed together.
pub const BATCH_MAX: usize = 64;
/// Pause after a failed receive, so that a broken interface does not keep a core busy.
const RECEIVE_PAUSE: Duration = Duration::from_secs(1);

/// What the service needs of the rest of the server.
pub trait Backend: Send + Sync + 'static {
    /// What is known of the machine with that hardware address; none for a stranger.
    fn known(&self, mac: Mac, client: Client) -> Option<Known>;

    /// Hears a sign of life; says whether it may change what is stored of its machine.
    fn heard(&self, contact: &Contact) -> bool;

    /// Takes note of a client's message and what became of it.
    fn note(&self, _mac: Mac, _exchange: Exchange6) {}

    /// Counts messages: what, and what became of it.
    fn count(&self, _name: &str, _result: &str) {}

    /// There is no free address.
    fn exhausted(&self, _subnet: Prefix) {}

    /// Stores leases and what signs of life change, all or none. `done` is called once they survive
    /// a crash or have failed.
    ///
    /// # Errors
    /// When they are not taken; `done` is not called then.
    fn commit(
        &self,
        leases: Vec<LeaseWrite<Ipv6Addr>>,
        contacts: Vec<Contact>,
        done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
    ) -> Result<(), BackendError>;
}

/// Where messages come from and replies go to.
pub trait Link {
    /// Name of the interface.
    fn interface(&self) -> &str;

    /// Sends a reply without waiting.
    ///
    /// # Errors
    /// When it cannot be sent.
    fn send(&self, reply: &Reply) -> std::io::Result<()>;
}

/// The service, shared by its listeners.
pub struct Service<B> {
    backend: B,
    subnets: Vec<Subnet>,
    duid: Vec<u8>,
    /// Held until a batch is committed: promises are made one after another.
    table: Mutex<LeaseTable<Ipv6Addr>>,
    /// The time of the leases.
    clock: Steady,
    /// Whether leases cannot be stored, as far as the last commit tells.
    failing: AtomicBool,
    /// Relays that are not known, of which the log was told.
    strange_relays: Rarely<Ipv6Addr>,
}

impl<B: Backend> Service<B> {
    /// A service that goes on with `table` at the time `now` of its leases (see
    /// [`LeaseTable::resume`]); `duid` is its own.
    #[must_use]
    pub fn new(
        backend: B,
        subnets: Vec<Subnet>,
        duid: Vec<u8>,
        table: LeaseTable<Ipv6Addr>,
        now: Millis,
    ) -> Arc<Self> {
        let (table, clock) = (Mutex::new(table), Steady::new(now));
        let (failing, strange_relays) = (AtomicBool::new(false), Rarely::default());
        Arc::new(Self { backend, subnets, duid, table, clock, failing, strange_relays })
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn table(&self) -> MutexGuard<'_, LeaseTable<Ipv6Addr>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears that leases can be stored again, as far as anybody knows.
    pub fn may_store(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// Learns of leases that another server has given.
    pub fn learn(&self, leases: Vec<LeaseWrite<Ipv6Addr>>) {
        let mut table = self.table();
        leases.into_iter().for_each(|lease| table.learn(lease));
    }

    /// Answers on one interface until it is told to stop. Blocks its thread.
    pub fn serve(&self, listener: &Listener, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match listener.receive(|error| {
                self.backend.count("malformed", "dropped");
                debug!(interface = listener.interface(), %error, "malformed DHCPv6 packet");
            }) {
                Ok(arrived) => self.process(arrived, listener),
                Err(error) => {
                    warn!(interface = listener.interface(), %error, "cannot receive DHCPv6 messages");
                    std::thread::sleep(RECEIVE_PAUSE);
                }
            }
        }
    }

    /// Decides about a batch of packets, stores what must be, and answers.
    pub fn process(&self, arrived: Vec<(Packet, Arrival)>, link: &impl Link) {
        let seen: Vec<_> =
            arrived.into_iter().filter_map(|(packet, arrival)| self.triage(packet, arrival, link)).collect();
        if seen.is_empty() {
            return;
        }
        let mut table = self.table();
        let mut decided = self.decide(&mut table, &seen, true);
        if !decided.writes.is_empty() || !decided.contacts.is_empty() {
            let (writes, contacts) =
                (std::mem::take(&mut decided.writes), std::mem::take(&mut decided.contacts));
            if let Err(error) = self.commit(writes, contacts) {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    error!(%error, "DHCPv6: leases cannot be stored; only reserved and stored addresses are given");
                }
                decided.undo.drain(..).rev().for_each(|undo| table.undo(undo));
                decided = self.decide(&mut table, &seen, false);
            } else if self.failing.swap(false, Ordering::Relaxed) {
                info!("DHCPv6: leases are stored again");
            }
        }
        drop(table);
        for (seen, reply) in seen.iter().zip(decided.replies) {
            self.answer(seen, reply, link);
        }
    }

    fn triage(&self, packet: Packet, arrival: Arrival, link: &impl Link) -> Option<Seen<'_>> {
        let asked = Exchange6::of(&packet.message, &packet.relays);
        let relayed = !packet.relays.is_empty();
        self.backend.count(packet.message.kind.name(), "received");
        match triage(&self.subnets, &self.duid, packet, arrival) {
            Ok(seen) => Some(seen),
            Err(why) => {
                self.backend.count(why.name(), "dropped");
                let (interface, source) = (link.interface(), arrival.source);
                let strange = matches!(why, Drop::UnknownRelay(_) | Drop::UnknownSubnet);
                if strange && relayed && self.strange_relays.is_due(source, Instant::now()) {
                    warn!(
                        interface, relay = %source, %why,
                        "DHCPv6: messages through this relay are not answered; if it is yours, add a \
                         [[dhcp6]] section for its network, or name it among the `relays` of one"
                    );
                } else {
                    debug!(interface, %source, kind = %asked.kind, %why, "DHCPv6 message not answered");
                }
                None
            }
        }
    }

    fn decide(&self, table: &mut LeaseTable<Ipv6Addr>, seen: &[Seen<'_>], storable: bool) -> Decided {
        let mut decided = Decided::default();
        for seen in seen {
            let node = seen.mac.and_then(|mac| self.backend.known(mac, seen.client));
            let node = node.unwrap_or(Known::STRANGER);
            let view = View { node: &node, now: self.now(), storable };
            let Decision { reply, writes, undo, contact, exhausted } = decide(seen, view, table);
            if exhausted {
                self.backend.exhausted(seen.subnet.prefix);
            }
            decided.writes.extend(writes);
            decided.undo.extend(undo);
            decided.contacts.extend(contact.filter(|contact| storable && self.backend.heard(contact)));
            decided.replies.push(reply);
        }
        decided
    }

    /// Stores leases and signs of life, and returns when they are durable.
    fn commit(&self, leases: Vec<LeaseWrite<Ipv6Addr>>, contacts: Vec<Contact>) -> Result<(), BackendError> {
        let (tell, told) = mpsc::channel();
        self.backend.commit(leases, contacts, move |outcome| drop(tell.send(outcome)))?;
        told.recv().unwrap_or_else(|_| Err(BackendError("the store is closed".into())))
    }

    /// Sends a reply, and says what became of the message.
    fn answer(&self, seen: &Seen<'_>, reply: Result<Reply, Drop>, link: &impl Link) {
        let (interface, kind, client) = (link.interface(), seen.kind(), seen.client);
        let mac = seen.mac.map(tracing::field::display);
        match &reply {
            Ok(reply) => {
                let (answer, address, file) = (
                    reply.packet.message.kind,
                    reply.address().map(tracing::field::display),
                    reply.boot_file(),
                );
                match link.send(reply) {
                    Ok(()) => {
                        self.backend.count(answer.name(), "sent");
                        info!(interface, mac, %client, kind = %answer, address, file, "DHCPv6 reply");
                    }
                    Err(error) => {
                        self.backend.count("send", "dropped");
                        warn!(interface, mac, %error, "cannot send a DHCPv6 reply");
                    }
                }
            }
            Err(why) => {
                self.backend.count(why.name(), "dropped");
                debug!(interface, mac, %client, %kind, %why, "DHCPv6 message not answered");
            }
        }
        if let Some(mac) = seen.mac {
            let asked = Exchange6::of(&seen.packet.message, &seen.packet.relays);
            self.backend.note(mac, asked.answered(reply.as_ref().map_err(|why| *why)));
        }
    }
}

/// What was decided about a batch.
#[derive(Default)]
struct Decided {
    /// One for each message, in their order.
    replies: Vec<Result<Reply, Drop>>,
    /// Leases that must be durable before the replies leave.
    writes: Vec<LeaseWrite<Ipv6Addr>>,
    /// Signs of life that must be.
    contacts: Vec<Contact>,
    /// How to undo all of it, in reverse order.
    undo: Vec<Undo<Ipv6Addr>>,
}

/// What others may know of the service.
pub trait Observed: Send + Sync {
    /// Whether leases can be stored, as far as the last commit tells.
    fn is_storing(&self) -> bool;

    /// How many addresses of each subnet are lent.
    fn usage(&self) -> Vec<(Prefix, Usage)>;
}

impl<B: Backend> Observed for Service<B> {
    fn is_storing(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    fn usage(&self) -> Vec<(Prefix, Usage)> {
        let (table, now) = (self.table(), self.now());
        self.subnets.iter().map(|subnet| (subnet.prefix, table.usage(&subnet.pools, now))).collect()
    }
}
