//! DHCPv6 messages: RFC 8415 §8, §9 and §21.
//!
//! [`Packet::decode`] accepts or rejects any bytes and never panics: a client's message, or the
//! same within the messages of up to [`RELAYS_MAX`] relays. Options are kept raw and in order
//! ([`Options`]); accessors read them when asked, so that one malformed option hides no other.
//!
//! The codec is hand-written, as that of DHCPv4: `dhcproto` subtracts with overflow in malformed
//! IA options, knows the boot options by number only, and follows relay messages without a limit.

pub mod duid;
mod identity;
pub mod options;
#[cfg(test)]
mod tests;

pub use identity::{Address, Identity, Status};

use crate::dhcp6::options::{Options, code};
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv6Addr;
use serde::{Deserialize, Serialize};

/// Port on which servers and relays listen (RFC 8415 §7.2).
pub const SERVER_PORT: u16 = 547;
/// Port on which clients listen (RFC 8415 §7.2).
pub const CLIENT_PORT: u16 = 546;
/// All servers and relays of a link (RFC 8415 §7.1).
pub const ALL_RELAYS_AND_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// All servers of a site; relays send there (RFC 8415 §7.1).
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);
/// Longer packets are rejected; no client comes near it, and it bounds the work per packet.
pub const MAX_PACKET: usize = 4_096;
/// Relays a message may come through (`HOP_COUNT_LIMIT`, RFC 8415 §7.6).
pub const RELAYS_MAX: usize = 8;

/// Type and transaction (RFC 8415 §8).
const HEADER: usize = 4;
/// Type, hops, link address, peer address (RFC 8415 §9).
const RELAY_HEADER: usize = 34;
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;

/// Why bytes are not a DHCPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_PACKET`].
    #[error("{0} bytes are too long for a DHCPv6 packet")]
    Long(usize),
    /// It ends within its fixed fields.
    #[error("it ends within its header")]
    Short,
    /// A type nobody has defined, or one that is not spoken here.
    #[error("unknown message type {0}")]
    Type(u8),
    /// An option ends beyond its field.
    #[error("option {0} ends beyond its field")]
    Overrun(u16),
    /// A relay's message without a client's in it.
    #[error("a relay's message without a message in it")]
    Empty,
    /// More than [`RELAYS_MAX`] relays.
    #[error("it came through too many relays")]
    Hops,
}

/// Type of a message between client and server (RFC 8415 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// A client looks for servers.
    Solicit,
    /// A server answers.
    Advertise,
    /// A client takes what was advertised.
    Request,
    /// A client asks whether its addresses fit the link it is on.
    Confirm,
    /// A client extends what its server gave.
    Renew,
    /// A client extends it with any server.
    Rebind,
    /// A server's last word.
    Reply,
    /// A client gives addresses back.
    Release,
    /// A client found addresses in use.
    Decline,
    /// A server wants clients to ask.
    Reconfigure,
    /// A client has addresses and asks for the rest.
    InformationRequest,
}

impl MessageType {
    /// All types, in the order of their numbers, which begin with 1.
    pub const ALL: [Self; 11] = [
        Self::Solicit,
        Self::Advertise,
        Self::Request,
        Self::Confirm,
        Self::Renew,
        Self::Rebind,
        Self::Reply,
        Self::Release,
        Self::Decline,
        Self::Reconfigure,
        Self::InformationRequest,
    ];

    /// Its number in messages.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8 + 1
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Its name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Solicit => "solicit",
            Self::Advertise => "advertise",
            Self::Request => "request",
            Self::Confirm => "confirm",
            Self::Renew => "renew",
            Self::Rebind => "rebind",
            Self::Reply => "reply",
            Self::Release => "release",
            Self::Decline => "decline",
            Self::Reconfigure => "reconfigure",
            Self::InformationRequest => "information-request",
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message between client and server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: MessageType,
    /// Made by the client; answers carry the same.
    pub transaction: [u8; 3],
    /// Its options.
    pub options: Options,
}

/// What a relay put around a message (RFC 8415 §9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Relays it had come through before this one, as that says.
    pub hops: u8,
    /// An address that tells the client's link; unspecified when the relay leaves that to the next.
    pub link: Ipv6Addr,
    /// Whom the relay had it from: the client, or the relay before it.
    pub peer: Ipv6Addr,
    /// Its options, without the message itself.
    pub options: Options,
}

/// What one datagram holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The relays it comes through or goes to, the one next to the server first.
    pub relays: Vec<Relay>,
    /// The message of client or server.
    pub message: Message,
}

impl Packet {
    /// Reads a datagram that a server gets: a message, or one that was forwarded.
    ///
    /// # Errors
    /// When it is malformed, too long, or came through too many relays.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_as(bytes, RELAY_FORWARD)
    }

    /// Reads a datagram that a relay or client gets.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_reply(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_as(bytes, RELAY_REPLY)
    }

    fn decode_as(bytes: &[u8], relayed: u8) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_PACKET {
            return Err(DecodeError::Long(bytes.len()));
        }
        let mut relays = Vec::new();
        let mut rest = Vec::from(bytes);
        while rest.first() == Some(&relayed) {
            if relays.len() == RELAYS_MAX {
                return Err(DecodeError::Hops);
            }
            let (header, options) = rest.split_at_checked(RELAY_HEADER).ok_or(DecodeError::Short)?;
            let [_, hops, addresses @ ..] = header else { return Err(DecodeError::Short) };
            let (link, peer) = addresses.split_at(16);
            let mut options = Options::decode(options)?;
            let inner = options.take(code::RELAY_MESSAGE).ok_or(DecodeError::Empty)?;
            relays.push(Relay { hops: *hops, link: address(link), peer: address(peer), options });
            rest = inner;
        }
        let [number, a, b, c, options @ ..] = rest.as_slice() else { return Err(DecodeError::Short) };
        let kind = MessageType::of(*number).ok_or(DecodeError::Type(*number))?;
        let message = Message { kind, transaction: [*a, *b, *c], options: Options::decode(options)? };
        Ok(Self { relays, message })
    }

    /// The datagram that a server gets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(RELAY_FORWARD)
    }

    /// The datagram that a relay or client gets.
    #[must_use]
    pub fn encode_reply(&self) -> Vec<u8> {
        self.encode_as(RELAY_REPLY)
    }

    fn encode_as(&self, relayed: u8) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.push(self.message.kind.number());
        bytes.extend(self.message.transaction);
        self.message.options.encode(&mut bytes);
        for relay in self.relays.iter().rev() {
            let mut outer = Vec::with_capacity(RELAY_HEADER);
            outer.extend([relayed, relay.hops]);
            outer.extend(relay.link.octets());
            outer.extend(relay.peer.octets());
            relay.options.encode(&mut outer);
            options::put(&mut outer, code::RELAY_MESSAGE, &bytes);
            bytes = outer;
        }
        bytes
    }
}

impl Message {
    /// A message without options.
    #[must_use]
    pub fn new(kind: MessageType, transaction: [u8; 3]) -> Self {
        Self { kind, transaction, options: Options::default() }
    }

    /// DUID of the client (RFC 8415 §21.2).
    #[must_use]
    pub fn client_id(&self) -> Option<&[u8]> {
        self.options.get(code::CLIENT_ID)
    }

    /// DUID of the server it is from or for (RFC 8415 §21.3).
    #[must_use]
    pub fn server_id(&self) -> Option<&[u8]> {
        self.options.get(code::SERVER_ID)
    }

    /// The identities that want addresses (`IA_NA`, RFC 8415 §21.4), in order; malformed ones are
    /// left out.
    pub fn identities(&self) -> impl Iterator<Item = Identity> {
        self.options.all(code::IA_NA).filter_map(Identity::decode)
    }

    /// Whether the client asks for that option (RFC 8415 §21.7).
    #[must_use]
    pub fn asks_for(&self, wanted: u16) -> bool {
        self.options.get(code::OPTION_REQUEST).is_some_and(|list| {
            list.chunks_exact(2).any(|pair| u16::from_be_bytes([pair[0], pair[1]]) == wanted)
        })
    }

    /// User classes (RFC 8415 §21.15).
    pub fn user_classes(&self) -> impl Iterator<Item = &[u8]> {
        options::counted(self.options.get(code::USER_CLASS).unwrap_or_default())
    }

    /// Enterprise number and data of each vendor class (RFC 8415 §21.16).
    pub fn vendor_classes(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.options.all(code::VENDOR_CLASS).flat_map(|value| {
            let (number, data) = value
                .split_first_chunk()
                .map_or((0, &[][..]), |(number, data)| (u32::from_be_bytes(*number), data));
            options::counted(data).map(move |data| (number, data))
        })
    }

    /// Architectures of the client, the best first (RFC 5970 §3.3).
    pub fn architectures(&self) -> impl Iterator<Item = u16> {
        let list = self.options.get(code::CLIENT_ARCHITECTURE).unwrap_or_default();
        list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }
}

fn address(bytes: &[u8]) -> Ipv6Addr {
    <[u8; 16]>::try_from(bytes).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from)
}
