//! Everything that is bound, before the server gives up the rights to bind.

use crate::clock;
use crate::config::{Config, Dhcp};
use crate::net::{dhcp, dhcp6, ra, tftp};
use anyhow::Result;
use caps::{CapSet, Capability};
use kaltstart_core::dhcp::role::Mode;
use kaltstart_core::dhcp6::subnet::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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

/// The ports that the kernel chose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) tftp: u16,
    pub(crate) dhcp: u16,
}

impl Sockets {
    /// Binds an address of this machine at ports that are free, which takes no rights: for clients that are told
    /// them, and DHCP relays that hear answers where they ask from.
    ///
    /// # Errors
    /// When the address is not this machine's.
    pub(crate) async fn bind_free(address: Ipv4Addr) -> Result<(Self, Ports)> {
        let at = SocketAddr::from((address, 0));
        let (http, https) = (TcpListener::bind(at).await?, TcpListener::bind(at).await?);
        let (tftp, (dhcp, dhcp_port)) = (tftp::bind(at)?, dhcp::Listener::open_free(address)?);
        let ports = Ports {
            http: http.local_addr()?.port(),
            https: https.local_addr()?.port(),
            tftp: tftp.local_addr()?.port(),
            dhcp: dhcp_port,
        };
        let sockets = Self {
            http: vec![http],
            https,
            tftp: vec![tftp],
            dhcp: vec![dhcp],
            pinger: None,
            dhcp6: Vec::new(),
            watchers: Vec::new(),
            advertisers: Vec::new(),
            syslog: None,
        };
        Ok((sockets, ports))
    }

    /// Binds what the configuration wants.
    ///
    /// # Errors
    /// When something cannot be bound; the message names the key.
    pub(crate) async fn bind(config: &Config) -> Result<Self> {
        let bind = async |key, listen: SocketAddr| {
            let bound = TcpListener::bind(listen).await;
            bound.map_err(|error| refused(error, format!("listen on {listen} ({key})"), ADDRESS_AND_PORT))
        };
        let bind_tftp = |key, listen: SocketAddr| {
            let bound = tftp::bind(listen);
            bound.map_err(|error| refused(error, format!("listen on {listen} ({key})"), ADDRESS_AND_PORT))
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
            let on = subnet.title();
            dhcp.push(dhcp::Listener::open(name, address).map_err(|error| {
                let hint = format!("is {address} ours, UDP port 67 free?");
                refused(error, format!("serve DHCP on {on}"), &hint)
            })?);
            if matches!(subnet.mode, Mode::Proxy | Mode::Auto) {
                let listener = dhcp::Listener::open_boot_server(name, address);
                dhcp.push(listener.map_err(|error| {
                    refused(error, format!("serve PXE on {on}"), "is UDP port 4011 free?")
                })?);
            }
            if let Some(name) = name {
                let watcher = dhcp::Watcher::open(name, subnet.subnet);
                watchers.push(watcher.map_err(|error| {
                    let what = format!("look for other DHCP servers on {name}");
                    refused(error, what, "is there an Ethernet interface of that name?")
                })?);
            }
        }
        for (name, prefix) in advertised(config) {
            match ra::Advertiser::open(name, prefix) {
                Ok(advertiser) => advertisers.push(advertiser),
                // Boot loaders only wait longer without it.
                Err(error) => tracing::warn!(interface = name, %error, "no router advertisements"),
            }
        }
        let interfaces = config.dhcp.iter().filter_map(|dhcp| dhcp.interface.as_deref());
        let pinger = config.dhcp.iter().any(Dhcp::pings);
        let pinger = pinger.then(|| dhcp::Pinger::open(clock::random_bits() as u16, interfaces));
        let pinger = pinger.and_then(|opened| {
            let told = |error: &io::Error| tracing::warn!(%error, "DHCP: free addresses are offered unchecked (ping_check)");
            opened.inspect_err(told).ok()
        });
        let syslog = match config.syslog.as_ref().map(|syslog| syslog.listen) {
            Some(listen) => Some(UdpSocket::bind(listen).await.map_err(|error| {
                refused(error, format!("listen on {listen} (syslog.listen)"), ADDRESS_AND_PORT)
            })?),
            None => None,
        };
        Ok(Self { http, https, tftp, dhcp, dhcp6, pinger, watchers, advertisers, syslog })
    }
}

/// What usually is wrong where an address and a port are bound.
const ADDRESS_AND_PORT: &str = "is the address ours, the port free?";

/// What binding takes: ports below 1024, and raw sockets.
const NEEDED: [Capability; 2] = [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_NET_RAW];

/// Says what could not be done, and what to look at: the rights where they are missing, else `hint`.
fn refused(error: io::Error, what: String, hint: &str) -> anyhow::Error {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        let had = caps::read(None, CapSet::Effective).unwrap_or_default();
        rights(&NEEDED.into_iter().filter(|one| !had.contains(one)).collect::<Vec<_>>())
    } else {
        hint.to_owned()
    };
    anyhow::Error::from(error).context(format!("cannot {what}: {hint}"))
}

/// How a process gets the rights it lacks.
fn rights(missing: &[Capability]) -> String {
    if missing.is_empty() {
        return "no capability is missing, so look at AppArmor, SELinux, or RestrictAddressFamilies= of the unit"
            .into();
    }
    let missing: Vec<String> = missing.iter().map(Capability::to_string).collect();
    format!(
        "the process lacks {}; start it as root, or from a systemd unit with `AmbientCapabilities=\
         CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_NET_ADMIN`, or let the program have them: `setcap \
         cap_net_bind_service,cap_net_raw,cap_net_admin+ep FILE`",
        missing.join(" and ")
    )
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
        listeners.push(dhcp6::Listener::open(name, address).map_err(|error| {
            let hint = format!("is {address} ours, UDP port 547 free?");
            refused(error, format!("serve DHCPv6 on {}", subnet.title()), &hint)
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
