//! Fills a server through its own doors: nodes by `/v1`, leases by DHCP.

use crate::bench::Bench;
use crate::dhcp::machines;
use crate::ours::HTTP_PORT;
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::wait::secs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Connections that declare nodes at once: so many share a commit.
const CONNECTIONS: usize = 32;
/// Clients that ask for addresses at once.
const CLIENTS_AT_ONCE: usize = 256;
/// Longest filling of either kind; what is there by then has to do.
const FILL_LIMIT: Duration = secs(120);

/// Declares up to `count` nodes; how many there are.
pub(super) fn nodes(bench: &Bench, token: &str, count: u32) -> Result<u32> {
    let (next, end) = (AtomicU32::new(0), Instant::now() + FILL_LIMIT);
    bench.pair().in_server(|| {
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..CONNECTIONS).map(|_| scope.spawn(|| declare_until(token, &next, count, end))).collect();
            let mut declared = 0;
            for thread in threads {
                let Ok(one) = thread.join() else { bail!("a thread panicked") };
                declared += one?;
            }
            Ok(declared)
        })
    })
}

fn declare_until(token: &str, next: &AtomicU32, count: u32, end: Instant) -> Result<u32> {
    let mut stream = BufReader::new(TcpStream::connect((SERVER, HTTP_PORT))?);
    stream.get_ref().set_read_timeout(Some(secs(30)))?;
    stream.get_ref().set_nodelay(true)?;
    let mut declared = 0;
    while Instant::now() < end {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            break;
        }
        let [a, b, c, d] = number.to_be_bytes();
        let body =
            format!("{{\"name\":\"node-{number}\",\"mac\":\"06:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}\"}}");
        let request = format!(
            "POST /v1/nodes HTTP/1.1\r\nHost: {SERVER}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        answered(&mut stream).with_context(|| format!("node-{number}"))?;
        declared += 1;
    }
    Ok(declared)
}

/// Reads an answer to its end; an error if it is none of success.
fn answered(stream: &mut BufReader<TcpStream>) -> Result<()> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        ensure!(stream.read_line(&mut head)? > 0, "the connection ended");
        let line = head[start..].trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{}: {}", head.trim_end(), String::from_utf8_lossy(&body));
    Ok(())
}

/// Lends up to `count` addresses to new clients, the first of them with the number `first`; how many.
pub(super) fn leases(bench: &Bench, first: u32, count: u32) -> Result<u32> {
    let load = machines::Load {
        first,
        machines: count,
        at_once: CLIENTS_AT_ONCE,
        limit: FILL_LIMIT,
        firmware: false,
    };
    let outcome = bench.pair().in_client(|| machines::run(&load))?;
    if outcome.failed > 0 {
        eprintln!("  {} clients got no address", outcome.failed);
    }
    Ok(outcome.done)
}
