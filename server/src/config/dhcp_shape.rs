//! What the values of well-known DHCP options look like: a client ignores, or misreads, a value of
//! another shape, and says nothing.

use super::dhcp_option::Value;
use std::fmt;

/// What a value consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One address or more.
    Addresses,
    /// Exactly one address.
    Address,
    /// Pairs of addresses.
    AddressPairs,
    /// One byte.
    U8,
    /// 16 bits.
    U16,
    /// 32 bits.
    U32,
    /// One byte, 0 or 1.
    Bool,
    /// Text.
    Text,
    /// A form of its own, which only bytes can say.
    Bytes,
}

impl Shape {
    /// Whether the value has this shape; bytes may be anything.
    pub(super) fn admits(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Bytes(_)) => true,
            (Self::Addresses, Value::Addresses(addresses)) => !addresses.is_empty(),
            (Self::Address, Value::Addresses(addresses)) => addresses.len() == 1,
            (Self::AddressPairs, Value::Addresses(addresses)) => {
                !addresses.is_empty() && addresses.len().is_multiple_of(2)
            }
            (Self::Bool, Value::U8(number)) => *number <= 1,
            (Self::Text, Value::Text(text)) => !text.is_empty(),
            (Self::U8, Value::U8(_)) | (Self::U16, Value::U16(_)) | (Self::U32, Value::U32(_)) => true,
            _ => false,
        }
    }
}

/// What to write.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Addresses => "addresses: write `ip` or `ips`",
            Self::Address => "one address: write `ip`",
            Self::AddressPairs => "pairs of addresses: write `ips` with an even number of them",
            Self::U8 => "a number of one byte: write `u8`",
            Self::U16 => "a number of 16 bits: write `u16`",
            Self::U32 => "a number of 32 bits: write `u32`",
            Self::Bool => "yes or no: write `u8 = 1` or `u8 = 0`",
            Self::Text => "text: write `text`",
            Self::Bytes => "in a form of its own: write its bytes as `hex`",
        })
    }
}

/// Name and shape of a well-known option (RFC 2132 where nothing else is said); none for others.
pub(super) fn known(code: u8) -> Option<(&'static str, Shape)> {
    KNOWN.iter().find(|(known, ..)| *known == code).map(|(_, name, shape)| (*name, *shape))
}

const KNOWN: [(u8, &str, Shape); 67] = [
    (2, "time offset", Shape::U32),
    (3, "routers", Shape::Addresses),
    (4, "time servers", Shape::Addresses),
    (5, "IEN 116 name servers", Shape::Addresses),
    (6, "name servers", Shape::Addresses),
    (7, "log servers", Shape::Addresses),
    (8, "cookie servers", Shape::Addresses),
    (9, "LPR servers", Shape::Addresses),
    (10, "Impress servers", Shape::Addresses),
    (11, "resource location servers", Shape::Addresses),
    (13, "boot file size", Shape::U16),
    (14, "merit dump file", Shape::Text),
    (15, "domain name", Shape::Text),
    (16, "swap server", Shape::Address),
    (17, "root path", Shape::Text),
    (18, "extensions path", Shape::Text),
    (19, "IP forwarding", Shape::Bool),
    (20, "non-local source routing", Shape::Bool),
    (21, "policy filter", Shape::AddressPairs),
    (22, "maximum datagram reassembly size", Shape::U16),
    (23, "default TTL", Shape::U8),
    (24, "path MTU aging timeout", Shape::U32),
    (26, "interface MTU", Shape::U16),
    (27, "all subnets are local", Shape::Bool),
    (28, "broadcast address", Shape::Address),
    (29, "mask discovery", Shape::Bool),
    (30, "mask supplier", Shape::Bool),
    (31, "router discovery", Shape::Bool),
    (32, "router solicitation address", Shape::Address),
    (33, "static routes", Shape::AddressPairs),
    (34, "trailer encapsulation", Shape::Bool),
    (35, "ARP cache timeout", Shape::U32),
    (36, "Ethernet encapsulation", Shape::Bool),
    (37, "TCP default TTL", Shape::U8),
    (38, "TCP keepalive interval", Shape::U32),
    (39, "TCP keepalive garbage", Shape::Bool),
    (40, "NIS domain", Shape::Text),
    (41, "NIS servers", Shape::Addresses),
    (42, "NTP servers", Shape::Addresses),
    (44, "NetBIOS name servers", Shape::Addresses),
    (45, "NetBIOS datagram distribution servers", Shape::Addresses),
    (46, "NetBIOS node type", Shape::U8),
    (47, "NetBIOS scope", Shape::Text),
    (48, "X font servers", Shape::Addresses),
    (49, "X display managers", Shape::Addresses),
    (60, "vendor class", Shape::Text),
    (64, "NIS+ domain", Shape::Text),
    (65, "NIS+ servers", Shape::Addresses),
    (66, "TFTP server name", Shape::Text),
    (67, "boot file name", Shape::Text),
    (69, "SMTP servers", Shape::Addresses),
    (70, "POP3 servers", Shape::Addresses),
    (71, "NNTP servers", Shape::Addresses),
    (72, "web servers", Shape::Addresses),
    (73, "finger servers", Shape::Addresses),
    (74, "IRC servers", Shape::Addresses),
    // RFC 4833.
    (100, "POSIX time zone", Shape::Text),
    (101, "time zone name", Shape::Text),
    // RFC 8910.
    (114, "captive portal", Shape::Text),
    // Compressed names (RFC 3397, RFC 3361), prefixes with routers (RFC 3442; 249 is Microsoft's).
    (119, "domain search list", Shape::Bytes),
    (120, "SIP servers", Shape::Bytes),
    (121, "classless static routes", Shape::Bytes),
    (249, "classless static routes", Shape::Bytes),
    // RFC 5859.
    (150, "TFTP server addresses", Shape::Addresses),
    // RFC 5071.
    (209, "PXELINUX configuration file", Shape::Text),
    (210, "PXELINUX path prefix", Shape::Text),
    (211, "PXELINUX reboot time", Shape::U32),
];
