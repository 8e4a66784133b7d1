//! Identities (IA_NA), their addresses, and how it went.

use super::options::{Options, code};
use alloc::vec::Vec;
use core::net::Ipv6Addr;

/// An identity that wants or has addresses (`IA_NA`, RFC 8415 §21.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its number, unlike those of the client's other identities.
    pub id: u32,
    /// T1, seconds.
    pub renew: u32,
    /// T2, seconds.
    pub rebind: u32,
    /// What stands in it.
    pub options: Options,
}

impl Identity {
    /// An identity without anything.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self { id, renew: 0, rebind: 0, options: Options::default() }
    }

    /// Reads the value of the option.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let ([id, renew, rebind], rest) = words(value)?;
        Some(Self { id, renew, rebind, options: Options::decode(rest).ok()? })
    }

    /// The value of the option.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.id, self.renew, self.rebind].map(u32::to_be_bytes).concat();
        self.options.encode(&mut bytes);
        bytes
    }

    /// Its addresses; malformed ones are left out.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        self.options.all(code::IA_ADDRESS).filter_map(Address::decode)
    }

    /// Adds an address.
    pub fn push(&mut self, address: &Address) {
        self.options.push(code::IA_ADDRESS, address.encode());
    }

    /// Says how it went.
    pub fn push_status(&mut self, status: Status, text: &str) {
        self.options.push(code::STATUS, status.encode(text));
    }

    /// How it went.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        Status::decode(self.options.get(code::STATUS)?)
    }
}

/// An address of an identity (RFC 8415 §21.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv6Addr,
    /// Seconds for which new connections may use it.
    pub preferred: u32,
    /// Seconds for which the client has it.
    pub valid: u32,
}

impl Address {
    fn decode(value: &[u8]) -> Option<Self> {
        let (address, rest) = value.split_first_chunk::<16>()?;
        let ([preferred, valid], _) = words(rest)?;
        Some(Self { address: (*address).into(), preferred, valid })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::from(self.address.octets());
        bytes.extend([self.preferred, self.valid].map(u32::to_be_bytes).concat());
        bytes
    }
}

/// How it went (RFC 8415 §21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Success,
    /// For a reason that has no number.
    Unspecified,
    /// There is no address.
    NoAddresses,
    /// Such an identity is not known.
    NoBinding,
    /// An address does not fit the link.
    NotOnLink,
    /// The client shall send to the servers' group.
    UseMulticast,
    /// There is no prefix.
    NoPrefix,
}

impl Status {
    /// All of them, in the order of their numbers, which begin with 0.
    const ALL: [Self; 7] = [
        Self::Success,
        Self::Unspecified,
        Self::NoAddresses,
        Self::NoBinding,
        Self::NotOnLink,
        Self::UseMulticast,
        Self::NoPrefix,
    ];

    /// The value of the option.
    #[must_use]
    pub fn encode(self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::from((self as u16).to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    /// Reads the value of the option.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (number, _) = value.split_first_chunk()?;
        Self::ALL.get(usize::from(u16::from_be_bytes(*number))).copied()
    }
}

/// The 32-bit numbers at the beginning, and the rest.
fn words<const N: usize>(mut bytes: &[u8]) -> Option<([u32; N], &[u8])> {
    let mut words = [0; N];
    for word in &mut words {
        let (number, rest) = bytes.split_first_chunk()?;
        (*word, bytes) = (u32::from_be_bytes(*number), rest);
    }
    Some((words, bytes))
}
