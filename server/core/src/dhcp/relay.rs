//! What relays add to messages (option 82, RFC 3046 and its successors).

use super::{Decision, Destination, Seen};
use core::net::{Ipv4Addr, SocketAddrV4};
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::dhcp::options::sub_options;

/// The port of the switch (RFC 3046 §3.1).
const CIRCUIT_ID: u8 = 1;
/// The switch, or the modem behind its port (RFC 3046 §3.2).
const REMOTE_ID: u8 = 2;
/// The client's network, where that is not the relay's (RFC 3527).
const LINK_SELECTION: u8 = 5;
/// The address that clients shall take for the server's: the relay's (RFC 5107).
const SERVER_ID_OVERRIDE: u8 = 11;
/// The relay hears answers at the port it asks from, and not at that of servers (RFC 8357 §4).
const SOURCE_PORT: u8 = 19;

/// What is read of a relay's information; all else is only echoed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RelayInfo<'a> {
    /// The port of the switch.
    pub(super) circuit: Option<&'a [u8]>,
    /// The switch.
    pub(super) remote: Option<&'a [u8]>,
    /// The client's network.
    pub(super) link: Option<Ipv4Addr>,
    /// The server identifier for its clients.
    pub(super) server: Option<Ipv4Addr>,
    /// Whether it hears answers at the port it asks from.
    source_port: bool,
}

impl<'a> RelayInfo<'a> {
    /// What the relay says; of a switch without an address (giaddr) only where the client is, since
    /// clients could send the rest themselves.
    pub(super) fn of(message: &'a Message) -> Self {
        let mut info = Self::default();
        let relayed = !message.giaddr.is_unspecified();
        for (code, value) in sub_options(message.relay_info().unwrap_or_default()) {
            let address = || value.try_into().ok().map(Ipv4Addr::from_octets).filter(|_| relayed);
            match code {
                CIRCUIT_ID if !value.is_empty() => info.circuit = Some(value),
                REMOTE_ID if !value.is_empty() => info.remote = Some(value),
                LINK_SELECTION => info.link = address(),
                SERVER_ID_OVERRIDE => info.server = address(),
                SOURCE_PORT => info.source_port = relayed,
                _ => {}
            }
        }
        info
    }
}

/// Sends an answer that goes to a relay to `port`, from which the relay asked, if it says that it listens there.
pub(super) fn to_its_port(mut decision: Decision, seen: &Seen<'_>, port: u16) -> Decision {
    if let Ok(Some(reply)) = &mut decision.reply
        && let Destination::Relay(relay) = reply.destination
        && RelayInfo::of(&seen.message).source_port
    {
        reply.destination = Destination::Asker(SocketAddrV4::new(relay, port));
    }
    decision
}
