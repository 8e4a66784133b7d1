//! The DHCPv6 socket of one interface.

use super::{BATCH_MAX, Link};
use crate::net::storm::make_room;
use kaltstart_core::dhcp6::{Arrival, Reply};
use kaltstart_protocol::dhcp6::{
    ALL_RELAYS_AND_SERVERS, ALL_SERVERS, DecodeError, MAX_PACKET, Packet, SERVER_PORT,
};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// How long a receiver waits before it looks whether it shall stop.
const RECEIVE_WAIT: Duration = Duration::from_millis(250);

/// A bound socket on one interface.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    interface: String,
    /// The interface's number; 0 where only relays reach it.
    index: u32,
    address: Ipv6Addr,
}

impl Listener {
    /// Binds the port of DHCPv6 servers on `interface`, whose address is `address`, and joins the
    /// servers' groups there; without an interface only on that address, where relays reach it. Needs the
    /// capabilities `NET_BIND_SERVICE` and `NET_RAW`, and `NET_ADMIN` for the full buffer.
    ///
    /// # Errors
    /// When there is no such interface, the port is taken, or rights are missing.
    pub fn open(interface: Option<&str>, address: Ipv6Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.set_read_timeout(Some(RECEIVE_WAIT))?;
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        let on = interface.map_or_else(|| address.to_string(), str::to_owned);
        make_room(&socket, &on)?;
        let mut index = 0;
        if let Some(interface) = interface {
            index = if_nametoindex(interface)?;
            socket.bind_device(Some(interface.as_bytes()))?;
            for group in [ALL_RELAYS_AND_SERVERS, ALL_SERVERS] {
                socket.join_multicast_v6(&group, index)?;
            }
        }
        let listen = if interface.is_some() { Ipv6Addr::UNSPECIFIED } else { address };
        socket.bind(&SocketAddrV6::new(listen, SERVER_PORT, 0, 0).into())?;
        Ok(Self { socket, interface: on, index, address })
    }

    /// Waits for packets, but not for ever, and takes all that are there, up to [`BATCH_MAX`];
    /// `malformed` hears of those that are none.
    pub(super) fn receive(&self, malformed: impl Fn(DecodeError)) -> io::Result<Vec<(Packet, Arrival)>> {
        // One byte more than is accepted, so that a longer packet is seen to be too long.
        let mut buffer = [0; MAX_PACKET + 1];
        let mut arrived = Vec::new();
        let mut flags = MsgFlags::empty();
        // Malformed ones count too: a flood of them must not keep the others waiting.
        for _ in 0..BATCH_MAX {
            match self.receive_one(&mut buffer, flags) {
                Ok((packet, arrival)) => match Packet::decode(packet) {
                    Ok(packet) => arrived.push((packet, arrival)),
                    Err(error) => malformed(error),
                },
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(_) if !arrived.is_empty() => break,
                Err(error) => return Err(error.into()),
            }
            flags = MsgFlags::MSG_DONTWAIT;
        }
        Ok(arrived)
    }

    fn receive_one<'a>(&self, buffer: &'a mut [u8], flags: MsgFlags) -> nix::Result<(&'a [u8], Arrival)> {
        let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
        let (length, source, multicast) = {
            let mut slices = [IoSliceMut::new(buffer)];
            let fd = self.socket.as_raw_fd();
            let message = recvmsg::<SockaddrIn6>(fd, &mut slices, Some(&mut control), flags)?;
            let mut to = message.cmsgs()?.filter_map(|control| match control {
                ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
                _ => None,
            });
            let multicast = to.next().is_some_and(|to| to.is_multicast());
            (message.bytes, message.address.ok_or(Errno::EINVAL)?.ip(), multicast)
        };
        let arrival = Arrival { source, address: self.address, multicast };
        Ok((buffer.get(..length).unwrap_or_default(), arrival))
    }
}

impl Link for Listener {
    fn interface(&self) -> &str {
        &self.interface
    }

    fn send(&self, reply: &Reply) -> io::Result<()> {
        let to = SocketAddrV6::new(reply.to, reply.port(), 0, self.index);
        let bytes =
            if reply.packet.relays.is_empty() { reply.packet.encode() } else { reply.packet.encode_reply() };
        let flags = MsgFlags::MSG_DONTWAIT.bits();
        self.socket.send_to_with_flags(&bytes, &to.into(), flags).map(drop)
    }
}
