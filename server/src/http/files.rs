//! Files over HTTP: ranges, HEAD and conditional requests, and what was sent to the end.

use super::error::Problem;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::ServiceExt;
use tower_http::services::ServeFile;

/// Answers `request` with the file at `path`; `sent` hears the number of bytes when the client
/// has taken the whole file in one answer.
pub(super) async fn serve(
    path: &Path,
    content_type: &'static str,
    request: Request,
    sent: impl FnOnce(u64) + Send + 'static,
) -> Response {
    let whole = request.method() == Method::GET;
    let mut parts = axum::http::Request::new(Body::empty());
    *parts.method_mut() = request.method().clone();
    *parts.headers_mut() = request.headers().clone();
    let served = match ServeFile::new(path).oneshot(parts).await {
        Ok(served) => served,
        Err(never) => match never {},
    };
    if served.status() == StatusCode::NOT_FOUND {
        tracing::error!(path = %path.display(), "a file to serve is missing");
        return Problem::not_found("the server misses this file; its log names it").into_response();
    }
    let whole = whole && served.status() == StatusCode::OK;
    let (mut head, body) = served.into_parts();
    head.headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    let left = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let sent: Option<(u64, Sent)> = left.filter(|_| whole).map(|left| (left, Box::new(sent) as Sent));
    let body = Counted { body: Box::pin(body), bytes: 0, sent };
    Response::from_parts(head, Body::new(body))
}

type Sent = Box<dyn FnOnce(u64) + Send>;

/// A body that tells when its last byte was taken.
struct Counted<B> {
    body: Pin<Box<B>>,
    bytes: u64,
    /// The length that was announced, and who hears that it was reached.
    sent: Option<(u64, Sent)>,
}

impl<B> HttpBody for Counted<B>
where
    B: HttpBody<Data = bytes::Bytes>,
{
    type Data = bytes::Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = std::task::ready!(self.body.as_mut().poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        // A body of known length is not asked for what comes after its last byte.
        let bytes = self.bytes;
        if let Some((_, sent)) = self.sent.take_if(|(length, _)| bytes >= *length) {
            sent(bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
