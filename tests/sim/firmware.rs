//! Firmware with iPXE in it: asks for an address and a script, and does what that says.
//!
//! It stands for chips of others, so it is written here, and kept simple.

use crate::machine::{Body, Effect, Line, Next, Timer};
use crate::server::{Answer, Ask};
use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::dhcp::{Message, MessageType};
use std::net::Ipv4Addr;

/// Questions before it turns to its own disk.
const TRIES: u32 = 4;
/// Between two of them, in milliseconds.
const EVERY: u64 = 4_000;

enum State {
    Selecting,
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// It has an address, and fetches one file after another.
    Fetching {
        address: Ipv4Addr,
        files: Vec<Url>,
        arguments: String,
    },
}

/// A start of the firmware.
pub(crate) struct Firmware {
    state: State,
    xid: u32,
    tries: u32,
}

impl Firmware {
    pub(crate) fn begin(body: &mut Body<'_>) -> Self {
        let firmware = Self { state: State::Selecting, xid: body.rng.u32(), tries: 0 };
        firmware.send(body);
        firmware
    }

    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        match self.state {
            State::Fetching { address, .. } => Some(address),
            _ => None,
        }
    }

    fn send(&self, body: &mut Body<'_>) {
        let kind = match self.state {
            State::Selecting => MessageType::Discover,
            State::Requesting { .. } => MessageType::Request,
            State::Fetching { .. } => return,
        };
        let mut message = Message::request(kind, self.xid, body.hardware.mac);
        message.broadcast = true;
        message.options.set(code::VENDOR_CLASS, "PXEClient:Arch:00007:UNDI:003016");
        message.options.set(code::USER_CLASS, "iPXE");
        message.options.set(code::ARCHITECTURE, [0, 7]);
        if let State::Requesting { address, server } = self.state {
            message.options.set_addresses(code::REQUESTED_ADDRESS, &[address]);
            message.options.set_addresses(code::SERVER_ID, &[server]);
        }
        body.effects.push(Effect::Dhcp(message.encode(), Ipv4Addr::BROADCAST));
        body.timer(EVERY, Timer::Dhcp);
    }

    pub(crate) fn timer(&mut self, timer: Timer, body: &mut Body<'_>) -> Next {
        if timer != Timer::Dhcp || matches!(self.state, State::Fetching { .. }) {
            return Next::Same;
        }
        self.tries += 1;
        if self.tries >= TRIES {
            return Next::OwnDisk;
        }
        self.send(body);
        Next::Same
    }

    pub(crate) fn dhcp(&mut self, packet: &[u8], body: &mut Body<'_>) -> Next {
        let Ok(reply) = Message::decode(packet) else { return Next::Same };
        if reply.xid != self.xid {
            return Next::Same;
        }
        match (&self.state, reply.kind()) {
            (State::Selecting, Some(MessageType::Offer)) => {
                if let Some(server) = reply.server_id() {
                    self.state = State::Requesting { address: reply.yiaddr, server };
                    self.send(body);
                }
                Next::Same
            }
            (State::Requesting { address, .. }, Some(MessageType::Ack)) if *address == reply.yiaddr => {
                let file = String::from_utf8_lossy(&reply.file).trim_end_matches('\0').to_owned();
                let Some(url) = split(&file) else { return Next::OwnDisk };
                self.state =
                    State::Fetching { address: *address, files: Vec::new(), arguments: String::new() };
                self.fetch(url, body);
                Next::Same
            }
            (State::Requesting { .. }, Some(MessageType::Nak)) => {
                self.state = State::Selecting;
                self.send(body);
                Next::Same
            }
            _ => Next::Same,
        }
    }

    fn fetch(&self, (to, path): Url, body: &mut Body<'_>) {
        let State::Fetching { address, .. } = self.state else { return };
        let ask = Ask {
            post: false,
            path,
            body: Vec::new(),
            bearer: None,
            from: address,
            to,
            tls: false,
            waits: false,
        };
        body.ask(Line::Control, ask);
    }

    pub(crate) fn answer(&mut self, answer: Option<&Answer>, body: &mut Body<'_>) -> Next {
        let State::Fetching { files, arguments, .. } = &mut self.state else { return Next::Same };
        let Some(answer) = answer.filter(|answer| answer.is_good()) else {
            // As the script says: it starts over in 10 s.
            return Next::Restart(10_000);
        };
        if arguments.is_empty() {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let command = |name: &str| {
                let line = text
                    .lines()
                    .find_map(|line| line.trim().strip_prefix(name)?.strip_suffix(" || goto failed"));
                line.map(str::to_owned)
            };
            let (Some(kernel), Some(ramdisk)) = (command("kernel "), command("initrd ")) else {
                return Next::OwnDisk;
            };
            let Some((kernel, rest)) = kernel.split_once(' ') else { return Next::OwnDisk };
            *arguments = rest.to_owned();
            *files = [ramdisk.as_str(), kernel].into_iter().filter_map(split).collect();
        }
        match files.pop() {
            Some(next) => {
                self.fetch(next, body);
                Next::Same
            }
            None => Next::Agent(std::mem::take(arguments)),
        }
    }
}

/// A server, and what is asked of it.
pub(crate) type Url = (Ipv4Addr, String);

/// A URL whose host is an address.
pub(crate) fn split(url: &str) -> Option<Url> {
    let (_, rest) = url.split_once("://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = host.rsplit_once(':').map_or(host, |(address, _)| address);
    Some((address.parse().ok()?, path.to_owned()))
}
