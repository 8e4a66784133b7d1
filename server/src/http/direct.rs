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
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use bytes::{Buf as _, Bytes, BytesMut};
use kaltstart_core::http_head::{self, Plain};
use nix::sys::sendfile::sendfile64;
use socket2::SockRef;
use std::future::poll_fn;
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

/// Longest body that is no file: boot scripts and problems.
const TEXT_MAX: usize = 1 << 20;

/// Bytes the kernel is asked to send at once: other connections get their turn in between.
const SEND_BYTES: u64 = 2 << 20;

/// Longest content that is copied behind its head and sent with it: a system call costs more.
const COPIED_MAX: u64 = 16 << 10;

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
        door: &Door,
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
            let response = routes.answer(request, door.clone()).await;
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
            if let Some(length) = http_head::length(&self.buffer, looked_at) {
                return Ok(Read::Head(length));
            }
            // Too long, or with line ends of another kind: the library knows what to do.
            if http_head::is_odd(&self.buffer, looked_at) || self.buffer.len() >= HEAD_MAX {
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
        let Some(mut content) = content else { return self.send(&bytes, 0).await };
        if content.left() <= COPIED_MAX {
            while content.left() > 0 {
                bytes.extend(content.read(COPIED_MAX)?);
            }
            return self.send(&bytes, 0).await;
        }
        if content.left() <= SEND_BYTES {
            // The head waits for the file, which is sent by one call.
            self.send(&bytes, libc::MSG_MORE).await?;
            return self.send_file(content).await;
        }
        // Head and file in full packets, whatever the pieces they are sent in: a third of the
        // server's time for a large file.
        SockRef::from(&self.stream).set_tcp_cork(true)?;
        self.send(&bytes, 0).await?;
        self.send_file(content).await?;
        SockRef::from(&self.stream).set_tcp_cork(false)
    }

    /// Sends `bytes` with further flags of send(2).
    async fn send(&self, mut bytes: &[u8], flags: i32) -> io::Result<()> {
        let flags = flags | libc::MSG_NOSIGNAL;
        while !bytes.is_empty() {
            let sent = self.patiently(|| SockRef::from(&self.stream).send_with_flags(bytes, flags));
            bytes = &bytes[sent.await?..];
        }
        Ok(())
    }

    async fn send_file(&self, mut content: Content) -> io::Result<()> {
        while content.left() > 0 {
            let most = poll_fn(|context| content.poll_turn(context)).await;
            let count = usize::try_from(most.min(SEND_BYTES)).unwrap_or(usize::MAX);
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

/// The request as the routes take it, and whether the connection ends with it; none when it is the
/// library's.
fn parse(head: &[u8]) -> Option<(Request<Body>, bool)> {
    let Plain { method, target, headers, last } = http_head::plain(head)?;
    let mut request = Request::builder().method(method).uri(target).body(Body::empty()).ok()?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some((request, last))
}
