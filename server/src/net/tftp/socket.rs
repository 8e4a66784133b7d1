//! The socket that takes requests.

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, RcvBuf, RcvBufForce},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Longest request that is read. RFC 2347 allows 512 bytes; firmware may pad.
pub(super) const REQUEST_BYTES_MAX: usize = 2_048;

/// Kernel buffer for what comes in: a rack that is switched on asks all at once, and a request
/// that is lost costs the machine its time-out of a second or more.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// A socket for [`serve`](super::serve), on port 69 or another one.
///
/// # Errors
/// When the address cannot be had.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(address.ip(), RECEIVE_BUFFER_BYTES)?;
    match address {
        SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A UDP socket for the family of `address`, with room for a burst.
pub(super) fn udp_socket(address: IpAddr, receive_buffer_bytes: usize) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Beyond the system's limit only with CAP_NET_ADMIN. Without either the service works, it
    // only loses more of a burst.
    if setsockopt(&socket, RcvBufForce, &receive_buffer_bytes).is_err() {
        setsockopt(&socket, RcvBuf, &receive_buffer_bytes).ok();
    }
    Ok(socket)
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Datagram {
    /// Bytes of the buffer it takes.
    pub(super) len: usize,
    /// Who sent it.
    pub(super) from: SocketAddr,
    /// The address of this machine it was sent to; none if it was sent to several machines.
    pub(super) local: Option<IpAddr>,
}

/// Waits for a datagram.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    socket.async_io(Interest::READABLE, || receive_now(socket, buffer)).await
}

fn receive_now(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let from = message.address.as_ref().and_then(socket_addr).ok_or(io::ErrorKind::InvalidData)?;
    let mut local = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // The first is the address in the packet, the second the one to answer from. They
                // differ for broadcast and multicast.
                let is_unicast = info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
                local = is_unicast.then(|| IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let to = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                local = (!to.is_multicast()).then_some(to.into());
            }
            _ => {}
        }
    }
    Ok(Datagram { len: message.bytes, from, local })
}

/// The address of a peer on an IP socket.
pub(super) fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}
