//! The machine's network: a relay on its wire for DHCP, and sockets at the address it was given.

use crate::Machine;
use kaltstart_agent::dhcp_client::{Client, Step};
use kaltstart_agent::sys::kernel::{random_u32, uptime};
use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::dhcp::{MAX_MESSAGE, Message};
use kaltstart_protocol::tftp::{BLKSIZE_DEFAULT, ErrorCode, Mode, Options, Packet, Request};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

/// The port of the switch, and that the relay hears answers where it asks from (RFC 3046 §3.1, RFC 8357 §4).
const CIRCUIT_ID: u8 = 1;
const SOURCE_PORT: u8 = 19;
/// Bytes of a TFTP block: what fits an Ethernet frame.
const BLKSIZE: u16 = 1_468;
/// Longest TFTP packet that is taken.
const DATAGRAM: usize = 2_048;
/// How long an answer to TFTP is waited for, and how often it is asked again.
const TFTP_WAIT: Duration = Duration::from_secs(1);
const TFTP_TRIES: u32 = 5;
/// Longest silence in an answer by HTTP.
const HTTP_WAIT: Duration = Duration::from_secs(20);
/// Bytes that pass at once, and the pause after them: without it, loopback would show nothing.
const PIECE: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(10);

/// The machine's cable.
pub(crate) struct Wire {
    /// The relay's, for what it passes on.
    relayed: UdpSocket,
    relay: Ipv4Addr,
    circuit: String,
    dhcp: SocketAddrV4,
    tftp: SocketAddrV4,
}

impl Wire {
    pub(crate) fn plug_in(machine: &Machine) -> io::Result<Self> {
        let (dhcp, tftp) = machine.ports;
        Ok(Self {
            relayed: UdpSocket::bind((machine.relay, 0))?,
            relay: machine.relay,
            circuit: format!("port of {}", machine.name),
            dhcp: SocketAddrV4::new(machine.server, dhcp),
            tftp: SocketAddrV4::new(machine.server, tftp),
        })
    }

    /// Sends a client's message; the relay hears and passes it on (RFC 1542 §4.1.1).
    pub(crate) fn send(&self, packet: &[u8]) {
        let Ok(mut message) = Message::decode(packet) else { return };
        message.giaddr = self.relay;
        message.hops += 1;
        let circuit = self.circuit.as_bytes();
        let length = u8::try_from(circuit.len()).unwrap_or(u8::MAX);
        let information = [&[CIRCUIT_ID, length], &circuit[..length.into()], &[SOURCE_PORT, 0]].concat();
        message.options.set(code::RELAY_INFO, information);
        // As on every wire, nobody says that a packet was lost.
        let _ = self.relayed.send_to(&message.encode(), self.dhcp);
    }

    /// What the relay passes back within `limit`.
    pub(crate) fn receive(&self, limit: Duration) -> Option<Message> {
        // Zero would mean for ever.
        self.relayed.set_read_timeout(Some(limit.max(Duration::from_millis(1)))).ok()?;
        let mut bytes = [0; MAX_MESSAGE];
        let (length, from) = self.relayed.recv_from(&mut bytes).ok()?;
        let mut message = Message::decode(&bytes[..length]).ok().filter(|_| from == self.dhcp.into())?;
        message.options.remove(code::RELAY_INFO);
        Some(message)
    }

    /// Waits, for ever if need be, until the agent's DHCP client has an address.
    pub(crate) fn lease(&self, machine: &Machine) -> Ipv4Addr {
        let mut client = Client::new(machine.mac, random_u32(), uptime());
        loop {
            match client.poll(uptime(), random_u32()) {
                Step::Send { packet, .. } => self.send(&packet),
                Step::WaitUntil(then) => {
                    if let Some(answer) = self.receive(then.saturating_sub(uptime())) {
                        client.receive(&answer.encode(), uptime(), random_u32());
                    }
                }
            }
            if let Some(lease) = client.lease() {
                return lease.address;
            }
        }
    }

    /// Fetches a file by TFTP; none when the server has no such file.
    pub(crate) fn tftp(&self, from: Ipv4Addr, name: &str) -> io::Result<Option<Vec<u8>>> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_read_timeout(Some(TFTP_WAIT))?;
        let options = Options::new().with(Options::BLKSIZE, BLKSIZE.into()).with(Options::TSIZE, 0);
        let request = Request { name: name.into(), mode: Mode::Octet, options };
        let (mut packet, mut to) = (Packet::Rrq(request).encode(), self.tftp);
        let (mut content, mut expected, mut size) = (Vec::new(), 1_u16, usize::from(BLKSIZE_DEFAULT));
        let (mut buffer, mut tries) = ([0; DATAGRAM], 0);
        loop {
            socket.send_to(&packet, to)?;
            let (length, peer) = match socket.recv_from(&mut buffer) {
                Ok((length, std::net::SocketAddr::V4(peer))) if peer.ip() == to.ip() => (length, peer),
                _ if tries < TFTP_TRIES => {
                    tries += 1;
                    continue;
                }
                _ => return Err(io::ErrorKind::TimedOut.into()),
            };
            (to, tries) = (peer, 0);
            match Packet::decode(&buffer[..length]) {
                Ok(Packet::Oack(options)) => {
                    let agreed =
                        options.number(Options::BLKSIZE).and_then(|bytes| usize::try_from(bytes).ok());
                    size = agreed.unwrap_or(size);
                    packet = Packet::Ack { block: 0 }.encode();
                }
                Ok(Packet::Data { block, content: piece }) => {
                    packet = Packet::Ack { block }.encode();
                    if block != expected {
                        continue;
                    }
                    content.extend_from_slice(piece);
                    expected = expected.wrapping_add(1);
                    if piece.len() < size {
                        socket.send_to(&packet, to)?;
                        return Ok(Some(content));
                    }
                }
                Ok(Packet::Error { code: ErrorCode::NOT_FOUND, .. }) => return Ok(None),
                Ok(Packet::Error { message, .. }) => return Err(io::Error::other(message)),
                Ok(Packet::Rrq(_) | Packet::Wrq(_) | Packet::Ack { .. }) | Err(_) => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }

    /// Fetches what is at a URL, as boot loaders do; none when the server does not give it.
    pub(crate) fn http(&self, from: Ipv4Addr, url: &str) -> io::Result<Option<Vec<u8>>> {
        let strange = || io::Error::from(io::ErrorKind::InvalidData);
        let (host, path) =
            url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).ok_or_else(strange)?;
        let to: SocketAddrV4 = host.parse().map_err(|_| strange())?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddrV4::new(from, 0).into())?;
        socket.connect(&to.into())?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(HTTP_WAIT))?;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let bytes = read_slowly(&mut stream)?;
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(strange)?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let body = &bytes[end + 4..];
        match head.split(' ').nth(1) {
            Some("200") if length.is_none_or(|length: usize| length == body.len()) => Ok(Some(body.to_vec())),
            Some("200") => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(None),
        }
    }
}

/// All of it, as fast as a network of metal.
fn read_slowly(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let (mut bytes, mut paced) = (Vec::new(), Paced(from));
    paced.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads with pauses.
pub(crate) struct Paced<R>(pub(crate) R);

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(PAUSE);
        let most = buffer.len().min(PIECE);
        self.0.read(&mut buffer[..most])
    }
}
