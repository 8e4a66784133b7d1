//! Replies: what stands in them and where they go.

use super::bootfile::{self, BootFile};
use super::client::{Client, Stage};
use super::subnet::Subnet;
use super::{Known, Reply};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::dhcp::{Message, MessageType};
use kaltstart_protocol::ids::Mac;

/// Where a reply goes (RFC 2131 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To the relay's server port; the relay passes it on.
    Relay(Ipv4Addr),
    /// To a client that has this address and answers to it.
    Unicast(Ipv4Addr),
    /// To all on the wire. The standard would rather have the link layer's unicast when the
    /// client's broadcast flag is clear, but allows this.
    Broadcast,
}

/// Where a reply of that type to `request` goes.
fn destination(request: &Message, kind: MessageType) -> Destination {
    if !request.giaddr.is_unspecified() {
        Destination::Relay(request.giaddr)
    } else if kind == MessageType::Nak || request.ciaddr.is_unspecified() {
        // A refused client's address is wrong by definition.
        Destination::Broadcast
    } else {
        Destination::Unicast(request.ciaddr)
    }
}

/// Starts a reply with what every reply carries.
fn start(subnet: &Subnet, request: &Message, kind: MessageType) -> Message {
    let mut reply = request.reply(kind);
    reply.options.set_addresses(code::SERVER_ID, &[subnet.server]);
    reply
}

/// Adds what is echoed: the client identifier (RFC 6842) and, last, the relay's information (RFC
/// 3046 §2.2), and finds the way.
fn finish(mut message: Message, request: &Message, kind: MessageType) -> Reply {
    for code in [code::CLIENT_ID, code::RELAY_INFO] {
        if let Some(value) = request.options.get(code) {
            message.options.set(code, value);
        }
    }
    Reply { destination: destination(request, kind), kind, message }
}

/// Everything a grant is made of.
pub(super) struct Grant<'a> {
    pub(super) subnet: &'a Subnet,
    pub(super) request: &'a Message,
    pub(super) client: Client,
    pub(super) mac: Mac,
    pub(super) node: &'a Known,
    /// For how long.
    pub(super) seconds: u32,
}

impl Grant<'_> {
    /// An OFFER or ACK of an address.
    pub(super) fn address(&self, kind: MessageType, address: Ipv4Addr) -> Reply {
        let mut reply = start(self.subnet, self.request, kind);
        reply.yiaddr = address;
        if kind == MessageType::Ack {
            reply.ciaddr = self.request.ciaddr;
        }
        let seconds = self.seconds;
        reply.options.set_u32(code::LEASE_TIME, seconds);
        // RFC 2131 §4.4.5: half and seven eighths.
        reply.options.set_u32(code::RENEWAL_TIME, seconds / 2);
        reply.options.set_u32(code::REBINDING_TIME, seconds - seconds / 8);
        self.parameters(&mut reply);
        finish(reply, self.request, kind)
    }

    /// The answer to an INFORM: parameters without address or lease (RFC 2131 §4.3.5).
    pub(super) fn parameters_only(&self) -> Reply {
        let mut reply = start(self.subnet, self.request, MessageType::Ack);
        reply.ciaddr = self.request.ciaddr;
        self.parameters(&mut reply);
        finish(reply, self.request, MessageType::Ack)
    }

    fn parameters(&self, reply: &mut Message) {
        let Self { subnet, client, node, .. } = self;
        let options = &mut reply.options;
        options.set_addresses(code::SUBNET_MASK, &[subnet.network.mask()]);
        let lists = [(code::ROUTERS, &subnet.routers), (code::NAME_SERVERS, &subnet.name_servers)];
        for (code, addresses) in lists.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            options.set_addresses(code, addresses);
        }
        let texts = [(code::HOST_NAME, &node.hostname), (code::DOMAIN_NAME, &subnet.domain)];
        for (code, text) in texts {
            if let Some(text) = text {
                options.set(code, text.as_bytes());
            }
        }
        if client.stage == Stage::Ipxe {
            bootfile::fill_ipxe(reply);
        }
        if let Some(file) = self.boot_file() {
            bootfile::fill(reply, &file, subnet.server);
        }
    }

    /// An OFFER or ACK without address, lease and parameters, of which `fill` makes what it is.
    pub(super) fn boot_only(&self, kind: MessageType, fill: impl FnOnce(&mut Message)) -> Reply {
        let mut reply = start(self.subnet, self.request, kind);
        if kind == MessageType::Ack {
            reply.ciaddr = self.request.ciaddr;
        }
        fill(&mut reply);
        finish(reply, self.request, kind)
    }

    /// What the client is told to start.
    pub(super) fn boot_file(&self) -> Option<BootFile> {
        bootfile::choose(&self.node.boot, self.client, self.subnet.local, &self.subnet.http, self.mac)
    }
}

/// A NAK: nothing but the reason (RFC 2131 §4.3.1 table 3). Relays must broadcast it, since the
/// client's address is wrong (§4.3.2).
pub(super) fn nak(subnet: &Subnet, request: &Message, reason: &'static str) -> Reply {
    let mut reply = start(subnet, request, MessageType::Nak);
    reply.broadcast |= !request.giaddr.is_unspecified();
    reply.options.set(code::TEXT, Vec::from(reason));
    finish(reply, request, MessageType::Nak)
}
