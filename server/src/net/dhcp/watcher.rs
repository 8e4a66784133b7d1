//! Looks for other servers on one interface: sends probes, sees what servers send.

use super::packet_socket::PacketSocket;
use super::watches::Watches;
use kaltstart_core::dhcp::subnet::Network;
use kaltstart_core::trace::ForeignOffer;
use kaltstart_protocol::dhcp::{CLIENT_PORT, Message, SERVER_PORT};
use kaltstart_protocol::ids::Mac;
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a receiver waits before it looks whether a probe is due or it shall stop.
const RECEIVE_WAIT: Duration = Duration::from_millis(100);
/// Pause after a failed receive, so that a broken interface does not keep a core busy.
const RECEIVE_PAUSE: Duration = Duration::from_secs(1);

/// Looks for other servers in the subnet of one interface.
#[derive(Debug)]
pub struct Watcher {
    socket: PacketSocket,
    interface: String,
    network: Network,
    own: Mac,
}

impl Watcher {
    /// Opens the interface. Needs the capabilities `NET_RAW` and `NET_BIND_SERVICE`.
    ///
    /// # Errors
    /// When there is no such Ethernet interface, or rights are missing.
    pub fn open(interface: &str, network: Network) -> io::Result<Self> {
        let own = hardware_address(interface)?;
        let socket = PacketSocket::open(interface, RECEIVE_WAIT)?;
        Ok(Self { socket, interface: interface.into(), network, own })
    }

    /// Tells `watches` what it sees, and `note` what another server offers to whom, until it is
    /// told to stop. Blocks its thread.
    pub fn serve(&self, watches: &Watches, note: impl Fn(Mac, ForeignOffer), stop: &CancellationToken) {
        let mut buffer = Vec::new();
        while !stop.is_cancelled() {
            if let Some(probe) = watches.due_probe(self.network, self.own)
                && let Err(error) = self.send(&probe)
            {
                warn!(interface = self.interface, %error, "cannot look for other DHCP servers");
            }
            match self.socket.receive(&mut buffer) {
                Ok(None) => {}
                Ok(Some(packet)) => match Message::decode(packet.payload) {
                    Ok(message) => {
                        let offer = watches.heard_server(self.network, &message, packet.source, packet.mac);
                        if let Some((mac, offer)) = offer {
                            note(mac, offer);
                        }
                    }
                    Err(error) => {
                        let from = packet.source;
                        debug!(interface = self.interface, %from, %error, "malformed message of a DHCP server");
                    }
                },
                Err(error) => {
                    warn!(interface = self.interface, %error, "cannot see other DHCP servers");
                    std::thread::sleep(RECEIVE_PAUSE);
                }
            }
        }
    }

    /// Broadcasts a client's message. The socket lives only for it: port 68 may be wanted by a
    /// DHCP client of this machine, which then also may keep us from it.
    fn send(&self, message: &Message) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_broadcast(true)?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(self.interface.as_bytes()))?;
        if let Err(error) = socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into()) {
            debug!(interface = self.interface, %error, "probe from another port than 68");
        }
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
        socket.send_to(&message.encode(), &to.into()).map(|_| ())
    }
}

fn hardware_address(interface: &str) -> io::Result<Mac> {
    let mut all = getifaddrs()?.filter(|one| one.interface_name == interface);
    let mac = all.find_map(|one| one.address?.as_link_addr()?.addr());
    mac.map(Mac).ok_or_else(|| io::Error::other("there is no Ethernet interface of that name"))
}
