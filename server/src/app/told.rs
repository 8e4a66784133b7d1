//! Events as watchers are told them: read from the store and written as JSON once for all of them.

use super::App;
use crate::http::api::rfc3339;
use crate::store::{StoreError, StoredEvent};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::time::Millis;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How many of the newest events are kept in memory.
const KEPT: usize = 4096;
/// How many events are read from the store at once.
const BATCH_MAX: usize = 500;

/// An event as it is told.
#[derive(Debug)]
pub(crate) struct Told {
    /// Ascending number.
    pub(crate) id: i64,
    /// Type without prefix, as `job.phase_started`.
    pub(crate) kind: String,
    /// The node it is about.
    pub(crate) node: String,
    /// When it happened.
    pub(crate) time: Millis,
    /// The job it is about.
    job: Option<String>,
    /// It in the JSON format of CloudEvents 1.0.
    pub(crate) text: String,
}

impl From<StoredEvent> for Told {
    fn from(stored: StoredEvent) -> Self {
        let StoredEvent { id, time, kind, node, job, data } = stored;
        let text = json!({
            "specversion": "1.0",
            "id": id.to_string(),
            "source": "kaltstart",
            "type": format!("dev.kaltstart.{kind}"),
            "subject": job.as_ref().unwrap_or(&node),
            "time": rfc3339(time),
            "datacontenttype": "application/json",
            "data": serde_json::from_str::<Value>(&data).unwrap_or_default(),
        });
        Self { id, kind, node, time, job, text: text.to_string() }
    }
}

/// The newest events.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// All events with a greater number are in `events`, up to the last of them.
    after: i64,
    events: VecDeque<Arc<Told>>,
}

impl Window {
    /// The number of the last event that was read.
    fn end(&self) -> i64 {
        self.events.back().map_or(self.after, |event| event.id)
    }

    fn push(&mut self, event: StoredEvent) {
        self.events.push_back(Arc::new(event.into()));
        if self.events.len() > KEPT
            && let Some(oldest) = self.events.pop_front()
        {
            self.after = oldest.id;
        }
    }
}

impl Newest {
    /// See [`App::told`]. `newest` is the number of the newest event, `read` gives at most [`BATCH_MAX`] after a number.
    fn told<E>(
        &self,
        after: i64,
        job: Option<&JobId>,
        newest: i64,
        read: impl Fn(i64, Option<&JobId>) -> Result<Vec<StoredEvent>, E>,
    ) -> Result<(Vec<Arc<Told>>, i64), E> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.end() < after.min(newest) {
            // Nobody watched for a while: what happened meanwhile is asked for by few.
            *window = Window { after: after.min(newest), events: VecDeque::new() };
        }
        while window.end() < newest && window.after <= after {
            let events = read(window.end(), None)?;
            if events.is_empty() {
                break;
            }
            events.into_iter().for_each(|event| window.push(event));
        }
        if after < window.after {
            drop(window);
            let events = read(after, job)?;
            let all = events.len() < BATCH_MAX;
            let end = events.last().filter(|_| !all).map_or(newest.max(after), |last| last.id);
            return Ok((events.into_iter().map(|event| Arc::new(event.into())).collect(), end));
        }
        let first = window.events.partition_point(|event| event.id <= after);
        let wanted = |event: &&Arc<Told>| job.is_none_or(|job| event.job.as_deref() == Some(job.as_str()));
        let events = window.events.range(first..).filter(wanted).cloned().collect();
        Ok((events, window.end().max(after)))
    }
}

impl App {
    /// Some events after number `after`, of one job only when given, and the number up to which that is all of them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn told(&self, after: i64, job: Option<&JobId>) -> Result<(Vec<Arc<Told>>, i64), StoreError> {
        let newest = *self.store.newest_event().borrow();
        self.newest.told(after, job, newest, |after, job| self.store.events(after, job, BATCH_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;

    fn event(id: i64) -> StoredEvent {
        let job = (id % 3 > 0).then(|| format!("job_{:026}", id % 3));
        let (kind, data) = ("job.changed".to_owned(), format!("{{\"n\": {id}}}"));
        StoredEvent { id, time: Millis(0), kind, node: "node_1".into(), job, data }
    }

    /// Somebody who watches, and what was told.
    struct Watcher {
        job: Option<JobId>,
        after: i64,
        every: usize,
        told: Vec<i64>,
    }

    #[test]
    fn whoever_watches_is_told_everything_once_and_in_order_and_the_store_is_read_for_all_together() {
        let (newest, mut stored, reads) = (Newest::default(), Vec::new(), Cell::new(0));
        // Numbers may be left out.
        let mut numbers = (1..).filter(|id| id % 7 != 0);
        let job = || Some(format!("job_{:026}", 1).parse().expect("an identifier"));
        let watcher = |job, every| Watcher { job, after: 0, every, told: Vec::new() };
        // The last two sleep for longer than events are kept in memory.
        let mut watchers =
            [watcher(None, 1), watcher(None, 1), watcher(job(), 1), watcher(None, 60), watcher(job(), 60)];
        for round in 1..=120 {
            stored.extend(numbers.by_ref().take(if round % 40 == 0 { 700 } else { 90 }).map(event));
            let last = stored.last().map_or(0, |event: &StoredEvent| event.id);
            let read = |after: i64, job: Option<&JobId>| {
                reads.set(reads.get() + 1);
                let of =
                    |event: &&StoredEvent| job.is_none_or(|job| event.job.as_deref() == Some(job.as_str()));
                let later = stored.iter().filter(|event| event.id > after).filter(of);
                Ok::<_, Infallible>(later.take(BATCH_MAX).cloned().collect())
            };
            for watcher in watchers.iter_mut().filter(|watcher| round % watcher.every == 0) {
                while watcher.after < last {
                    let Ok((events, end)) = newest.told(watcher.after, watcher.job.as_ref(), last, read);
                    assert!(end > watcher.after, "it goes on");
                    watcher.after = end;
                    watcher.told.extend(events.iter().map(|event| event.id));
                }
            }
        }
        for Watcher { job, told, .. } in &watchers {
            let of = |event: &&StoredEvent| job.is_none() || event.id % 3 == 1;
            let expected: Vec<i64> = stored.iter().filter(of).map(|event| event.id).collect();
            assert_eq!(*told, expected, "{job:?}");
        }
        assert!(reads.get() < 250, "{} reads", reads.get());
        // Nobody asks for more than there is by a number from elsewhere.
        let nothing = |_: i64, _: Option<&JobId>| Ok::<_, Infallible>(Vec::new());
        let Ok((events, end)) = newest.told(i64::MAX, None, 5, nothing);
        assert!(events.is_empty() && end == i64::MAX);
    }
}
