//! What an installed system says to the server by a token of its own.

use std::time::Duration;

use kaltstart_protocol::node_api::ReportConfig;
use serde::Serialize;

use crate::link::{CallError, read_answer};

/// Posts `question` to the site's servers one after another until one answers, and gives its answer.
///
/// # Errors
/// What the first one that answers says, or why the last one does not, with its address.
pub(crate) fn ask<T: Serialize>(
    http: &ureq::Agent,
    config: &ReportConfig,
    question: &T,
    limit: Duration,
) -> Result<Vec<u8>, CallError> {
    let body = serde_json::to_vec(question).map_err(|error| CallError::Unreachable(error.to_string()))?;
    let mut outcome = Err(CallError::Unreachable("no server is named".to_owned()));
    for url in &config.urls {
        let request = http.post(url).header("Content-Type", "application/json");
        let answer = request.config().timeout_global(Some(limit)).build().send(&body[..]);
        outcome = match read_answer(answer) {
            Err(CallError::Unreachable(why)) => Err(CallError::Unreachable(format!("{url}: {why}"))),
            Err(CallError::Untrusted(why)) => Err(CallError::Untrusted(format!("{url}: {why}"))),
            answer => return answer,
        };
    }
    outcome
}
