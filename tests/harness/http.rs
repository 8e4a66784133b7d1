//! A small HTTP/1.1 client for use inside a lab's namespace; one connection per request.

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Largest answer taken.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A request.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Value of the `Authorization: Bearer` header.
    pub token: Option<&'a str>,
    /// More headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// JSON body.
    pub body: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, without transfer encoding.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; an error when the status is not 2xx.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        ensure!((200..300).contains(&self.status), "HTTP status {}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).with_context(|| format!("unexpected body: {}", self.text()))
    }
}

/// Sends `request` to `server` and reads the whole answer. To be called inside the namespace.
pub fn send(server: SocketAddr, request: &Request<'_>, limit: Duration) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&server, limit)
        .with_context(|| format!("cannot connect to http://{server}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut head =
        format!("{} {} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n", request.method, request.path);
    if let Some(token) = request.token {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    for (name, value) in request.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = &request.body {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    let body = request.body.as_deref().unwrap_or_default();
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut bytes = Vec::new();
    (&mut stream)
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{} {}: the answer broke off", request.method, request.path))?;
    parse(&bytes).with_context(|| format!("{} {}", request.method, request.path))
}

fn parse(bytes: &[u8]) -> Result<Response> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("the answer has no end of headers")?;
    let head = std::str::from_utf8(&bytes[..end]).context("the headers are not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let raw = &bytes[end + 4..];
    let mut response = Response { status, headers, body: Vec::new() };
    response.body = match (response.header("transfer-encoding"), response.header("content-length")) {
        (Some("chunked"), _) => unchunk(raw)?,
        (_, Some(length)) if raw.len() < length.parse()? => {
            bail!("the body has {} of {length} bytes", raw.len())
        }
        _ => raw.to_vec(),
    };
    Ok(response)
}

fn unchunk(mut raw: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = raw.windows(2).position(|w| w == b"\r\n").context("a chunk without size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end])?.trim(), 16)?;
        if size == 0 {
            return Ok(body);
        }
        let chunk = raw.get(end + 2..end + 2 + size).context("a chunk broke off")?;
        body.extend_from_slice(chunk);
        raw = raw.get(end + 4 + size..).context("a chunk without end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_taken_whole_or_refused() {
        let whole = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("whole");
        assert_eq!((whole.status, whole.text().as_str()), (200, "hi"));
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").is_err());
        let chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).expect("chunked").text(), "abcd");
    }
}
