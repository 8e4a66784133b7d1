//! Boot files and images from the kernel's cache to the network, past the HTTP library.
//!
//! The library copies every byte twice; `sendfile(2)` does not. So requests for what lies below
//! `/boot/` and `/images/` are read here, answered by the same routes as everywhere, and their
//! files are sent by the kernel. Only the plainest kind of request is taken; a connection that
//! says anything else is given to the library, with what was read of it, and stays there.

use super::connection::Door;
use super::files::{Content, Shared, shrunk};
use super::listen::Routes;
use axum::body::{Body, to_bytes};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use bytes::{Buf as _, Bytes, BytesMut};
use nix::sys::sendfile::sendfile64;
use socket2::SockRef;
use std::io::{self, Write as _};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// How a request that is taken here begins.
const BEGINNINGS: [&[u8]; 4] = [b"GET /boot/", b"GET /images/", b"HEAD /boot/", b"HEAD /images/"];

/// Longest head of a request that is taken here, in bytes.
const HEAD_MAX: usize = 8 << 10;

/// Headers of a request that is taken here.
const HEADERS_MAX: usize = 64;

/// Longest body that is no file: boot scripts and problems.
const TEXT_MAX: usize = 1 << 20;

/// Bytes the kernel is asked to send at once: other connections get their turn in between.
const SEND_BYTES: u64 = 1 << 20;

/// What became of a connection.
pub(super) enum End {
    /// It is closed, by either side.
    Closed,
    /// Its next request is the library's; what was read of it stands in the buffer.
    Other,
}

/// A connection whose requests are answered here.
pub(super) struct Direct {
    pub(super) stream: TcpStream,
    /// What was read and not answered yet.
    pub(super) buffer: BytesMut,
    /// Longest the client may keep the server waiting.
    pub(super) idle_max: Duration,
}

enum Read {
    /// The first so many bytes are a whole head.
    Head(usize),
    Closed,
    Other,
}

impl Direct {
    /// Answers requests by `routes` until the connection ends or says something for the library.
    ///
    /// # Errors
    /// When the connection breaks, or its client keeps the server waiting.
    pub(super) async fn serve(
        &mut self,
        routes: &Routes,
        door: Door,
        stop: &CancellationToken,
    ) -> io::Result<End> {
        loop {
            let length = match self.read_head(stop).await? {
                Read::Head(length) => length,
                Read::Closed => return Ok(End::Closed),
                Read::Other => return Ok(End::Other),
            };
            let Some((request, last)) = parse(&self.buffer[..length]) else { return Ok(End::Other) };
            self.buffer.advance(length);
            let head_only = request.method() == Method::HEAD;
            let response = routes.answer(request, door).await;
            let last = last || stop.is_cancelled();
            self.answer(response, head_only, last).await?;
            if last {
                return Ok(End::Closed);
            }
        }
    }

    async fn read_head(&mut self, stop: &CancellationToken) -> io::Result<Read> {
        let limit = Instant::now() + self.idle_max;
        let mut looked_at = 0;
        loop {
            let may_be_ours = BEGINNINGS.iter().any(|beginning| {
                let common = beginning.len().min(self.buffer.len());
                beginning[..common] == self.buffer[..common]
            });
            if !may_be_ours {
                return Ok(Read::Other);
            }
            if let Some(length) = head_length(&self.buffer, looked_at) {
                return Ok(Read::Head(length));
            }
            // Too long, or with line ends of another kind: the library knows what to do.
            let odd = self.buffer[looked_at.saturating_sub(1)..].windows(2).any(|two| two == b"\n\n");
            if odd || self.buffer.len() >= HEAD_MAX {
                return Ok(Read::Other);
            }
            looked_at = self.buffer.len();
            self.buffer.reserve(HEAD_MAX - looked_at);
            let read = timeout_at(limit, self.stream.read_buf(&mut self.buffer));
            // Nothing was asked yet: neither silence nor the server's end is a fault then.
            let began = looked_at > 0;
            let read = if began { Some(read.await) } else { stop.run_until_cancelled(read).await };
            match read {
                None => return Ok(Read::Closed),
                Some(Ok(Ok(0)) | Err(_)) if !began => return Ok(Read::Closed),
                Some(Ok(Ok(0))) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(Ok(Ok(_))) => {}
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(_)) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the head took too long"));
                }
            }
        }
    }

    async fn answer(&self, response: Response<Body>, head_only: bool, last: bool) -> io::Result<()> {
        let (parts, body) = response.into_parts();
        let content = parts.extensions.get::<Shared>().and_then(Shared::take);
        let bodiless = head_only || content.is_some() || parts.status == StatusCode::NOT_MODIFIED;
        let text = match bodiless {
            true => Bytes::new(),
            false => to_bytes(body, TEXT_MAX).await.map_err(io::Error::other)?,
        };
        let mut bytes = Vec::with_capacity(512 + text.len());
        let reason = parts.status.canonical_reason().unwrap_or_default();
        write!(bytes, "HTTP/1.1 {} {reason}\r\n", parts.status.as_str())?;
        for (name, value) in &parts.headers {
            bytes.extend(name.as_str().bytes().chain(*b": "));
            bytes.extend(value.as_bytes().iter().chain(b"\r\n"));
        }
        if !bodiless && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            write!(bytes, "content-length: {}\r\n", text.len())?;
        }
        if last && !parts.headers.contains_key(header::CONNECTION) {
            bytes.extend(b"connection: close\r\n");
        }
        write!(bytes, "date: {}\r\n\r\n", httpdate::fmt_http_date(crate::clock::system_now()))?;
        bytes.extend(text);
        let Some(content) = content else { return self.send(&bytes).await };
        // Head and file in full packets, whatever the pieces they are sent in: a third of the
        // server's time for a large file.
        SockRef::from(&self.stream).set_tcp_cork(true)?;
        self.send(&bytes).await?;
        self.send_file(content).await?;
        SockRef::from(&self.stream).set_tcp_cork(false)
    }

    async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent =
                self.patiently(|| SockRef::from(&self.stream).send_with_flags(bytes, libc::MSG_NOSIGNAL));
            bytes = &bytes[sent.await?..];
        }
        Ok(())
    }

    async fn send_file(&self, mut content: Content) -> io::Result<()> {
        while content.left() > 0 {
            let count = usize::try_from(content.left().min(SEND_BYTES)).unwrap_or(usize::MAX);
            let from = i64::try_from(content.next).map_err(io::Error::other)?;
            let file = &content.file;
            let sent = self.patiently(|| {
                let mut offset = from;
                sendfile64(&self.stream, file, Some(&mut offset), count).map_err(Into::into)
            });
            match sent.await? {
                0 => return Err(shrunk()),
                sent => content.advance(sent as u64),
            }
        }
        Ok(())
    }

    /// Does `send` as soon as the client has taken enough of what was sent before.
    async fn patiently(&self, send: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        match timeout(self.idle_max, self.stream.async_io(Interest::WRITABLE, send)).await {
            Ok(sent) => sent,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing any more")),
        }
    }
}

/// The length of the head with its empty line; the first `looked_at` bytes hold no end of one.
fn head_length(bytes: &[u8], looked_at: usize) -> Option<usize> {
    let from = looked_at.saturating_sub(3);
    bytes[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4)
}

/// The request, and whether the connection ends with it; none when it is not of the plainest kind.
///
/// A body, however it is announced, is the library's to find the end of: two readers of one
/// connection must never differ in where a request ends.
fn parse(head: &[u8]) -> Option<(Request<Body>, bool)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(head).ok()?.is_complete() || parsed.version != Some(1) {
        return None;
    }
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?).body(Body::empty()).ok()?;
    *request.version_mut() = Version::HTTP_11;
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    let headers = request.headers();
    let unusual = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT];
    if unusual.iter().any(|name| headers.contains_key(name)) {
        return None;
    }
    let last = match headers.get(header::CONNECTION).map(HeaderValue::as_bytes) {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"keep-alive") => false,
        Some(value) if value.eq_ignore_ascii_case(b"close") => true,
        Some(_) => return None,
    };
    Some((request, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(head: &str) -> Option<bool> {
        parse(head.as_bytes()).map(|(_, last)| last)
    }

    #[test]
    fn p29_only_the_plainest_requests_are_taken() {
        assert_eq!(taken("GET /boot/a HTTP/1.1\r\nHost: h\r\n\r\n"), Some(false));
        assert_eq!(taken("HEAD /boot/a HTTP/1.1\r\nConnection: Close\r\n\r\n"), Some(true));
        assert_eq!(taken("GET /boot/a HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"), Some(false));
        for line in [
            "Content-Length: 0",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "Upgrade: h2c",
            "Expect: 100-continue",
            "Connection: upgrade",
            "Connection: close, te",
            "Content-Length : 5",
            "bad header",
            " folded: x",
        ] {
            let head = format!("GET /boot/a HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n");
            assert_eq!(taken(&head), None, "{line}");
        }
        assert_eq!(taken("GET /boot/a HTTP/1.0\r\n\r\n"), None);
        assert_eq!(taken("GET /boot/a b HTTP/1.1\r\n\r\n"), None);
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(taken(&format!("GET /boot/a HTTP/1.1\r\n{many}\r\n")), None);
    }

    #[test]
    fn heads_end_where_they_end() {
        let head = b"GET /boot/a HTTP/1.1\r\n\r\nGET";
        assert_eq!(head_length(head, 0), Some(24));
        for cut in 0..24 {
            assert_eq!(head_length(&head[..cut], 0), None);
            assert_eq!(head_length(head, cut), Some(24), "read in two pieces");
        }
    }
}
