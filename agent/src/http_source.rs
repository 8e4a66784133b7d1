//! The image over HTTP, from any offset on (RFC 9110 §14). It is no secret, and what it must be is
//! known beforehand by its digest, so it comes in the clear, and from any cache that has it.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kaltstart_protocol::agent_api::{ImagePlace, InstallTask};
use ureq::http::StatusCode;

use crate::http;
use crate::image::fetch::{FetchError, ImageSource, Part};

/// Longest time without a byte before a connection counts as stalled.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// An image at a URL, and the list of its chunks at another; the same in caches, which are asked first.
pub struct HttpSource {
    http: ureq::Agent,
    /// The caches in their order, then the servers of the site.
    places: Vec<Place>,
    /// The first server among them.
    servers: usize,
    /// Which of them is asked now. It never goes back to a cache: one that failed once would cost its time again.
    at: AtomicUsize,
    /// Whether a cache has given anything.
    cached: AtomicBool,
}

struct Place {
    url: String,
    list_url: Option<String>,
}

impl HttpSource {
    /// Prepares fetching; nothing is sent.
    #[must_use]
    pub fn new(url: &str, list_url: Option<&str>) -> Self {
        Self::at(vec![Place { url: url.into(), list_url: list_url.map(Into::into) }], 0)
    }

    /// Prepares fetching what that task lays down.
    #[must_use]
    pub fn of(task: &InstallTask) -> Self {
        let of =
            |url: &String, list_url: &Option<String>| Place { url: url.clone(), list_url: list_url.clone() };
        let place = |place: &ImagePlace| of(&place.image_url, &place.chunks_url);
        let server = of(&task.image_url, &task.chunks_url);
        let places = task.caches.iter().map(place).chain([server]).chain(task.others.iter().map(place));
        Self::at(places.collect(), task.caches.len())
    }

    fn at(places: Vec<Place>, servers: usize) -> Self {
        let (at, cached) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { http: http::plain(), places, servers, at, cached }
    }
}

impl ImageSource for HttpSource {
    /// A connection that gives no byte for [`STALL_LIMIT`] is an error of the reader, and so is
    /// an end that comes too early.
    fn open(&self, part: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
        let at = self.at.load(Ordering::Relaxed);
        let place = &self.places[at];
        let url = match (part, &place.list_url) {
            (Part::Image, _) => &place.url,
            (Part::List, Some(url)) => url,
            (Part::List, None) => {
                return Err(FetchError::Missing("the server names no list of chunks".to_owned()));
            }
        };
        let mut request = self.http.get(url);
        let whole = offset == 0 && end.is_none();
        if !whole {
            let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
            request = request.header("Range", format!("bytes={offset}-{last}"));
        }
        let limits =
            request.config().timeout_recv_response(Some(STALL_LIMIT)).timeout_per_read(Some(STALL_LIMIT));
        let answer = limits.build().call().map_err(|error| FetchError::Transport(error.to_string()))?;
        let status = answer.status();
        match status {
            StatusCode::OK if whole => {}
            StatusCode::PARTIAL_CONTENT if starts_at(answer.headers(), offset) => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(FetchError::Missing(format!("{url} answers {status}")));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(FetchError::PastEnd),
            other => {
                return Err(FetchError::Transport(format!("{url} answers {other} for offset {offset}")));
            }
        }
        let (_, body) = answer.into_parts();
        let left = body.content_length();
        self.cached.fetch_or(at < self.servers, Ordering::Relaxed);
        Ok(Box::new(Whole { inner: body.into_with_config().limit(u64::MAX).reader(), left }))
    }

    fn elsewhere(&self, why: &str) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        let Some(next) = self.places.get(at + 1) else {
            // After a pause the first server is asked again.
            self.at.store(self.servers, Ordering::Relaxed);
            return false;
        };
        let what = if at < self.servers { "cache" } else { "server" };
        tracing::warn!(
            "{} is asked from now on, as the {what} {} does not serve: {why}",
            next.url,
            self.places[at].url
        );
        self.at.store(at + 1, Ordering::Relaxed);
        true
    }

    fn distrust(&self, why: &str) -> bool {
        let cached = self.cached.swap(false, Ordering::Relaxed);
        if cached {
            self.at.store(self.servers, Ordering::Relaxed);
            tracing::warn!("what caches gave was wrong, all of it is fetched from the server: {why}");
        }
        cached
    }
}

/// Whether a partial answer begins where it should (`Content-Range: bytes 7-99/100`).
fn starts_at(headers: &ureq::http::HeaderMap, offset: u64) -> bool {
    let range = headers.get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
    range
        .strip_prefix("bytes ")
        .and_then(|range| range.split_once('-'))
        .is_some_and(|(first, _)| first.trim().parse() == Ok(offset))
}

/// Makes an end that comes too early an error.
struct Whole<R> {
    inner: R,
    /// Bytes announced and not read yet.
    left: Option<u64>,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(left) = &mut self.left {
            if count == 0 && *left > 0 && !buffer.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{left} bytes are missing"),
                ));
            }
            *left = left.saturating_sub(count as u64);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::Server;

    fn read(url: &str, offset: u64) -> Result<io::Result<Vec<u8>>, FetchError> {
        HttpSource::new(url, None).open(Part::Image, offset, None).map(|mut reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        })
    }

    #[test]
    fn the_whole_image_and_a_rest_of_it() {
        let server = Server::start(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage".into(),
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/5\r\nContent-Length: 3\r\n\r\nage"
                .into(),
        ]);
        assert_eq!(read(&server.url("/i"), 0).expect("opens").expect("reads"), b"image");
        assert_eq!(read(&server.url("/i"), 2).expect("opens").expect("reads"), b"age");
        assert!(
            !server.requests()[0].contains("Range:")
                && server.requests()[1].to_lowercase().contains("range: bytes=2-")
        );
    }

    #[test]
    fn p36_the_site_s_servers_are_asked_in_turn_and_the_first_again_after_a_pause() {
        let other = Server::start(vec!["HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n".into()]);
        let [dead, other] = ["http://127.0.0.1:1/i".to_owned(), other.url("/i")];
        let place = |url: &String| Place { url: url.clone(), list_url: None };
        let source = HttpSource::at([&dead, &dead, &other].map(place).into(), 1);
        let asked = |url: &str| match source.open(Part::Image, 0, None) {
            Err(FetchError::Transport(why)) => why.contains(url),
            _ => panic!("it does not serve"),
        };
        for _ in 0..2 {
            if source.at.load(Ordering::Relaxed) == 0 {
                assert!(source.elsewhere("the cache is dead"));
            }
            assert!(!asked(&other) && source.elsewhere("dead"));
            assert!(asked(&other) && !source.elsewhere("503"));
            assert_eq!(source.at.load(Ordering::Relaxed), 1, "the first server");
        }
    }

    #[test]
    fn some_bytes_and_the_list_of_chunks() {
        let server = Server::start(vec![
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/5\r\nContent-Length: 2\r\n\r\nim"
                .into(),
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlist".into(),
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage".into(),
        ]);
        let source = HttpSource::new(&server.url("/i"), Some(&server.url("/l")));
        let read = |part, end| {
            source.open(part, 0, end).map(|mut reader| {
                let mut text = String::new();
                reader.read_to_string(&mut text).map(|_| text).expect("reads")
            })
        };
        assert_eq!(read(Part::Image, Some(2)), Ok("im".to_owned()));
        assert_eq!(read(Part::List, None), Ok("list".to_owned()));
        let ignored = read(Part::Image, Some(2));
        assert!(matches!(ignored, Err(FetchError::Transport(_))), "{ignored:?}");
        let unnamed = HttpSource::new(&server.url("/i"), None).open(Part::List, 0, None).map(|_| ());
        assert!(matches!(unnamed, Err(FetchError::Missing(_))), "{unnamed:?}");
        let requests = server.requests();
        let asked = |n: usize, text: &str| requests[n].to_lowercase().contains(text);
        assert!(asked(0, "range: bytes=0-1\r") && asked(1, "get /l "), "{requests:?}");
        assert!(!asked(1, "range:"), "{requests:?}");
    }

    #[test]
    fn a_server_that_ignores_the_offset_is_not_believed() {
        let server = Server::start(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage".into(),
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/5\r\nContent-Length: 5\r\n\r\nimage"
                .into(),
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".into(),
        ]);
        for _ in 0..3 {
            assert!(matches!(read(&server.url("/i"), 2), Err(FetchError::Transport(_))));
        }
    }

    #[test]
    fn missing_and_short_images_are_told_apart() {
        let server = Server::start(vec![
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(),
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nimage".into(),
        ]);
        assert!(matches!(read(&server.url("/i"), 0), Err(FetchError::Missing(_))));
        assert!(matches!(read(&server.url("/i"), 9), Err(FetchError::PastEnd)));
        assert!(read(&server.url("/i"), 0).expect("opens").is_err(), "an early end is an error");
    }
}
