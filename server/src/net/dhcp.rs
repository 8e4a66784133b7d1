//! The DHCP service: addresses and boot file names for machines.
//!
//! A [`Listener`] per interface reads what has arrived, up to [`BATCH_MAX`] packets at once.
//! [`Service::process`] asks the [`Backend`] about the senders, lets [`kaltstart_core::dhcp`]
//! decide, and hands what must be durable to the backend as one commit. Replies that rest on
//! nothing new leave at once; the others are in flight until their commit is durable. Meanwhile
//! the next batch is read and decided: a storm costs few commits, and the disk never waits.
//!
//! If a commit fails, everything in flight is undone and decided again under the rule that nothing
//! can be stored: reserved addresses and the rest of stored leases are still given.

mod flight;
mod neighbours;
mod packet_socket;
mod ping_check;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
mod watcher;
mod watches;

pub use ping_check::{Ping, Pinger};
pub use socket::Listener;
pub use stats::Stats;
pub use watcher::Watcher;
pub use watches::{ServerView, Subject, SubnetView, Watches};

use crate::clock::Steady;
use crate::net::rarely::Rarely;
use flight::{Batch, Flight};
use kaltstart_core::dhcp::client::Client;
use kaltstart_core::dhcp::lease::{Lease, LeaseTable, LeaseWrite, Usage};
use kaltstart_core::dhcp::ping_check::Check;
use kaltstart_core::dhcp::subnet::{Network, Subnet};
use kaltstart_core::dhcp::{Contact, Decision, Drop, Known, Reply, Seen, View, decide, proxy, triage};
use kaltstart_core::trace::Exchange;
use kaltstart_protocol::dhcp::{Message, MessageType};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use ping_check::{PingChecks, Waiting};
use socket::Inbox;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// Packets that are decided and committed together. Bounds the memory of a batch and the wait of
/// its first packet.
pub const BATCH_MAX: usize = 256;
/// Pause after a failed receive, so that a broken interface does not keep a core busy.
const RECEIVE_PAUSE: Duration = Duration::from_secs(1);
/// How long an idle thread sleeps before it looks whether it shall stop.
const STOP_EVERY: Duration = Duration::from_millis(250);

/// A message, and the UDP port it was sent from.
#[derive(Debug, Clone)]
pub struct Packet {
    /// The message.
    pub message: Message,
    /// The sender's port.
    pub port: u16,
}

/// Somebody who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// Hardware address, if it has told one.
    pub mac: Option<Mac>,
    /// What it is.
    pub client: Client,
    /// What it sent.
    pub kind: MessageType,
}

/// What the backend knows.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// One entry per [`Lookup`], in its order; none for a stranger.
    pub nodes: Vec<Option<Known>>,
    /// The addresses reserved for any machine.
    pub reserved: Arc<BTreeSet<Ipv4Addr>>,
}

/// The backend cannot store it now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// What the service needs of the rest of the server. Everything is called while packets wait: it
/// must not block.
pub trait Backend: Send + Sync + 'static {
    /// Looks up the senders of a batch.
    fn known(&self, asking: &[Lookup]) -> Knowledge;

    /// Hears a sign of life; says whether it may change what is stored of its machine, so that the
    /// answer must wait until it is committed.
    fn heard(&self, contact: &Contact) -> bool;

    /// Takes note of a client's message and what became of it.
    fn note(&self, _mac: Mac, _exchange: Exchange) {}

    /// Stores leases and what signs of life change, all or none. `done` is called once they survive
    /// a crash or have failed, on another thread, in the order of the commits.
    ///
    /// # Errors
    /// When they are not taken; `done` is not called then.
    fn commit(
        &self,
        leases: Vec<LeaseWrite>,
        contacts: Vec<Contact>,
        done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
    ) -> Result<(), BackendError>;
}

/// Where messages come from and replies go to.
pub trait Link: Send + Sync + 'static {
    /// Name of the interface.
    fn interface(&self) -> &str;

    /// Address of the interface.
    fn address(&self) -> Ipv4Addr;

    /// Whether this is the port of PXE boot servers and not that of DHCP servers.
    fn is_boot_server(&self) -> bool {
        false
    }

    /// Sends replies without waiting; counts what was sent and what could not be.
    fn send(&self, replies: &[&Reply], stats: &Stats);
}

/// The service, shared by its listeners.
pub struct Service<B> {
    backend: B,
    subnets: Vec<Subnet>,
    /// Held while a batch is decided and handed over, not while it is committed.
    table: Mutex<LeaseTable>,
    flight: Flight,
    checks: PingChecks,
    watches: Arc<Watches>,
    /// The time of the leases.
    clock: Steady,
    /// Since when the table is known to be an older copy.
    restored: Option<Millis>,
    stats: Arc<Stats>,
    /// Clients that declined an address, and relays that are not known, of which the log was told.
    declining: Rarely<Option<Mac>>,
    strange_relays: Rarely<Ipv4Addr>,
}

impl<B: Backend> Service<B> {
    /// A service that goes on with `table` at the time `now` of its leases (see
    /// [`LeaseTable::resume`]), which is known since `restored` to be an older copy, and looks for free
    /// addresses by `pinger` before it offers them.
    #[must_use]
    pub fn new(
        backend: B,
        subnets: Vec<Subnet>,
        watches: Arc<Watches>,
        table: LeaseTable,
        now: Millis,
        restored: Option<Millis>,
        pinger: Option<Arc<dyn Ping>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            backend,
            subnets,
            watches,
            table: Mutex::new(table),
            flight: Flight::default(),
            checks: PingChecks::new(pinger),
            clock: Steady::new(now),
            restored,
            stats: Arc::default(),
            declining: Rarely::default(),
            strange_relays: Rarely::default(),
        })
    }

    /// The time of the leases.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// The hold on an address, as far as is known here.
    #[must_use]
    pub fn held(&self, address: Ipv4Addr) -> Option<Lease> {
        self.table().get(address).cloned()
    }

    /// Hears that leases can be stored again, as far as anybody knows.
    pub fn may_store(&self) {
        self.stats.set_storing(true);
    }

    /// Learns of leases that another server has given.
    pub fn learn(&self, leases: Vec<LeaseWrite>) {
        let mut table = self.table();
        leases.into_iter().for_each(|lease| table.learn(lease));
    }

    /// Answers on one interface until it is told to stop; what is begun is finished. Blocks its
    /// thread.
    pub fn serve(self: &Arc<Self>, listener: Listener, stop: &CancellationToken) {
        let mut inbox = Inbox::default();
        let interface = listener.interface().to_owned();
        let listener = Arc::new(listener);
        let link: Arc<dyn Link> = listener.clone();
        while !stop.is_cancelled() {
            self.flight.wait_for_room();
            match listener.receive(&mut inbox, &self.stats) {
                Ok(packets) => self.process(packets, &link),
                Err(error) => {
                    warn!(interface, %error, "cannot receive DHCP messages");
                    std::thread::sleep(RECEIVE_PAUSE);
                }
            }
        }
        self.flight.wait_until_landed();
    }

    /// Lets offers go whose address nobody has, and gives the others' clients another one, until it is told
    /// to stop. Blocks its thread.
    pub fn serve_checks(self: &Arc<Self>, pinger: &Pinger, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            if !self.checks.wait(STOP_EVERY) {
                continue;
            }
            if let Some(address) = pinger.receive() {
                self.heard_from(address);
            }
            self.release_due(Instant::now());
        }
    }

    /// Somebody answers for an address that was looked for.
    pub fn heard_from(self: &Arc<Self>, address: Ipv4Addr) {
        if let Some(waiting) = self.checks.take(address) {
            self.let_rest(address, waiting);
        }
    }

    /// Somebody has an address that was looked for: it rests, and the client is offered another.
    fn let_rest(self: &Arc<Self>, address: Ipv4Addr, waiting: Waiting) {
        let Waiting { answer, link, .. } = waiting;
        let mac = answer.message.mac().map(tracing::field::display);
        let interface = link.interface();
        warn!(interface, mac, %address, "DHCP: a host has this free address and not from here; it rests for an hour");
        self.stats.dropped("in-use");
        let mut table = self.table();
        match table.found_in_use(address, self.now()) {
            Some(write) => {
                let undo = vec![table.apply(write.clone())];
                let batch = Batch { link: link.clone(), answers: vec![], undo };
                self.hand_over(table, vec![write], vec![], batch);
            }
            // A client has it by now, and may have answered itself.
            None => drop(table),
        }
        self.process(vec![Packet { message: answer.message, port: answer.port }], &link);
    }

    /// Sends the offers that have waited until `now`, but for those whose address somebody has.
    pub fn release_due(self: &Arc<Self>, now: Instant) {
        for (address, waiting, in_use) in self.checks.due(now) {
            if in_use {
                self.let_rest(address, waiting);
            } else {
                self.send(&[waiting.answer], &*waiting.link);
            }
        }
    }

    /// Decides about a batch of packets, hands over what must be stored, and sends what may be.
    pub fn process(self: &Arc<Self>, packets: Vec<Packet>, link: &Arc<dyn Link>) {
        let seen = self.triage(packets, &**link);
        if seen.is_empty() {
            return;
        }
        let mut table = self.table();
        let Decided { ready, leases, contacts, batch } = self.decide(&mut table, seen, link, true);
        if leases.is_empty() && contacts.is_empty() {
            drop(table);
        } else {
            self.hand_over(table, leases, contacts, batch);
        }
        self.release(ready, link);
    }

    /// Starts the commit of what was decided.
    fn hand_over(
        self: &Arc<Self>,
        table: MutexGuard<'_, LeaseTable>,
        leases: Vec<LeaseWrite>,
        contacts: Vec<Contact>,
        batch: Batch,
    ) {
        let service = self.clone();
        let commit =
            |number| self.backend.commit(leases, contacts, move |outcome| service.landed(number, outcome));
        // Under the lock of the table: commits are in the order of the decisions.
        let taken = self.flight.start(batch, commit);
        drop(table);
        if let Err(error) = taken {
            self.fall_back(&error);
        }
    }

    fn table(&self) -> MutexGuard<'_, LeaseTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn triage(&self, packets: Vec<Packet>, link: &dyn Link) -> Vec<(Seen<'_>, u16)> {
        let mut seen = Vec::with_capacity(packets.len());
        for Packet { message, port } in packets {
            if self.watches.is_probe(&message) {
                continue;
            }
            let (asked, relay) = (Exchange::of(&message), message.giaddr);
            match triage(&self.subnets, message, link.address()) {
                Ok(one) => {
                    self.stats.received(one.kind);
                    self.watches.heard_client(one.subnet.network, &one.message);
                    seen.push((one, port));
                }
                Err(why) => {
                    self.stats.dropped(why.name());
                    let (interface, mac) = (link.interface(), asked.as_ref().map(|(mac, _)| mac));
                    let mac = mac.map(tracing::field::display);
                    let strange = matches!(why, Drop::UnknownRelay(_) | Drop::UnknownSubnet);
                    if strange && !relay.is_unspecified() && self.strange_relays.is_due(relay, Instant::now())
                    {
                        warn!(
                            interface, %relay, mac, %why,
                            "DHCP: messages through this relay are not answered; if it is yours, add a \
                             [[dhcp]] section for its network, or name it among the `relays` of one"
                        );
                    } else {
                        debug!(interface, mac, %why, "DHCP message not answered");
                    }
                    if let Some((mac, exchange)) = asked {
                        self.backend.note(mac, exchange.answered(Err(why)));
                    }
                }
            }
        }
        seen
    }

    /// Decides about messages, in the table too. If nothing is `storable`, nothing has to be stored
    /// or undone afterwards.
    fn decide(
        &self,
        table: &mut LeaseTable,
        seen: Vec<(Seen<'_>, u16)>,
        link: &Arc<dyn Link>,
        storable: bool,
    ) -> Decided {
        let lookup =
            |(seen, _): &(Seen<'_>, u16)| Lookup { mac: seen.mac, client: seen.client, kind: seen.kind };
        let lookups: Vec<_> = seen.iter().map(lookup).collect();
        let Knowledge { nodes, reserved } = self.backend.known(&lookups);
        let (known, strangers): (Vec<_>, Vec<_>) =
            seen.into_iter().zip(nodes).partition(|(_, node)| node.is_some());
        let (now, started) = (self.now(), self.clock.start());
        let (running_ms, restored_ms) = (now.since(started), self.restored.map(|at| now.since(at)));
        let mut decided = Decided::new(link.clone());
        // Our machines first: a flood of strangers takes no time and no address from them.
        for ((seen, port), node) in known.into_iter().chain(strangers) {
            let stranger = node.is_none();
            let node = node.unwrap_or(Known::STRANGER);
            let role = self.watches.role(seen.subnet.network);
            let reserved = &*reserved;
            let view =
                View { table, reserved, node: &node, role, now, running_ms, restored_ms, port, storable };
            let Decision { reply, write, contact, check } = if link.is_boot_server() {
                proxy::boot_server(&seen, &node, port)
            } else {
                decide(&seen, view)
            };
            let mut waits = false;
            if let Some(write) = write {
                if write.is_durable() {
                    decided.leases.push(write.clone());
                    waits = true;
                }
                decided.batch.undo.push(table.apply(write));
            }
            if storable && self.backend.heard(&contact) {
                decided.contacts.push(contact);
                waits = true;
            }
            let Seen { message, kind, client, .. } = seen;
            let answer = Answer { message, port, kind, client, stranger, check, outcome: reply };
            if waits { &mut decided.batch.answers } else { &mut decided.ready }.push(answer);
        }
        decided
    }

    /// The commit of a batch is durable, and its replies may leave; or it has failed.
    fn landed(&self, number: u64, outcome: Result<(), BackendError>) {
        match outcome {
            Ok(()) => {
                let Some(batch) = self.flight.land(number) else { return };
                if self.stats.set_storing(true) {
                    info!("DHCP: leases are stored again");
                }
                self.release(batch.answers, &batch.link);
            }
            Err(error) => self.fall_back(&error),
        }
    }

    /// Undoes everything in flight, since it rests on what could not be stored, and answers what
    /// can be answered without storing. A later commit may have succeeded: it is more than was
    /// promised to anybody.
    fn fall_back(&self, error: &BackendError) {
        if self.stats.set_storing(false) {
            error!(%error, "DHCP: leases cannot be stored; only reserved and stored addresses are given");
        }
        let mut table = self.table();
        let mut lost = self.flight.abort();
        for batch in lost.iter_mut().rev() {
            batch.undo.drain(..).rev().for_each(|undo| table.undo(undo));
        }
        for Batch { link, answers, .. } in lost {
            let seen = answers.into_iter().filter_map(|Answer { message, port, .. }| {
                Some((triage(&self.subnets, message, link.address()).ok()?, port))
            });
            let Decided { ready, .. } = self.decide(&mut table, seen.collect(), &link, false);
            self.release(ready, &link);
        }
    }

    /// Sends what may leave; offers whose address has to be looked for first wait on.
    fn release(&self, answers: Vec<Answer>, link: &Arc<dyn Link>) {
        self.send(&self.checks.hold_back(answers, link, &self.stats), &**link);
    }

    /// Sends answers, and says what became of each message.
    fn send(&self, answers: &[Answer], link: &dyn Link) {
        let replies: Vec<_> =
            answers.iter().filter_map(|answer| answer.outcome.as_ref().ok()?.as_ref()).collect();
        link.send(&replies, &self.stats);
        for answer in answers {
            let outcome = answer.outcome.as_ref().map(Option::as_ref).map_err(|why| *why);
            if let Err(why) = outcome {
                self.stats.dropped(why.name());
            }
            if let Some((mac, asked)) = Exchange::of(&answer.message) {
                self.backend.note(mac, asked.answered(outcome));
            }
            let declines = answer.kind == MessageType::Decline;
            let loud = declines && self.declining.is_due(answer.message.mac(), Instant::now());
            answer.log(link.interface(), loud);
        }
    }
}

/// What was decided about a batch.
struct Decided {
    /// Answers that rest on nothing new.
    ready: Vec<Answer>,
    /// Leases that must be durable before the batch's replies leave.
    leases: Vec<LeaseWrite>,
    /// Signs of life that must be.
    contacts: Vec<Contact>,
    /// Everything that waits for it.
    batch: Batch,
}

impl Decided {
    fn new(link: Arc<dyn Link>) -> Self {
        let batch = Batch { link, answers: vec![], undo: vec![] };
        Self { ready: vec![], leases: vec![], contacts: vec![], batch }
    }
}

/// What is answered to one message.
struct Answer {
    message: Message,
    /// The port it was sent from.
    port: u16,
    kind: MessageType,
    client: Client,
    /// Whether it is none of our machines.
    stranger: bool,
    /// Whether the address it offers must be looked for on the network first.
    check: Check,
    outcome: Result<Option<Reply>, Drop>,
}

impl Answer {
    /// The address it offers.
    fn offers(&self) -> Option<Ipv4Addr> {
        let reply = self.outcome.as_ref().ok()?.as_ref()?;
        (reply.kind == MessageType::Offer).then_some(reply.message.yiaddr)
    }

    /// Says what became of the message: aloud when one of our machines gets an address, when another
    /// server shows itself, and where a client that declines an address shall be heard.
    fn log(&self, interface: &str, declines: bool) {
        let Self { message, kind, client, stranger, outcome, .. } = self;
        let mac = message.mac().map(tracing::field::display);
        match outcome {
            Ok(None) if declines => {
                let address = message.requested_address().map(tracing::field::display);
                warn!(
                    interface,
                    mac,
                    address,
                    "DHCP: the client declines the address, since another host has it; it rests for an hour"
                );
            }
            Ok(None) => {}
            Ok(Some(reply)) => {
                let (kind, address) = (reply.kind, reply.message.yiaddr);
                let file = || tracing::field::display(String::from_utf8_lossy(&reply.message.file));
                if kind == MessageType::Offer || *stranger {
                    debug!(interface, mac, %client, %kind, %address, file = file(), "DHCP reply");
                } else {
                    info!(interface, mac, %client, %kind, %address, file = file(), "DHCP reply");
                }
            }
            Err(why) if declines || matches!(why, Drop::OtherServer(_)) => {
                info!(interface, mac, %client, %kind, %why, "DHCP message not answered");
            }
            Err(why) => debug!(interface, mac, %client, %kind, %why, "DHCP message not answered"),
        }
    }
}

/// What others may know of the service.
pub trait Observed: Send + Sync {
    /// The counters.
    fn stats(&self) -> &Stats;

    /// How many addresses of each subnet are lent.
    fn usage(&self) -> Vec<(Network, Usage)>;
}

impl<B: Backend> Observed for Service<B> {
    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn usage(&self) -> Vec<(Network, Usage)> {
        let now = self.now();
        let usage = |subnet: &Subnet| {
            let waits_until = self.restored.and_then(|at| subnet.looking.waits_until(at));
            let waits_until = waits_until.filter(|until| *until > now);
            // Held for one subnet at a time: packets wait meanwhile.
            (subnet.network, Usage { waits_until, ..self.table().usage(&subnet.pools, now) })
        };
        self.subnets.iter().map(usage).collect()
    }
}
