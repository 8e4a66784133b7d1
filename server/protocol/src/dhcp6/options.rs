//! DHCPv6 options as an ordered list of raw values (RFC 8415 §21 and its companions).
//!
//! An option may occur several times, as identities and their addresses do.

use super::DecodeError;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

/// Numbers of the options that are spoken here.
pub mod code {
    /// DUID of the client (RFC 8415 §21.2).
    pub const CLIENT_ID: u16 = 1;
    /// DUID of the server (RFC 8415 §21.3).
    pub const SERVER_ID: u16 = 2;
    /// An identity that wants addresses (RFC 8415 §21.4).
    pub const IA_NA: u16 = 3;
    /// An identity that wants temporary addresses (RFC 8415 §21.5).
    pub const IA_TA: u16 = 4;
    /// An address of an identity (RFC 8415 §21.6).
    pub const IA_ADDRESS: u16 = 5;
    /// Options the client would like (RFC 8415 §21.7).
    pub const OPTION_REQUEST: u16 = 6;
    /// The message within a relay's (RFC 8415 §21.10).
    pub const RELAY_MESSAGE: u16 = 9;
    /// How it went (RFC 8415 §21.13).
    pub const STATUS: u16 = 13;
    /// Two messages are enough (RFC 8415 §21.14).
    pub const RAPID_COMMIT: u16 = 14;
    /// User classes (RFC 8415 §21.15).
    pub const USER_CLASS: u16 = 15;
    /// Vendor class (RFC 8415 §21.16).
    pub const VENDOR_CLASS: u16 = 16;
    /// Where the relay has the message from; echoed (RFC 8415 §21.18).
    pub const INTERFACE_ID: u16 = 18;
    /// Name servers (RFC 3646 §3).
    pub const NAME_SERVERS: u16 = 23;
    /// Domains to search in (RFC 3646 §4).
    pub const DOMAINS: u16 = 24;
    /// An identity that wants prefixes (RFC 8415 §21.21).
    pub const IA_PD: u16 = 25;
    /// URL of the boot file (RFC 5970 §3.1).
    pub const BOOT_FILE_URL: u16 = 59;
    /// Architectures of the client (RFC 5970 §3.3).
    pub const CLIENT_ARCHITECTURE: u16 = 61;
    /// Hardware address of the client, as its relay sees it (RFC 6939 §4).
    pub const CLIENT_LINK_LAYER: u16 = 79;
}

/// Options in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<(u16, Vec<u8>)>);

impl Options {
    /// Reads options that fill `bytes`.
    ///
    /// # Errors
    /// When one ends beyond them.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut options = Vec::new();
        while let [a, b, c, d, rest @ ..] = bytes {
            let (code, length) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            let (value, rest) = rest.split_at_checked(length.into()).ok_or(DecodeError::Overrun(code))?;
            options.push((code, Vec::from(value)));
            bytes = rest;
        }
        if bytes.is_empty() { Ok(Self(options)) } else { Err(DecodeError::Short) }
    }

    /// Writes them behind `bytes`.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        for (code, value) in &self.0 {
            put(bytes, *code, value);
        }
    }

    /// The first value of an option.
    #[must_use]
    pub fn get(&self, code: u16) -> Option<&[u8]> {
        self.all(code).next()
    }

    /// All values of an option.
    pub fn all(&self, code: u16) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(c, _)| *c == code).map(|(_, value)| value.as_slice())
    }

    /// Whether the option is there.
    #[must_use]
    pub fn has(&self, code: u16) -> bool {
        self.get(code).is_some()
    }

    /// Adds an option at the end.
    pub fn push(&mut self, code: u16, value: impl Into<Vec<u8>>) {
        self.0.push((code, value.into()));
    }

    /// Adds an option that lists addresses.
    pub fn push_addresses(&mut self, code: u16, addresses: &[Ipv6Addr]) {
        self.push(code, addresses.iter().flat_map(Ipv6Addr::octets).collect::<Vec<_>>());
    }

    /// Takes an option out that may occur once, and gives its first value.
    pub(super) fn take(&mut self, code: u16) -> Option<Vec<u8>> {
        let first = self.get(code).map(Vec::from);
        self.0.retain(|(c, _)| *c != code);
        first
    }
}

/// Writes one option; what does not fit its length field is cut off.
pub(super) fn put(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    bytes.extend(code.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(&value[..usize::from(length)]);
}

/// Reads a list of values with 16-bit lengths, up to the first that ends beyond it.
pub(super) fn counted(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        bytes = rest;
        Some(value)
    })
}

/// One value with a 16-bit length before it, as classes have it.
#[must_use]
pub fn with_length(value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::from(length.to_be_bytes());
    bytes.extend(&value[..usize::from(length)]);
    bytes
}
