//! What a switch says of itself and of the port (LLDP, IEEE 802.1AB-2016).

use kaltstart_protocol::facts::{Neighbour, text};

/// Types of TLVs (§8.4).
const END: u8 = 0;
const CHASSIS: u8 = 1;
const PORT: u8 = 2;
const TIME_TO_LIVE: u8 = 3;
const PORT_DESCRIPTION: u8 = 4;
const SYSTEM_NAME: u8 = 5;
const ORGANISATION: u8 = 127;
/// IEEE 802.1's identifier, and its subtype for the port's own VLAN (IEEE 802.1Q-2018 D.2.1).
const PORT_VLAN: [u8; 4] = [0x00, 0x80, 0xc2, 0x01];

/// Reads an LLDPDU, what follows the EtherType 88cc; none when it does not name chassis and port, or
/// says that it is valid no longer.
///
/// A TLV that is cut short ends the reading, as some switches pad wrongly; of two of one type the
/// first counts.
#[must_use]
pub fn read(mut pdu: &[u8]) -> Option<Neighbour> {
    let (mut chassis, mut port, mut lives) = (None, None, None);
    let mut found = Neighbour::default();
    while let Some((kind, value, rest)) = tlv(pdu) {
        pdu = rest;
        match kind {
            END => break,
            CHASSIS => chassis = chassis.or_else(|| identifier(value, 4, 5)),
            PORT => port = port.or_else(|| identifier(value, 3, 4)),
            TIME_TO_LIVE => lives = lives.or_else(|| value.first_chunk().map(|ttl| *ttl != [0, 0])),
            PORT_DESCRIPTION if found.port_description.is_empty() => found.port_description = text(value),
            SYSTEM_NAME if found.switch.is_empty() => found.switch = text(value),
            ORGANISATION if found.vlan.is_none() => {
                let vlan = value.strip_prefix(&PORT_VLAN).and_then(|vlan| vlan.first_chunk());
                // 0: the port has no VLAN of its own.
                found.vlan =
                    vlan.map(|vlan| u16::from_be_bytes(*vlan)).filter(|vlan| (1..4095).contains(vlan));
            }
            _ => {}
        }
    }
    found.chassis = chassis?;
    found.port = port?;
    lives?.then_some(found)
}

/// The first TLV: seven bits of type, nine of length, the value (§8.4); and what follows.
fn tlv(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let head = u16::from_be_bytes(*bytes.first_chunk()?);
    let (value, rest) = bytes.get(2..)?.split_at_checked(usize::from(head & 0x1ff))?;
    Some(((head >> 9) as u8, value, rest))
}

/// A chassis' or port's identifier (§8.5.2, §8.5.3): a MAC and a network address have subtypes of
/// their own, all others are text; none when there is nothing.
fn identifier(value: &[u8], mac: u8, address: u8) -> Option<String> {
    let (subtype, id) = value.split_first()?;
    let told = match id {
        [a, b, c, d, e, f] if *subtype == mac => format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        // Family 1 of IANA's address families.
        [1, a, b, c, d] if *subtype == address => format!("{a}.{b}.{c}.{d}"),
        id if *subtype == mac || *subtype == address => id.iter().map(|byte| format!("{byte:02x}")).collect(),
        id => text(id),
    };
    (!told.is_empty()).then_some(told)
}

#[cfg(test)]
#[path = "lldp_tests.rs"]
mod tests;
