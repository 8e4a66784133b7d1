//! `[[dhcp6]]`

use super::dhcp::times_problems;
use super::ranges::{self, ranges};
use super::{is_host_name, yes};
use kaltstart_core::dhcp::bootfile::LocalAnswer;
use kaltstart_core::dhcp::host::Rules;
use kaltstart_core::dhcp::lease::Pool;
use kaltstart_core::dhcp::parameters::{LEASE_SECONDS, Parameters};
use kaltstart_core::dhcp6::subnet::{Prefix, Subnet, encode_domains};
use serde::Deserialize;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Addresses of all pools of a subnet: as many clients as can be invented could be given one, and
/// each lease is kept.
const POOL_MAX: u128 = 1 << 20;

/// `[[dhcp6]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp6 {
    /// Interface; none = reached through relays only.
    #[serde(default)]
    pub interface: Option<String>,
    /// Network, as `fd77::/64`.
    #[serde(deserialize_with = "prefix")]
    pub prefix: Prefix,
    /// This server's address, as the clients reach it.
    pub address: Ipv6Addr,
    /// First and last dynamic address; none = reservations only.
    #[serde(default)]
    pub pool: Option<(Ipv6Addr, Ipv6Addr)>,
    /// Further pools.
    #[serde(default)]
    pub pools: Vec<(Ipv6Addr, Ipv6Addr)>,
    /// What is left out of the pools: an address, or `FIRST-LAST`.
    #[serde(default, deserialize_with = "ranges")]
    pub exclude: Vec<(Ipv6Addr, Ipv6Addr)>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<Ipv6Addr>,
    /// Domains to search in.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Relays outside of all served networks that may ask for it: addresses or networks.
    #[serde(default, deserialize_with = "prefixes")]
    pub relays: Vec<Prefix>,
    /// How long an address is lent, in seconds.
    #[serde(default = "lease_seconds")]
    pub lease_seconds: u32,
    /// T1.
    #[serde(default)]
    pub renew_seconds: Option<u32>,
    /// T2.
    #[serde(default)]
    pub rebind_seconds: Option<u32>,
    /// Whether clients that want it get their address with the first answer.
    #[serde(default)]
    pub rapid_commit: bool,
    /// Whether router solicitations are answered with "no router here, addresses by DHCPv6".
    #[serde(default = "yes")]
    pub answer_router_solicitations: bool,
}

const fn lease_seconds() -> u32 {
    LEASE_SECONDS
}

fn prefix<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Prefix, D::Error> {
    read_prefix(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// Reads networks, or single addresses.
fn prefixes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Prefix>, D::Error> {
    let read = |text: String| match text.parse() {
        Ok(address) => Ok(Prefix { address, length: 128 }),
        Err(_) => read_prefix(&text).map_err(serde::de::Error::custom),
    };
    Vec::<String>::deserialize(from)?.into_iter().map(read).collect()
}

/// A network as `fd77::/64`: a prefix of 3 to 127 bits, no host bits set.
fn read_prefix(text: &str) -> Result<Prefix, String> {
    let bad = || format!("{text:?} is not an IPv6 network, as fd77::/64");
    let (address, length) = text.split_once('/').ok_or_else(bad)?;
    let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
    let length = length.parse().ok().filter(|length| (3..128).contains(length)).ok_or_else(bad)?;
    let prefix = Prefix { address, length };
    if prefix.first() == address { Ok(prefix) } else { Err(format!("{text:?} has host bits set")) }
}

impl Dhcp6 {
    /// What the section is called in messages: by its interface, else by its network.
    #[must_use]
    pub fn title(&self) -> String {
        self.interface.clone().unwrap_or_else(|| self.prefix.to_string())
    }

    /// The subnet as the DHCPv6 decisions want it; `http` is the base of this server's URLs.
    #[must_use]
    pub fn decided_upon(&self, http: String, rules: &Arc<Rules>) -> Subnet {
        Subnet {
            prefix: self.prefix,
            server: self.address,
            http,
            direct: self.interface.is_some(),
            relays: self.relays.clone(),
            pools: self.remaining_pools(),
            lease_seconds: self.lease_seconds,
            renew_seconds: self.renew_seconds,
            rebind_seconds: self.rebind_seconds,
            rapid_commit: self.rapid_commit,
            name_servers: self.dns.clone(),
            domains: encode_domains(self.domains.iter().map(String::as_str)),
            rules: rules.clone(),
            local: LocalAnswer::default(),
        }
    }

    fn all_pools(&self) -> Vec<(Ipv6Addr, Ipv6Addr)> {
        ranges::sorted(self.pool, &self.pools)
    }

    fn remaining_pools(&self) -> Vec<Pool<Ipv6Addr>> {
        ranges::without(self.all_pools(), &self.exclude)
    }

    /// Whether `address` can be reserved for a machine.
    pub(super) fn has_host(&self, address: Ipv6Addr) -> bool {
        // The lowest is all routers' (RFC 4291 §2.6.1).
        self.prefix.contains(address) && address != self.prefix.first()
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        let whose = format!("dhcp6 {}", self.title());
        let outside = |address: Ipv6Addr| !self.has_host(address);
        if self.address.is_multicast()
            || self.address.is_unicast_link_local()
            || self.address.is_unspecified()
        {
            all.push(format!("{whose}: address {} is not one that URLs can name", self.address));
        }
        if self.interface.is_some() && outside(self.address) {
            all.push(format!("{whose}: address {} is not a host of its prefix", self.address));
        }
        ranges::problems(&whose, "prefix", &self.all_pools(), outside, all);
        ranges::exclusion_problems(&whose, &self.all_pools(), &self.exclude, all);
        let pools = self.remaining_pools();
        if pools.iter().any(|pool| pool.contains(self.address)) {
            all.push(format!("{whose}: the pool contains the server's own address; see exclude"));
        }
        let size = |pool: &Pool<Ipv6Addr>| pool.last.to_bits() - pool.first.to_bits();
        if pools.iter().map(size).fold(0_u128, u128::saturating_add) >= POOL_MAX {
            all.push(format!("{whose}: the pools have more than {POOL_MAX} addresses"));
        }
        for domain in &self.domains {
            if domain.len() > 253 || !domain.split('.').all(is_host_name) {
                all.push(format!("{whose}: domains: {domain:?} is not a domain"));
            }
        }
        let times = Parameters {
            lease_seconds: Some(self.lease_seconds),
            renew_seconds: self.renew_seconds,
            rebind_seconds: self.rebind_seconds,
            ..Parameters::default()
        };
        times_problems(&whose, &times, all);
    }
}
