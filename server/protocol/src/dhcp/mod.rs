//! DHCPv4 messages: RFC 2131 §2, for server and client alike.
//!
//! [`Message::decode`] accepts or rejects any bytes and never panics: length, operation,
//! hardware address length, magic cookie and the bounds of every option are checked before
//! anything is read. Options are kept raw and in order ([`Options`]); the accessors of
//! [`Message`] read them when asked, so that one malformed option hides no other.
//!
//! The codec is hand-written. `dhcproto` would lose data a boot server needs (everything behind
//! the first option it cannot parse, all but the first architecture, the order of relay
//! sub-options, overloaded fields) and panics on some packets; it serves the tests as an
//! independent peer instead.

pub mod options;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

use crate::ids::Mac;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use options::{Options, code};
use serde::{Deserialize, Serialize};

/// Port on which servers and relays listen.
pub const SERVER_PORT: u16 = 67;
/// Port on which clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Encoded messages are padded to this: BOOTP's fixed size, which old relays and boot ROMs insist
/// on (RFC 1542 §2.1).
pub const MIN_ENCODED: usize = 300;
/// Longer messages are rejected; no client comes near it, and it bounds the work per packet.
pub const MAX_MESSAGE: usize = 4096;

/// Bytes before the options: the fixed fields and the cookie.
const HEADER: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const SNAME: core::ops::Range<usize> = 44..108;
const FILE: core::ops::Range<usize> = 108..236;
const BROADCAST: u16 = 0x8000;
/// ARP hardware type of Ethernet.
const ETHERNET: u8 = 1;

/// Why bytes are not a DHCP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the fixed fields.
    #[error("{0} bytes are too short for a DHCP message")]
    Short(usize),
    /// Longer than [`MAX_MESSAGE`].
    #[error("{0} bytes are too long for a DHCP message")]
    Long(usize),
    /// Neither a request nor a reply.
    #[error("unknown operation {0}")]
    Operation(u8),
    /// More than the 16 bytes there are.
    #[error("hardware address of {0} bytes")]
    HardwareLength(u8),
    /// BOOTP without options, or something else.
    #[error("no DHCP magic cookie")]
    Cookie,
    /// An option does not fit into its field.
    #[error(transparent)]
    Overrun(#[from] options::Overrun),
}

/// Direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// From a client.
    Request,
    /// From a server.
    Reply,
}

/// DHCP message types (RFC 2132 §9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// Client: who is there?
    Discover = 1,
    /// Server: you could have this address.
    Offer = 2,
    /// Client: I take it, or keep it.
    Request = 3,
    /// Client: somebody else uses it.
    Decline = 4,
    /// Server: it is yours.
    Ack = 5,
    /// Server: it is not.
    Nak = 6,
    /// Client: I give it back.
    Release = 7,
    /// Client: I have an address, tell me the rest.
    Inform = 8,
}

impl MessageType {
    /// All types, by number.
    pub const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];

    /// The place in [`MessageType::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The name for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Offer => "offer",
            Self::Request => "request",
            Self::Decline => "decline",
            Self::Ack => "ack",
            Self::Nak => "nak",
            Self::Release => "release",
            Self::Inform => "inform",
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A client's hardware address (`htype`, `hlen`, `chaddr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware {
    kind: u8,
    length: u8,
    bytes: [u8; 16],
}

impl Hardware {
    /// ARP hardware type; 1 is Ethernet.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// The address: at most 16 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length).min(self.bytes.len())]
    }
}

impl From<Mac> for Hardware {
    fn from(mac: Mac) -> Self {
        let mut bytes = [0; 16];
        bytes[..mac.0.len()].copy_from_slice(&mac.0);
        Self { kind: ETHERNET, length: mac.0.len() as u8, bytes }
    }
}

/// A DHCP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Direction.
    pub operation: Operation,
    /// Relays it passed.
    pub hops: u8,
    /// Transaction id.
    pub xid: u32,
    /// Seconds the client has tried.
    pub secs: u16,
    /// The client cannot take unicast before it has an address.
    pub broadcast: bool,
    /// Address the client has and answers to.
    pub ciaddr: Ipv4Addr,
    /// Address the client is given.
    pub yiaddr: Ipv4Addr,
    /// Server of the boot file.
    pub siaddr: Ipv4Addr,
    /// First relay on the way.
    pub giaddr: Ipv4Addr,
    /// Hardware address of the client.
    pub hardware: Hardware,
    /// Server name, without NULs; empty when the field held options.
    pub sname: Vec<u8>,
    /// Boot file name, without NULs; empty when the field held options.
    pub file: Vec<u8>,
    /// The options.
    pub options: Options,
}

impl Message {
    /// A client's message of that type.
    #[must_use]
    pub fn request(kind: MessageType, xid: u32, mac: Mac) -> Self {
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, [kind as u8]);
        Self {
            operation: Operation::Request,
            hops: 0,
            xid,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            hardware: mac.into(),
            sname: Vec::new(),
            file: Vec::new(),
            options,
        }
    }

    /// A server's message of that type to the sender of `self`: what RFC 2131 §4.3.1 table 3
    /// copies is copied, all else is empty.
    #[must_use]
    pub fn reply(&self, kind: MessageType) -> Self {
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, [kind as u8]);
        Self {
            operation: Operation::Reply,
            hops: 0,
            xid: self.xid,
            secs: 0,
            broadcast: self.broadcast,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: self.giaddr,
            hardware: self.hardware,
            sname: Vec::new(),
            file: Vec::new(),
            options,
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no DHCP message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(DecodeError::Long(bytes.len()));
        }
        let short = DecodeError::Short(bytes.len());
        let (header, field) = bytes.split_first_chunk::<HEADER>().ok_or(short)?;
        let [op, kind, length, hops, ..] = *header;
        let operation = match op {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(DecodeError::Operation(other)),
        };
        if length > 16 {
            return Err(DecodeError::HardwareLength(length));
        }
        if header[236..] != COOKIE {
            return Err(DecodeError::Cookie);
        }
        let mut options = Options::default();
        options.read(field)?;
        // RFC 2132 §9.3: 1 = file, 2 = sname, 3 = both. RFC 3396 §5 fixes the order. The value is
        // taken before the fields are read: an overloaded field cannot overload another.
        let overload = options.u8(code::OVERLOAD).unwrap_or(0);
        let (mut file, mut sname) = (text(&header[FILE]), text(&header[SNAME]));
        if overload & 1 != 0 {
            options.read(&header[FILE])?;
            file.clear();
        }
        if overload & 2 != 0 {
            options.read(&header[SNAME])?;
            sname.clear();
        }
        options.remove(code::OVERLOAD);
        let u16_at = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
        let mut hardware = Hardware { kind, length, bytes: [0; 16] };
        let end = usize::from(length);
        hardware.bytes[..end].copy_from_slice(&header[28..28 + end]);
        Ok(Self {
            operation,
            hops,
            xid: u32_at(4),
            secs: u16_at(8),
            broadcast: u16_at(10) & BROADCAST != 0,
            ciaddr: u32_at(12).into(),
            yiaddr: u32_at(16).into(),
            siaddr: u32_at(20).into(),
            giaddr: u32_at(24).into(),
            hardware,
            sname,
            file,
            options,
        })
    }

    /// Writes the message, padded to [`MIN_ENCODED`]. `sname` and `file` that do not fit their
    /// fields with a final NUL are left out rather than cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_within(usize::MAX)
    }

    /// The same in at most `size` bytes (not below [`MIN_ENCODED`]). Options without room go into
    /// `file` and `sname` if no file is named (RFC 2132 §9.3), or are left out, the last ones first;
    /// relay information is always written, and last: the relay takes it out again, so that it does
    /// not count (RFC 3046 §2.1).
    #[must_use]
    pub fn encode_within(&self, size: usize) -> Vec<u8> {
        let mut options = self.options.clone();
        options.remove(code::RELAY_INFO);
        let room = size.max(MIN_ENCODED) - HEADER;
        let [mut field, ..] = options.place([room]);
        let (mut file, mut sname) = (self.file.clone(), self.sname.clone());
        if field.len() < options.encoded_len() && file.is_empty() && sname.is_empty() {
            // Three bytes say that the fields hold options.
            let placed = options.place([room - 3, FILE.len() - 1, SNAME.len() - 1]);
            let [main, in_file, in_sname] = placed;
            field = main;
            let used = u8::from(!in_file.is_empty()) | u8::from(!in_sname.is_empty()) << 1;
            if used != 0 {
                options::write(&mut field, code::OVERLOAD, &[used]);
            }
            (file, sname) = (in_file, in_sname);
            for overloaded in [&mut file, &mut sname].into_iter().filter(|field| !field.is_empty()) {
                overloaded.push(code::END);
            }
        }
        if let Some(information) = self.relay_info() {
            options::write(&mut field, code::RELAY_INFO, information);
        }
        field.push(code::END);
        self.assemble(&field, &file, &sname)
    }

    fn assemble(&self, options: &[u8], file: &[u8], sname: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + options.len());
        bytes.push(match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        });
        bytes.extend_from_slice(&[self.hardware.kind, self.hardware.length, self.hops]);
        bytes.extend_from_slice(&self.xid.to_be_bytes());
        bytes.extend_from_slice(&self.secs.to_be_bytes());
        bytes.extend_from_slice(&if self.broadcast { BROADCAST } else { 0 }.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            bytes.extend_from_slice(&address.octets());
        }
        bytes.extend_from_slice(&self.hardware.bytes);
        for (value, field) in [(sname, SNAME), (file, FILE)] {
            if value.len() < field.len() {
                bytes.extend_from_slice(value);
            }
            bytes.resize(field.end, 0);
        }
        bytes.extend_from_slice(&COOKIE);
        bytes.extend_from_slice(options);
        if bytes.len() < MIN_ENCODED {
            bytes.resize(MIN_ENCODED, code::PAD);
        }
        bytes
    }

    /// Message type; none for BOOTP and for types not known here.
    #[must_use]
    pub fn kind(&self) -> Option<MessageType> {
        let number = self.options.u8(code::MESSAGE_TYPE)?;
        MessageType::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The client's Ethernet address; none for other hardware and for what cannot be the address
    /// of one interface (all zero, or a group).
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        let mac = Mac(self.hardware.bytes().try_into().ok()?);
        (self.hardware.kind == ETHERNET && mac.is_individual()).then_some(mac)
    }

    /// Wished address (option 50).
    #[must_use]
    pub fn requested_address(&self) -> Option<Ipv4Addr> {
        self.options.address(code::REQUESTED_ADDRESS)
    }

    /// Server identifier (option 54).
    #[must_use]
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.options.address(code::SERVER_ID)
    }

    /// Lease time in seconds (option 51).
    #[must_use]
    pub fn lease_seconds(&self) -> Option<u32> {
        self.options.u32(code::LEASE_TIME)
    }

    /// Client identifier (option 61); empty ones do not count.
    #[must_use]
    pub fn client_id(&self) -> Option<&[u8]> {
        self.options.get(code::CLIENT_ID).filter(|id| !id.is_empty())
    }

    /// Host name (option 12), as claimed.
    #[must_use]
    pub fn host_name(&self) -> Option<&str> {
        self.options.text(code::HOST_NAME)
    }

    /// Vendor class (option 60), as claimed.
    #[must_use]
    pub fn vendor_class(&self) -> Option<&str> {
        self.options.text(code::VENDOR_CLASS)
    }

    /// User classes (option 77): a list as RFC 3004 §4 says, or the one plain text that iPXE and
    /// many others send.
    #[must_use]
    pub fn user_classes(&self) -> Vec<&[u8]> {
        let Some(whole) = self.options.get(code::USER_CLASS) else { return Vec::new() };
        let (mut rest, mut classes) = (whole, Vec::new());
        while let Some((&length, tail)) = rest.split_first() {
            match tail.split_at_checked(usize::from(length)) {
                Some((class, tail)) if length > 0 => {
                    classes.push(class);
                    rest = tail;
                }
                _ => return Vec::from([whole]),
            }
        }
        classes
    }

    /// Architectures in the client's order (option 93, RFC 4578 §2.1).
    pub fn architectures(&self) -> impl Iterator<Item = u16> {
        let value = self.options.get(code::ARCHITECTURE).unwrap_or_default();
        value.as_chunks::<2>().0.iter().copied().map(u16::from_be_bytes)
    }

    /// Machine identifier (option 97, RFC 4578 §2.3) of type 0, the SMBIOS UUID.
    #[must_use]
    pub fn uuid(&self) -> Option<[u8; 16]> {
        match self.options.get(code::MACHINE_ID)? {
            [0, uuid @ ..] => uuid.try_into().ok(),
            _ => None,
        }
    }

    /// Longest message the client takes (option 57), IP and UDP headers included.
    #[must_use]
    pub fn max_size(&self) -> Option<u16> {
        self.options.u16(code::MAX_MESSAGE_SIZE)
    }

    /// Options the client would like (option 55).
    #[must_use]
    pub fn parameter_list(&self) -> &[u8] {
        self.options.get(code::PARAMETER_LIST).unwrap_or_default()
    }

    /// Relay agent information (option 82), to be echoed as it came (RFC 3046 §2.2).
    #[must_use]
    pub fn relay_info(&self) -> Option<&[u8]> {
        self.options.get(code::RELAY_INFO)
    }

    /// Whether the client is iPXE: it says so in its user class.
    #[must_use]
    pub fn is_ipxe(&self) -> bool {
        self.user_classes().contains(&b"iPXE".as_slice())
    }
}

/// A header text up to its first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}
