//! Errors as `application/problem+json` (RFC 9457).

use crate::app::AppError;
use crate::net::rarely::Rarely;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;
use std::time::Instant;

/// A problem as clients get it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// Stable name, as `not-found`, `refused`, `locked`, `observing`, `bad-request`, `unauthorized`, `image-unusable`.
    pub code: String,
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem.
    pub title: String,
    /// What was wrong this time, and what to do.
    pub detail: String,
}

impl Problem {
    /// A problem with its proof.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { code: code.into(), status: status.as_u16(), title, detail: detail.into() }
    }

    /// 400.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        // Caches may keep a 404 otherwise (RFC 9110 §15.1): an image that is not there yet would stay so.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // The rest of the body is not read, so nothing can follow it: the client must know,
            // or its next request dies with the connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2 demands it.
            let how = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
        }
        response
    }
}

impl From<AppError> for Problem {
    fn from(error: AppError) -> Self {
        let (status, code) = match &error {
            AppError::NotFound(_) => (StatusCode::NOT_FOUND, "not-found"),
            AppError::Refused(_) => (StatusCode::CONFLICT, "refused"),
            AppError::Locked(_) => (StatusCode::CONFLICT, "locked"),
            AppError::Observing(_) => (StatusCode::CONFLICT, "observing"),
            AppError::Image(_) => (StatusCode::CONFLICT, "image-unusable"),
            AppError::BootFile | AppError::GrantKey | AppError::Recording => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            AppError::Vault(error) => {
                tracing::error!(%error, "secrets");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            AppError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            AppError::Store(error) => {
                static TOLD: LazyLock<Rarely<()>> = LazyLock::new(Rarely::default);
                if TOLD.is_due((), Instant::now()) {
                    tracing::error!(%error, "store");
                }
                (StatusCode::SERVICE_UNAVAILABLE, "store")
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<crate::store::StoreError> for Problem {
    fn from(error: crate::store::StoreError) -> Self {
        AppError::from(error).into()
    }
}
