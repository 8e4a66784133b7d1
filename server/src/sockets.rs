//! Everything that is bound, before the server gives up the rights to bind.

use crate::clock;
use crate::config::{Config, Dhcp};
use crate::net::{dhcp, ra, tftp};
use anyhow::{Context, Result};
use kaltstart_core::dhcp::role::Mode;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddrV4;
use tokio::net::{TcpListener, UdpSocket};

/// The open sockets of all doors.
pub(crate) struct Sockets {
    /// Plain HTTP.
    pub(crate) http: TcpListener,
    /// HTTP over TLS.
    pub(crate) https: TcpListener,
    /// TFTP requests.
    pub(crate) tftp: UdpSocket,
    /// DHCP: one per interface, one per address that only relays reach, and the same for PXE where
    /// another server may give the addresses.
    pub(crate) dhcp: Vec<dhcp::Listener>,
    /// Answers to echo requests, if free addresses are looked for anywhere.
    pub(crate) pinger: Option<dhcp::Pinger>,
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
        let bind = async |key, listen: SocketAddrV4| {
            TcpListener::bind(listen).await.with_context(|| {
                format!("cannot listen on {listen} ({key}): is the address ours, the port free?")
            })
        };
        let http = bind("http.listen", config.http.listen).await?;
        let https = bind("http.tls_listen", config.http.tls_listen()).await?;
        let listen = config.tftp.listen;
        let tftp = tftp::bind(listen.into()).with_context(|| {
            format!(
                "cannot listen on {listen} (tftp.listen): is the address ours, the port free, are we root?"
            )
        })?;
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
            let Some(name) = name.filter(|_| subnet.answer_router_solicitations) else { continue };
            match ra::Advertiser::open(name) {
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
        Ok(Self { http, https, tftp, dhcp, pinger, watchers, advertisers, syslog })
    }
}
