//! Heads of HTTP/1.1 requests (RFC 9112): where one ends, and whether it is of the plainest kind.
//!
//! Files leave past the HTTP library, so two readers look at one connection. They must never differ in
//! where a request ends: only what leaves no room for that is taken, the rest is the library's.

use alloc::vec::Vec;

/// Header lines of a request that is taken.
const HEADERS_MAX: usize = 64;

/// Headers of requests with a body, or with an end that is agreed on otherwise.
const UNUSUAL: [&str; 4] = ["content-length", "transfer-encoding", "upgrade", "expect"];

/// A request of the plainest kind: without a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain<'a> {
    /// `GET`, `HEAD` and others.
    pub method: &'a str,
    /// Path and query, as they came.
    pub target: &'a str,
    /// Names and values, in the order in which they came.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// Whether the connection ends with it.
    pub last: bool,
}

/// The length of the head with its empty line; the first `looked_at` bytes hold no end of one.
#[must_use]
pub fn length(bytes: &[u8], looked_at: usize) -> Option<usize> {
    let from = looked_at.saturating_sub(3);
    bytes.get(from..)?.windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4)
}

/// Whether a line ends otherwise than by CR LF, as readers may or may not allow (RFC 9112 §2.2); the
/// first `looked_at` bytes hold no such end.
#[must_use]
pub fn is_odd(bytes: &[u8], looked_at: usize) -> bool {
    let from = looked_at.min(bytes.len());
    bytes[from..].iter().zip(from..).any(|(byte, at)| {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        *byte == b'\n' && before != Some(b'\r')
    })
}

/// The request whose whole head `head` is; none when it is not of the plainest kind.
///
/// A body, however it is announced, is the library's to find the end of.
#[must_use]
pub fn plain(head: &[u8]) -> Option<Plain<'_>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let whole = parsed.parse(head) == Ok(httparse::Status::Complete(head.len()));
    if !whole || parsed.version != Some(1) {
        return None;
    }
    let is = |line: &httparse::Header<'_>, name: &str| line.name.eq_ignore_ascii_case(name);
    if parsed.headers.iter().any(|line| UNUSUAL.iter().any(|name| is(line, name))) {
        return None;
    }
    let mut connections = parsed.headers.iter().filter(|line| is(line, "connection")).map(|line| line.value);
    let last = match (connections.next(), connections.next()) {
        (None, _) => false,
        (Some(value), None) if value.eq_ignore_ascii_case(b"keep-alive") => false,
        (Some(value), None) if value.eq_ignore_ascii_case(b"close") => true,
        _ => return None,
    };
    let headers = parsed.headers.iter().map(|line| (line.name, line.value)).collect();
    Some(Plain { method: parsed.method?, target: parsed.path?, headers, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn taken(head: &str) -> Option<bool> {
        plain(head.as_bytes()).map(|plain| plain.last)
    }

    #[test]
    fn p29_only_the_plainest_requests_are_taken() {
        assert_eq!(taken("GET /boot/a HTTP/1.1\r\nHost: h\r\n\r\n"), Some(false));
        assert_eq!(taken("HEAD /boot/a HTTP/1.1\r\nConnection: Close\r\n\r\n"), Some(true));
        assert_eq!(taken("GET /boot/a HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"), Some(false));
        for line in [
            "Content-Length: 0",
            "CONTENT-LENGTH: 5",
            "Transfer-Encoding: chunked",
            "Upgrade: h2c",
            "Expect: 100-continue",
            "Connection: upgrade",
            "Connection: close, te",
            "Connection: keep-alive\r\nConnection: close",
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
    fn p29_a_head_that_others_would_see_end_elsewhere_is_not_taken() {
        for end in ["\n\n", "\n\r\n"] {
            let two = format!("GET /boot/a HTTP/1.1\r\nHost: h{end}GET /boot/b HTTP/1.1\r\n\r\n");
            assert_eq!(length(two.as_bytes(), 0), Some(two.len()), "the end of the second");
            assert_eq!(taken(&two), None, "{end:?}");
            assert!(is_odd(two.as_bytes(), 0), "{end:?}");
        }
        let head = b"GET /boot/a HTTP/1.1\r\nHost: h\r\n\r\n";
        assert!((0..head.len()).all(|looked_at| !is_odd(head, looked_at)));
        assert!(is_odd(b"\n", 0) && is_odd(b"a\n", 1));
    }

    #[test]
    fn heads_end_where_they_end() {
        let head = b"GET /boot/a HTTP/1.1\r\n\r\nGET";
        assert_eq!(length(head, 0), Some(24));
        for cut in 0..24 {
            assert_eq!(length(&head[..cut], 0), None);
            assert_eq!(length(head, cut), Some(24), "read in two pieces");
        }
    }
}
