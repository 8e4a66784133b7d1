//! Server-sent events: what happened, in order, from any number on.
//!
//! Each event carries its number as `id`; a client that reconnects with `Last-Event-ID` misses
//! nothing that is still kept.

use super::error::Problem;
use super::extract::{Path, Query};
use crate::app::App;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{self, Stream, StreamExt};
use kaltstart_protocol::ids::JobId;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Shortest time between two answers to one watcher: what happens meanwhile is told together, so that many watchers of a
/// busy site cost little.
const PAUSE: Duration = Duration::from_millis(50);

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
    headers: HeaderMap,
) -> Result<Events, Problem> {
    let after = last_event_id(&headers)?.or(from.after).unwrap_or(*app.store.newest_event().borrow());
    Ok(stream(app, after, None))
}

/// `GET /v1/jobs/{job}/events`: from the job's first event on, unless told otherwise.
pub(super) async fn of_job(
    State(app): State<Arc<App>>,
    Path(job): Path<String>,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> Result<Events, Problem> {
    let job: JobId = job.parse().map_err(|_| Problem::not_found(format!("{job:?} is not a job")))?;
    let after = last_event_id(&headers)?.or(from.after).unwrap_or(0);
    Ok(stream(app, after, Some(job)))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::bad_request("Last-Event-ID is not a number"))
}

fn stream(app: Arc<App>, after: i64, job: Option<JobId>) -> Events {
    let (newest, idle_max) = (app.store.newest_event(), app.config.http.timeout());
    let begin = (app, newest, after, job, Instant::now());
    let batches = stream::unfold(begin, |(app, mut newest, mut after, job, mut not_before)| async move {
        loop {
            newest.mark_unchanged();
            tokio::time::sleep_until(not_before).await;
            let (batch, read) = match app.told(after, job.as_ref()) {
                Ok(told) => told,
                Err(error) => {
                    tracing::error!(%error, "events");
                    return None;
                }
            };
            let more = read > after;
            after = read;
            if !batch.is_empty() {
                not_before = Instant::now() + PAUSE;
                return Some((stream::iter(batch), (app, newest, after, job, not_before)));
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
