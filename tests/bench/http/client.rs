//! Connections that fetch the same thing again and again and throw it away: one thread each, HTTP/1.1.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, recv};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes dropped by one system call.
const DISCARD_BYTES: usize = 1 << 20;
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Stack of a connection's thread.
const STACK_BYTES: usize = 256 << 10;
/// A server that says nothing for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What is fetched.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) server: SocketAddrV4,
    pub(super) path: String,
    /// Bytes of each range, one after the other; the whole file without.
    pub(super) range: Option<u64>,
    /// Size of the file.
    pub(super) file_bytes: u64,
    pub(super) connections: usize,
    pub(super) duration: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Bytes of bodies, also of those that were not finished in time.
    pub(super) bytes: u64,
    /// Milliseconds of each finished answer, ascending.
    pub(super) answer_ms: Vec<f64>,
    /// Connections that broke, and why the first one did.
    pub(super) failed: usize,
    pub(super) cause: Option<String>,
    pub(super) seconds: f64,
}

/// Runs the load. To be called on the clients' side.
pub(super) fn run(load: &Load) -> Result<Outcome> {
    let (ready, mut all) = (Barrier::new(load.connections + 1), Outcome::default());
    thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let ready = &ready;
            let connection = move || {
                let stream = TcpStream::connect_timeout(&load.server.into(), SILENCE_MAX);
                ready.wait();
                let mut own = Outcome::default();
                let fetched = stream.context("cannot connect").and_then(|stream| {
                    fetch_until(load, stream, number as u64, Instant::now() + load.duration, &mut own)
                });
                if let Err(error) = fetched {
                    (own.failed, own.cause) = (1, Some(format!("{error:#}")));
                }
                own
            };
            // A thread that cannot start would leave the others waiting for ever.
            threads.push(
                thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, connection)
                    .expect("the system has room for a few hundred threads"),
            );
        }
        ready.wait();
        let started = Instant::now();
        for thread in threads {
            let Ok(own) = thread.join() else { bail!("a connection's thread panicked") };
            all.bytes += own.bytes;
            all.answer_ms.extend(own.answer_ms);
            all.failed += own.failed;
            all.cause = all.cause.take().or(own.cause);
        }
        all.seconds = started.elapsed().as_secs_f64();
        Ok(())
    })?;
    all.answer_ms.sort_by(f64::total_cmp);
    Ok(all)
}

fn fetch_until(
    load: &Load,
    mut stream: TcpStream,
    number: u64,
    end: Instant,
    own: &mut Outcome,
) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut discard = vec![0; DISCARD_BYTES];
    let mut turn = number * 1021;
    while Instant::now() < end {
        let started = Instant::now();
        let mut request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", load.path, load.server);
        let expected = if let Some(bytes) = load.range {
            let first = turn % (load.file_bytes / bytes) * bytes;
            request += &format!("Range: bytes={first}-{}\r\n", first + bytes - 1);
            bytes
        } else {
            load.file_bytes
        };
        turn += 1;
        stream.write_all(format!("{request}\r\n").as_bytes())?;
        let (length, early) = read_head(&mut stream, load.range.is_some())?;
        ensure!(length == expected, "an answer of {length} bytes, not {expected}");
        own.bytes += early;
        let mut left = length - early;
        while left > 0 && Instant::now() < end {
            let most = discard.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            // TCP discards the bytes instead of copying them (tcp(7)).
            let bytes = recv(stream.as_raw_fd(), &mut discard[..most], MsgFlags::MSG_TRUNC)? as u64;
            ensure!(bytes > 0, "the answer broke off");
            left -= bytes;
            own.bytes += bytes;
        }
        if left > 0 {
            break;
        }
        own.answer_ms.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(())
}

/// Reads the head of an answer; the body's length, and the bytes of it that were read too.
fn read_head(stream: &mut TcpStream, partial: bool) -> Result<(u64, u64)> {
    let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
    let end = loop {
        let mut chunk = [0; 1024];
        let bytes = stream.read(&mut chunk)?;
        ensure!(bytes > 0 && head.len() < HEAD_BYTES_MAX, "no whole head of an answer");
        head.extend(&chunk[..bytes]);
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    let status = text.split(' ').nth(1).unwrap_or_default();
    ensure!(status == if partial { "206" } else { "200" }, "status {status}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
    Ok((length.trim().parse()?, (head.len() - end) as u64))
}
