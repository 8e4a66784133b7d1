//! Server-sent events: what happened, in order, from any number on.
//!
//! Each event carries its number as `id`; a client that reconnects with `Last-Event-ID` misses
//! nothing that is still kept.

use super::error::Problem;
use super::extract::{Path, Query};
use super::guard::{authenticate, sees};
use crate::app::{App, Told};
use crate::store::StoreError;
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{self, Stream, StreamExt};
use kaltstart_core::access::Principal;
use kaltstart_protocol::ids::JobId;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Shortest time between two answers to one watcher: what happens meanwhile is told together, so that many watchers of a
/// busy site cost little.
const PAUSE: Duration = Duration::from_millis(50);

/// How long somebody is believed to be who they were.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

/// Where to begin.
#[derive(Debug, Deserialize)]
pub(super) struct From {
    /// Number of the last event the client has; `0` = all that is kept. Without it and without
    /// `Last-Event-ID`: only what happens from now on.
    after: Option<i64>,
}

type Events = Sse<axum::response::sse::KeepAliveStream<EventStream>>;
type EventStream = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;

/// `GET /v1/events`
pub(super) async fn all(
    State(app): State<Arc<App>>,
    Query(from): Query<From>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Events, Problem> {
    let after = last_event_id(&headers)?.or(from.after).unwrap_or(*app.store.newest_event().borrow());
    Ok(stream(app, headers, who, after, None))
}

/// `GET /v1/jobs/{job}/events`: from the job's first event on, unless told otherwise.
pub(super) async fn of_job(
    State(app): State<Arc<App>>,
    Path(job): Path<String>,
    Query(from): Query<From>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Events, Problem> {
    let job: JobId = job.parse().map_err(|_| Problem::not_found(format!("{job:?} is not a job")))?;
    let after = last_event_id(&headers)?.or(from.after).unwrap_or(0);
    Ok(stream(app, headers, who, after, Some(job)))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::bad_request("Last-Event-ID is not a number"))
}

/// Somebody who watches.
struct Watcher {
    app: Arc<App>,
    /// What they have shown, and who they are by that.
    headers: HeaderMap,
    who: Principal,
    /// When that was looked at.
    looked: Instant,
    job: Option<JobId>,
    /// Number of the last event they need not be told.
    after: i64,
    not_before: Instant,
}

impl Watcher {
    /// Whether they may still watch: a token ends, or is revoked.
    fn is_welcome(&mut self) -> bool {
        if self.looked.elapsed() < LOOKED_AT_EVERY {
            return true;
        }
        let who = authenticate(&self.app, &self.headers);
        self.looked = Instant::now();
        who.is_ok_and(|who| who == self.who)
    }

    /// Some events that they are to be told, and whether there may be more.
    fn next(&mut self) -> Result<(Vec<Arc<Told>>, bool), StoreError> {
        let (mut told, read) = self.app.told(self.after, self.job.as_ref())?;
        told.retain(|event| sees(&self.app, &self.who, &event.node, event.time));
        let more = read > self.after;
        self.after = read;
        Ok((told, more))
    }
}

fn stream(app: Arc<App>, headers: HeaderMap, who: Principal, after: i64, job: Option<JobId>) -> Events {
    let (newest, idle_max) = (app.store.newest_event(), app.config.http.timeout());
    let now = Instant::now();
    let watcher = Watcher { app, headers, who, looked: now, job, after, not_before: now };
    let batches = stream::unfold((watcher, newest), |(mut watcher, mut newest)| async move {
        loop {
            newest.mark_unchanged();
            tokio::time::sleep_until(watcher.not_before).await;
            if !watcher.is_welcome() {
                return None;
            }
            let (batch, more) = match watcher.next() {
                Ok(told) => told,
                Err(error) => {
                    tracing::error!(%error, "events");
                    return None;
                }
            };
            if !batch.is_empty() {
                watcher.not_before = Instant::now() + PAUSE;
                return Some((stream::iter(batch), (watcher, newest)));
            }
            if !more {
                newest.changed().await.ok()?;
            }
        }
    });
    let events: EventStream = Box::pin(
        batches
            .flatten()
            .map(|told| Ok(Event::default().id(told.id.to_string()).event(&told.kind).data(&told.text))),
    );
    // A client that is there takes something before it counts as gone.
    let often = KeepAlive::new().interval(idle_max / 2);
    Sse::new(events).keep_alive(often)
}
