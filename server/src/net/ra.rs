//! Tells IPv6 clients at once that there is no router here.
//!
//! iPXE configures IPv6 along with IPv4 and waits up to 15 seconds per stage for a router
//! advertisement. So router solicitations on the served interface are answered: router lifetime 0
//! (RFC 4861 §4.2: not a default router), no prefix, no DHCPv6. Clients get no address and no
//! route from it.

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Neighbours ignore what may have crossed a router (RFC 4861 §6.1.2).
const HOP_LIMIT: u32 = 255;
const SOLICITATION: u8 = 133;
/// Shortest valid solicitation (RFC 4861 §4.1).
const SOLICITATION_MIN: usize = 8;
/// Type 134; the kernel fills in the checksum; hop limit unspecified, flags M = O = 0, router
/// lifetime 0, reachable and retransmission times unspecified; no options (RFC 4861 §4.2).
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Longest packet that is looked at; only its first bytes count.
const BUFFER: usize = 1_500;
/// Pause after a failed receive, so that a broken interface does not keep a core busy.
const RECEIVE_PAUSE: Duration = Duration::from_secs(1);

/// Listens for router solicitations on one interface.
#[derive(Debug)]
pub struct Advertiser {
    /// A raw ICMPv6 socket: to the runtime it is a socket with datagrams like any other.
    socket: UdpSocket,
    interface: String,
    index: u32,
}

impl Advertiser {
    /// Opens the interface. Needs the capability `NET_RAW`.
    ///
    /// # Errors
    /// When there is no such interface, it has no IPv6, or rights are missing.
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_hops_v6(HOP_LIMIT)?;
        socket.set_unicast_hops_v6(HOP_LIMIT)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, interface: interface.into(), index })
    }

    /// Answers until it is told to stop.
    pub async fn serve(&self, stop: CancellationToken) {
        let mut buffer = [0; BUFFER];
        loop {
            let received = tokio::select! {
                () = stop.cancelled() => return,
                received = self.socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((length, SocketAddr::V6(from))) => {
                    if let Some(to) = answer_to(&buffer[..length], *from.ip()) {
                        self.advertise(to).await;
                    }
                }
                Ok((_, SocketAddr::V4(_))) => {}
                Err(error) => {
                    warn!(interface = self.interface, %error, "cannot receive router solicitations");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RECEIVE_PAUSE) => {}
                    }
                }
            }
        }
    }

    async fn advertise(&self, to: Ipv6Addr) {
        let to = SocketAddrV6::new(to, 0, 0, self.index);
        match self.socket.send_to(&ADVERTISEMENT, to).await {
            Ok(_) => debug!(interface = self.interface, %to, "told that there is no IPv6 router"),
            Err(error) => {
                warn!(interface = self.interface, %to, %error, "cannot send a router advertisement")
            }
        }
    }
}

/// Whom to answer, if the packet is a router solicitation (RFC 4861 §6.1.1). The kernel has
/// checked the checksum. Neighbours have link-local addresses, or none yet; nobody else can be
/// behind such a source, so the hop limit need not be looked at.
fn answer_to(packet: &[u8], from: Ipv6Addr) -> Option<Ipv6Addr> {
    let [SOLICITATION, 0, ..] = *packet else { return None };
    if packet.len() < SOLICITATION_MIN {
        return None;
    }
    if from.is_unspecified() {
        return Some(ALL_NODES);
    }
    from.is_unicast_link_local().then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_solicitations_are_answered() {
        let near = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);
        let solicitation = [SOLICITATION, 0, 1, 2, 0, 0, 0, 0];
        assert_eq!(answer_to(&solicitation, near), Some(near));
        assert_eq!(answer_to(&solicitation, Ipv6Addr::UNSPECIFIED), Some(ALL_NODES));
        assert_eq!(answer_to(&solicitation, Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 7)), None);
        assert_eq!(answer_to(&solicitation[..7], near), None);
        assert_eq!(answer_to(&ADVERTISEMENT, near), None);
        assert_eq!(answer_to(&[SOLICITATION, 1, 0, 0, 0, 0, 0, 0], near), None);
    }
}
