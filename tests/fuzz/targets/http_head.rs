//! A connection's first bytes: a head that is taken past the HTTP library ends where others see its end.

#![no_main]

use httparse::{EMPTY_HEADER, Request, Status};
use kaltstart_core::http_head::{is_odd, length, plain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = length(bytes, 0) else { return };
    let half = bytes.len() / 2;
    if length(&bytes[..half], 0).is_none() {
        assert_eq!(length(bytes, half), Some(end), "in two pieces");
    }
    let Some(taken) = plain(&bytes[..end]) else { return };
    let mut headers = [EMPTY_HEADER; 64];
    let mut library = Request::new(&mut headers);
    assert_eq!(library.parse(bytes), Ok(Status::Complete(end)));
    assert_eq!((library.method, library.path), (Some(taken.method), Some(taken.target)));
    let announced = |name: &str| ["content-length", "transfer-encoding"].contains(&name);
    assert!(!taken.headers.iter().any(|(name, _)| announced(&name.to_ascii_lowercase())), "a body");
    // What the server gives to the library before it looks is not lost by looking.
    let _ = is_odd(bytes, half);
});
