//! The socket that takes requests.

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt,
    sockopt::{Ipv4PacketInfo, RcvBuf, RcvBufForce},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
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
pub fn bind(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = udp_socket(RECEIVE_BUFFER_BYTES)?;
    setsockopt(&socket, Ipv4PacketInfo, &true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A UDP socket with room for a burst.
pub(super) fn udp_socket(receive_buffer_bytes: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
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
    pub(super) from: SocketAddrV4,
    /// The address of this machine it was sent to; none if it was sent to several machines.
    pub(super) local: Option<Ipv4Addr>,
}

/// Waits for a datagram.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    socket.async_io(Interest::READABLE, || receive_now(socket, buffer)).await
}

fn receive_now(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(nix::libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let from = message.address.map(SocketAddrV4::from).ok_or(io::ErrorKind::InvalidData)?;
    let mut local = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = control {
            // The first is the address in the packet, the second the one to answer from. They
            // differ for broadcast and multicast.
            let is_unicast = info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
            local = is_unicast.then(|| Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()));
        }
    }
    Ok(Datagram { len: message.bytes, from, local })
}
