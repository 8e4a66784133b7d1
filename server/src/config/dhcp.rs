//! `[[dhcp]]`

use super::dhcp_class::DhcpSite;
use super::dhcp_option::{self, DhcpOption};
use super::ranges::{self, ranges};
use super::yes;
use crate::net::dhcp::Subject;
use kaltstart_core::dhcp::bootfile::LocalAnswer;
use kaltstart_core::dhcp::host::Rules;
use kaltstart_core::dhcp::lease::Pool;
use kaltstart_core::dhcp::parameters::{LEASE_SECONDS, LEASE_SECONDS_MIN, Parameters};
use kaltstart_core::dhcp::ping_check::{Looking, PingCheck};
use kaltstart_core::dhcp::role::Mode;
use kaltstart_core::dhcp::subnet::{Network, Subnet};
use kaltstart_protocol::dhcp::options::code;
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// `[[dhcp]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp {
    /// Interface; none = reached through relays only.
    #[serde(default)]
    pub interface: Option<String>,
    /// Network, as `10.77.0.0/24`.
    #[serde(deserialize_with = "network")]
    pub subnet: Network,
    /// This server's address, as the clients reach it.
    pub address: Ipv4Addr,
    /// How it is served.
    #[serde(default)]
    pub mode: Mode,
    /// Whether it is served with addresses although another DHCP server was there first.
    #[serde(default)]
    pub allow_other_servers: bool,
    /// First and last dynamic address; none = reservations only.
    #[serde(default)]
    pub pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Further pools.
    #[serde(default)]
    pub pools: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// What is left out of the pools: `10.77.0.110`, or `10.77.0.120-10.77.0.129`.
    #[serde(default, deserialize_with = "ranges")]
    pub exclude: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Default router.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Relays outside of the network that may ask for it: addresses or networks.
    #[serde(default, deserialize_with = "networks")]
    pub relays: Vec<Network>,
    /// How long an address is lent, in seconds.
    #[serde(default)]
    pub lease_seconds: Option<u32>,
    /// Longest lease that is granted when it is asked for.
    #[serde(default)]
    pub max_lease_seconds: Option<u32>,
    /// T1.
    #[serde(default)]
    pub renew_seconds: Option<u32>,
    /// T2.
    #[serde(default)]
    pub rebind_seconds: Option<u32>,
    /// Options.
    #[serde(default)]
    pub options: Vec<DhcpOption>,
    /// When free addresses are looked for on the network before they are offered.
    #[serde(default)]
    pub ping_check: PingCheck,
    /// Whether router solicitations are answered with "no router here", so that boot loaders do
    /// not wait for IPv6. Harmless beside real routers.
    #[serde(default = "yes")]
    pub answer_router_solicitations: bool,
}

/// Reads a network as `10.77.0.0/24`: a prefix of 1 to 30 bits, no host bits set.
pub(super) fn network<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Network, D::Error> {
    let text = String::deserialize(from)?;
    read_network(&text, 30).map_err(serde::de::Error::custom)
}

/// Reads networks, or single addresses.
pub(super) fn networks<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Network>, D::Error> {
    let read = |text: String| match text.parse() {
        Ok(address) => Ok(Network { address, prefix: 32 }),
        Err(_) => read_network(&text, 32).map_err(serde::de::Error::custom),
    };
    Vec::<String>::deserialize(from)?.into_iter().map(read).collect()
}

fn read_network(text: &str, longest: u8) -> Result<Network, String> {
    let bad = || format!("{text:?} is not a network, as 10.77.0.0/24");
    let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
    let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=longest).contains(prefix)).ok_or_else(bad)?;
    let network = Network { address, prefix };
    if address & network.mask() == address { Ok(network) } else { Err(format!("{text:?} has host bits set")) }
}

impl Dhcp {
    /// What the section is called in messages: by its interface, else by its network.
    #[must_use]
    pub fn title(&self) -> String {
        let Network { address, prefix } = self.subnet;
        self.interface.clone().unwrap_or_else(|| format!("{address}/{prefix}"))
    }

    /// The subnet as the DHCP decisions want it; `http_base` is the base of this server's URLs.
    #[must_use]
    pub fn decided_upon(&self, http_base: &str, site: &DhcpSite, rules: &Arc<Rules>) -> Subnet {
        let parameters = self.parameters().or(&site.parameters());
        let usual = parameters.lease_seconds.unwrap_or(LEASE_SECONDS);
        let longest = rules.longest_lease().max(parameters.longest_lease()).unwrap_or(0).max(usual);
        Subnet {
            network: self.subnet,
            server: self.address,
            http: http_base.to_owned(),
            direct: self.interface.is_some(),
            relays: self.relays.clone(),
            pools: self.remaining_pools(),
            parameters,
            rules: rules.clone(),
            local: LocalAnswer::default(),
            looking: Looking {
                mode: self.ping_check,
                longest_ms: u64::from(longest) * 1_000,
                on_wire: self.interface.is_some(),
            },
        }
    }

    /// The subnet as it is watched for other servers.
    #[must_use]
    pub fn watched(&self) -> Subject {
        Subject {
            interface: self.title(),
            network: self.subnet,
            server: self.address,
            mode: self.mode,
            has_pool: !self.remaining_pools().is_empty(),
            // Where only relays reach, nobody can be looked for.
            others_allowed: self.allow_other_servers || self.interface.is_none(),
        }
    }

    /// Whether addresses are ever looked for before they are offered.
    #[must_use]
    pub fn pings(&self) -> bool {
        self.ping_check != PingCheck::Never
            && matches!(self.mode, Mode::Authoritative | Mode::Auto)
            && !self.remaining_pools().is_empty()
    }

    fn parameters(&self) -> Parameters {
        let mut options = dhcp_option::collect(&self.options);
        if let Some(router) = self.router {
            options.set_addresses(code::ROUTERS, &[router]);
        }
        if !self.dns.is_empty() {
            options.set_addresses(code::NAME_SERVERS, &self.dns);
        }
        Parameters {
            lease_seconds: self.lease_seconds,
            max_lease_seconds: self.max_lease_seconds,
            renew_seconds: self.renew_seconds,
            rebind_seconds: self.rebind_seconds,
            options,
        }
    }

    fn all_pools(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        ranges::sorted(self.pool, &self.pools)
    }

    /// The pools without what is excluded, in order.
    fn remaining_pools(&self) -> Vec<Pool> {
        ranges::without(self.all_pools(), &self.exclude)
    }

    /// Whether a pool contains the address.
    pub(super) fn gives(&self, address: Ipv4Addr) -> bool {
        self.remaining_pools().iter().any(|pool| pool.contains(address))
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        let whose = format!("dhcp {}", self.title());
        let outside = |address| !self.subnet.has_host(address);
        if self.interface.is_some() && outside(self.address) {
            all.push(format!("{whose}: address {} is not a host of its subnet", self.address));
        }
        if self.mode == Mode::Auto && (self.interface.is_none() || self.remaining_pools().is_empty()) {
            all.push(format!(
                "{whose}: mode auto needs an interface, and a pool for when no other server is there"
            ));
        }
        if self.allow_other_servers && self.mode != Mode::Authoritative {
            all.push(format!("{whose}: allow_other_servers is for mode authoritative alone"));
        }
        ranges::problems(&whose, "subnet", &self.all_pools(), outside, all);
        ranges::exclusion_problems(&whose, &self.all_pools(), &self.exclude, all);
        let given = |address| self.gives(address);
        if given(self.address) {
            all.push(format!("{whose}: the pool contains the server's own address; see exclude"));
        }
        if self.router.is_some_and(given) {
            all.push(format!("{whose}: the pool contains the router's address; see exclude"));
        }
        if let Some(router) = self.router.filter(|router| outside(*router)) {
            all.push(format!("{whose}: router {router} is not a host of its subnet"));
        }
        for (key, given, code) in [
            ("router", self.router.is_some(), code::ROUTERS),
            ("dns", !self.dns.is_empty(), code::NAME_SERVERS),
        ] {
            if given && self.options.iter().any(|option| option.code == code) {
                all.push(format!("{whose}: options: code {code} is what {key} says already"));
            }
        }
        dhcp_option::problems(&whose, &self.options, all);
        times_problems(&whose, &self.parameters(), all);
    }
}

pub(super) fn lease_problems(whose: &str, lease_seconds: Option<u32>, all: &mut Vec<String>) {
    if lease_seconds.is_some_and(|seconds| seconds < LEASE_SECONDS_MIN) {
        all.push(format!("{whose}: lease_seconds must be at least {LEASE_SECONDS_MIN}"));
    }
}

/// Lease times that contradict each other.
pub(super) fn times_problems(whose: &str, times: &Parameters, all: &mut Vec<String>) {
    let Parameters { lease_seconds, max_lease_seconds, renew_seconds, rebind_seconds, options: _ } = times;
    lease_problems(whose, *lease_seconds, all);
    let lease = lease_seconds.unwrap_or(LEASE_SECONDS);
    if lease_seconds.is_some() && max_lease_seconds.is_some_and(|longest| longest < lease) {
        all.push(format!("{whose}: max_lease_seconds is below lease_seconds"));
    }
    let rebind = rebind_seconds.unwrap_or(lease - lease / 8);
    if rebind_seconds.is_some() && rebind >= lease {
        all.push(format!("{whose}: rebind_seconds must be below lease_seconds"));
    }
    if renew_seconds.is_some_and(|renew| renew >= rebind) {
        all.push(format!("{whose}: renew_seconds must be below rebind_seconds"));
    }
}
