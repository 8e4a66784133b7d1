//! Replies: what stands in them and where they go.

use super::bootfile::{self, BootFile};
use super::client::Stage;
use super::parameters::Terms;
use super::{Known, Reply, Seen};
use crate::boot::{self, Door};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
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
    /// To whoever has this address, at the port it asked from.
    Asker(SocketAddrV4),
    /// To a client that does not have its address yet: in a frame to its hardware address.
    Hardware(Ipv4Addr, Mac),
    /// To all on the wire.
    Broadcast,
}

/// Where a reply of that type goes that gives the client `address`, if any.
fn destination(seen: &Seen<'_>, kind: MessageType, address: Ipv4Addr) -> Destination {
    let request = &seen.message;
    let has_address = !request.ciaddr.is_unspecified();
    if !request.giaddr.is_unspecified() {
        Destination::Relay(request.giaddr)
    } else if has_address && (kind != MessageType::Nak || !seen.direct) {
        // A refused client's address is wrong by definition, but a broadcast would not reach one that
        // asked from afar.
        Destination::Unicast(request.ciaddr)
    } else if kind == MessageType::Nak || request.broadcast || address.is_unspecified() {
        Destination::Broadcast
    } else {
        seen.mac.map_or(Destination::Broadcast, |mac| Destination::Hardware(address, mac))
    }
}

/// Starts a reply with what every reply carries.
fn start(seen: &Seen<'_>, kind: MessageType) -> Message {
    let mut reply = seen.message.reply(kind);
    reply.options.set_addresses(code::SERVER_ID, &[seen.server]);
    reply
}

/// Adds what is echoed: the client identifier (RFC 6842), the subnet selection (RFC 3011) and, last,
/// the relay's information (RFC 3046 §2.2); orders the options, and finds the way.
fn finish(mut message: Message, seen: &Seen<'_>, kind: MessageType) -> Reply {
    for code in [code::CLIENT_ID, code::SUBNET_SELECTION, code::RELAY_INFO] {
        if let Some(value) = seen.message.options.get(code) {
            message.options.set(code, value);
        }
    }
    let wished = seen.message.parameter_list();
    message.options.sort_by_key(|code| rank(code, wished));
    let room = room(&seen.message);
    Reply { destination: destination(seen, kind, message.yiaddr), kind, message, room }
}

/// What is left of the datagram that the client takes (option 57), at least the 576 bytes that
/// everybody takes (RFC 2131 §2) and at most what an Ethernet frame holds, without the headers of
/// IP and UDP.
fn room(request: &Message) -> usize {
    usize::from(request.max_size().unwrap_or(0).clamp(576, 1500)) - 28
}

/// What matters most stands first, since the last options are left out of a message that is too
/// short: the lease, then what a machine starts, then what the client asked for in its order (RFC
/// 2132 §9.8), then the rest; the mask before the routers (§3.3).
fn rank(code: u8, wished: &[u8]) -> usize {
    const FIRST: [u8; 13] = [
        code::MESSAGE_TYPE,
        code::SERVER_ID,
        code::LEASE_TIME,
        code::RENEWAL_TIME,
        code::REBINDING_TIME,
        code::SUBNET_MASK,
        code::CLIENT_ID,
        code::SUBNET_SELECTION,
        code::VENDOR_CLASS,
        code::VENDOR_SPECIFIC,
        code::TFTP_SERVER,
        code::BOOT_FILE,
        code::IPXE,
    ];
    if code == code::RELAY_INFO {
        return usize::MAX;
    }
    let place = |codes: &[u8]| codes.iter().position(|one| *one == code);
    place(&FIRST).or_else(|| Some(FIRST.len() + place(wished)?)).unwrap_or(usize::MAX - 1)
}

/// Everything a grant is made of.
pub(super) struct Grant<'a> {
    pub(super) seen: &'a Seen<'a>,
    pub(super) node: &'a Known,
    /// The name the client shall have.
    pub(super) hostname: Option<&'a str>,
    pub(super) terms: &'a Terms<'a>,
    /// Length of the lease.
    pub(super) seconds: u32,
}

impl Grant<'_> {
    /// An OFFER or ACK of an address.
    pub(super) fn address(&self, kind: MessageType, address: Ipv4Addr) -> Reply {
        let mut reply = start(self.seen, kind);
        reply.yiaddr = address;
        if kind == MessageType::Ack {
            reply.ciaddr = self.seen.message.ciaddr;
        }
        let (renew, rebind) = self.terms.renewal(self.seconds);
        reply.options.set_u32(code::LEASE_TIME, self.seconds);
        reply.options.set_u32(code::RENEWAL_TIME, renew);
        reply.options.set_u32(code::REBINDING_TIME, rebind);
        self.parameters(&mut reply);
        finish(reply, self.seen, kind)
    }

    /// The answer to an INFORM: parameters without address or lease (RFC 2131 §4.3.5).
    pub(super) fn parameters_only(&self) -> Reply {
        let mut reply = start(self.seen, MessageType::Ack);
        reply.ciaddr = self.seen.message.ciaddr;
        self.parameters(&mut reply);
        finish(reply, self.seen, MessageType::Ack)
    }

    fn parameters(&self, reply: &mut Message) {
        let Seen { subnet, client, .. } = self.seen;
        reply.options.set_addresses(code::SUBNET_MASK, &[subnet.network.mask()]);
        if let Some(name) = self.hostname {
            reply.options.set(code::HOST_NAME, name);
        }
        self.terms.fill(&mut reply.options, client.boots());
        if client.stage == Stage::Ipxe {
            bootfile::fill_ipxe(reply);
        }
        if let Some(file) = boot_file(self.seen, self.node) {
            bootfile::fill(reply, &file, subnet.server);
        }
    }
}

/// An OFFER or ACK without address, lease and parameters, of which `fill` makes what it is.
pub(super) fn boot_only(seen: &Seen<'_>, kind: MessageType, fill: impl FnOnce(&mut Message)) -> Reply {
    let mut reply = start(seen, kind);
    if kind == MessageType::Ack {
        reply.ciaddr = seen.message.ciaddr;
    }
    fill(&mut reply);
    finish(reply, seen, kind)
}

/// What the client is told to start.
pub(super) fn boot_file(seen: &Seen<'_>, node: &Known) -> Option<BootFile> {
    let Seen { subnet, client, mac, .. } = seen;
    let offer = boot::offer(Some(&node.boot), node.policy(), Door::Dhcp(*client));
    bootfile::choose(offer, client.stage, subnet.local, &subnet.http, (*mac)?)
}

/// A NAK: nothing but the reason (RFC 2131 §4.3.1 table 3). Relays must broadcast it, since the
/// client's address is wrong (§4.3.2).
pub(super) fn nak(seen: &Seen<'_>, reason: &'static str) -> Reply {
    let mut reply = start(seen, MessageType::Nak);
    reply.broadcast |= !seen.message.giaddr.is_unspecified();
    reply.options.set(code::TEXT, Vec::from(reason));
    finish(reply, seen, MessageType::Nak)
}
