//! Machines that have no address yet: they broadcast from port 68 and take the answer to their
//! hardware address. One socket and one thread play all of them.

use anyhow::{Result, bail};
use kaltstart_tests::packets::{DHCP_SERVER_PORT, client_message, dhcp_option};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Port of clients (RFC 2131 §4.1).
const CLIENT_PORT: u16 = 68;
/// A message without an answer is repeated after this long, each time after twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A message that was sent so often without an answer is the last one: the machine has failed.
const TRIES_MAX: u32 = 5;
/// Nothing of the storm shall be lost on this side.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Messages taken in one turn.
const BURST_MAX: usize = 1024;
/// Message types (RFC 2132 §9.6).
const OFFER: u8 = 2;
const ACK: u8 = 5;
/// How often timers are looked at.
const TICK_MS: u16 = 20;

/// What to play.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Number of the first machine: its hardware address.
    pub(crate) first: u32,
    /// Machines in all.
    pub(crate) machines: u32,
    /// Machines at a time; the next one starts when one is done.
    pub(crate) at_once: usize,
    /// No further machine starts after this long.
    pub(crate) limit: Duration,
    /// Whether they say that they are firmware that wants to boot.
    pub(crate) firmware: bool,
    /// Whether they have the hardware addresses of nodes.
    pub(crate) nodes: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Machines with an address.
    pub(crate) done: u32,
    /// Machines without one.
    pub(crate) failed: u32,
    /// Messages that had to be repeated.
    pub(crate) repeated: u32,
    /// From the first message to the last answer.
    pub(crate) seconds: f64,
    /// Milliseconds from each REQUEST to its ACK, ascending.
    pub(crate) ack_ms: Vec<f64>,
}

/// A machine that waits for an answer.
struct Machine {
    message: Vec<u8>,
    sent: Instant,
    tries: u32,
    requesting: bool,
}

/// All machines at work.
struct Storm<'a> {
    load: &'a Load,
    socket: UdpSocket,
    begun: Instant,
    next: u32,
    waiting: BTreeMap<u32, Machine>,
    outcome: Outcome,
}

/// Plays the load. To be called on the clients' side.
pub(crate) fn run(load: &Load) -> Result<Outcome> {
    let socket = client_socket()?;
    socket.set_nonblocking(true)?;
    let (begun, next, waiting) = (Instant::now(), load.first, BTreeMap::new());
    let mut storm = Storm { load, socket, begun, next, waiting, outcome: Outcome::default() };
    let mut ticked = begun;
    loop {
        storm.start_more()?;
        if storm.waiting.is_empty() {
            break;
        }
        poll(&mut [PollFd::new(storm.socket.as_fd(), PollFlags::POLLIN)], TICK_MS)?;
        storm.receive()?;
        if ticked.elapsed() >= Duration::from_millis(TICK_MS.into()) {
            ticked = Instant::now();
            storm.repeat()?;
        }
    }
    let mut outcome = storm.outcome;
    outcome.ack_ms.sort_by(f64::total_cmp);
    Ok(outcome)
}

/// Asks a server that starts until it answers; the seconds since `started`. To be called on the
/// clients' side.
pub(crate) fn first_answer(started: Instant, limit: Duration, every: Duration) -> Result<f64> {
    let socket = client_socket()?;
    socket.set_read_timeout(Some(every))?;
    let stranger = Load { first: 1, machines: 1, at_once: 1, limit: every, firmware: false, nodes: false };
    let discover = message(&stranger, 1, &[53, 1, 1]);
    let mut buffer = [0; 1500];
    while started.elapsed() < limit {
        socket.send_to(&discover, (Ipv4Addr::BROADCAST, DHCP_SERVER_PORT))?;
        if socket.recv(&mut buffer).is_ok() {
            return Ok(started.elapsed().as_secs_f64());
        }
    }
    bail!("no answer by DHCP within {} s", limit.as_secs())
}

fn client_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
    socket.set_broadcast(true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    Ok(socket)
}

/// The message of the machine `number`; its number is also the transaction's.
fn message(load: &Load, number: u32, options: &[u8]) -> Vec<u8> {
    let xid = number.to_be_bytes();
    let mac = [if load.nodes { 6 } else { 2 }, 0, xid[0], xid[1], xid[2], xid[3]];
    let mut options = options.to_vec();
    options.extend([55, 4, 1, 3, 6, 51]);
    if load.firmware {
        options.extend([93, 2, 0, 7]);
        options.extend([60, 32]);
        options.extend(b"PXEClient:Arch:00007:UNDI:003000");
    }
    client_message(xid, mac, &options)
}

impl Storm<'_> {
    fn start_more(&mut self) -> Result<()> {
        let end = self.load.first.saturating_add(self.load.machines);
        while self.next < end
            && self.waiting.len() < self.load.at_once
            && self.begun.elapsed() < self.load.limit
        {
            let message = message(self.load, self.next, &[53, 1, 1]);
            let machine = Machine { message, sent: Instant::now(), tries: 1, requesting: false };
            send(&self.socket, &machine)?;
            self.waiting.insert(self.next, machine);
            self.next += 1;
        }
        Ok(())
    }

    /// Takes what has arrived; at most so much that timers have their turn too.
    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 1500];
        for _ in 0..BURST_MAX {
            let bytes = match self.socket.recv(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            self.answered(&buffer[..bytes])?;
        }
        Ok(())
    }

    fn answered(&mut self, answer: &[u8]) -> Result<()> {
        // The transaction's number is the machine's.
        let Some(number) = answer.get(4..8).and_then(|xid| xid.try_into().ok()).map(u32::from_be_bytes)
        else {
            return Ok(());
        };
        let Some(machine) = self.waiting.get(&number) else { return Ok(()) };
        match (dhcp_option(answer, 53), machine.requesting) {
            (Some([OFFER]), false) => {
                let mut options = vec![53, 1, 3, 50, 4];
                options.extend(&answer[16..20]);
                if let Some(server) = dhcp_option(answer, 54) {
                    options.extend([54, 4]);
                    options.extend(server);
                }
                let message = message(self.load, number, &options);
                let machine = Machine { message, sent: Instant::now(), tries: 1, requesting: true };
                send(&self.socket, &machine)?;
                self.waiting.insert(number, machine);
            }
            (Some([ACK]), true) => {
                self.outcome.ack_ms.push(machine.sent.elapsed().as_secs_f64() * 1000.0);
                self.outcome.done += 1;
                self.outcome.seconds = self.begun.elapsed().as_secs_f64();
                self.waiting.remove(&number);
            }
            _ => {}
        }
        Ok(())
    }

    fn repeat(&mut self) -> Result<()> {
        let failed = &mut self.outcome.failed;
        self.waiting.retain(|_, machine| {
            let alive = machine.tries < TRIES_MAX
                || machine.sent.elapsed() < FIRST_WAIT * 2_u32.pow(machine.tries - 1);
            *failed += u32::from(!alive);
            alive
        });
        for machine in self.waiting.values_mut() {
            if machine.sent.elapsed() >= FIRST_WAIT * 2_u32.pow(machine.tries - 1) {
                (machine.sent, machine.tries) = (Instant::now(), machine.tries + 1);
                self.outcome.repeated += 1;
                send(&self.socket, machine)?;
            }
        }
        Ok(())
    }
}

fn send(socket: &UdpSocket, machine: &Machine) -> Result<()> {
    socket.send_to(&machine.message, SocketAddrV4::new(Ipv4Addr::BROADCAST, DHCP_SERVER_PORT))?;
    Ok(())
}
