//! Batches whose commit is not known to be durable yet.

use super::{Answer, Link};
use kaltstart_core::dhcp::lease::Undo;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Commits in flight: one that the disk works on, and the next. What arrives meanwhile waits in
/// the socket and becomes one batch, instead of many small ones.
const IN_FLIGHT_MAX: usize = 2;
/// Shortest time from one commit to the next. A lone client does not notice, and under load it
/// makes one commit out of several: less work for the same packets.
const COMMIT_EVERY: Duration = Duration::from_micros(1_500);
/// Longest wait for commits at the end.
const LANDING_MAX: Duration = Duration::from_secs(5);

/// What waits for a commit.
pub(super) struct Batch {
    pub(super) link: Arc<dyn Link>,
    /// The answers that rest on the commit.
    pub(super) answers: Vec<Answer>,
    /// How to undo what it did to the lease table.
    pub(super) undo: Vec<Undo>,
}

/// The batches in flight, in the order in which they were decided.
#[derive(Default)]
pub(super) struct Flight {
    batches: Mutex<Batches>,
    landed: Condvar,
}

#[derive(Default)]
struct Batches {
    next: u64,
    /// When the last commit was started.
    started: Option<Instant>,
    queue: VecDeque<(u64, Batch)>,
}

impl Flight {
    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another batch may start: what arrives meanwhile becomes part of it.
    pub(super) fn wait_for_room(&self) {
        let full = |batches: &mut Batches| batches.queue.len() >= IN_FLIGHT_MAX;
        let batches = self.landed.wait_while(self.batches(), full).unwrap_or_else(PoisonError::into_inner);
        let started = batches.started;
        drop(batches);
        let since = started.map_or(COMMIT_EVERY, |started| started.elapsed());
        std::thread::sleep(COMMIT_EVERY.saturating_sub(since));
    }

    /// Waits until nothing is in flight, but not for ever.
    pub(super) fn wait_until_landed(&self) {
        let flying = |batches: &mut Batches| !batches.queue.is_empty();
        drop(self.landed.wait_timeout_while(self.batches(), LANDING_MAX, flying));
    }

    /// Numbers the batch and starts its commit. It is in flight even if the commit is not taken.
    pub(super) fn start<E>(&self, batch: Batch, commit: impl FnOnce(u64) -> Result<(), E>) -> Result<(), E> {
        let mut batches = self.batches();
        let number = batches.next;
        batches.started = Some(Instant::now());
        batches.next += 1;
        batches.queue.push_back((number, batch));
        commit(number)
    }

    /// Takes out a batch whose commit is durable; none when it was undone meanwhile.
    pub(super) fn land(&self, number: u64) -> Option<Batch> {
        let mut batches = self.batches();
        let (_, batch) = batches.queue.pop_front_if(|(first, _)| *first == number)?;
        self.landed.notify_all();
        Some(batch)
    }

    /// Takes out everything in flight.
    pub(super) fn abort(&self) -> Vec<Batch> {
        self.landed.notify_all();
        self.batches().queue.drain(..).map(|(_, batch)| batch).collect()
    }
}
