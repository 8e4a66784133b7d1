//! The socket that many transfers share.

use super::inbox::Bell;
use super::socket::{RECEIVE_BUFFER_BYTES, socket_addr, udp_socket};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, recvmsg, sendmsg,
    setsockopt,
    sockopt::{Ipv4RecvErr, Ipv6RecvErr, SndBuf, SndBufForce},
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

/// Kernel buffer for what goes out, so that a slow link delays its own clients only.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Packets received at once, before timers and requests have their turn.
const BATCH_PACKETS: usize = 64;

/// Longest packet read from a client during a transfer: acknowledgements have four bytes, errors
/// have a text.
const ANSWER_BYTES_MAX: usize = 512;

/// Most datagrams in one call, and most bytes (`UDP_MAX_SEGMENTS` and the length field of IP).
pub(super) const SEGMENTS_MAX: usize = 64;
/// See [`SEGMENTS_MAX`].
pub(super) const CALL_BYTES_MAX: usize = 65_507;

/// A socket on a port of its own that talks to many clients.
#[derive(Debug)]
pub(super) struct Link {
    socket: UdpSocket,
    /// Its address is any, and every datagram must say from which one it is sent.
    is_of_any_address: bool,
    /// Clients whose port is closed, until somebody asks.
    refused: Vec<SocketAddr>,
}

/// Room for datagrams that are received together.
pub(super) struct Arrivals {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; ANSWER_BYTES_MAX]>,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        let headers = MultiHeaders::preallocate(BATCH_PACKETS, None);
        Self { headers, buffers: vec![[0; ANSWER_BYTES_MAX]; BATCH_PACKETS] }
    }
}

/// What a worker need not wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) packets: bool,
    pub(super) bell: bool,
}

/// How datagrams that lie behind each other are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// It is one datagram.
    Not,
    /// Every datagram but the last has so many bytes, and the kernel cuts (`UDP_SEGMENT`).
    Every(u16),
}

impl Link {
    /// A socket that sends from `address`, or from any address if it is unspecified.
    pub(super) fn open(address: IpAddr) -> io::Result<Self> {
        let socket = udp_socket(address, RECEIVE_BUFFER_BYTES)?;
        if setsockopt(&socket, SndBufForce, &SEND_BUFFER_BYTES).is_err() {
            setsockopt(&socket, SndBuf, &SEND_BUFFER_BYTES).ok();
        }
        // Without the first nobody learns of closed ports: the socket is not connected to one client.
        // With the second packets may be cut up. The size of the blocks cannot be changed once it
        // is agreed, and routers that drop what is too long without a word are common.
        match address {
            IpAddr::V4(_) => {
                setsockopt(&socket, Ipv4RecvErr, &true)?;
                set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
            }
            IpAddr::V6(_) => {
                setsockopt(&socket, Ipv6RecvErr, &true)?;
                set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?;
            }
        }
        socket.bind(&SocketAddr::new(address, 0).into())?;
        Ok(Self { socket: socket.into(), is_of_any_address: address.is_unspecified(), refused: Vec::new() })
    }

    /// Waits until there is something to receive, `bell` rings, or `time` is over.
    ///
    /// # Errors
    /// When it cannot wait.
    pub(super) fn wait(&mut self, bell: &Bell, time: Option<Duration>) -> io::Result<Ready> {
        let time = time.map(|time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
        let mut both = [self.socket.as_fd(), bell.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut both, time) {
            // To wait for nothing is to look again.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [socket, bell] = both.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if socket.contains(PollFlags::POLLERR) {
            self.take_errors();
        }
        Ok(Ready { packets: !socket.is_empty(), bell: !bell.is_empty() })
    }

    /// Takes the datagrams that are there, as many as there is room for.
    pub(super) fn receive<'a>(
        &mut self,
        arrivals: &'a mut Arrivals,
    ) -> impl Iterator<Item = (SocketAddr, &'a [u8])> + use<'a> {
        let Arrivals { headers, buffers } = arrivals;
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = self.socket.as_raw_fd();
        let received: Vec<_> = match recvmmsg(fd, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            Ok(messages) => messages.map(|message| (message.address, message.bytes)).collect(),
            Err(Errno::EAGAIN) => Vec::new(),
            // Whoever waits is told if something is there behind the errors.
            Err(_) => {
                self.take_errors();
                Vec::new()
            }
        };
        received.into_iter().zip(&*buffers).filter_map(|((from, len), buffer)| {
            Some((from.as_ref().and_then(socket_addr)?, buffer.get(..len)?))
        })
    }

    /// Sends `bytes` from the address `from`.
    ///
    /// # Errors
    /// When this machine cannot send them. What is wrong farther away is found out by silence.
    pub(super) fn send(&mut self, from: IpAddr, to: SocketAddr, bytes: &[u8], cut: Cut) -> nix::Result<()> {
        match self.send_once(from, to, bytes, cut) {
            // May be the news of an earlier packet's fate.
            Err(_) => {
                self.take_errors();
                self.send_once(from, to, bytes, cut)
            }
            sent => sent,
        }
    }

    fn send_once(&self, from: IpAddr, to: SocketAddr, bytes: &[u8], cut: Cut) -> nix::Result<()> {
        let (source_v4, source_v6);
        let source = match from {
            IpAddr::V4(from) => {
                source_v4 = nix::libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: nix::libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                    ipi_addr: nix::libc::in_addr { s_addr: 0 },
                };
                ControlMessage::Ipv4PacketInfo(&source_v4)
            }
            IpAddr::V6(from) => {
                let address = nix::libc::in6_addr { s6_addr: from.octets() };
                source_v6 = nix::libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                ControlMessage::Ipv6PacketInfo(&source_v6)
            }
        };
        let mut control = Vec::new();
        if self.is_of_any_address {
            control.push(source);
        }
        // Kernels that do not know it (before 4.18) have no openat2 either.
        if let Cut::Every(len) = &cut {
            control.push(ControlMessage::UdpGsoSegments(len));
        }
        let fd = self.socket.as_raw_fd();
        let (parts, flags) = ([IoSlice::new(bytes)], MsgFlags::empty());
        let to = SockaddrStorage::from(to);
        loop {
            match sendmsg(fd, &parts, &control, flags, Some(&to)) {
                Err(Errno::EAGAIN) => {
                    let mut room = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut room, PollTimeout::NONE)?;
                }
                sent => return sent.map(drop),
            }
        }
    }

    /// The next client whose port is closed.
    pub(super) fn next_refused(&mut self) -> Option<SocketAddr> {
        self.refused.pop()
    }

    /// Empties the queue of errors (ip(7), `IP_RECVERR`).
    fn take_errors(&mut self) {
        let mut control = nix::cmsg_space!(nix::libc::sock_extended_err, nix::libc::sockaddr_in6);
        loop {
            let mut payload = [0; 8];
            let mut parts = [IoSliceMut::new(&mut payload)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let Ok(message) = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags) else {
                return;
            };
            let Some(to) = message.address.as_ref().and_then(socket_addr) else { continue };
            let Ok(controls) = message.cmsgs() else { continue };
            for control in controls {
                if let ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) =
                    control
                    && error.ee_errno == Errno::ECONNREFUSED as u32
                {
                    self.refused.push(to);
                }
            }
        }
    }
}
