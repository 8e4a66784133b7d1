//! Tells IPv6 clients at once that there is no router here.
//!
//! iPXE configures IPv6 along with IPv4 and waits up to 15 seconds per stage for a router
//! advertisement. So router solicitations on the served interface are answered: router lifetime 0
//! (RFC 4861 §4.2: not a default router). Where DHCPv6 is not served that is all, and clients get no
//! address and no route from it. Where it is, they are told to ask for their address by DHCPv6, and
//! that its prefix is on the link, which DHCPv6 cannot say; addresses of their own making they get from
//! routers alone.

use kaltstart_core::dhcp6::subnet::Prefix;
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
/// Addresses, and everything else, by DHCPv6 (RFC 4861 §4.2: M and O).
const MANAGED: u8 = 0xc0;
/// The prefix is on the link; no addresses are to be made of it (RFC 4861 §4.6.2: L without A).
const ON_LINK: u8 = 0x80;
/// For how long that holds, seconds.
const ON_LINK_SECONDS: u32 = 86_400;
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
    advertisement: Vec<u8>,
}

impl Advertiser {
    /// Opens the interface, where DHCPv6 is served in `prefix`, if it is. Needs the capability `NET_RAW`.
    ///
    /// # Errors
    /// When there is no such interface, it has no IPv6, or rights are missing.
    pub fn open(interface: &str, prefix: Option<Prefix>) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_hops_v6(HOP_LIMIT)?;
        socket.set_unicast_hops_v6(HOP_LIMIT)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, interface: interface.into(), index, advertisement: advertisement(prefix) })
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
        match self.socket.send_to(&self.advertisement, to).await {
            Ok(_) => debug!(interface = self.interface, %to, "told that there is no IPv6 router"),
            Err(error) => {
                warn!(interface = self.interface, %to, %error, "cannot send a router advertisement")
            }
        }
    }
}

/// What is answered where DHCPv6 is served in `prefix`, if it is.
fn advertisement(prefix: Option<Prefix>) -> Vec<u8> {
    let mut advertisement = Vec::from(ADVERTISEMENT);
    if let Some(prefix) = prefix {
        advertisement[5] = MANAGED;
        // Option 3, of four times eight bytes; valid and preferred lifetime; four bytes reserved.
        advertisement.extend([3, 4, prefix.length, ON_LINK]);
        advertisement.extend(ON_LINK_SECONDS.to_be_bytes());
        advertisement.extend(ON_LINK_SECONDS.to_be_bytes());
        advertisement.extend([0; 4]);
        advertisement.extend(prefix.first().octets());
    }
    advertisement
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
    fn a_prefix_with_dhcpv6_is_told_as_on_link_and_managed() {
        assert_eq!(advertisement(None), ADVERTISEMENT);
        let address = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0);
        let told = advertisement(Some(Prefix { address, length: 64 }));
        assert_eq!((told.len(), told[5], &told[6..8]), (48, 0xc0, &[0, 0][..]), "no router in any case");
        assert_eq!((&told[16..20], &told[32..]), (&[3, 4, 64, 0x80][..], &address.octets()[..]));
    }

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
