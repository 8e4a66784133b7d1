//! Fills a server through its own doors: nodes by `/v1`, leases by DHCP.

use crate::bench::Bench;
use crate::connection::Connection;
use crate::dhcp::machines;
use crate::ours::HTTP_PORT;
use anyhow::{Result, bail};
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::wait::secs;
use std::net::SocketAddrV4;
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
pub(crate) fn nodes(bench: &Bench, token: &str, count: u32) -> Result<u32> {
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
    let mut connection = Connection::open(SocketAddrV4::new(SERVER, HTTP_PORT))?;
    let mut declared = 0;
    while Instant::now() < end {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            break;
        }
        let [a, b, c, d] = number.to_be_bytes();
        let body =
            format!("{{\"name\":\"node-{number}\",\"mac\":\"06:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}\"}}");
        connection.ask("POST", "/v1/nodes", token, &body)?;
        declared += 1;
    }
    Ok(declared)
}

/// Lends up to `count` addresses to new clients, the first of them with the number `first`; how many.
pub(super) fn leases(bench: &Bench, first: u32, count: u32) -> Result<u32> {
    let load = machines::Load {
        first,
        machines: count,
        at_once: CLIENTS_AT_ONCE,
        limit: FILL_LIMIT,
        firmware: false,
        nodes: false,
    };
    let outcome = bench.pair().in_client(|| machines::run(&load))?;
    if outcome.failed > 0 {
        eprintln!("  {} clients got no address", outcome.failed);
    }
    Ok(outcome.done)
}
