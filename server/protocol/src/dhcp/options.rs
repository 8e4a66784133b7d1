//! DHCP options as an ordered list of raw values (RFC 2132 and its successors).
//!
//! Values stay bytes until somebody asks for one: a malformed host name must not hide the vendor
//! class behind it, and relay information must be echoed as it came.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// Numbers of the options that are spoken here.
pub mod code {
    /// Padding without a length (RFC 2132 §3.1).
    pub const PAD: u8 = 0;
    /// Subnet mask (RFC 2132 §3.3).
    pub const SUBNET_MASK: u8 = 1;
    /// Routers (RFC 2132 §3.5).
    pub const ROUTERS: u8 = 3;
    /// Name servers (RFC 2132 §3.8).
    pub const NAME_SERVERS: u8 = 6;
    /// Host name (RFC 2132 §3.14).
    pub const HOST_NAME: u8 = 12;
    /// Domain name (RFC 2132 §3.17).
    pub const DOMAIN_NAME: u8 = 15;
    /// Vendor-specific information; for PXE clients the PXE sub-options (RFC 2132 §8.4).
    pub const VENDOR_SPECIFIC: u8 = 43;
    /// Wished address (RFC 2132 §9.1).
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Lease time in seconds (RFC 2132 §9.2).
    pub const LEASE_TIME: u8 = 51;
    /// The header's `file` and `sname` hold options (RFC 2132 §9.3).
    pub const OVERLOAD: u8 = 52;
    /// Message type (RFC 2132 §9.6).
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier (RFC 2132 §9.7).
    pub const SERVER_ID: u8 = 54;
    /// Options the client would like (RFC 2132 §9.8).
    pub const PARAMETER_LIST: u8 = 55;
    /// Text of a refusal (RFC 2132 §9.9).
    pub const TEXT: u8 = 56;
    /// Longest message the client takes (RFC 2132 §9.10).
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    /// Renewal time T1 in seconds (RFC 2132 §9.11).
    pub const RENEWAL_TIME: u8 = 58;
    /// Rebinding time T2 in seconds (RFC 2132 §9.12).
    pub const REBINDING_TIME: u8 = 59;
    /// Vendor class (RFC 2132 §9.13).
    pub const VENDOR_CLASS: u8 = 60;
    /// Client identifier (RFC 2132 §9.14, RFC 6842).
    pub const CLIENT_ID: u8 = 61;
    /// TFTP server name (RFC 2132 §9.4).
    pub const TFTP_SERVER: u8 = 66;
    /// Boot file name (RFC 2132 §9.5).
    pub const BOOT_FILE: u8 = 67;
    /// User classes (RFC 3004).
    pub const USER_CLASS: u8 = 77;
    /// Relay agent information (RFC 3046).
    pub const RELAY_INFO: u8 = 82;
    /// Client system architectures (RFC 4578 §2.1).
    pub const ARCHITECTURE: u8 = 93;
    /// Machine identifier (RFC 4578 §2.3).
    pub const MACHINE_ID: u8 = 97;
    /// Subnet selection by the client (RFC 3011).
    pub const SUBNET_SELECTION: u8 = 118;
    /// iPXE's own options.
    pub const IPXE: u8 = 175;
    /// End of the options (RFC 2132 §3.2).
    pub const END: u8 = 255;
}

/// An option ends beyond its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("option {0} ends beyond its field")]
pub struct Overrun(pub u8);

/// Options in the order of their first appearance, one value per number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// The value of an option.
    #[must_use]
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find(|(c, _)| *c == code).map(|(_, value)| value.as_slice())
    }

    /// Sets an option, in its old place if it had one, else at the end.
    ///
    /// [`code::PAD`] and [`code::END`] are not options and are ignored.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        if matches!(code, code::PAD | code::END) {
            return;
        }
        match self.0.iter_mut().find(|(c, _)| *c == code) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((code, value.into())),
        }
    }

    /// Sets an option to addresses.
    pub fn set_addresses(&mut self, code: u8, addresses: &[Ipv4Addr]) {
        self.set(code, addresses.iter().flat_map(Ipv4Addr::octets).collect::<Vec<_>>());
    }

    /// Sets an option to a 32-bit number.
    pub fn set_u32(&mut self, code: u8, number: u32) {
        self.set(code, number.to_be_bytes());
    }

    /// Takes an option away.
    pub fn remove(&mut self, code: u8) {
        self.0.retain(|(c, _)| *c != code);
    }

    /// Orders the options by a key of their numbers.
    pub fn sort_by_key(&mut self, key: impl Fn(u8) -> usize) {
        self.0.sort_by_cached_key(|(code, _)| key(*code));
    }

    /// All options in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    /// The value as one byte, if it is exactly that.
    #[must_use]
    pub fn u8(&self, code: u8) -> Option<u8> {
        let [byte] = *self.get(code)? else { return None };
        Some(byte)
    }

    /// The value as a 16-bit number, if it is exactly that.
    #[must_use]
    pub fn u16(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(self.get(code)?.try_into().ok()?))
    }

    /// The value as a 32-bit number, if it is exactly that.
    #[must_use]
    pub fn u32(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(code)?.try_into().ok()?))
    }

    /// The value as one address, if it is exactly that.
    #[must_use]
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.u32(code).map(Ipv4Addr::from_bits)
    }

    /// The value as a list of addresses; empty if it is missing or no such list.
    #[must_use]
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        match self.get(code).map(<[u8]>::as_chunks::<4>) {
            Some((addresses, [])) => addresses.iter().copied().map(Ipv4Addr::from_octets).collect(),
            _ => Vec::new(),
        }
    }

    /// The value as text: trailing NULs cut off, then non-empty UTF-8 without control characters.
    #[must_use]
    pub fn text(&self, code: u8) -> Option<&str> {
        let text = core::str::from_utf8(self.get(code)?).ok()?.trim_end_matches('\0');
        (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
    }

    /// Reads one options field up to its end mark, which may be missing. Values of a number that
    /// comes again are joined (RFC 3396 §5).
    pub(super) fn read(&mut self, mut field: &[u8]) -> Result<(), Overrun> {
        loop {
            match *field {
                [] | [code::END, ..] => return Ok(()),
                [code::PAD, ref rest @ ..] => field = rest,
                [code, length, ref rest @ ..] if rest.len() >= usize::from(length) => {
                    let (value, rest) = rest.split_at(usize::from(length));
                    match self.0.iter_mut().find(|(c, _)| *c == code) {
                        Some((_, start)) => start.extend_from_slice(value),
                        None => self.0.push((code, value.to_vec())),
                    }
                    field = rest;
                }
                [code, ..] => return Err(Overrun(code)),
            }
        }
    }

    /// Puts the options into fields of those sizes, in this order, each with room for its end mark: an
    /// option goes whole into the first field that has room for it, in parts of 255 bytes (RFC 3396
    /// §6), or is left out.
    pub(super) fn place<const N: usize>(&self, sizes: [usize; N]) -> [Vec<u8>; N] {
        let mut fields = [const { Vec::new() }; N];
        for (code, value) in self.iter() {
            let length = encoded_len(value);
            let mut with_room =
                fields.iter_mut().zip(sizes).filter(|(field, size)| field.len() + length < *size);
            if let Some((field, _)) = with_room.next() {
                write(field, code, value);
            }
        }
        fields
    }

    /// Bytes that all of them take, without an end mark.
    pub(super) fn encoded_len(&self) -> usize {
        self.iter().map(|(_, value)| encoded_len(value)).sum()
    }
}

fn encoded_len(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(PART_MAX).max(1)
}

/// Longest value of one part of an option.
const PART_MAX: usize = 255;

/// Appends an option, in parts if it must be (RFC 3396 §6).
pub(super) fn write(field: &mut Vec<u8>, code: u8, value: &[u8]) {
    if value.is_empty() {
        field.extend_from_slice(&[code, 0]);
    }
    for part in value.chunks(PART_MAX) {
        // `chunks` makes no part longer than a byte can count.
        field.extend_from_slice(&[code, part.len() as u8]);
        field.extend_from_slice(part);
    }
}

/// The elements of a list of `code, length, value`, as in options 43, 82 and 175; ends at the
/// first malformed one.
pub fn sub_options(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    core::iter::from_fn(move || {
        let (&[code, length], rest) = bytes.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(length))?;
        bytes = rest;
        Some((code, value))
    })
}
