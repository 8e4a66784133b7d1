//! Replies: what stands in them and where they go.

use super::{Reply, Seen};
use crate::boot::{self, Door};
use crate::dhcp::Known;
use crate::dhcp::bootfile::{self, BootFile};
use crate::dhcp::client::{HTTP_CLIENT, Stage};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::dhcp6::options::{Options, code, with_length};
use kaltstart_protocol::dhcp6::{Message, MessageType, Packet, Relay, Status};

/// Intel's enterprise number, which UEFI's clients give and expect.
const INTEL: u32 = 343;

/// Starts a reply with what every reply carries.
pub(super) fn start(seen: &Seen<'_>, kind: MessageType) -> Message {
    let mut reply = Message::new(kind, seen.packet.message.transaction);
    if !seen.duid.is_empty() {
        reply.options.push(code::CLIENT_ID, seen.duid.clone());
    }
    reply.options.push(code::SERVER_ID, seen.server);
    reply
}

/// Says how it went as a whole.
pub(super) fn push_status(reply: &mut Message, status: Status, text: &str) {
    reply.options.push(code::STATUS, status.encode(text));
}

/// Puts the reply into messages for the relays it goes back through: each finds its own addresses
/// and interface in it (RFC 8415 §19.3).
pub(super) fn finish(message: Message, seen: &Seen<'_>) -> Reply {
    let back = |relay: &Relay| {
        let mut options = Options::default();
        if let Some(interface) = relay.options.get(code::INTERFACE_ID) {
            options.push(code::INTERFACE_ID, interface);
        }
        Relay { options, ..relay.clone() }
    };
    let relays = seen.packet.relays.iter().map(back).collect();
    Reply { packet: Packet { relays, message }, to: seen.arrival.source }
}

/// Adds what the client asked for, as far as there is something to tell: name servers, domains, and
/// the boot file.
pub(super) fn push_parameters(reply: &mut Message, seen: &Seen<'_>, node: &Known) {
    let (request, subnet) = (&seen.packet.message, seen.subnet);
    if request.asks_for(code::NAME_SERVERS) && !subnet.name_servers.is_empty() {
        reply.options.push_addresses(code::NAME_SERVERS, &subnet.name_servers);
    }
    if request.asks_for(code::DOMAINS) && !subnet.domains.is_empty() {
        reply.options.push(code::DOMAINS, subnet.domains.clone());
    }
    if !request.asks_for(code::BOOT_FILE_URL) {
        return;
    }
    let Some(url) = boot_file(seen, node) else { return };
    reply.options.push(code::BOOT_FILE_URL, url);
    // HTTP boot takes only answers with its own class for answers to it (UEFI 2.10 §24.7.3). PXE takes
    // an answer with its class for one that is to be discussed on port 4011 first.
    if seen.client.stage == Stage::HttpBoot {
        let number = request.vendor_classes().next().map_or(INTEL, |(number, _)| number);
        let value: Vec<u8> = [&number.to_be_bytes()[..], &with_length(HTTP_CLIENT.as_bytes())].concat();
        reply.options.push(code::VENDOR_CLASS, value);
    }
}

/// The URL of what the client is told to start.
fn boot_file(seen: &Seen<'_>, node: &Known) -> Option<String> {
    let Seen { subnet, client, .. } = seen;
    let mac = seen.mac?;
    let offer = boot::offer(Some(&node.boot), node.policy(), Door::Dhcp6(*client));
    Some(match bootfile::choose(offer, client.stage, subnet.local, &subnet.http, mac)? {
        BootFile::Tftp(name) => format!("tftp://[{}]/{name}", subnet.server),
        BootFile::Http(url) | BootFile::Script(url) => url,
    })
}
