//! `[[node]]`

use kaltstart_protocol::ids::Mac;
use serde::Deserialize;
use std::net::Ipv4Addr;

/// `[[node]]`: a machine that is expected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Host name, one label.
    pub name: String,
    /// Hardware address of the interface it boots from.
    pub mac: Mac,
    /// Reserved address.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
}

impl Node {
    pub(super) fn problems(&self, all: &mut Vec<String>) {
        if !is_host_name(&self.name) {
            all.push(format!("node.name {:?} is not a host name (letters, digits, -)", self.name));
        }
    }
}

/// Whether `name` is one label of a host name (RFC 1123 §2.1), and cannot be taken for a MAC.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.parse::<Mac>().is_err()
}
