//! The networks addresses are given out in.

use super::{Arrival, Drop};
use crate::dhcp::bootfile::LocalAnswer;
use crate::dhcp::host::Rules;
use crate::dhcp::lease::Pool;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv6Addr;
use kaltstart_protocol::dhcp6::Relay;

/// An IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Any of its addresses.
    pub address: Ipv6Addr,
    /// Length of the prefix; more than 128 counts as 128.
    pub length: u8,
}

impl Prefix {
    /// The lowest address.
    #[must_use]
    pub fn first(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// Whether the address belongs to it.
    #[must_use]
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask() == 0
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    fn mask(&self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.length.min(128))).unwrap_or(0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.length)
    }
}

/// A network that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The network.
    pub prefix: Prefix,
    /// This server's address, as its clients reach it.
    pub server: Ipv6Addr,
    /// Base of this server's URLs, without final slash: `http://[fd77::1]:8080`.
    pub http: String,
    /// Whether this server is on its wire; else only relays lead to it.
    pub direct: bool,
    /// Relays outside of all served networks that may ask for it.
    pub relays: Vec<Prefix>,
    /// Addresses for clients without a reservation: ranges that do not overlap.
    pub pools: Vec<Pool<Ipv6Addr>>,
    /// For how many seconds an address is lent.
    pub lease_seconds: u32,
    /// T1; none = half of that.
    pub renew_seconds: Option<u32>,
    /// T2; none = four fifths of it.
    pub rebind_seconds: Option<u32>,
    /// Whether two messages are enough where the client wants that (RFC 8415 §18.3.1).
    pub rapid_commit: bool,
    /// Name servers.
    pub name_servers: Vec<Ipv6Addr>,
    /// Domains to search in, as option 24 has them (RFC 3646 §4).
    pub domains: Vec<u8>,
    /// What holds in every subnet.
    pub rules: Arc<Rules>,
    /// What firmware is told when it shall start from its own disk.
    pub local: LocalAnswer,
}

/// Domains as options have them: lengths and labels (RFC 1035 §3.1); names that are not valid are
/// left out.
#[must_use]
pub fn encode_domains<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        let labels = || name.trim_end_matches('.').split('.');
        let valid = |label: &str| (1..64).contains(&label.len());
        if name.len() > 253 || !labels().all(valid) {
            continue;
        }
        for label in labels() {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
    }
    bytes
}

/// The subnet a message comes from.
///
/// The relay next to the client that knows the client's link says it (RFC 8415 §13.1); without one
/// it is the wire on which the message was heard.
///
/// # Errors
/// [`Drop::UnknownSubnet`] and [`Drop::UnknownRelay`].
pub(super) fn subnet_of<'a>(
    subnets: &'a [Subnet],
    relays: &[Relay],
    arrival: &Arrival,
) -> Result<&'a Subnet, Drop> {
    let of = |address| subnets.iter().find(|subnet| subnet.prefix.contains(address));
    let own = subnets.iter().find(|subnet| subnet.direct && subnet.server == arrival.address);
    let link = relays.iter().rev().map(|relay| relay.link).find(|link| !link.is_unspecified());
    let subnet = link.map_or(own, of).ok_or(Drop::UnknownSubnet)?;
    let source = arrival.source;
    let trusted = relays.is_empty()
        || of(source).is_some()
        || subnet.relays.iter().any(|relay| relay.contains(source))
        // A neighbour on a wire of ours.
        || (own.is_some() && source.is_unicast_link_local());
    if trusted { Ok(subnet) } else { Err(Drop::UnknownRelay(source)) }
}
