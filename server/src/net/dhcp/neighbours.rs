//! Entries in the kernel's table of neighbours, so that a datagram reaches a client at its hardware
//! address before the client can answer ARP (RFC 2131 §4.1).

use kaltstart_protocol::ids::Mac;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

// From linux/netlink.h, linux/rtnetlink.h and linux/neighbour.h.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWNEIGH: u16 = 28;
/// A request, to be acknowledged, that replaces an entry or creates it.
const FLAGS: u16 = 0x1 | 0x4 | 0x100 | 0x400;
/// Not to be proven first, and to be forgotten like any other.
const NUD_STALE: u16 = 0x04;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// A socket to the kernel's table. Needs the capability `NET_ADMIN`.
#[derive(Debug)]
pub(super) struct Neighbours {
    socket: OwnedFd,
    interface: u32,
}

impl Neighbours {
    /// For the neighbours on `interface`.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        let interface = nix::net::if_::if_nametoindex(interface)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        Ok(Self { socket, interface })
    }

    /// Tells at which hardware address `client` is.
    pub(super) fn set(&self, client: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        let request = request(self.interface, client, mac);
        sendto(self.socket.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
        // The kernel has answered before `sendto` returns.
        let mut answer = [0; 128];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match outcome(&answer[..length]) {
            Some(0) => Ok(()),
            Some(errno) => Err(Errno::from_raw(errno).into()),
            None => Err(io::Error::other("the kernel's answer is not understood")),
        }
    }
}

/// `nlmsghdr`, `ndmsg` and two attributes, all in the machine's byte order.
fn request(interface: u32, client: Ipv4Addr, mac: Mac) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[0..4].copy_from_slice(&48_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_NEWNEIGH.to_ne_bytes());
    bytes[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    bytes[16] = AddressFamily::Inet as u8;
    bytes[20..24].copy_from_slice(&interface.to_ne_bytes());
    bytes[24..26].copy_from_slice(&NUD_STALE.to_ne_bytes());
    bytes[28..30].copy_from_slice(&8_u16.to_ne_bytes());
    bytes[30..32].copy_from_slice(&NDA_DST.to_ne_bytes());
    bytes[32..36].copy_from_slice(&client.octets());
    bytes[36..38].copy_from_slice(&10_u16.to_ne_bytes());
    bytes[38..40].copy_from_slice(&NDA_LLADDR.to_ne_bytes());
    bytes[40..46].copy_from_slice(&mac.0);
    bytes
}

/// The error number of an acknowledgement; 0 = done.
fn outcome(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| errno.saturating_neg())
}
