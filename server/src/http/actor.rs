//! Who asks for something that is recorded, and why.

use super::connection::Door;
use super::error::Problem;
use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;
use kaltstart_core::access::Principal;
use kaltstart_core::audit::{Actor, TEXT_CHARS_MAX};

/// Why something is done, in the words of whoever does it: UTF-8.
pub(crate) const REASON: HeaderName = HeaderName::from_static("kaltstart-reason");

/// Who asks.
pub(super) struct By(pub(super) Actor);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(Principal { name, .. }) = parts.extensions.get::<Principal>() else {
            return Err(Problem::unauthorized("nobody does this without a name"));
        };
        let from = parts.extensions.get::<Door>().map(|door| door.peer.address());
        let reason = parts.headers.get(REASON).map(|reason| {
            let text = std::str::from_utf8(reason.as_bytes()).ok();
            text.filter(|text| text.chars().count() <= TEXT_CHARS_MAX).map(str::to_owned).ok_or_else(|| {
                Problem::bad_request(format!(
                    "{REASON} is not UTF-8, or longer than {TEXT_CHARS_MAX} characters"
                ))
            })
        });
        Ok(Self(Actor { name: name.clone(), from, reason: reason.transpose()? }))
    }
}
