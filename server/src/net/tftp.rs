//! The TFTP service: boot files for machines that know nothing better.
//!
//! [`serve`] takes requests from one socket and runs each transfer in a task of its own, on a
//! socket of its own that is connected to the client: the kernel keeps packets of others away
//! from it, and answers them that nobody listens. What a transfer does is decided in
//! [`kaltstart_core::tftp`]; which bytes a name stands for is up to a [`Resolver`].
//!
//! Nothing can be written. Nothing is answered to packets that are no requests.

mod clients;
mod content;
mod directory;
mod session;
mod socket;

pub use content::Content;
pub use directory::Directory;
pub use kaltstart_core::tftp::{Limits as TransferLimits, Outcome, Refusal, Report};
pub use socket::bind;

use clients::Clients;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Bounds of the service as a whole.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Transfers at once. Each takes a socket, perhaps a file, and up to 64 KiB (or one window,
    /// if that is more) of memory; requests beyond that are dropped, and clients repeat them.
    pub transfers_max: usize,
    /// Transfers at once with one address. Above 1, because a client may have given up one that
    /// is still being repeated, and because several may hide behind a router.
    pub transfers_per_client_max: usize,
    /// Longest wait for the [`Resolver`].
    pub resolve_time_max: Duration,
    /// Bounds of each transfer.
    pub transfer: TransferLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfers_max: 1_000,
            transfers_per_client_max: 64,
            resolve_time_max: Duration::from_secs(5),
            transfer: TransferLimits::default(),
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
    fn open(&self, client: Ipv4Addr, name: &str) -> impl Future<Output = Result<Content, Refusal>> + Send;
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A transfer has begun.
    Started {
        /// Who asked.
        client: SocketAddrV4,
        /// The name asked for.
        name: &'a str,
    },
    /// A transfer has ended.
    Finished {
        /// Who asked.
        client: SocketAddrV4,
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
        client: SocketAddrV4,
        /// The name asked for.
        name: &'a str,
        /// Why it was refused.
        reason: Refusal,
    },
    /// A packet was not answered.
    Dropped {
        /// Who sent it.
        client: SocketAddrV4,
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
    /// No socket could be had for the answer.
    Socket,
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
            Self::Socket => "socket",
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
/// When the socket fails for good.
pub async fn serve<R: Resolver, O: Observer>(
    socket: UdpSocket,
    resolver: R,
    observer: O,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.transfers_max));
    let clients = Clients::new(limits.transfers_per_client_max);
    let service = Arc::new(Service { resolver, observer, limits });
    let mut tasks = JoinSet::new();
    let mut buffer = [0; socket::REQUEST_BYTES_MAX];
    let result = loop {
        let datagram = tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            Some(ended) = tasks.join_next() => {
                // A panic ends the transfer it happened in, and no other.
                if let Err(error) = ended {
                    tracing::error!(error = &error as &dyn std::error::Error, "TFTP transfer crashed");
                }
                continue;
            }
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
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            dropped(DropReason::Busy);
            continue;
        };
        let claim = match clients.claim(client) {
            Ok(claim) => claim,
            Err(reason) => {
                dropped(reason);
                continue;
            }
        };
        let request = buffer[..datagram.len].to_vec();
        let service = Arc::clone(&service);
        tasks.spawn(async move {
            session::answer(&service, client, local, &request).await;
            drop((claim, slot));
        });
    };
    tasks.shutdown().await;
    result
}
