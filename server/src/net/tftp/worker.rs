//! Many transfers in one thread, on one socket.
//!
//! A worker owns its clients: nothing here is shared or locked. Requests of one port always come
//! to the same worker.

use super::content::{Content, Source};
use super::inbox::{Inbox, Post};
use super::link::{Arrivals, Cut, Link};
use super::session::{Read, Session, Tools};
use super::{DropReason, Event, Limits, Observer, Refusal, Resolver, Service};
use futures_util::FutureExt as _;
use kaltstart_core::tftp::{Outcome, Report, Step, Transfer};
use kaltstart_protocol::tftp::{Mode, Packet, Request};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Requests taken before packets of transfers have their turn.
const REQUESTS_AT_ONCE: usize = 64;

/// A request to be answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) client: SocketAddr,
    /// The address it was sent to.
    pub(super) local: IpAddr,
    pub(super) request: Request,
    pub(super) is_write: bool,
    pub(super) at: Instant,
}

/// A request whose content was found, or not.
pub(super) struct Opened {
    asked: Asked,
    source: Result<Source, Refusal>,
}

/// What was done for a worker elsewhere.
pub(super) enum Done {
    Opened(Opened),
    Read(Read),
}

/// What a client's port is busy with.
enum Slot {
    Opening,
    Running(Box<Session>),
}

pub(super) struct Worker<R, O> {
    service: Arc<Service<R, O>>,
    /// Those of this worker.
    limits: Limits,
    tools: Tools,
    begin: Instant,
    clients: HashMap<SocketAddr, Slot>,
    /// Transfers by address.
    per_address: HashMap<IpAddr, usize>,
    /// Transfers that nobody has confirmed, the oldest first.
    half_open: BTreeMap<u64, SocketAddr>,
    /// When to look at which transfer. A deadline mostly moves further away; then it is put here
    /// again only when the earlier one has come, which saves most of the work.
    timers: BinaryHeap<Reverse<(u64, u64, SocketAddr)>>,
    /// Ends with the worker.
    opening: JoinSet<()>,
    done: Receiver<Done>,
    next_id: u64,
}

impl<R: Resolver, O: Observer> Worker<R, O> {
    /// `main` opens what is asked for.
    pub(super) fn new(
        service: Arc<Service<R, O>>,
        limits: Limits,
        link: Link,
        main: Handle,
        inbox: &Inbox,
    ) -> Self {
        let (sender, done) = channel();
        Self {
            service,
            limits,
            tools: Tools::new(link, main, Post::new(sender, inbox.bell.clone())),
            begin: Instant::now(),
            clients: HashMap::new(),
            per_address: HashMap::new(),
            half_open: BTreeMap::new(),
            timers: BinaryHeap::new(),
            opening: JoinSet::new(),
            done,
            next_id: 0,
        }
    }

    /// Runs until nobody can ask any more.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub(super) fn run(mut self, inbox: &Inbox) -> io::Result<()> {
        let mut arrivals = Arrivals::new();
        loop {
            while let Some(client) = self.tools.link.next_refused() {
                if let Some(Slot::Running(session)) = self.clients.get(&client) {
                    let outcome = session.transfer.on_unreachable();
                    self.end(client, &outcome);
                }
            }
            let ready = self.tools.link.wait(&inbox.bell, self.time_left())?;
            if ready.bell {
                inbox.bell.silence();
                if self.on_bell(inbox).is_break() {
                    return Ok(());
                }
            }
            if ready.packets {
                self.on_packets(&mut arrivals);
            }
            self.on_time();
        }
    }

    /// Until a transfer must be looked at.
    fn time_left(&self) -> Option<Duration> {
        let Reverse((wake_ms, ..)) = self.timers.peek()?;
        Some(Duration::from_millis(wake_ms.saturating_sub(self.now_ms())))
    }

    /// Takes what others have left. Breaks when nobody can ask any more.
    fn on_bell(&mut self, inbox: &Inbox) -> ControlFlow<()> {
        while self.opening.try_join_next().is_some() {}
        // No more than the transfers there are.
        while let Ok(done) = self.done.try_recv() {
            match done {
                Done::Opened(opened) => self.on_opened(opened),
                Done::Read(read) => self.on_read(read),
            }
        }
        for _ in 0..REQUESTS_AT_ONCE {
            match inbox.requests.try_recv() {
                Ok(asked) => self.on_asked(asked),
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
        }
        // There may be more.
        inbox.bell.ring();
        ControlFlow::Continue(())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn on_asked(&mut self, asked: Asked) {
        let client = asked.client;
        match self.clients.get(&client) {
            None => {}
            Some(Slot::Running(session))
                if session.request != asked.request || session.transfer.is_left_behind(self.now_ms()) =>
            {
                self.end(client, &Outcome::Replaced);
            }
            Some(_) => return self.note_dropped(client, DropReason::Duplicate),
        }
        if self.clients.len() >= self.limits.transfers_max {
            return self.note_dropped(client, DropReason::Busy);
        }
        let of_address = self.per_address.entry(client.ip()).or_default();
        if *of_address >= self.limits.transfers_per_client_max {
            return self.note_dropped(client, DropReason::ClientBusy);
        }
        *of_address += 1;
        self.clients.insert(client, Slot::Opening);
        let service = Arc::clone(&self.service);
        let mut opening = Box::pin(async move {
            // A panic ends the request it happened in, and no other.
            let opening = AssertUnwindSafe(open(&service, &asked)).catch_unwind();
            let opening = tokio::time::timeout(service.limits.resolve_time_max, opening);
            let source = match opening.await {
                Ok(Ok(source)) => source,
                Ok(Err(_)) | Err(_) => Err(Refusal::Unavailable),
            };
            Opened { asked, source }
        });
        // Mostly nothing need be waited for; then those who ask together begin together.
        if let Some(opened) = opening.as_mut().now_or_never() {
            return self.on_opened(opened);
        }
        let post = self.tools.post.clone();
        let wait = async move { post.leave(Done::Opened(opening.await)) };
        self.opening.spawn_on(wait, &self.tools.main);
    }

    fn note_dropped(&self, client: SocketAddr, reason: DropReason) {
        self.service.observer.note(&Event::Dropped { client, reason });
    }

    fn on_opened(&mut self, Opened { asked, source }: Opened) {
        let Asked { client, local, request, at, .. } = asked;
        let now_ms = self.now_ms();
        let started = source.and_then(|source| {
            let limits = &self.limits.transfer;
            let (transfer, step) = Transfer::new(&request, source.size(), limits, now_ms)?;
            Ok((source, transfer, step))
        });
        let name = request.name.as_str();
        let (source, transfer, step) = match started {
            Ok(started) => started,
            Err(reason) => {
                tracing::info!(%client, file = ?name, reason = reason.label(), "TFTP request refused");
                self.service.observer.note(&Event::Refused { client, name, reason });
                self.forget(client);
                // An error packet is never repeated (RFC 1350 §7).
                self.tools.link.send(local, client, &reason.packet().encode(), Cut::Not).ok();
                return;
            }
        };
        if self.half_open.len() >= self.limits.half_open_max
            && let Some((_, oldest)) = self.half_open.pop_first()
        {
            self.end(oldest, &Outcome::Displaced);
        }
        self.service.observer.note(&Event::Started { client, name });
        let id = self.next_id;
        self.next_id += 1;
        let session = Session::new(id, (client, local), request, source, transfer, at);
        self.half_open.insert(id, client);
        self.clients.insert(client, Slot::Running(Box::new(session)));
        self.go_on(client, step);
    }

    fn on_read(&mut self, read: Read) {
        let (client, now_ms) = (read.client, self.now_ms());
        let Some(Slot::Running(session)) = self.clients.get_mut(&client) else { return };
        if session.id != read.id {
            return;
        }
        match session.on_read(read, now_ms, &mut self.tools) {
            Some(outcome) => self.end(client, &outcome),
            None => self.go_on(client, Step::Wait),
        }
    }

    fn on_packets(&mut self, arrivals: &mut Arrivals) {
        let now_ms = self.now_ms();
        for (client, packet) in self.tools.link.receive(arrivals) {
            // Whoever is not served is not answered: it may be one whose last acknowledgement
            // was doubled, and who would take an error for a failure.
            let Some(Slot::Running(session)) = self.clients.get_mut(&client) else { continue };
            let Ok(packet) = Packet::decode(packet) else { continue };
            let was_answered = session.transfer.is_answered();
            let step = session.transfer.on_packet(&packet, now_ms);
            if !was_answered && session.transfer.is_answered() {
                self.half_open.remove(&session.id);
            }
            self.go_on(client, step);
        }
    }

    fn on_time(&mut self) {
        let now_ms = self.now_ms();
        while let Some(&Reverse((wake_ms, id, client))) = self.timers.peek() {
            if wake_ms > now_ms {
                return;
            }
            self.timers.pop();
            let Some(Slot::Running(session)) = self.clients.get_mut(&client) else { continue };
            if session.id != id || session.wake_ms != wake_ms {
                continue;
            }
            session.wake_ms = u64::MAX;
            let step = if session.is_reading() { Step::Wait } else { session.transfer.on_timeout(now_ms) };
            self.go_on(client, step);
        }
    }

    /// Does what the transfer with `client` says next, and sees that its time is watched.
    fn go_on(&mut self, client: SocketAddr, step: Step) {
        let Some(Slot::Running(session)) = self.clients.get_mut(&client) else { return };
        if let Some(outcome) = session.obey(step, &mut self.tools) {
            return self.end(client, &outcome);
        }
        let deadline_ms = session.transfer.deadline_ms();
        if !session.is_reading() && deadline_ms < session.wake_ms {
            session.wake_ms = deadline_ms;
            self.timers.push(Reverse((deadline_ms, session.id, client)));
        }
    }

    fn end(&mut self, client: SocketAddr, outcome: &Outcome) {
        let Some(Slot::Running(session)) = self.forget(client) else { return };
        self.half_open.remove(&session.id);
        let (name, report) = (session.request.name.as_str(), &session.transfer.report());
        let duration = session.begin.elapsed();
        log_end(client, name, outcome, report, duration);
        self.service.observer.note(&Event::Finished { client, name, outcome, report, duration });
    }

    fn forget(&mut self, client: SocketAddr) -> Option<Slot> {
        let slot = self.clients.remove(&client)?;
        if let Some(of_address) = self.per_address.get_mut(&client.ip()) {
            *of_address -= 1;
            if *of_address == 0 {
                self.per_address.remove(&client.ip());
            }
        }
        Some(slot)
    }
}

async fn open<R: Resolver, O>(service: &Service<R, O>, asked: &Asked) -> Result<Source, Refusal> {
    if asked.is_write {
        return Err(Refusal::ReadOnly);
    }
    let content = service.resolver.open(asked.client.ip(), &asked.request.name).await?;
    match (asked.request.mode, content) {
        // It is read as a whole.
        (mode @ Mode::Netascii, content @ Content::File { .. }) => {
            let source = tokio::task::spawn_blocking(move || Source::new(content, mode)).await;
            source.unwrap_or(Err(Refusal::Unavailable))
        }
        (mode, content) => Source::new(content, mode),
    }
}

fn log_end(client: SocketAddr, file: &str, outcome: &Outcome, report: &Report, duration: Duration) {
    let (bytes, seconds, label) = (report.confirmed_bytes(), duration.as_secs_f64(), outcome.label());
    let Report { blksize, windowsize, acked_block, last_block, resent_blocks, .. } = *report;
    if outcome.is_failure() {
        tracing::warn!(
            %client, file = ?file, bytes, seconds, blksize, windowsize, acked_block, last_block, resent_blocks,
            outcome = label, "TFTP transfer failed"
        );
    } else {
        tracing::info!(%client, file = ?file, bytes, seconds, resent_blocks, outcome = label, "TFTP transfer ended");
    }
}
