//! `[dhcp_site]` and `[[dhcp_class]]`

use super::dhcp::{network, times_problems};
use super::dhcp_option::{self, DhcpOption, from_hex};
use kaltstart_core::dhcp::parameters::{Class, Parameters};
use kaltstart_core::dhcp::subnet::Network;
use serde::Deserialize;

/// `[dhcp_site]`: what holds in every subnet that does not say otherwise.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpSite {
    /// Usual length of a lease.
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
}

impl DhcpSite {
    /// As the decisions want it.
    pub(super) fn parameters(&self) -> Parameters {
        Parameters {
            lease_seconds: self.lease_seconds,
            max_lease_seconds: self.max_lease_seconds,
            renew_seconds: self.renew_seconds,
            rebind_seconds: self.rebind_seconds,
            options: dhcp_option::collect(&self.options),
        }
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        dhcp_option::problems("dhcp_site", &self.options, all);
        times_problems("dhcp_site", &self.parameters(), all);
    }
}

/// `[[dhcp_class]]`: a kind of clients. All conditions that are given must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpClass {
    /// Name.
    pub name: String,
    /// Beginning of the vendor class.
    #[serde(default)]
    pub vendor_class: Option<String>,
    /// User class.
    #[serde(default)]
    pub user_class: Option<String>,
    /// Architecture, by number.
    #[serde(default)]
    pub architecture: Option<u16>,
    /// Beginning of the hardware address, as `52:54:00`.
    #[serde(default)]
    pub mac: Option<String>,
    /// Network of the relay.
    #[serde(default, deserialize_with = "some_network")]
    pub relay: Option<Network>,
    /// Usual length of a lease.
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
}

fn some_network<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Network>, D::Error> {
    network(from).map(Some)
}

impl DhcpClass {
    /// As the decisions want it.
    pub(super) fn decided_upon(&self) -> Class {
        Class {
            name: self.name.clone(),
            vendor_class: self.vendor_class.clone(),
            user_class: self.user_class.clone(),
            architecture: self.architecture,
            mac: self.mac.as_deref().and_then(from_hex).unwrap_or_default(),
            relay: self.relay,
            parameters: Parameters {
                lease_seconds: self.lease_seconds,
                max_lease_seconds: self.max_lease_seconds,
                renew_seconds: self.renew_seconds,
                rebind_seconds: self.rebind_seconds,
                options: dhcp_option::collect(&self.options),
            },
        }
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        let whose = format!("dhcp_class {:?}", self.name);
        let class = self.decided_upon();
        if let Some(mac) = self.mac.as_ref().filter(|_| !(1..=6).contains(&class.mac.len())) {
            all.push(format!("{whose}: mac {mac:?} is not the beginning of a MAC, as 52:54:00"));
        }
        let named = [&self.vendor_class, &self.user_class, &self.mac].into_iter().any(Option::is_some);
        if !named && self.architecture.is_none() && self.relay.is_none() {
            all.push(format!(
                "{whose}: no condition: give vendor_class, user_class, architecture, mac or relay, \
                 or say it in dhcp_site"
            ));
        }
        dhcp_option::problems(&whose, &self.options, all);
        times_problems(&whose, &class.parameters, all);
    }
}
