//! The watch over every subnet, shared by those who see packets and those who ask.

use crate::clock::{self, Steady};
use kaltstart_core::dhcp::foreign::{self, Sighting};
use kaltstart_core::dhcp::lease::Usage;
use kaltstart_core::dhcp::role::{Mode, Role};
use kaltstart_core::dhcp::subnet::Network;
use kaltstart_core::dhcp::watch::{OtherServer, Watch};
use kaltstart_core::trace::ForeignOffer;
use kaltstart_protocol::dhcp::{Message, MessageType};
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A subnet to be watched.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its interface.
    pub interface: String,
    /// The network.
    pub network: Network,
    /// This server's address on it.
    pub server: Ipv4Addr,
    /// How it shall be served.
    pub mode: Mode,
    /// Whether there are addresses to give out.
    pub has_pool: bool,
    /// Whether it is served although another server was there first.
    pub others_allowed: bool,
}

/// How a subnet is served, and who else is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubnetView {
    /// The network, as `10.77.0.0/24`.
    pub subnet: String,
    /// The interface it is on.
    pub interface: String,
    /// This server's address on it.
    pub address: IpAddr,
    /// How it shall be served.
    pub mode: Mode,
    /// How it is served.
    pub role: Role,
    /// Other servers seen since this one was started.
    pub servers: Vec<ServerView>,
    /// How many addresses are lent; none where there are no pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<Usage>,
}

/// Another server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerView {
    /// Its address.
    pub address: Ipv4Addr,
    /// What is remembered of it.
    #[serde(flatten)]
    pub seen: OtherServer,
    /// What to make of it.
    #[serde(flatten)]
    pub finding: Finding,
}

#[derive(Debug)]
struct Watched {
    subject: Subject,
    watch: Mutex<Watch>,
    /// The hardware address of our probes, once there is somebody to send them.
    probe_mac: OnceLock<Mac>,
}

impl Watched {
    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what changed, and why.
    fn tell_role(&self, role: Role) {
        let Subject { interface, mode, .. } = &self.subject;
        match role {
            Role::Refused => tracing::error!(
                interface,
                %mode,
                "DHCP: not served, because another server was there first; take it away, or set \
                 `mode = \"proxy\"`, `mode = \"auto\"` or `allow_other_servers = true`"
            ),
            Role::Proxy => tracing::warn!(
                interface,
                %mode,
                "DHCP: another server gives addresses here; from now on this one names boot files only"
            ),
            _ => tracing::info!(interface, %mode, %role, "DHCP: no other server answers"),
        }
    }
}

/// The watch over every subnet.
#[derive(Debug)]
pub struct Watches {
    subnets: Vec<Watched>,
    /// The addresses of servers that share this one's database.
    siblings: BTreeSet<Ipv4Addr>,
    clock: Steady,
}

impl Watches {
    /// Begins to watch at the wall clock's time `now`. `siblings` are the addresses of servers that share this one's
    /// database: what they give is given by all.
    #[must_use]
    pub fn new(
        subjects: impl IntoIterator<Item = Subject>,
        siblings: impl IntoIterator<Item = Ipv4Addr>,
        now: Millis,
    ) -> Self {
        let watched = |subject: Subject| {
            let Subject { mode, has_pool, others_allowed, .. } = subject;
            let watch = Watch::new(mode, has_pool, others_allowed, now);
            tracing::info!(interface = subject.interface, %mode, role = %watch.role(), "DHCP: role at the start");
            Watched { subject, watch: Mutex::new(watch), probe_mac: OnceLock::new() }
        };
        Self {
            subnets: subjects.into_iter().map(watched).collect(),
            siblings: siblings.into_iter().collect(),
            clock: Steady::new(now),
        }
    }

    fn of(&self, network: Network) -> Option<&Watched> {
        self.subnets.iter().find(|one| one.subject.network == network)
    }

    /// How the network is served now; one that nobody watches, with addresses.
    #[must_use]
    pub fn role(&self, network: Network) -> Role {
        self.of(network).map_or(Role::Authoritative, |one| one.watch().role())
    }

    /// Whether the address is one that this server may have given out.
    #[must_use]
    pub fn gives(&self, address: Ipv4Addr) -> bool {
        let of_address = self.subnets.iter().find(|one| one.subject.network.contains(address));
        of_address.is_some_and(|one| one.watch().role() == Role::Authoritative)
    }

    /// Notes what a client's message says of other servers.
    pub fn heard_client(&self, network: Network, message: &Message) {
        if let Some(sighting) = Sighting::of_request(message, |address| self.is_ours(address)) {
            self.saw(network, sighting);
        }
    }

    /// Notes what a message to clients, sent from `source` by `mac`, says of other servers; tells
    /// what it offers, and to whom.
    pub(super) fn heard_server(
        &self,
        network: Network,
        message: &Message,
        source: Ipv4Addr,
        mac: Option<Mac>,
    ) -> Option<(Mac, ForeignOffer)> {
        let sighting = Sighting::of_reply(message, source, mac, |address| self.is_ours(address))?;
        self.saw(network, sighting);
        ForeignOffer::of(message, &sighting)
    }

    /// Whether the message is a probe of ours, which the network brings back.
    #[must_use]
    pub fn is_probe(&self, message: &Message) -> bool {
        let sent = |one: &Watched| one.probe_mac.get().is_some_and(|mac| message.mac() == Some(*mac));
        message.kind() == Some(MessageType::Discover) && self.subnets.iter().any(sent)
    }

    /// A probe from an interface with the hardware address `own`, if one is due: it counts as sent.
    pub(super) fn due_probe(&self, network: Network, own: Mac) -> Option<Message> {
        let one = self.of(network)?;
        one.probe_mac.get_or_init(|| foreign::probe_mac(own));
        let now = self.clock.now();
        let mut watch = one.watch();
        if now < watch.next_probe() {
            return None;
        }
        if let Some(role) = watch.probe_sent(now) {
            one.tell_role(role);
        }
        Some(foreign::probe(own, u32::from_be_bytes(clock::random())))
    }

    fn is_ours(&self, address: Ipv4Addr) -> bool {
        self.subnets.iter().any(|one| one.subject.server == address) || self.siblings.contains(&address)
    }

    fn saw(&self, network: Network, sighting: Sighting) {
        let Some(one) = self.of(network) else { return };
        let mut watch = one.watch();
        let news = watch.saw(sighting, self.clock.now());
        let known = watch.servers().get(&sighting.server).copied();
        // Where addresses are another server's business, that server is expected.
        let expected = watch.mode() == Mode::Proxy || one.subject.others_allowed;
        drop(watch);
        if let Some(role) = news.role {
            one.tell_role(role);
        }
        let Some(OtherServer { mac, gives, .. }) = known.filter(|_| news.tell) else { return };
        let finding = foreign::finding(gives, sighting.server, mac);
        let (code, interface) = (finding.code.number(), &one.subject.interface);
        if expected {
            tracing::info!(interface, code, %finding, "DHCP");
        } else {
            tracing::warn!(interface, code, %finding, next = finding.code.next(), "DHCP");
        }
    }

    /// Every subnet as it is now, of which that much is lent.
    #[must_use]
    pub fn view(&self, usage: &[(Network, Usage)]) -> Vec<SubnetView> {
        let view = |one: &Watched| {
            let (watch, subject) = (one.watch(), &one.subject);
            let server = |(address, seen): (&Ipv4Addr, &OtherServer)| ServerView {
                address: *address,
                seen: *seen,
                finding: foreign::finding(seen.gives, *address, seen.mac),
            };
            SubnetView {
                subnet: format!("{}/{}", subject.network.address, subject.network.prefix),
                interface: subject.interface.clone(),
                address: subject.server.into(),
                mode: watch.mode(),
                role: watch.role(),
                servers: watch.servers().iter().map(server).collect(),
                leases: usage
                    .iter()
                    .find(|(network, usage)| *network == subject.network && usage.pool > 0)
                    .map(|(_, usage)| *usage),
            }
        };
        self.subnets.iter().map(view).collect()
    }
}
