//! The DHCP socket of one interface: whole batches per system call.

use super::neighbours::Neighbours;
use super::{BATCH_MAX, Link, Packet, Stats};
use crate::net::storm::make_room;
use kaltstart_core::dhcp::proxy::BOOT_SERVER_PORT;
use kaltstart_core::dhcp::{Destination, Reply};
use kaltstart_protocol::dhcp::{CLIENT_PORT, MAX_MESSAGE, Message, SERVER_PORT};
use kaltstart_protocol::ids::Mac;
use nix::errno::Errno;
use nix::sys::socket::sockopt::SndBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;
use tracing::{debug, warn};

/// Send buffer: holds the replies of a few batches, since nothing waits for it.
const SEND_BUFFER: usize = 2 * 1024 * 1024;
/// Packets that are read by one system call.
const RECEIVE_MAX: usize = 64;
/// How long a receiver waits before it looks whether it shall stop.
const RECEIVE_WAIT: Duration = Duration::from_millis(250);
/// One byte more than is accepted, so that a longer packet is seen to be too long.
const BUFFER: usize = MAX_MESSAGE + 1;

/// A bound socket on one interface.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    interface: String,
    address: Ipv4Addr,
    neighbours: Option<Neighbours>,
    port: u16,
}

/// Room for what is received.
pub(super) struct Inbox {
    buffers: Vec<u8>,
    headers: MultiHeaders<SockaddrIn>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { buffers: vec![0; RECEIVE_MAX * BUFFER], headers: MultiHeaders::preallocate(RECEIVE_MAX, None) }
    }
}

impl Listener {
    /// Binds the port of DHCP servers on `interface`, whose address is `address`; without an interface only on
    /// that address, where relays and renewing clients reach it. Needs the capabilities
    /// `NET_BIND_SERVICE` and `NET_RAW`, and `NET_ADMIN` for the full buffers.
    ///
    /// # Errors
    /// When there is no such interface, the port is taken, or rights are missing.
    pub fn open(interface: Option<&str>, address: Ipv4Addr) -> io::Result<Self> {
        Self::open_port(interface, address, SERVER_PORT)
    }

    /// The same with the port of PXE boot servers.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_boot_server(interface: Option<&str>, address: Ipv4Addr) -> io::Result<Self> {
        Self::open_port(interface, address, BOOT_SERVER_PORT)
    }

    /// Binds `address` alone, at a port that is free, and tells it: for relays that are told it too, and hear
    /// answers where they ask from (RFC 8357). Needs no rights.
    ///
    /// # Errors
    /// When the address is not this machine's.
    pub fn open_free(address: Ipv4Addr) -> io::Result<(Self, u16)> {
        let listener = Self::open_port(None, address, 0)?;
        let bound = listener.socket.local_addr()?.as_socket_ipv4();
        Ok((listener, bound.map_or(0, |bound| bound.port())))
    }

    fn open_port(interface: Option<&str>, address: Ipv4Addr, port: u16) -> io::Result<Self> {
        // On a wire all addresses are listened on, so the kernel would not notice another one's.
        UdpSocket::bind((address, 0))?;
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(RECEIVE_WAIT))?;
        socket.bind_device(interface.map(str::as_bytes))?;
        let on = interface.map_or_else(|| address.to_string(), str::to_owned);
        make_room(&socket, &on)?;
        // Without the right to exceed the system's limits, as much as these allow.
        if setsockopt(&socket, SndBufForce, &SEND_BUFFER).is_err() {
            socket.set_send_buffer_size(SEND_BUFFER)?;
        }
        // All addresses on a wire: clients without one send to 255.255.255.255.
        let listen = if interface.is_some() { Ipv4Addr::UNSPECIFIED } else { address };
        socket.bind(&SocketAddrV4::new(listen, port).into())?;
        let neighbours = interface.and_then(|name| {
            let told = |error: &io::Error| {
                warn!(interface = name, %error, "DHCP clients without address are answered by broadcast");
            };
            Neighbours::open(name).inspect_err(told).ok()
        });
        Ok(Self { socket, interface: on, address, neighbours, port })
    }

    /// Waits for packets, but not for ever, and takes all that are there, up to [`BATCH_MAX`].
    /// Malformed ones are counted and left out.
    pub(super) fn receive(&self, inbox: &mut Inbox, stats: &Stats) -> io::Result<Vec<Packet>> {
        let mut messages = Vec::new();
        let mut flags = MsgFlags::MSG_WAITFORONE;
        loop {
            let received = match self.receive_some(inbox, flags, stats, &mut messages) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(_) if !messages.is_empty() => 0,
                Err(error) => return Err(error.into()),
            };
            if received < RECEIVE_MAX || messages.len() + RECEIVE_MAX > BATCH_MAX {
                return Ok(messages);
            }
            flags = MsgFlags::MSG_DONTWAIT;
        }
    }

    fn receive_some(
        &self,
        inbox: &mut Inbox,
        flags: MsgFlags,
        stats: &Stats,
        messages: &mut Vec<Packet>,
    ) -> nix::Result<usize> {
        let mut slices: Vec<_> =
            inbox.buffers.chunks_exact_mut(BUFFER).map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let packets = recvmmsg(self.socket.as_raw_fd(), &mut inbox.headers, slices.iter_mut(), flags, None)?;
        let mut received = 0;
        for packet in packets {
            received += 1;
            let bytes = packet.iovs().next().unwrap_or_default();
            match Message::decode(bytes) {
                Ok(message) => {
                    let port = packet.address.map_or(CLIENT_PORT, |from| from.port());
                    messages.push(Packet { message, port });
                }
                Err(error) => {
                    stats.dropped("malformed");
                    let from = packet.address.map(tracing::field::display);
                    debug!(interface = self.interface, from, %error, "malformed DHCP message");
                }
            }
        }
        Ok(received)
    }
}

impl Listener {
    fn address_of(&self, reply: &Reply) -> SocketAddrV4 {
        match reply.destination {
            Destination::Relay(relay) => SocketAddrV4::new(relay, SERVER_PORT),
            Destination::Unicast(client) => SocketAddrV4::new(client, CLIENT_PORT),
            Destination::Asker(client) => client,
            Destination::Hardware(client, mac) if self.introduce(client, mac) => {
                SocketAddrV4::new(client, CLIENT_PORT)
            }
            // RFC 2131 §4.1 allows the broadcast where the link layer's unicast is not possible.
            Destination::Hardware(..) | Destination::Broadcast => {
                SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT)
            }
        }
    }

    /// Whether the kernel now knows at which hardware address a client is that cannot answer ARP yet.
    fn introduce(&self, client: Ipv4Addr, mac: Mac) -> bool {
        let told =
            |error: &io::Error| debug!(interface = self.interface, %mac, %error, "answered by broadcast");
        self.neighbours.as_ref().is_some_and(|known| known.set(client, mac).inspect_err(told).is_ok())
    }
}

impl Link for Listener {
    fn interface(&self) -> &str {
        &self.interface
    }

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn is_boot_server(&self) -> bool {
        self.port == BOOT_SERVER_PORT
    }

    fn send(&self, mut replies: &[&Reply], stats: &Stats) {
        while !replies.is_empty() {
            let packets: Vec<_> = replies.iter().map(|reply| reply.encode()).collect();
            let slices: Vec<_> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
            let to: Vec<_> =
                replies.iter().map(|reply| Some(SockaddrIn::from(self.address_of(reply)))).collect();
            let mut headers = MultiHeaders::preallocate(replies.len(), None);
            let flags = MsgFlags::MSG_DONTWAIT;
            let sent = match sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, &to, [], flags) {
                Ok(sent) => sent.count(),
                Err(error) => {
                    // The first one is at fault; the others may have better luck.
                    let mac = replies[0].message.mac().map(tracing::field::display);
                    warn!(interface = self.interface, mac, %error, "cannot send a DHCP reply");
                    stats.dropped("send");
                    replies = &replies[1..];
                    continue;
                }
            };
            let (gone, rest) = replies.split_at(sent);
            gone.iter().for_each(|reply| stats.sent(reply.kind));
            replies = rest;
        }
    }
}
