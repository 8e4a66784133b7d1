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
const RTM_DELNEIGH: u16 = 29;
/// Flags of requests.
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
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
        match self.ask(&introduction(self.interface, client, mac))? {
            0 => Ok(()),
            errno => Err(Errno::from_raw(errno).into()),
        }
    }

    /// Forgets who has `address`, if anybody was known to.
    pub(super) fn forget(&self, address: Ipv4Addr) -> io::Result<()> {
        match Errno::from_raw(self.ask(&request(self.interface, address, RTM_DELNEIGH, 0, 0))?) {
            Errno::UnknownErrno | Errno::ENOENT => Ok(()),
            errno => Err(errno.into()),
        }
    }

    /// Sends a request; the error number of its acknowledgement, 0 = done.
    fn ask(&self, request: &[u8]) -> io::Result<i32> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), request, &kernel, MsgFlags::empty())?;
        // The kernel has answered before `sendto` returns.
        let mut answer = [0; 128];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let not_understood = || io::Error::other("the kernel's answer is not understood");
        outcome(&answer[..length]).ok_or_else(not_understood)
    }
}

/// The request that a client is at a hardware address.
fn introduction(interface: u32, client: Ipv4Addr, mac: Mac) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..36].copy_from_slice(&request(interface, client, RTM_NEWNEIGH, REPLACE | CREATE, NUD_STALE));
    bytes[0..4].copy_from_slice(&48_u32.to_ne_bytes());
    bytes[36..38].copy_from_slice(&10_u16.to_ne_bytes());
    bytes[38..40].copy_from_slice(&NDA_LLADDR.to_ne_bytes());
    bytes[40..46].copy_from_slice(&mac.0);
    bytes
}

/// `nlmsghdr`, `ndmsg` and the attribute of an address, all in the machine's byte order.
fn request(interface: u32, address: Ipv4Addr, kind: u16, flags: u16, state: u16) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[0..4].copy_from_slice(&36_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(REQUEST | ACKNOWLEDGE | flags).to_ne_bytes());
    bytes[16] = AddressFamily::Inet as u8;
    bytes[20..24].copy_from_slice(&interface.to_ne_bytes());
    bytes[24..26].copy_from_slice(&state.to_ne_bytes());
    bytes[28..30].copy_from_slice(&8_u16.to_ne_bytes());
    bytes[30..32].copy_from_slice(&NDA_DST.to_ne_bytes());
    bytes[32..36].copy_from_slice(&address.octets());
    bytes
}

/// The error number of an acknowledgement; 0 = done.
fn outcome(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| errno.saturating_neg())
}
