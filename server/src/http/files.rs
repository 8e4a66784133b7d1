//! Files over HTTP: which answer, which bytes, and who hears that all of them were sent.

use super::error::Problem;
use super::pace::Pace;
use crate::app::App;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use kaltstart_core::http_file::{self, Answer, Conditions, Version};
use kaltstart_protocol::ids::Digest;
use prometheus_client::metrics::counter::Counter;
use rustix::buffer::spare_capacity;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::{Sleep, sleep_until};

/// Bytes read at once where the kernel cannot send the file by itself.
const READ_BYTES: usize = 128 << 10;

/// What is found by its digest never changes (RFC 8246); a year stands for ever.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A file to serve.
pub(super) struct Served<'a> {
    pub(super) path: &'a Path,
    pub(super) content_type: &'static str,
    /// What the file contains, where that is known: it is the entity tag then.
    pub(super) digest: Option<&'a Digest>,
}

/// Answers `request` with a file; `sent` hears the number of bytes when the client has taken the
/// whole file in one answer.
pub(super) fn serve(
    app: &App,
    served: &Served<'_>,
    request: &Request,
    sent: impl FnOnce(u64) + Send + 'static,
) -> Response {
    let opened = File::open(served.path).and_then(|file| Ok((file.metadata()?, file)));
    let (about, file) = match opened {
        Ok((about, file)) if about.is_file() => (about, file),
        outcome => {
            let error = outcome.err().unwrap_or_else(|| io::Error::other("not a file"));
            tracing::error!(path = %served.path.display(), %error, "a file to serve cannot be read");
            return Problem::not_found("the server misses this file; its log names it").into_response();
        }
    };
    let (len, modified) = (about.len(), modified(&about));
    let etag = etag(served.digest, &about);
    let get = request.method() == Method::GET;
    let answer = decide(Version { etag: &etag, modified, len }, get, request.headers());
    let (status, part) = match answer {
        Answer::Whole => (StatusCode::OK, Some((0, len))),
        Answer::Part { first, last } => (StatusCode::PARTIAL_CONTENT, Some((first, last + 1))),
        Answer::NotModified => (StatusCode::NOT_MODIFIED, None),
        Answer::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, None),
        Answer::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, None),
    };
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, value: String| {
        // All of them are made of printable ASCII.
        headers.extend(HeaderValue::try_from(value).map(|value| (name, value)));
    };
    put(header::ETAG, etag);
    put(header::CACHE_CONTROL, if served.digest.is_some() { IMMUTABLE } else { "no-cache" }.into());
    put(header::ACCEPT_RANGES, "bytes".into());
    if let Some(modified) = modified {
        put(header::LAST_MODIFIED, httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(modified)));
    }
    match answer {
        Answer::Part { first, last } => put(header::CONTENT_RANGE, format!("bytes {first}-{last}/{len}")),
        Answer::Unsatisfiable => put(header::CONTENT_RANGE, format!("bytes */{len}")),
        _ => {}
    }
    let Some((next, end)) = part else { return (status, headers).into_response() };
    put(header::CONTENT_TYPE, served.content_type.into());
    put(header::CONTENT_LENGTH, (end - next).to_string());
    if !get {
        return (status, headers).into_response();
    }
    let sent = (answer == Answer::Whole).then(|| Box::new(sent) as Sent);
    let counter = app.metrics.http_bytes.clone();
    // What is found by its digest is an image's.
    let pace = served.digest.and(app.pace.clone());
    let content = Content { file, next, end, pace, turn: None, counter, sent, done: 0, ended: None };
    let content = Shared(Arc::new(Mutex::new(Some(content))));
    let mut response = (status, headers, Body::new(content.clone())).into_response();
    response.extensions_mut().insert(content);
    response
}

fn decide(file: Version<'_>, get: bool, headers: &HeaderMap) -> Answer {
    let text = |name: HeaderName| -> Option<String> {
        let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
        (!lines.is_empty()).then(|| lines.join(", "))
    };
    let date = |text: &Option<String>| {
        let date = httpdate::parse_http_date(text.as_deref()?).ok()?;
        Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    let (if_match, if_none_match) = (text(header::IF_MATCH), text(header::IF_NONE_MATCH));
    let (if_range, range) = (text(header::IF_RANGE), text(header::RANGE));
    http_file::answer(
        file,
        Conditions {
            get,
            if_match: if_match.as_deref(),
            if_none_match: if_none_match.as_deref(),
            if_modified_since: date(&text(header::IF_MODIFIED_SINCE)),
            if_unmodified_since: date(&text(header::IF_UNMODIFIED_SINCE)),
            if_range: if_range.as_deref(),
            if_range_date: date(&if_range),
            range: range.as_deref(),
        },
    )
}

/// A strong entity tag that a restart does not change: the digest, else what changes when a file
/// is replaced or written to.
fn etag(digest: Option<&Digest>, about: &Metadata) -> String {
    match digest {
        Some(digest) => format!("\"{digest}\""),
        None => {
            format!("\"{:x}-{:x}-{:x}.{:x}\"", about.ino(), about.len(), about.mtime(), about.mtime_nsec())
        }
    }
}

fn modified(about: &Metadata) -> Option<u64> {
    u64::try_from(about.mtime()).ok()
}

type Sent = Box<dyn FnOnce(u64) + Send>;

/// The bytes of a file that an answer carries.
pub(super) struct Content {
    pub(super) file: File,
    /// The next byte to send.
    pub(super) next: u64,
    /// The first byte not to send.
    end: u64,
    /// By what its turns to be sent come.
    pace: Option<Arc<Pace>>,
    /// Bytes of the turn it has, or waits for, and when that begins.
    turn: Option<(u64, Pin<Box<Sleep>>)>,
    counter: Counter,
    /// Who hears that all was sent.
    sent: Option<Sent>,
    /// Bytes handed over.
    done: u64,
    /// Who hears how many were handed over in the end, whether all or not.
    ended: Option<Sent>,
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended(self.done);
        }
    }
}

impl Content {
    /// Bytes that are left.
    pub(super) fn left(&self) -> u64 {
        self.end - self.next
    }

    /// How many bytes may be sent now, once there are any.
    pub(super) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<u64> {
        let Some(pace) = &self.pace else { return Poll::Ready(self.left()) };
        let left = self.end - self.next;
        let (bytes, begins) = self.turn.get_or_insert_with(|| {
            let (bytes, begins) = pace.reserve(left);
            (bytes, Box::pin(sleep_until(begins)))
        });
        begins.as_mut().poll(context).map(|()| *bytes)
    }

    /// Notes that `bytes` more were handed over.
    pub(super) fn advance(&mut self, bytes: u64) {
        if let Some((left, _)) = &mut self.turn {
            *left = left.saturating_sub(bytes);
        }
        self.turn.take_if(|(left, _)| *left == 0);
        self.next += bytes;
        self.done += bytes;
        self.counter.inc_by(bytes);
        if let Some(sent) = self.sent.take_if(|_| self.next >= self.end) {
            sent(self.end);
        }
    }

    /// The next bytes, `most` at most; counted as handed over.
    pub(super) fn read(&mut self, most: u64) -> io::Result<Bytes> {
        let wanted = usize::try_from(self.left().min(most)).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut bytes = Vec::with_capacity(wanted);
        match rustix::io::pread(&self.file, spare_capacity(&mut bytes), self.next)? {
            0 => Err(shrunk()),
            count => {
                self.advance(count as u64);
                Ok(bytes.into())
            }
        }
    }
}

/// The length was announced already: the connection must break, so that the client knows.
pub(super) fn shrunk() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent")
}

/// The content of an answer, taken by whoever sends it: the HTTP library as a body, or
/// [`direct`](super::direct), which lets the kernel do it.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Option<Content>>>);

impl Shared {
    /// Lets `ended` hear how many bytes were handed over, once no more will be.
    pub(super) fn when_ended(&self, ended: impl FnOnce(u64) + Send + 'static) {
        if let Some(content) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            content.ended = Some(Box::new(ended));
        }
    }

    /// Takes the content; there is nothing left for anybody else.
    pub(super) fn take(&self) -> Option<Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match content.as_mut() {
            Some(content) if content.left() > 0 => {
                content.poll_turn(context).map(|most| Some(content.read(most).map(Frame::data)))
            }
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        SizeHint::with_exact(content.as_ref().map_or(0, Content::left))
    }
}
