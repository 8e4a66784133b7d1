//! What other threads leave for a worker, and the bell that wakes it.

use super::worker::{Asked, Done};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};

/// Requests that wait for a worker.
const WAITING_MAX: usize = 1_024;

/// Wakes a worker; also when it goes away, because the worker may have nobody left to wait for.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<EventFd>);

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)))
    }

    pub(super) fn ring(&self) {
        // It fails only when it rings already.
        self.0.write(1).ok();
    }

    /// Ends its ringing. To be called before what it rang for is looked at.
    pub(super) fn silence(&self) {
        self.0.read().ok();
    }
}

impl AsFd for Bell {
    /// Readable while it rings.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// Hands requests to a worker, which ends when this is gone.
pub(super) struct Asker {
    // Goes before the bell: fields are dropped in this order.
    requests: SyncSender<Asked>,
    bell: Bell,
}

impl Asker {
    /// Says whether there was room for it.
    pub(super) fn ask(&self, asked: Asked) -> bool {
        let is_taken = self.requests.try_send(asked).is_ok();
        self.bell.ring();
        is_taken
    }
}

/// The other end of an [`Asker`].
pub(super) struct Inbox {
    pub(super) requests: Receiver<Asked>,
    pub(super) bell: Bell,
}

impl Inbox {
    /// An empty one.
    pub(super) fn new() -> io::Result<(Asker, Self)> {
        let (sender, requests) = sync_channel(WAITING_MAX);
        let bell = Bell::new()?;
        Ok((Asker { requests: sender, bell: bell.clone() }, Self { requests, bell }))
    }
}

/// Hands over what was done for a worker elsewhere.
#[derive(Clone)]
pub(super) struct Post {
    done: Sender<Done>,
    bell: Bell,
}

impl Post {
    pub(super) const fn new(done: Sender<Done>, bell: Bell) -> Self {
        Self { done, bell }
    }

    pub(super) fn leave(&self, done: Done) {
        // A worker that has ended needs it no more.
        self.done.send(done).ok();
        self.bell.ring();
    }
}
