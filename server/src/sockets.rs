//! Everything that is bound, before the server gives up the rights to bind.

use crate::clock;
use crate::config::{Config, Dhcp};
use crate::net::{dhcp, dhcp6, ra, tftp};
use anyhow::{Context, Result};
use kaltstart_core::dhcp::role::Mode;
use kaltstart_core::dhcp6::subnet::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, UdpSocket};

/// The open sockets of all doors.
pub(crate) struct Sockets {
    /// Plain HTTP, in both families.
    pub(crate) http: Vec<TcpListener>,
    /// HTTP over TLS.
    pub(crate) https: TcpListener,
    /// TFTP requests, in both families.
    pub(crate) tftp: Vec<UdpSocket>,
    /// DHCP: one per interface, one per address that only relays reach, and the same for PXE where
    /// another server may give the addresses.
    pub(crate) dhcp: Vec<dhcp::Listener>,
    /// Answers to echo requests, if free addresses are looked for anywhere.
    pub(crate) pinger: Option<dhcp::Pinger>,
    /// DHCPv6: one per interface, and one per address that only relays reach.
    pub(crate) dhcp6: Vec<dhcp6::Listener>,
    /// Other servers' answers, one per interface.
    pub(crate) watchers: Vec<dhcp::Watcher>,
    /// Router solicitations, one per interface that shall have it.
    pub(crate) advertisers: Vec<ra::Advertiser>,
    /// Syslog.
    pub(crate) syslog: Option<UdpSocket>,
}

impl Sockets {
    /// Binds what the configuration wants.
    ///
    /// # Errors
    /// When something cannot be bound; the message names the key.
    pub(crate) async fn bind(config: &Config) -> Result<Self> {
        let bind = async |key, listen: SocketAddr| {
            TcpListener::bind(listen).await.with_context(|| {
                format!("cannot listen on {listen} ({key}): is the address ours, the port free?")
            })
        };
        let bind_tftp = |key, listen: SocketAddr| {
            tftp::bind(listen).with_context(|| {
                format!("cannot listen on {listen} ({key}): is the address ours, the port free, are we root?")
            })
        };
        let https = bind("http.tls_listen", config.http.tls_listen().into()).await?;
        let mut http = vec![bind("http.listen", config.http.listen.into()).await?];
        let mut tftp = vec![bind_tftp("tftp.listen", config.tftp.listen.into())?];
        for address in config.addresses6() {
            let at = |port| SocketAddr::from((address, port));
            http.push(bind("dhcp6.address", at(config.http.listen.port())).await?);
            tftp.push(bind_tftp("dhcp6.address", at(config.tftp.listen.port()))?);
        }
        let dhcp6 = bind_dhcp6(config)?;
        let (mut dhcp, mut watchers, mut advertisers) = (Vec::new(), Vec::new(), Vec::new());
        let served = || config.dhcp.iter().filter(|subnet| subnet.mode != Mode::Off);
        // What relays send to an address that is listened on already needs no second socket.
        let mut heard: BTreeSet<_> =
            served().filter(|subnet| subnet.interface.is_some()).map(|subnet| subnet.address).collect();
        for subnet in served() {
            let (name, address) = (subnet.interface.as_deref(), subnet.address);
            if name.is_none() && !heard.insert(address) {
                continue;
            }
            dhcp.push(dhcp::Listener::open(name, address).with_context(|| {
                let on = subnet.title();
                format!("cannot serve DHCP on {on}: is {address} ours, UDP port 67 free, are we root?")
            })?);
            if matches!(subnet.mode, Mode::Proxy | Mode::Auto) {
                let listener = dhcp::Listener::open_boot_server(name, address);
                dhcp.push(listener.with_context(|| {
                    format!("cannot serve PXE on {}: is UDP port 4011 free?", subnet.title())
                })?);
            }
            if let Some(name) = name {
                let watcher = dhcp::Watcher::open(name, subnet.subnet);
                watchers
                    .push(watcher.with_context(|| format!("cannot look for other DHCP servers on {name}"))?);
            }
        }
        for (name, prefix) in advertised(config) {
            match ra::Advertiser::open(name, prefix) {
                Ok(advertiser) => advertisers.push(advertiser),
                // Boot loaders only wait longer without it.
                Err(error) => tracing::warn!(interface = name, %error, "no router advertisements"),
            }
        }
        let pinger =
            config.dhcp.iter().any(Dhcp::pings).then(|| dhcp::Pinger::open(clock::random_bits() as u16));
        let pinger = pinger.and_then(|opened| {
            let told = |error: &io::Error| tracing::warn!(%error, "DHCP: free addresses are offered unchecked (ping_check)");
            opened.inspect_err(told).ok()
        });
        let syslog = match config.syslog.as_ref().map(|syslog| syslog.listen) {
            Some(listen) => Some(UdpSocket::bind(listen).await.with_context(|| {
                format!("cannot listen on {listen} (syslog.listen): is the address ours, the port free?")
            })?),
            None => None,
        };
        Ok(Self { http, https, tftp, dhcp, dhcp6, pinger, watchers, advertisers, syslog })
    }
}

fn bind_dhcp6(config: &Config) -> Result<Vec<dhcp6::Listener>> {
    let on_wires = config.dhcp6.iter().filter(|subnet| subnet.interface.is_some());
    let mut heard: BTreeSet<_> = on_wires.map(|subnet| subnet.address).collect();
    let mut listeners = Vec::new();
    for subnet in &config.dhcp6 {
        let (name, address) = (subnet.interface.as_deref(), subnet.address);
        // What relays send to an address that is listened on already needs no second socket.
        if name.is_none() && !heard.insert(address) {
            continue;
        }
        listeners.push(dhcp6::Listener::open(name, address).with_context(|| {
            let on = subnet.title();
            format!("cannot serve DHCPv6 on {on}: is {address} ours, UDP port 547 free, are we root?")
        })?);
    }
    Ok(listeners)
}

/// The interfaces on which router solicitations are answered, and the prefix in which DHCPv6 is
/// served there.
fn advertised(config: &Config) -> BTreeMap<&str, Option<Prefix>> {
    let answers = |subnet: &&Dhcp| subnet.mode != Mode::Off && subnet.answer_router_solicitations;
    let without =
        config.dhcp.iter().filter(answers).filter_map(|subnet| Some((subnet.interface.as_deref()?, None)));
    let with = config.dhcp6.iter().filter(|subnet| subnet.answer_router_solicitations);
    let with = with.filter_map(|subnet| Some((subnet.interface.as_deref()?, Some(subnet.prefix))));
    without.chain(with).collect()
}
