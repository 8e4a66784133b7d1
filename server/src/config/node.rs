//! `[[node]]`

use super::dhcp_option::{self, DhcpOption, from_hex};
use kaltstart_core::about::{Edit, LABELS_MAX, LabelValue, Word};
use kaltstart_core::boot::UefiLoader;
use kaltstart_core::dhcp::host::{Host, HostKey};
use kaltstart_core::dhcp::lease::MAX_CLIENT_ID;
use kaltstart_core::dhcp::parameters::Parameters;
use kaltstart_protocol::dhcp6::duid;
use kaltstart_protocol::ids::Mac;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

/// What is wrong with a hardware address that is zero or a group's.
pub const NO_INTERFACE: &str = "is no interface's: it is zero, or a group's address (broadcast, multicast)";

/// `[[node]]`: a machine that is expected.
///
/// Its identity is its hardware address. Without one nothing is declared: name and address are kept
/// for whoever is recognised by the other keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Host name, one label.
    pub name: String,
    /// Hardware address of the interface it boots from.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Reserved address.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Reserved IPv6 address.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// DUID of a DHCPv6 client, in bytes as `0x000400112233…`.
    #[serde(default)]
    pub duid: Option<String>,
    /// Client identifier (option 61): text, or bytes as `0x01525400000001`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// UUID of the machine (option 97).
    #[serde(default)]
    pub uuid: Option<String>,
    /// Port of its switch (option 82): text, or bytes after `0x`.
    #[serde(default)]
    pub circuit_id: Option<String>,
    /// Its switch (option 82): text, or bytes after `0x`.
    #[serde(default)]
    pub remote_id: Option<String>,
    /// Length of its leases.
    #[serde(default)]
    pub lease_seconds: Option<u32>,
    /// DHCP options.
    #[serde(default)]
    pub options: Vec<DhcpOption>,
    /// How it is started if it has UEFI; left out: as `boot.uefi_loader` says.
    #[serde(default)]
    pub uefi_loader: Option<UefiLoader>,
    /// Whose it is.
    #[serde(default)]
    pub team: Option<Word>,
    /// What it does.
    #[serde(default)]
    pub role: Option<Word>,
    /// Where its rack stands.
    #[serde(default)]
    pub site: Option<Word>,
    /// Its rack.
    #[serde(default)]
    pub rack: Option<Word>,
    /// Its lowest unit in the rack, from 1.
    #[serde(default)]
    pub position: Option<NonZeroU16>,
    /// Marks.
    #[serde(default)]
    pub labels: BTreeMap<Word, LabelValue>,
}

/// A machine to be declared.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// Host name, one label.
    pub name: String,
    /// Hardware address of the interface it boots from.
    pub mac: Mac,
    /// Reserved address.
    pub address: Option<Ipv4Addr>,
    /// How it is started if it has UEFI; none: as the site says.
    pub uefi_loader: Option<UefiLoader>,
    /// What is said of it; what is left out stays as somebody said it since.
    pub about: Edit,
    /// Whether a machine with that address that was declared under another name gets this one.
    pub renames: bool,
}

impl Node {
    /// The machine to be declared; none when its identity is not known.
    #[must_use]
    pub fn declaration(&self) -> Option<Declaration> {
        let (name, uefi_loader) = (self.name.clone(), self.uefi_loader);
        let about = Edit {
            team: self.team.clone().map(Some),
            role: self.role.clone().map(Some),
            site: self.site.clone().map(Some),
            rack: self.rack.clone().map(Some),
            position: self.position.map(|position| Some(position.get())),
            labels: self.labels.iter().map(|(label, value)| (label.clone(), Some(value.clone()))).collect(),
        };
        // The file is the operator's word on the whole site: its names hold.
        Some(Declaration { name, mac: self.mac?, address: self.address, uefi_loader, about, renames: true })
    }

    /// As the DHCP decisions want it: by what it is recognised, and what it gets.
    pub(super) fn decided_upon(&self) -> (Vec<HostKey>, Host) {
        let mut keys = Vec::new();
        keys.extend(self.mac.map(HostKey::Mac));
        keys.extend(self.client_id.as_deref().and_then(identifier).map(HostKey::ClientId));
        keys.extend(self.duid.as_deref().and_then(duid).map(HostKey::Duid));
        keys.extend(self.uuid.as_deref().and_then(uuid).map(HostKey::of_uuid).into_iter().flatten());
        let [circuit, remote] =
            [&self.circuit_id, &self.remote_id].map(|text| text.as_deref().and_then(identifier));
        if circuit.is_some() || remote.is_some() {
            keys.push(HostKey::Port(circuit, remote));
        }
        let parameters = Parameters {
            lease_seconds: self.lease_seconds,
            options: dhcp_option::collect(&self.options),
            ..Parameters::default()
        };
        (keys, Host { name: self.name.clone(), address: self.address, address6: self.address6, parameters })
    }

    pub(super) fn problems(&self, all: &mut Vec<String>) {
        let whose = format!("node {:?}", self.name);
        if !is_host_name(&self.name) {
            all.push(format!("node.name {:?} is not a host name (letters, digits, -)", self.name));
        }
        if let Some(mac) = self.mac.filter(|mac| !mac.is_individual()) {
            all.push(format!("{whose}: mac {mac} {NO_INTERFACE}"));
        }
        let identifiers = [
            ("client_id", &self.client_id),
            ("circuit_id", &self.circuit_id),
            ("remote_id", &self.remote_id),
        ];
        for (key, text) in identifiers {
            if let Some(text) = text.as_ref().filter(|text| identifier(text).is_none()) {
                all.push(format!(
                    "{whose}: {key} {text:?} is neither text nor bytes after 0x, 1 to {MAX_CLIENT_ID} bytes"
                ));
            }
        }
        if let Some(text) = self.uuid.as_ref().filter(|text| uuid(text).is_none()) {
            all.push(format!("{whose}: uuid {text:?} is not a UUID"));
        }
        if let Some(text) = self.duid.as_ref().filter(|text| duid(text).is_none()) {
            all.push(format!("{whose}: duid {text:?} is not a DUID: 3 to 130 bytes after 0x"));
        }
        if self.labels.len() > LABELS_MAX {
            all.push(format!("{whose}: it has more than {LABELS_MAX} labels"));
        }
        let (keys, _) = self.decided_upon();
        if keys.is_empty() {
            all.push(format!("{whose}: give mac, client_id, duid, uuid, circuit_id or remote_id"));
        } else if self.mac.is_none() && self.address.is_none() && self.address6.is_none() {
            all.push(format!(
                "{whose}: without mac it needs an address: there is nothing else to keep for it"
            ));
        }
        dhcp_option::problems(&whose, &self.options, all);
        super::dhcp::lease_problems(&whose, self.lease_seconds, all);
    }
}

/// What two nodes claim: keys and addresses.
pub(super) fn shared(nodes: &[Node], all: &mut Vec<String>) {
    let mut owners = BTreeMap::new();
    for node in nodes {
        for key in node.decided_upon().0 {
            // A UUID that reads the same turned around is one key twice.
            if let Some(owner) = owners.insert(key.clone(), &node.name).filter(|owner| **owner != node.name) {
                let what = match key {
                    HostKey::Mac(mac) => format!("mac {mac}"),
                    HostKey::ClientId(_) => "client_id".into(),
                    HostKey::Duid(_) => "duid".into(),
                    HostKey::Uuid(_) => "uuid".into(),
                    HostKey::Port(..) => "circuit_id and remote_id".into(),
                };
                all.push(format!("nodes {owner:?} and {:?} have the same {what}", node.name));
            }
        }
    }
    let mut owners = BTreeMap::new();
    for node in nodes {
        let addresses = [node.address.map(IpAddr::from), node.address6.map(IpAddr::from)];
        for address in addresses.into_iter().flatten() {
            if let Some(owner) = owners.insert(address, &node.name) {
                all.push(format!(
                    "nodes {owner:?} and {:?} have the same address {address}: give one of them another",
                    node.name
                ));
            }
        }
    }
}

/// Text as it is, or bytes after `0x`.
fn identifier(text: &str) -> Option<Vec<u8>> {
    let bytes = match text.strip_prefix("0x") {
        Some(hex) => from_hex(hex)?,
        None => text.as_bytes().to_vec(),
    };
    (1..=MAX_CLIENT_ID).contains(&bytes.len()).then_some(bytes)
}

fn duid(text: &str) -> Option<Vec<u8>> {
    from_hex(text.strip_prefix("0x")?).filter(|bytes| duid::is_valid(bytes))
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    (groups == [8, 4, 4, 4, 12])
        .then(|| from_hex(&text.replace('-', "")))?
        .and_then(|bytes| bytes.try_into().ok())
}

/// Whether `name` is one label of a host name (RFC 1123 §2.1), and cannot be taken for a MAC.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.parse::<Mac>().is_err()
}
