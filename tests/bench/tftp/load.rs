//! Many transfers at once, in one thread.

use super::client::{Progress, Request, Transfer};
use anyhow::{Context as _, Result};
use kaltstart_tests::packets::TFTP_SERVER_PORT;
use kaltstart_tests::pair::{Pair, SERVER};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// A client repeats its last packet after this long without progress, as firmware does.
const CLIENT_TIMER: Duration = Duration::from_secs(1);
/// How often timers are looked at.
const TICK_MS: u16 = 20;
/// Packets taken from one socket before the next one has its turn.
const BURST_MAX: usize = 64;
/// Longer than any block and its header.
const PACKET_BYTES_MAX: usize = 65_536;

/// What is asked of the server.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) request: Request,
    /// Size of the file; a transfer with another one has failed.
    pub(crate) file_bytes: u64,
    pub(crate) clients: u16,
    /// A transfer that takes longer has failed.
    pub(crate) limit: Duration,
}

/// How a client fared.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From its request to its last block; the limit if it failed.
    pub(crate) seconds: f64,
    pub(crate) failed: Option<String>,
}

struct Client {
    socket: UdpSocket,
    transfer: Transfer,
    /// The address the server answers from, once it has.
    connected: bool,
    started: Instant,
    progress: Instant,
    ended: Option<Instant>,
}

/// Runs the load once: every client asks at the same time. To be called on the clients' side.
pub(crate) fn run(load: &Load) -> Result<Vec<Outcome>> {
    let request = load.request.packet();
    let server = SocketAddrV4::new(SERVER, TFTP_SERVER_PORT);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut clients = Vec::with_capacity(load.clients.into());
    for number in 0..load.clients {
        let socket = UdpSocket::bind((Pair::client_address(number), 0)).context("a client's socket")?;
        socket.set_nonblocking(true)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number.into()))?;
        let now = Instant::now();
        let (started, progress) = (now, now);
        let transfer = Transfer::new();
        clients.push(Client { socket, transfer, connected: false, started, progress, ended: None });
    }
    let begun = Instant::now();
    for client in &mut clients {
        client.socket.send_to(&request, server)?;
        (client.started, client.progress) = (Instant::now(), Instant::now());
    }
    let mut left = clients.len();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let mut ticked = begun;
    while left > 0 && begun.elapsed() < load.limit {
        let ready = match epoll.wait(&mut events, TICK_MS) {
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready?,
        };
        for event in &events[..ready] {
            let client = &mut clients[event.data() as usize];
            client.drain(&mut buffer)?;
            left -= usize::from(client.note_end());
        }
        if ticked.elapsed() >= Duration::from_millis(TICK_MS.into()) {
            ticked = Instant::now();
            for client in clients.iter_mut().filter(|client| client.ended.is_none()) {
                client.tick(&request, server)?;
            }
        }
    }
    Ok(clients.into_iter().map(|client| client.outcome(load)).collect())
}

impl Client {
    /// Takes what has arrived. A client that is done goes on to answer repeated last blocks.
    fn drain(&mut self, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..BURST_MAX {
            let received = if self.connected {
                self.socket.recv(buffer)
            } else {
                self.socket.recv_from(buffer).and_then(|(bytes, from)| self.connect(from).map(|()| bytes))
            };
            let bytes = match received {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The server's program or its socket is gone; the limit will tell.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error.into()),
            };
            let before = self.transfer.bytes;
            if let Some(ack) = self.transfer.receive(&buffer[..bytes]) {
                self.send(&ack)?;
            }
            if self.transfer.bytes > before {
                self.progress = Instant::now();
            }
        }
        Ok(())
    }

    fn connect(&mut self, server: SocketAddr) -> io::Result<()> {
        self.connected = true;
        self.socket.connect(server)
    }

    fn send(&self, ack: &[u8]) -> Result<()> {
        match self.socket.send(ack) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            sent => Ok(sent.map(|_| ())?),
        }
    }

    fn tick(&mut self, request: &[u8], server: SocketAddrV4) -> Result<()> {
        if self.progress.elapsed() < CLIENT_TIMER {
            return Ok(());
        }
        self.progress = Instant::now();
        match self.transfer.repeat() {
            Some(ack) => self.send(&ack),
            None if self.connected => Ok(()),
            None => Ok(self.socket.send_to(request, server).map(|_| ())?),
        }
    }

    /// Whether it has ended with what came last.
    fn note_end(&mut self) -> bool {
        let over = matches!(self.transfer.progress, Progress::Done | Progress::Failed(_));
        if !over || self.ended.is_some() {
            return false;
        }
        self.ended = Some(Instant::now());
        true
    }

    fn outcome(self, load: &Load) -> Outcome {
        let failed = match self.transfer.progress {
            Progress::Done if self.transfer.bytes == load.file_bytes => None,
            Progress::Done => Some(format!("{} of {} bytes", self.transfer.bytes, load.file_bytes)),
            Progress::Failed(why) => Some(why),
            Progress::Waiting => Some("no answer".to_owned()),
            Progress::Receiving => Some(format!("{} bytes within the limit", self.transfer.bytes)),
        };
        let seconds = match (&failed, self.ended) {
            (None, Some(ended)) => ended.duration_since(self.started),
            _ => load.limit,
        };
        Outcome { seconds: seconds.as_secs_f64(), failed }
    }
}

/// Jain's index of fairness of the clients' rates: 1 = all the same, 1/n = one has everything.
/// Who failed had nothing.
pub(crate) fn jain(outcomes: &[Outcome]) -> f64 {
    let rates: Vec<f64> = outcomes
        .iter()
        .map(|outcome| if outcome.failed.is_some() { 0.0 } else { 1.0 / outcome.seconds })
        .collect();
    let (sum, squares) = rates.iter().fold((0.0, 0.0), |(s, q), rate| (s + rate, q + rate * rate));
    if squares > 0.0 { sum * sum / (rates.len() as f64 * squares) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rates_are_fair_and_failures_are_not() {
        let outcome = |seconds, failed: Option<&str>| Outcome { seconds, failed: failed.map(str::to_owned) };
        assert_eq!(jain(&[outcome(2.0, None), outcome(2.0, None)]), 1.0);
        assert_eq!(jain(&[outcome(2.0, None), outcome(2.0, Some("no answer"))]), 0.5);
        assert_eq!(jain(&[outcome(2.0, Some("no answer"))]), 0.0);
    }
}
