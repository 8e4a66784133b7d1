//! The TFTP service: boot files for machines that know nothing better.
//!
//! [`serve`] takes requests from one socket and hands them to a few workers, each a thread with a
//! socket of its own on which it runs many transfers: a task, a socket and a timer for each would
//! cost more than the sending. What a transfer does is decided in [`kaltstart_core::tftp`]; which
//! bytes a name stands for is up to a [`Resolver`].
//!
//! Nothing can be written. Nothing is answered to packets that are no requests.

mod content;
mod directory;
mod inbox;
mod link;
mod session;
mod socket;
mod worker;

pub use content::Content;
pub use directory::Directory;
pub use kaltstart_core::tftp::{
    BLKSIZE_RANGE, Limits as TransferLimits, Outcome, Refusal, Report, WINDOWSIZE_RANGE,
};
pub use socket::bind;

use inbox::Inbox;
use kaltstart_protocol::tftp::Packet;
use link::Link;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::{Asked, Worker};

/// Bounds of the service as a whole.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Threads that transfers are divided among, by the client's port.
    pub workers: usize,
    /// Transfers at once. Each takes about a kilobyte, and perhaps an open file; requests beyond
    /// that are dropped, and clients repeat them.
    pub transfers_max: usize,
    /// Transfers at once that nobody has confirmed anything of. The next one takes the place of
    /// the oldest, so that requests with false senders keep nobody out.
    pub half_open_max: usize,
    /// Transfers at once of one worker with one address. Above 1, because a client may have given
    /// up one that is still being repeated, and because many may hide behind a router.
    pub transfers_per_client_max: usize,
    /// Longest wait for the [`Resolver`].
    pub resolve_time_max: Duration,
    /// Bounds of each transfer.
    pub transfer: TransferLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Half of the cores: the kernel has as much to do with the packets, and workers that
            // compete with it for a core serve their clients unevenly (docs/benchmarks.md).
            workers: std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 8)),
            transfers_max: 4_096,
            half_open_max: 1_024,
            transfers_per_client_max: 1_024,
            resolve_time_max: Duration::from_secs(5),
            transfer: TransferLimits::default(),
        }
    }
}

impl Limits {
    /// What one worker has of it.
    fn of_one_worker(&self) -> Self {
        let share = |all: usize| all.div_ceil(self.workers.max(1)).max(1);
        Self {
            transfers_max: share(self.transfers_max),
            half_open_max: share(self.half_open_max),
            ..self.clone()
        }
    }
}

/// Says what a file name stands for.
pub trait Resolver: Send + Sync + 'static {
    /// Finds the content for `name`, which comes from the network as it is: it may be of any
    /// shape a UTF-8 text without NUL can have.
    ///
    /// # Errors
    /// When the client may not have it, or there is none.
    fn open(&self, client: IpAddr, name: &str) -> impl Future<Output = Result<Content, Refusal>> + Send;
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A transfer has begun.
    Started {
        /// Who asked.
        client: SocketAddr,
        /// The name asked for.
        name: &'a str,
    },
    /// A transfer has ended.
    Finished {
        /// Who asked.
        client: SocketAddr,
        /// The name asked for.
        name: &'a str,
        /// How it ended.
        outcome: &'a Outcome,
        /// What was agreed and how far it came.
        report: &'a Report,
        /// From the request to the end.
        duration: Duration,
    },
    /// A request was answered with an error.
    Refused {
        /// Who asked.
        client: SocketAddr,
        /// The name asked for.
        name: &'a str,
        /// Why it was refused.
        reason: Refusal,
    },
    /// A packet was not answered.
    Dropped {
        /// Who sent it.
        client: SocketAddr,
        /// Why it was not answered.
        reason: DropReason,
    },
}

/// Why a packet is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// It is no request.
    Malformed,
    /// It was sent to more than one machine (RFC 1123 §4.2.3.5).
    Broadcast,
    /// The client repeats a request that is being served.
    Duplicate,
    /// The client has too many transfers.
    ClientBusy,
    /// There are too many transfers.
    Busy,
}

impl DropReason {
    /// A word for metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Broadcast => "broadcast",
            Self::Duplicate => "duplicate",
            Self::ClientBusy => "client_busy",
            Self::Busy => "busy",
        }
    }
}

/// Takes note of what happens, for counters and for the journal of a machine. Called from the
/// tasks that serve: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of one event.
    fn note(&self, event: &Event<'_>);
}

/// Takes no note.
impl Observer for () {
    fn note(&self, _: &Event<'_>) {}
}

/// What all transfers share.
struct Service<R, O> {
    resolver: R,
    observer: O,
    limits: Limits,
}

/// Answers the requests that arrive on `socket`, made by [`bind`], until `shutdown` is
/// cancelled. Transfers under way are then cut off.
///
/// # Errors
/// When the socket fails for good, or there is none for the transfers.
pub async fn serve<R: Resolver, O: Observer>(
    socket: UdpSocket,
    resolver: R,
    observer: O,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = socket.local_addr()?.ip();
    let service = Arc::new(Service { resolver, observer, limits });
    let mut tasks = JoinSet::new();
    let mut workers = Vec::new();
    for _ in 0..service.limits.workers.max(1) {
        let (asker, inbox) = Inbox::new()?;
        let (service, main) = (Arc::clone(&service), Handle::current());
        tasks.spawn_blocking(move || work(&service, &main, address, &inbox));
        workers.push(asker);
    }
    let hasher = RandomState::new();
    let mut buffer = [0; socket::REQUEST_BYTES_MAX];
    let result = loop {
        let datagram = tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            Some(ended) = tasks.join_next() => break Err(match ended {
                Ok(Err(error)) => error,
                Ok(Ok(())) | Err(_) => io::Error::other("a TFTP worker has ended"),
            }),
            received = socket::receive(&socket, &mut buffer) => match received {
                Ok(datagram) => datagram,
                Err(error) => break Err(error),
            },
        };
        let client = datagram.from;
        let dropped = |reason| service.observer.note(&Event::Dropped { client, reason });
        let Some(local) = datagram.local else {
            dropped(DropReason::Broadcast);
            continue;
        };
        let (request, is_write) = match Packet::decode(&buffer[..datagram.len]) {
            Ok(Packet::Rrq(request)) => (request, false),
            Ok(Packet::Wrq(request)) => (request, true),
            // Whoever answers garbage can be made to answer a third party.
            Ok(_) | Err(_) => {
                dropped(DropReason::Malformed);
                continue;
            }
        };
        let asked = Asked { client, local, request, is_write, at: Instant::now() };
        let worker = &workers[hasher.hash_one(client) as usize % workers.len()];
        if !worker.ask(asked) {
            dropped(DropReason::Busy);
        }
    };
    // They end when nobody can ask any more.
    drop(workers);
    while tasks.join_next().await.is_some() {}
    result
}

/// Runs one worker after another in this thread: a panic ends the transfers of the worker it happened
/// in, and leaves the service to all others. `main` opens what is asked for.
///
/// A thread that waits for nothing but its own socket and its bell is woken once for a packet. tokio
/// also waits for room to send, which is news whenever a packet has left.
fn work<R: Resolver, O: Observer>(
    service: &Arc<Service<R, O>>,
    main: &Handle,
    address: IpAddr,
    inbox: &Inbox,
) -> io::Result<()> {
    loop {
        let (limits, link) = (service.limits.of_one_worker(), Link::open(address)?);
        let worker = Worker::new(Arc::clone(service), limits, link, main.clone(), inbox);
        if let Ok(ended) = catch_unwind(AssertUnwindSafe(|| worker.run(inbox))) {
            return ended;
        }
        tracing::error!("a TFTP worker crashed; its transfers were cut off");
    }
}
