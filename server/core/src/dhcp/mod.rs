//! What to answer to a DHCP message (RFC 2131 §4.3).
//!
//! [`triage`] says who is asking and from where; the caller looks that machine up; [`decide`] says
//! what to answer and what changes in the lease table. The caller stores the durable changes and
//! only then sends. [`lease`] holds the table and the choice of an address, [`bootfile`] the file
//! a client is told to start.

mod architecture;
pub mod bootfile;
pub mod client;
mod decide;
pub mod foreign;
pub mod host;
pub mod lease;
pub mod parameters;
pub mod ping_check;
pub mod proxy;
mod relay;
mod reply;
pub mod role;
mod runs;
pub mod subnet;
#[cfg(test)]
mod tests;
pub mod watch;
pub mod whereabouts;

pub use decide::decide;
pub use reply::Destination;

use crate::boot::{self, BootDecision, Policy, UefiLoader};
use crate::machine::Machine;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use client::{Client, Stage};
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::{Message, MessageType, Operation};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use lease::{ClientKey, LeaseTable, LeaseWrite};
use ping_check::Check;
use relay::RelayInfo;
use role::Role;
use serde::{Deserialize, Serialize};
use subnet::Subnet;

/// What is known about the machine that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The address reserved for it.
    pub reservation: Option<Ipv4Addr>,
    /// The name it shall have.
    pub hostname: Option<String>,
    /// What it may start.
    pub boot: BootDecision,
    /// How it is started if it has UEFI; none: as the site says.
    pub uefi_loader: Option<UefiLoader>,
    /// It gets its loader again and again, and nothing comes of it.
    pub looping: bool,
}

impl Known {
    /// Nobody in particular: an address from the pool, and nothing to start.
    pub const STRANGER: Self = Self {
        reservation: None,
        hostname: None,
        boot: BootDecision::Local,
        uefi_loader: None,
        looping: false,
    };

    /// A machine.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let node = &machine.node;
        let (reservation, hostname) = (node.reservation, Some(node.name.clone()));
        let (boot, uefi_loader) = (boot::decide(machine), node.uefi_loader);
        Self { reservation, hostname, boot, uefi_loader, looping: false }
    }

    /// What it is given besides its decision.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy { uefi: self.uefi_loader.unwrap_or_default(), looping: self.looping }
    }
}

/// A message of a client in a served subnet.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// The message.
    pub message: Message,
    /// Its type: one that clients send.
    pub kind: MessageType,
    /// Hardware address of the sender, if it has told one.
    pub mac: Option<Mac>,
    /// The sender as a holder of addresses.
    pub key: ClientKey,
    /// What the sender is.
    pub client: Client,
    /// Where it is.
    pub subnet: &'a Subnet,
    /// Whether it was heard on the wire of that subnet, without a relay.
    pub direct: bool,
    /// The server identifier it knows this server by: the subnet's, or the relay's (RFC 5107).
    pub server: Ipv4Addr,
}

/// A sign of life of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its hardware address, if it has told one.
    pub mac: Option<Mac>,
    /// What runs on it.
    pub client: Client,
    /// What it sent.
    pub kind: MessageType,
    /// The address it is offered or holds.
    pub address: Option<Ipv4Addr>,
    /// The name it claims.
    pub hostname: Option<String>,
    /// Why it got no answer.
    pub unanswered: Option<Drop>,
    /// Where the leases are an older copy: what it claims to have, and does not have by them.
    pub claim: Option<Claim>,
}

/// An address that a client asks to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: Ipv4Addr,
    /// Who has it by the table, as far as that is known.
    pub holder: Option<Mac>,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The message.
    pub message: Message,
    /// Its type.
    pub kind: MessageType,
    /// Where it goes.
    pub destination: Destination,
    /// The longest message the client takes, bytes.
    pub room: usize,
}

impl Reply {
    /// The bytes to be sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.message.encode_within(self.room)
    }
}

/// Why a message is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// It is a server's reply.
    #[error("a server's message")]
    FromServer,
    /// It has no type, or not one that clients send.
    #[error("no message type of a client")]
    Type,
    /// Its hardware address is not that of one Ethernet interface, or its identifier is too long.
    #[error("no usable client identity")]
    Identity,
    /// It comes from a network that is not served.
    #[error("from a network that is not served")]
    UnknownSubnet,
    /// It asks for a subnet through a relay that is not trusted with it.
    #[error("relay {0} is in no served network and not among the subnet's relays")]
    UnknownRelay(Ipv4Addr),
    /// The client has chosen this other server.
    #[error("for another server, {0}")]
    OtherServer(Ipv4Addr),
    /// It is about a lease that is not known here; another server may know it.
    #[error("about a lease not known here")]
    NoRecord,
    /// A field that it needs is missing.
    #[error("incomplete")]
    Incomplete,
    /// There is no free address.
    #[error("no free address")]
    PoolExhausted,
    /// The machine shall start from its own disk, and silence is the configured answer.
    #[error("machine starts from its own disk")]
    LocalStart,
    /// The answer would rest on something that cannot be stored now.
    #[error("cannot be stored now")]
    NotStored,
    /// Leases that were given before an older database was restored are not known, and nothing shows
    /// from here who has them.
    #[error("somebody may have been given the address after the restored database was copied")]
    Restored,
    /// Addresses are another server's here, and nothing else is asked for.
    #[error("addresses are another server's here")]
    Proxy,
    /// Addresses are another server's here, and the client shall start nothing from here.
    #[error("nothing to start from the network")]
    NoBootFile,
    /// The subnet is not served now: other servers are looked for, or one was found.
    #[error("the subnet is not served now")]
    NotServed,
}

impl Drop {
    /// The name for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromServer => "from-server",
            Self::Type => "type",
            Self::Identity => "identity",
            Self::UnknownSubnet => "unknown-subnet",
            Self::UnknownRelay(_) => "unknown-relay",
            Self::OtherServer(_) => "other-server",
            Self::NoRecord => "no-record",
            Self::Incomplete => "incomplete",
            Self::PoolExhausted => "pool-exhausted",
            Self::LocalStart => "local-start",
            Self::NotStored => "not-stored",
            Self::Restored => "restored",
            Self::Proxy => "proxy",
            Self::NoBootFile => "no-boot-file",
            Self::NotServed => "not-served",
        }
    }
}

/// What to do about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The answer, or why there is none; `Ok(None)` for messages that ask for none.
    pub reply: Result<Option<Reply>, Drop>,
    /// The change of the lease table, to be stored first if it is durable.
    pub write: Option<LeaseWrite>,
    /// The sign of life.
    pub contact: Contact,
    /// What must come before the offer goes out; never [`Check::Wait`], which is a [`Drop`].
    pub check: Check,
}

/// All that a decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The leases.
    pub table: &'a LeaseTable,
    /// Addresses reserved for any machine.
    pub reserved: &'a BTreeSet<Ipv4Addr>,
    /// The machine that asks.
    pub node: &'a Known,
    /// How the subnet is served.
    pub role: Role,
    /// The time.
    pub now: Millis,
    /// For how long the server runs, ms.
    pub running_ms: u64,
    /// How long ago the server learned that its leases are an older copy, ms, if they are.
    pub restored_ms: Option<u64>,
    /// The UDP port that the message was sent from.
    pub port: u16,
    /// Whether changes can be stored. If not, nothing is promised that is not stored already.
    pub storable: bool,
}

/// Says who is asking, and from where; `arrival` is the address of the interface.
///
/// # Errors
/// [`Drop`] when the message is not one a server answers, whoever sent it.
pub fn triage(subnets: &[Subnet], message: Message, arrival: Ipv4Addr) -> Result<Seen<'_>, Drop> {
    use MessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
    if message.operation != Operation::Request {
        return Err(Drop::FromServer);
    }
    let kind = match message.kind() {
        Some(kind @ (Discover | Request | Decline | Release | Inform)) => kind,
        Some(Offer | Ack | Nak) | None => return Err(Drop::Type),
    };
    let (mac, mut client) = (message.mac(), Client::of(&message));
    if mac.is_none() {
        // InfiniBand is known by its identifier alone (RFC 4390 §2.1).
        if !message.hardware.bytes().is_empty() || message.client_id().is_none() {
            return Err(Drop::Identity);
        }
        // Machines are known by their hardware addresses: there is nothing to start.
        client.stage = Stage::Os;
    }
    let key = ClientKey::of(&message).ok_or(Drop::Identity)?;
    let subnet = subnet::subnet_of(subnets, &message, arrival)?;
    let direct = message.giaddr.is_unspecified() && subnet.direct && subnet.network.contains(arrival);
    let server = RelayInfo::of(&message).server.unwrap_or(subnet.server);
    Ok(Seen { client, message, kind, mac, key, subnet, direct, server })
}
