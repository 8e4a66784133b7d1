//! `[[dhcp]]`

use super::yes;
use kaltstart_core::dhcp::bootfile::LocalAnswer;
use kaltstart_core::dhcp::lease::Pool;
use kaltstart_core::dhcp::role::Mode;
use kaltstart_core::dhcp::subnet::{Network, Subnet};
use serde::Deserialize;
use std::net::Ipv4Addr;

/// `[[dhcp]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp {
    /// Interface.
    pub interface: String,
    /// Network, as `10.77.0.0/24`.
    #[serde(deserialize_with = "network")]
    pub subnet: Network,
    /// This server's address on it.
    pub address: Ipv4Addr,
    /// How it is served.
    #[serde(default)]
    pub mode: Mode,
    /// First and last dynamic address; none = reservations only.
    #[serde(default)]
    pub pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Default router.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// How long an address is lent, in seconds.
    #[serde(default = "an_hour")]
    pub lease_seconds: u32,
    /// Whether router solicitations are answered with "no router here", so that boot loaders do
    /// not wait for IPv6. Harmless beside real routers.
    #[serde(default = "yes")]
    pub answer_router_solicitations: bool,
}

/// Reads a network as `10.77.0.0/24`: a prefix of 1 to 30 bits, no host bits set.
fn network<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Network, D::Error> {
    let text = String::deserialize(from)?;
    let bad = || serde::de::Error::custom(format!("{text:?} is not a network, as 10.77.0.0/24"));
    let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
    let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=30).contains(prefix)).ok_or_else(bad)?;
    let network = Network { address, prefix };
    if address & network.mask() == address {
        Ok(network)
    } else {
        Err(serde::de::Error::custom(format!("{text:?} has host bits set")))
    }
}

fn an_hour() -> u32 {
    3600
}

impl Dhcp {
    /// The subnet as the DHCP decisions want it; `http_base` is the base of this server's URLs.
    #[must_use]
    pub fn decided_upon(&self, http_base: &str) -> Subnet {
        Subnet {
            network: self.subnet,
            server: self.address,
            http: http_base.to_owned(),
            pool: self.pool.map_or(Pool::EMPTY, |(first, last)| Pool { first, last }),
            routers: self.router.into_iter().collect(),
            name_servers: self.dns.clone(),
            domain: None,
            lease_seconds: self.lease_seconds,
            local: LocalAnswer::default(),
        }
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        let name = &self.interface;
        let outside = |address| !self.subnet.has_host(address);
        if outside(self.address) {
            all.push(format!("dhcp {name}: address {} is not a host of its subnet", self.address));
        }
        if let Some((first, last)) = self.pool {
            if outside(first) || outside(last) || first > last {
                all.push(format!("dhcp {name}: pool {first} to {last} does not lie in its subnet"));
            }
            if (first..=last).contains(&self.address) {
                all.push(format!("dhcp {name}: the pool contains the server's own address"));
            }
            if self.router.is_some_and(|router| (first..=last).contains(&router)) {
                all.push(format!("dhcp {name}: the pool contains the router's address"));
            }
        }
        if let Some(router) = self.router.filter(|router| outside(*router)) {
            all.push(format!("dhcp {name}: router {router} is not a host of its subnet"));
        }
        if matches!(self.mode, Mode::Proxy | Mode::Auto) {
            all.push(format!("dhcp {name}: mode {} is not there yet", self.mode));
        }
        if self.lease_seconds < 60 {
            all.push(format!("dhcp {name}: lease_seconds must be at least 60"));
        }
    }
}
