//! `Idempotency-Key`: an order that is sent again is carried out once, and answered as it was
//! (draft-ietf-httpapi-idempotency-key-header-07). The key is stored with the job, in one transaction.

use super::error::Problem;
use super::jobs::JOBS_MAX;
use crate::app::App;
use axum::http::{HeaderMap, StatusCode};
use kaltstart_core::access::Principal;
use kaltstart_core::machine::{Job, Request};
use kaltstart_protocol::ids::{Digest, NodeId};
use serde::Serialize;

/// Name of the header.
pub(crate) const HEADER: &str = "idempotency-key";

/// Characters of a key.
const KEY_MAX: usize = 255;

/// What makes this request one that was sent before, if its sender cares.
pub(super) fn request(
    headers: &HeaderMap,
    who: &Principal,
    body: &impl Serialize,
) -> Result<Option<Request>, Problem> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    // A string of structured fields (RFC 9651 §3.3.3); many leave the quotes out.
    let key = value.to_str().unwrap_or_default().trim();
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    if !(1..=KEY_MAX).contains(&key.len()) {
        return Err(Problem::bad_request(format!("Idempotency-Key has 1 to {KEY_MAX} visible characters")));
    }
    let body = serde_json::to_vec(body).map_err(|error| Problem::bad_request(error.to_string()))?;
    let key = Digest::of(format!("{}\n{key}", who.name).as_bytes());
    Ok(Some(Request { key, body: Digest::of(&body) }))
}

/// The job that the same request has ordered for the node, if it has.
pub(super) fn ordered_before(app: &App, node: &NodeId, request: &Request) -> Result<Option<Job>, Problem> {
    let jobs = app.store.jobs_of(std::iter::once(node), JOBS_MAX)?;
    let found =
        jobs.into_iter().find(|job| job.request.as_ref().is_some_and(|before| before.key == request.key));
    found.map(|job| same(job, request)).transpose()
}

/// Refuses a key that was sent with another body.
pub(super) fn same(job: Job, request: &Request) -> Result<Job, Problem> {
    if job.request.as_ref() == Some(request) {
        return Ok(job);
    }
    let detail = format!(
        "this Idempotency-Key came with another order before, of {}: make a new key for each order",
        job.id
    );
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", detail))
}
