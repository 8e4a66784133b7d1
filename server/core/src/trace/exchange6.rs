//! A client's DHCPv6 message and its answer.

use super::sighting::clean;
use crate::dhcp::client::Client;
use crate::dhcp6::{Drop, Reply};
use alloc::string::String;
use core::fmt;
use core::net::Ipv6Addr;
use kaltstart_protocol::dhcp6::{Message, MessageType, Relay};
use serde::{Deserialize, Serialize};

/// A client's DHCPv6 message and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange6 {
    /// Type of the message.
    pub kind: MessageType,
    /// What sent it.
    pub client: Client,
    /// The link on which the relay next to the client heard it.
    pub relay: Option<Ipv6Addr>,
    /// What became of it.
    pub answer: Answer6,
}

/// What became of a DHCPv6 message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer6 {
    /// Nothing yet.
    NotAsked,
    /// It was answered.
    Sent {
        /// Type of the answer.
        kind: MessageType,
        /// The first address in it.
        address: Option<Ipv6Addr>,
        /// The URL of the boot file in it.
        file: Option<String>,
    },
    /// It was not answered.
    Silent {
        /// Why not.
        why: Drop,
    },
}

impl Exchange6 {
    /// What `message` says, which came through `relays`.
    #[must_use]
    pub fn of(message: &Message, relays: &[Relay]) -> Self {
        let relay = relays.last().map(|relay| relay.link);
        Self { kind: message.kind, client: Client::of_v6(message), relay, answer: Answer6::NotAsked }
    }

    /// The same with what became of it.
    #[must_use]
    pub fn answered(self, outcome: Result<&Reply, Drop>) -> Self {
        let answer = match outcome {
            Ok(reply) => Answer6::Sent {
                kind: reply.packet.message.kind,
                address: reply.address(),
                file: reply.boot_file().map(clean),
            },
            Err(why) => Answer6::Silent { why },
        };
        Self { answer, ..self }
    }

    /// The address the client has from now on.
    #[must_use]
    pub fn taken(&self) -> Option<Ipv6Addr> {
        match self.answer {
            Answer6::Sent { kind: MessageType::Reply, address, .. } => address,
            _ => None,
        }
    }
}

impl fmt::Display for Answer6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("no answer yet"),
            Self::Silent { why } => write!(f, "no answer: {why}"),
            Self::Sent { kind, address, file } => {
                write!(f, "{kind}")?;
                if let Some(address) = address {
                    write!(f, " {address}")?;
                }
                match file {
                    Some(file) => write!(f, ", file {file}"),
                    None => f.write_str(", no boot file"),
                }
            }
        }
    }
}
