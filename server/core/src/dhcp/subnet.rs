//! The networks addresses are given out in.

use super::Drop;
use super::bootfile::LocalAnswer;
use super::host::Rules;
use super::lease::Pool;
use super::parameters::Parameters;
use super::ping_check::Looking;
use super::relay::RelayInfo;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::dhcp::options::code;

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

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
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
    /// Whether this server is on its wire; else only relays lead to it.
    pub direct: bool,
    /// Relays outside of the network that may ask for it.
    pub relays: Vec<Network>,
    /// Addresses for clients without a reservation: ranges that do not overlap.
    pub pools: Vec<Pool>,
    /// What its clients are told.
    pub parameters: Parameters,
    /// What holds in every subnet.
    pub rules: Arc<Rules>,
    /// What firmware is told when it shall start from its own disk.
    pub local: LocalAnswer,
    /// How its free addresses are looked for before they are offered.
    pub looking: Looking,
}

/// The subnet a message comes from, heard at the address `arrival`.
///
/// A relay says where the client is: by its link selection (RFC 3527), else the client's own subnet
/// selection (RFC 3011), else by its address (RFC 2131 §4.3.1). A client that has an address may renew
/// it from afar without the relay, so that address counts next (RFC 2131 §4.3.6).
///
/// # Errors
/// [`Drop::UnknownSubnet`] and [`Drop::UnknownRelay`].
pub(super) fn subnet_of<'a>(
    subnets: &'a [Subnet],
    message: &Message,
    arrival: Ipv4Addr,
) -> Result<&'a Subnet, Drop> {
    let of = |address: Ipv4Addr| subnets.iter().find(|subnet| subnet.network.contains(address));
    let selected = message.options.address(code::SUBNET_SELECTION);
    let relay = message.giaddr;
    if !relay.is_unspecified() {
        let trusts = |subnet: &&Subnet| subnet.relays.iter().any(|known| known.contains(relay));
        let subnet = match RelayInfo::of(message).link.or(selected) {
            Some(link) => of(link),
            None => of(relay).or_else(|| subnets.iter().find(trusts)),
        };
        let subnet = subnet.ok_or(Drop::UnknownSubnet)?;
        // A relay in a network of ours is one of ours, whichever it asks for.
        return if of(relay).is_some() || trusts(&subnet) {
            Ok(subnet)
        } else {
            Err(Drop::UnknownRelay(relay))
        };
    }
    let own = || subnets.iter().find(|subnet| subnet.direct && subnet.network.contains(arrival));
    let subnet = match selected {
        Some(selected) => of(selected),
        None if message.ciaddr.is_unspecified() => own(),
        None => of(message.ciaddr).or_else(own),
    };
    subnet.ok_or(Drop::UnknownSubnet)
}
