//! The image over HTTP, from any offset on.

use std::time::Duration;

use crate::link::http_agent;

/// Longest time without a byte before a connection counts as stalled.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// An image at a URL.
pub struct HttpSource {
    http: ureq::Agent,
    url: String,
}

impl HttpSource {
    /// Prepares fetching `url`; nothing is sent.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { http: http_agent(), url: url.into() }
    }
}
