//! The DHCP socket of one interface.

use super::{BATCH_MAX, Stats};
use kaltstart_core::dhcp::{Destination, Reply};
use kaltstart_protocol::dhcp::{CLIENT_PORT, MAX_MESSAGE, Message, SERVER_PORT};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use tokio::net::UdpSocket;
use tracing::debug;

/// Receive buffer: holds a storm of more than 10,000 clients, where the default holds 170.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// A bound socket on one interface.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    interface: String,
    address: Ipv4Addr,
}

impl Listener {
    /// Binds the server port on `interface`, whose address is `address`. Needs the capabilities
    /// `NET_BIND_SERVICE` and `NET_RAW`, and `NET_ADMIN` for the full receive buffer.
    ///
    /// # Errors
    /// When there is no such interface, the port is taken, or rights are missing.
    pub fn open(interface: &str, address: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            // Without the right to exceed the system's limit, as much as that allows.
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        // All addresses: clients without one send to 255.255.255.255.
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, interface: interface.into(), address })
    }

    /// Name of the interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Address of the interface.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Waits for packets and adds all that are there, up to [`BATCH_MAX`]. Malformed ones are
    /// counted and left out. Nothing is lost when it is cancelled.
    pub(super) async fn receive(&self, batch: &mut Vec<Message>, stats: &Stats) -> io::Result<()> {
        // One byte more than is accepted, so that a longer packet is seen to be too long.
        let mut buffer = [0; MAX_MESSAGE + 1];
        self.socket.readable().await?;
        for _ in 0..BATCH_MAX {
            let (length, from) = match self.socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            match Message::decode(&buffer[..length]) {
                Ok(message) => batch.push(message),
                Err(error) => {
                    stats.dropped("malformed");
                    debug!(interface = self.interface, %from, %error, "malformed DHCP message");
                }
            }
        }
        Ok(())
    }

    pub(super) async fn send(&self, reply: &Reply) -> io::Result<()> {
        let to = match reply.destination {
            Destination::Relay(relay) => SocketAddrV4::new(relay, SERVER_PORT),
            Destination::Unicast(client) => SocketAddrV4::new(client, CLIENT_PORT),
            Destination::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
        };
        self.socket.send_to(&reply.message.encode(), to).await.map(|_| ())
    }
}
