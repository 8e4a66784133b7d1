//! Machines the configuration knows, and by what it recognises them.

use super::Seen;
use super::parameters::{Class, Parameters};
use super::relay::RelayInfo;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use kaltstart_protocol::ids::Mac;

/// By what a machine is recognised, the strongest first: exactly one decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostKey {
    /// Hardware address.
    Mac(Mac),
    /// Client identifier (option 61).
    ClientId(Vec<u8>),
    /// DUID of a DHCPv6 client.
    Duid(Vec<u8>),
    /// Machine identifier (option 97, or in a DUID), as it is sent.
    Uuid([u8; 16]),
    /// Port of a switch: circuit id and remote id (option 82). One of them may be left out.
    Port(Option<Vec<u8>>, Option<Vec<u8>>),
}

impl HostKey {
    /// Both keys of a UUID as people write it: firmware sends it as it is written or, as SMBIOS
    /// stores it, with its first three fields turned around.
    #[must_use]
    pub fn of_uuid(uuid: [u8; 16]) -> [Self; 2] {
        let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
        let mut turned = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
        turned[8..].copy_from_slice(&rest);
        [Self::Uuid(uuid), Self::Uuid(turned)]
    }
}

/// A machine of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The address kept for it.
    pub address: Option<Ipv4Addr>,
    /// The IPv6 address kept for it.
    pub address6: Option<Ipv6Addr>,
    /// What it is told.
    pub parameters: Parameters,
}

/// What holds in every subnet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Kinds of clients; the first that fits speaks first.
    pub classes: Vec<Class>,
    /// The addresses that are kept for machines.
    pub reserved: BTreeSet<Ipv4Addr>,
    /// The IPv6 addresses that are.
    pub reserved6: BTreeSet<Ipv6Addr>,
    hosts: Vec<Host>,
    /// Where in `hosts` a machine is found.
    keys: BTreeMap<HostKey, usize>,
}

impl Rules {
    /// Adds a machine that is recognised by any of the keys.
    pub fn add(&mut self, keys: impl IntoIterator<Item = HostKey>, host: Host) {
        self.keys.extend(keys.into_iter().map(|key| (key, self.hosts.len())));
        self.reserved.extend(host.address);
        self.reserved6.extend(host.address6);
        self.hosts.push(host);
    }

    /// The longest lease that classes and machines lead to, seconds; none where they leave that to subnets.
    #[must_use]
    pub fn longest_lease(&self) -> Option<u32> {
        let classes = self.classes.iter().map(|class| &class.parameters);
        let all = classes.chain(self.hosts.iter().map(|host| &host.parameters));
        all.filter_map(Parameters::longest_lease).max()
    }

    /// The machine of that key.
    #[must_use]
    pub fn find(&self, key: &HostKey) -> Option<&Host> {
        self.keys.get(key).and_then(|at| self.hosts.get(*at))
    }

    /// The machine of the sender, and whether it was recognised by its hardware address.
    #[must_use]
    pub fn host(&self, seen: &Seen<'_>) -> Option<(&Host, bool)> {
        if self.keys.is_empty() {
            return None;
        }
        if let Some(host) = seen.mac.and_then(|mac| self.find(&HostKey::Mac(mac))) {
            return Some((host, true));
        }
        let message = &seen.message;
        let RelayInfo { circuit, remote, .. } = RelayInfo::of(message);
        let port = |circuit: Option<&[u8]>, remote: Option<&[u8]>| {
            (circuit.is_some() || remote.is_some())
                .then(|| HostKey::Port(circuit.map(Vec::from), remote.map(Vec::from)))
        };
        let keys = [
            message.client_id().map(|id| HostKey::ClientId(id.into())),
            message.uuid().map(HostKey::Uuid),
            port(circuit, remote),
            port(circuit, None),
            port(None, remote),
        ];
        keys.iter().flatten().find_map(|key| self.find(key)).map(|host| (host, false))
    }
}
