//! Who a client or server is: DUIDs (RFC 8415 §11, RFC 6355).
//!
//! To others a DUID is only bytes to be compared. A boot server looks into those of clients all
//! the same: firmware names its machine in them.

use crate::ids::Mac;
use alloc::vec::Vec;

/// Longest DUID, with its type (RFC 8415 §11.1).
pub const DUID_MAX: usize = 130;
/// Shortest: a type, and something.
pub const DUID_MIN: usize = 3;

const LINK_LAYER_TIME: [u8; 2] = [0, 1];
const LINK_LAYER: [u8; 2] = [0, 3];
const UUID: [u8; 2] = [0, 4];
/// ARP hardware type of Ethernet.
const ETHERNET: [u8; 2] = [0, 1];

/// Whether its length is that of a DUID.
#[must_use]
pub fn is_valid(duid: &[u8]) -> bool {
    (DUID_MIN..=DUID_MAX).contains(&duid.len())
}

/// The hardware address a DUID is made of: that of some interface of the machine.
#[must_use]
pub fn mac(duid: &[u8]) -> Option<Mac> {
    let (kind, rest) = duid.split_first_chunk::<2>()?;
    let (hardware, rest) = rest.split_first_chunk::<2>()?;
    let address = match *kind {
        LINK_LAYER => rest,
        LINK_LAYER_TIME => rest.get(4..)?,
        _ => return None,
    };
    (*hardware == ETHERNET).then_some(())?;
    address.try_into().ok().map(Mac)
}

/// The machine's UUID a DUID is made of, as SMBIOS has it (RFC 6355 §4).
#[must_use]
pub fn uuid(duid: &[u8]) -> Option<[u8; 16]> {
    duid.strip_prefix(&UUID)?.try_into().ok()
}

/// The DUID of a UUID.
#[must_use]
pub fn of_uuid(uuid: [u8; 16]) -> Vec<u8> {
    [&UUID[..], &uuid].concat()
}

/// The DUID of an Ethernet interface.
#[must_use]
pub fn of_mac(mac: Mac) -> Vec<u8> {
    [&LINK_LAYER[..], &ETHERNET, &mac.0].concat()
}
