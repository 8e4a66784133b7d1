//! Boot files for clients that get their address from another DHCP server: proxyDHCP (PXE 2.1
//! §2.2.3, RFC 4578), on port 67 and, for the boot server's part, on port 4011.
//!
//! Nothing here gives an address, refuses one, or keeps a lease.

use super::bootfile::{self, BootFile};
use super::client::{Architecture, Client, HTTP_CLIENT, PXE_CLIENT, Stage};
use super::ping_check::Check;
use super::relay;
use super::reply;
use super::{Contact, Decision, Destination, Drop, Known, Reply, Seen};
use alloc::string::ToString;
use core::net::{Ipv4Addr, SocketAddrV4};
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::dhcp::options::code;

/// Port of PXE boot servers (PXE 2.1 §2.2.3).
pub const BOOT_SERVER_PORT: u16 = 4011;

/// Decides about a message to the DHCP port of a subnet whose addresses are another server's.
pub(super) fn decide(seen: &Seen<'_>, node: &Known) -> Decision {
    let reply = match seen.kind {
        MessageType::Discover => answer(seen, node, MessageType::Offer).map(Some),
        // Broadcast, so seen here too; it asks the other server.
        MessageType::Request if claimed(seen).is_some() => Ok(None),
        _ => Err(Drop::Proxy),
    };
    told(seen, reply)
}

/// Decides about a message to [`BOOT_SERVER_PORT`]: firmware that has its address asks for its
/// boot file (PXE 2.1 §2.2.5; UEFI firmware also where the standard would have it take the file
/// of the offer).
///
/// It is answered at the UDP port `port` that it asked from: BIOS asks from 68, OVMF from 4011 and
/// hears nothing at 68.
#[must_use]
pub fn boot_server(seen: &Seen<'_>, node: &Known, port: u16) -> Decision {
    let asks = matches!(seen.kind, MessageType::Discover | MessageType::Request | MessageType::Inform);
    let answer = || {
        let mut reply = answer(seen, node, MessageType::Ack)?;
        if let Destination::Unicast(client) = reply.destination {
            reply.destination = Destination::Asker(SocketAddrV4::new(client, port));
        }
        Ok(Some(reply))
    };
    let decision = told(seen, if asks { answer() } else { Err(Drop::Type) });
    relay::to_its_port(decision, seen, port)
}

/// The address the client takes from another server, or has.
fn claimed(seen: &Seen<'_>) -> Option<Ipv4Addr> {
    let message = &seen.message;
    let chosen = message.server_id().filter(|server| *server != seen.subnet.server);
    match chosen.and(message.requested_address()) {
        None => Some(message.ciaddr).filter(|address| !address.is_unspecified()),
        taken => taken,
    }
}

fn told(seen: &Seen<'_>, reply: Result<Option<Reply>, Drop>) -> Decision {
    let contact = Contact {
        mac: seen.mac,
        client: seen.client,
        kind: seen.kind,
        address: claimed(seen).filter(|address| seen.subnet.network.contains(*address)),
        hostname: seen.message.host_name().map(ToString::to_string),
        unanswered: reply.as_ref().err().copied(),
        claim: None,
    };
    Decision { reply, write: None, contact, check: Check::None }
}

/// The boot file, without an address.
fn answer(seen: &Seen<'_>, node: &Known, kind: MessageType) -> Result<Reply, Drop> {
    let Seen { subnet, message, client, .. } = seen;
    if !client.boots() {
        return Err(Drop::Proxy);
    }
    let file = reply::boot_file(seen, node).ok_or(Drop::NoBootFile)?;
    Ok(reply::boot_only(seen, kind, |reply| {
        bootfile::fill(reply, &file, subnet.server);
        reply.options.set(code::VENDOR_CLASS, vendor_class(*client));
        if !takes_file_of_offer(*client, &file) {
            reply.options.remove(code::VENDOR_SPECIFIC);
        }
        // RFC 4578 §2.3 has servers echo it; some firmware insists.
        if let Some(id) = message.options.get(code::MACHINE_ID) {
            reply.options.set(code::MACHINE_ID, id);
        }
    }))
}

/// An offer without address counts only with this class; iPXE takes itself for a PXE client.
const fn vendor_class(client: Client) -> &'static str {
    match client.stage {
        Stage::HttpBoot => HTTP_CLIENT,
        Stage::Os | Stage::Pxe | Stage::Ipxe => PXE_CLIENT,
    }
}

/// Whether the client is told by PXE discovery control to use the offer's file. UEFI firmware is
/// not: without option 43 it asks [`BOOT_SERVER_PORT`] for the name, which all of it does, while
/// some ignores an offer that would spare it that.
fn takes_file_of_offer(client: Client, file: &BootFile) -> bool {
    client.architecture == Architecture::Bios && !matches!(file, BootFile::Http(_))
}

#[cfg(test)]
mod tests;
