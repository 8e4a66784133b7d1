//! Other DHCP and boot servers, recognised by what they and their clients send.

use super::client::{HTTP_CLIENT, PXE_CLIENT};
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::{Message, MessageType, Operation};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Mac;
use serde::{Deserialize, Serialize};

/// The locally administered prefix of the hardware addresses that probes carry: `02:4b:53`, "KS".
const PROBE_PREFIX: [u8; 3] = [0x02, 0x4b, 0x53];

/// What another server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gives {
    /// Addresses.
    Addresses,
    /// Names of boot files only, as a proxyDHCP server does.
    BootFiles,
}

/// A sign of another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Its identifier (option 54), else the address it sent from.
    pub server: Ipv4Addr,
    /// The hardware address the message came from: the server's, or that of a router on the way;
    /// none when only a client spoke of the server.
    pub mac: Option<Mac>,
    /// What it gives.
    pub gives: Gives,
}

impl Sighting {
    /// From a message to clients that came from `source` and `mac`; none for our own answers and
    /// for what is no server's message. `ours` are this server's addresses.
    #[must_use]
    pub fn of_reply(
        message: &Message,
        source: Ipv4Addr,
        mac: Option<Mac>,
        ours: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Self> {
        if message.operation != Operation::Reply {
            return None;
        }
        let kind = message.kind()?;
        if !matches!(kind, MessageType::Offer | MessageType::Ack | MessageType::Nak) {
            return None;
        }
        let server = message.server_id().unwrap_or(source);
        let class = message.vendor_class().unwrap_or_default();
        let boot = class.starts_with(PXE_CLIENT) || class.starts_with(HTTP_CLIENT);
        let without_address = kind == MessageType::Offer && message.yiaddr.is_unspecified();
        let gives = if boot && without_address { Gives::BootFiles } else { Gives::Addresses };
        Self { server, mac, gives }.of_others(ours)
    }

    /// From a client's message: a REQUEST names the server whose offer it takes.
    #[must_use]
    pub fn of_request(message: &Message, ours: impl Fn(Ipv4Addr) -> bool) -> Option<Self> {
        if message.kind() != Some(MessageType::Request) || message.operation != Operation::Request {
            return None;
        }
        Self { server: message.server_id()?, mac: None, gives: Gives::Addresses }.of_others(ours)
    }

    fn of_others(self, ours: impl Fn(Ipv4Addr) -> bool) -> Option<Self> {
        (!ours(self.server) && !self.server.is_unspecified()).then_some(self)
    }
}

/// The hardware address that probes carry from an interface with the address `own`: that of a
/// client of its own, always the same one, so that it costs other servers one address.
#[must_use]
pub const fn probe_mac(own: Mac) -> Mac {
    let ([a, b, c], [_, _, _, x, y, z]) = (PROBE_PREFIX, own.0);
    Mac([a, b, c, x, y, z])
}

/// A DISCOVER of that client: answers shall be broadcast, so that all of them are seen.
#[must_use]
pub fn probe(own: Mac, xid: u32) -> Message {
    let mut message = Message::request(MessageType::Discover, xid, probe_mac(own));
    message.broadcast = true;
    message
}

/// What an operator is told of another server.
#[must_use]
pub fn finding(gives: Gives, server: Ipv4Addr, mac: Option<Mac>) -> Finding {
    let code = match gives {
        Gives::Addresses => Code::ForeignDhcpServer,
        Gives::BootFiles => Code::ForeignBootServer,
    };
    let detail = match mac {
        Some(mac) => alloc::format!("{server} at {mac}"),
        None => alloc::format!("{server}, named by a client"),
    };
    Finding::new(code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::dhcp::options::code;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn message(kind: MessageType, server: Option<Ipv4Addr>) -> Message {
        let discover = Message::request(MessageType::Discover, 1, Mac([2, 0, 0, 0, 0, 1]));
        let mut message = match kind {
            MessageType::Discover | MessageType::Request => {
                Message::request(kind, 1, Mac([2, 0, 0, 0, 0, 1]))
            }
            _ => discover.reply(kind),
        };
        if let Some(server) = server {
            message.options.set_addresses(code::SERVER_ID, &[server]);
        }
        message
    }

    #[test]
    fn p34_servers_are_recognised_by_their_answers() {
        use MessageType::{Ack, Discover, Nak, Offer, Request};
        let seen = |message: &Message| Sighting::of_reply(message, OTHER, Some(MAC), |a| a == OURS);
        let addresses = Some(Sighting { server: OTHER, mac: Some(MAC), gives: Gives::Addresses });
        for kind in [Offer, Ack, Nak] {
            assert_eq!(seen(&message(kind, Some(OTHER))), addresses, "{kind}");
            // Ours, sent by us or passed on by a relay.
            assert_eq!(seen(&message(kind, Some(OURS))), None, "{kind}");
        }
        assert_eq!(seen(&message(Offer, None)), addresses, "the sender, if the message names nobody");
        let mut proxy = message(Offer, Some(OTHER));
        proxy.options.set(code::VENDOR_CLASS, "PXEClient");
        assert_eq!(seen(&proxy).map(|seen| seen.gives), Some(Gives::BootFiles));
        proxy.yiaddr = Ipv4Addr::new(10, 77, 0, 20);
        assert_eq!(seen(&proxy), addresses, "with an address it is a DHCP server");
        for kind in [Discover, Request] {
            assert_eq!(seen(&message(kind, Some(OTHER))), None, "{kind}");
        }
    }

    #[test]
    fn p34_servers_are_recognised_by_their_clients() {
        let seen = |message: &Message| Sighting::of_request(message, |a| a == OURS);
        let named = Sighting { server: OTHER, mac: None, gives: Gives::Addresses };
        assert_eq!(seen(&message(MessageType::Request, Some(OTHER))), Some(named));
        assert_eq!(seen(&message(MessageType::Request, Some(OURS))), None);
        assert_eq!(seen(&message(MessageType::Request, None)), None);
        assert_eq!(seen(&message(MessageType::Discover, Some(OTHER))), None);
        assert_eq!(seen(&message(MessageType::Ack, Some(OTHER))), None);
    }
}
