//! The networks addresses are given out in.

use super::bootfile::LocalAnswer;
use super::lease::Pool;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::dhcp::options::sub_options;

/// Link selection within relay agent information (RFC 3527).
const LINK_SELECTION: u8 = 5;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Any of its addresses.
    pub address: Ipv4Addr,
    /// Length of its prefix; more than 32 counts as 32.
    pub prefix: u8,
}

impl Network {
    /// The subnet mask.
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        let host_bits = 32 - u32::from(self.prefix.min(32));
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }

    /// Whether the address can be a host's: neither the lowest nor the highest of the network.
    #[must_use]
    pub fn has_host(&self, address: Ipv4Addr) -> bool {
        let host = address & !self.mask();
        self.contains(address) && host != Ipv4Addr::UNSPECIFIED && host != !self.mask()
    }

    /// Whether the address belongs to it.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (address & self.mask()) == (self.address & self.mask())
    }
}

/// A network that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The network.
    pub network: Network,
    /// This server's address, as the clients of the network reach it: server identifier, TFTP
    /// server.
    pub server: Ipv4Addr,
    /// Base of this server's URLs, without final slash: `http://10.77.0.1:8080`.
    pub http: String,
    /// Addresses for clients without a reservation.
    pub pool: Pool,
    /// Default routers.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// Domain of the clients.
    pub domain: Option<String>,
    /// Length of a lease in seconds.
    pub lease_seconds: u32,
    /// What firmware is told when it shall start from its own disk.
    pub local: LocalAnswer,
}

/// The subnet a message comes from, seen by an interface with the address `arrival`.
///
/// A relay says where the client is (RFC 2131 §4.3.1, RFC 3527). A client that has an address may
/// renew it from afar without the relay, so that address counts next (RFC 2131 §4.3.6).
#[must_use]
pub fn subnet_of<'a>(subnets: &'a [Subnet], message: &Message, arrival: Ipv4Addr) -> Option<&'a Subnet> {
    let with = |address: Ipv4Addr| subnets.iter().find(|subnet| subnet.network.contains(address));
    if !message.giaddr.is_unspecified() {
        let link = sub_options(message.relay_info().unwrap_or_default())
            .find(|(code, _)| *code == LINK_SELECTION)
            .and_then(|(_, value)| Some(Ipv4Addr::from_octets(value.try_into().ok()?)));
        return with(link.unwrap_or(message.giaddr));
    }
    let own = || with(arrival);
    if message.ciaddr.is_unspecified() { own() } else { with(message.ciaddr).or_else(own) }
}
