//! What to answer to a DHCPv6 message (RFC 8415 §18.3).
//!
//! As with DHCPv4: [`triage`] says who is asking and from where; the caller looks that machine up;
//! [`decide`] says what to answer and changes the lease table. The caller stores the durable changes
//! and only then sends; if it cannot, it undoes them. Table and choice of an address are those of
//! DHCPv4 ([`lease`](crate::dhcp::lease)), and so is what a machine may start.

mod decide;
mod reply;
pub mod subnet;
#[cfg(test)]
mod tests;

pub use decide::decide;

use crate::dhcp::Known;
use crate::dhcp::client::Client;
use crate::dhcp::lease::{LeaseWrite, Undo};
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use kaltstart_protocol::dhcp6::options::code;
use kaltstart_protocol::dhcp6::{CLIENT_PORT, MessageType, Packet, SERVER_PORT, duid};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use subnet::Subnet;

/// Identities of one message that get addresses; firmware and systems have one for each interface.
/// Bounds what one packet can take out of a pool.
pub const IDENTITIES_MAX: usize = 4;

/// ARP hardware type of Ethernet (RFC 6939 §4).
const ETHERNET: [u8; 2] = [0, 1];

/// How a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Who sent it: a client, or a relay.
    pub source: Ipv6Addr,
    /// This server's address on the wire on which it was heard.
    pub address: Ipv6Addr,
    /// Whether it was sent to a group of servers.
    pub multicast: bool,
}

/// A message of a client in a served subnet.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// The message, and the relays it came through.
    pub packet: Packet,
    /// How it came in.
    pub arrival: Arrival,
    /// The sender's DUID; empty where it says none, which only INFORMATION-REQUEST may.
    pub duid: Vec<u8>,
    /// This server's DUID.
    pub server: &'a [u8],
    /// Hardware address of the sender, if anything tells it.
    pub mac: Option<Mac>,
    /// What the sender is.
    pub client: Client,
    /// Where it is.
    pub subnet: &'a Subnet,
}

impl Seen<'_> {
    /// Type of the message.
    #[must_use]
    pub const fn kind(&self) -> MessageType {
        self.packet.message.kind
    }
}

/// A packet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The message, within those for the relays.
    pub packet: Packet,
    /// Where it goes.
    pub to: Ipv6Addr,
}

impl Reply {
    /// The port it goes to (RFC 8415 §7.2).
    #[must_use]
    pub fn port(&self) -> u16 {
        if self.packet.relays.is_empty() { CLIENT_PORT } else { SERVER_PORT }
    }

    /// The first address it gives.
    #[must_use]
    pub fn address(&self) -> Option<Ipv6Addr> {
        let mut addresses = self.packet.message.identities();
        let of = |identity: kaltstart_protocol::dhcp6::Identity| {
            identity.addresses().find(|address| address.valid > 0).map(|address| address.address)
        };
        addresses.find_map(of)
    }

    /// The URL of the boot file in it.
    #[must_use]
    pub fn boot_file(&self) -> Option<&str> {
        core::str::from_utf8(self.packet.message.options.get(code::BOOT_FILE_URL)?).ok()
    }
}

/// Why a message is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// It is a server's reply.
    #[error("a server's message")]
    FromServer,
    /// An option that such a message needs is missing, or one is there that it must not have
    /// (RFC 8415 §16).
    #[error("not a valid message of its type")]
    Invalid,
    /// Its DUID is too short or too long.
    #[error("no usable client identity")]
    Identity,
    /// Such a message must be sent to the servers' group (RFC 8415 §16).
    #[error("sent to this server alone")]
    Unicast,
    /// It comes from a network that is not served.
    #[error("from a network that is not served")]
    UnknownSubnet,
    /// It comes through a relay that is not trusted.
    #[error("relay {0} is in no served network and not among the subnet's relays")]
    UnknownRelay(Ipv6Addr),
    /// The client has chosen another server.
    #[error("for another server")]
    OtherServer,
    /// It is about addresses that are not known here; another server may know them.
    #[error("about addresses not known here")]
    NoRecord,
    /// The answer would rest on something that cannot be stored now.
    #[error("cannot be stored now")]
    NotStored,
}

impl Drop {
    /// The name for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromServer => "from-server",
            Self::Invalid => "invalid",
            Self::Identity => "identity",
            Self::Unicast => "unicast",
            Self::UnknownSubnet => "unknown-subnet",
            Self::UnknownRelay(_) => "unknown-relay",
            Self::OtherServer => "other-server",
            Self::NoRecord => "no-record",
            Self::NotStored => "not-stored",
        }
    }
}

/// A sign of life of a machine whose hardware address is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its hardware address.
    pub mac: Mac,
    /// What runs on it.
    pub client: Client,
    /// What it sent.
    pub kind: MessageType,
    /// The address it is offered or holds.
    pub address: Option<Ipv6Addr>,
}

/// What to do about a message.
#[derive(Debug)]
pub struct Decision {
    /// The answer, or why there is none.
    pub reply: Result<Reply, Drop>,
    /// Changes of the lease table that must be stored first.
    pub writes: Vec<LeaseWrite<Ipv6Addr>>,
    /// How to undo all changes of the table, in reverse order.
    pub undo: Vec<Undo<Ipv6Addr>>,
    /// The sign of life.
    pub contact: Option<Contact>,
    /// Some identity got no address because there is none.
    pub exhausted: bool,
}

/// What a decision looks at besides the lease table.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The machine that asks.
    pub node: &'a Known,
    /// The time.
    pub now: Millis,
    /// Whether changes can be stored. If not, nothing is promised that is not stored already.
    pub storable: bool,
}

/// Says who is asking, and from where; `server` is this server's DUID.
///
/// # Errors
/// [`Drop`] when the message is not one a server answers, whoever sent it.
pub fn triage<'a>(
    subnets: &'a [Subnet],
    server: &'a [u8],
    packet: Packet,
    arrival: Arrival,
) -> Result<Seen<'a>, Drop> {
    use MessageType::{
        Advertise, Confirm, Decline, InformationRequest, Rebind, Reconfigure, Release, Renew, Reply, Request,
        Solicit,
    };
    let message = &packet.message;
    let (client, named) = (message.client_id(), message.server_id());
    let (client_needed, server_needed) = match message.kind {
        Solicit | Confirm | Rebind => (true, Some(false)),
        Request | Renew | Decline | Release => (true, Some(true)),
        InformationRequest => (false, None),
        Advertise | Reply | Reconfigure => return Err(Drop::FromServer),
    };
    let identities = [code::IA_NA, code::IA_TA, code::IA_PD];
    if (client_needed && client.is_none())
        || server_needed.is_some_and(|needed| needed != named.is_some())
        || (message.kind == InformationRequest && identities.iter().any(|ia| message.options.has(*ia)))
    {
        return Err(Drop::Invalid);
    }
    if client.is_some_and(|client| !duid::is_valid(client)) {
        return Err(Drop::Identity);
    }
    if named.is_some_and(|named| named != server) {
        return Err(Drop::OtherServer);
    }
    let direct = packet.relays.is_empty();
    let unicast = direct && !arrival.multicast;
    if unicast && matches!(message.kind, Solicit | Confirm | Rebind | InformationRequest) {
        return Err(Drop::Unicast);
    }
    let subnet = subnet::subnet_of(subnets, &packet.relays, &arrival)?;
    let (duid, mac) = (client.unwrap_or_default().into(), hardware_address(&packet, arrival.source));
    Ok(Seen { client: Client::of_v6(message), packet, arrival, duid, server, mac, subnet })
}

/// The sender's hardware address: as its relay saw it (RFC 6939), as its link-local address has it
/// (RFC 4291 appendix A), as its DUID was made of it.
fn hardware_address(packet: &Packet, source: Ipv6Addr) -> Option<Mac> {
    let nearest = packet.relays.last();
    let seen = nearest.and_then(|relay| relay.options.get(code::CLIENT_LINK_LAYER)).and_then(|value| {
        let address = value.strip_prefix(&ETHERNET)?;
        address.try_into().ok().map(Mac)
    });
    let link_local = nearest.map_or(source, |relay| relay.peer);
    seen.or_else(|| of_link_local(link_local)).or_else(|| duid::mac(packet.message.client_id()?))
}

/// The hardware address in a link-local address that was made of it.
fn of_link_local(address: Ipv6Addr) -> Option<Mac> {
    let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] = address.octets() else { return None };
    Some(Mac([a ^ 2, b, c, d, e, f]))
}
