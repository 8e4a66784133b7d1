//! TFTP packets: RFC 1350 with the options of RFC 2347, 2348, 2349 and 7440.
//!
//! [`Packet::decode`] takes any bytes: it answers with a packet or says what is wrong, and reads
//! no further than the limits below. It takes what boot firmware is known to send (names in any
//! case, padding after the last string, unknown options) and nothing that has two readings.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// Longest file name, in bytes. RFC 2347 §"Packet Formats" bounds the whole request by 512.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest option name or value, in bytes. The longest one in use has 20 digits.
pub const OPTION_BYTES_MAX: usize = 64;
/// Most options in one packet; four are defined here, firmware asks for up to six.
pub const OPTIONS_MAX: usize = 32;
/// Longest error text that is kept, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256;
/// Smallest block size (RFC 2348).
pub const BLKSIZE_MIN: u16 = 8;
/// Largest block size (RFC 2348).
pub const BLKSIZE_MAX: u16 = 65_464;
/// Block size where none is agreed (RFC 1350 §2).
pub const BLKSIZE_DEFAULT: u16 = 512;
/// Bytes in front of the content in a data packet.
pub const DATA_HEADER_BYTES: usize = 4;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// Why some bytes are no TFTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than every packet of its kind has.
    #[error("packet ends early")]
    Short,
    /// No such operation.
    #[error("unknown operation {0}")]
    Operation(u16),
    /// A text is not UTF-8, not ended by NUL, or empty where it must not be.
    #[error("bad text in packet")]
    Text,
    /// A transfer mode that is not in RFC 1350.
    #[error("unknown transfer mode")]
    Mode,
    /// A limit of this module is exceeded.
    #[error("packet exceeds a limit")]
    Limit,
}

/// How content is translated on its way (RFC 1350 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes as they are.
    Octet,
    /// Text with CR LF line ends.
    Netascii,
    /// To a user's mailbox; obsolete, no server should offer it.
    Mail,
}

impl Mode {
    /// The mode's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Octet => "octet",
            Self::Netascii => "netascii",
            Self::Mail => "mail",
        }
    }

    fn parse(text: &str) -> Result<Self, DecodeError> {
        [Self::Octet, Self::Netascii, Self::Mail]
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
            .ok_or(DecodeError::Mode)
    }
}

/// An error packet's number (RFC 1350 appendix, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// See the message.
    pub const UNDEFINED: Self = Self(0);
    /// No such file.
    pub const NOT_FOUND: Self = Self(1);
    /// The file may not be read, or nothing may be written.
    pub const ACCESS: Self = Self(2);
    /// The operation is not offered.
    pub const ILLEGAL: Self = Self(4);
    /// The packet came from a port that has no transfer.
    pub const UNKNOWN_TID: Self = Self(5);
    /// The option negotiation failed. Firmware also sends it to end a transfer of which it
    /// wanted only the size.
    pub const OPTIONS: Self = Self(8);
}

/// One option: a name in lower case and its value as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opt {
    /// The name, in lower case.
    pub name: String,
    /// The value.
    pub value: String,
}

/// Options in the order they were sent. Unknown ones are kept: who decides skips them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<Opt>);

impl Options {
    /// Block size in bytes (RFC 2348).
    pub const BLKSIZE: &'static str = "blksize";
    /// Transfer size in bytes (RFC 2349).
    pub const TSIZE: &'static str = "tsize";
    /// Seconds until a packet is sent again (RFC 2349).
    pub const TIMEOUT: &'static str = "timeout";
    /// Microseconds until a packet is sent again: an extension of tftpd-hpa's that atftp and
    /// others know.
    pub const UTIMEOUT: &'static str = "utimeout";
    /// Blocks per acknowledgement (RFC 7440).
    pub const WINDOWSIZE: &'static str = "windowsize";

    /// No options.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends a number.
    #[must_use]
    pub fn with(mut self, name: &str, value: u64) -> Self {
        self.0.push(Opt { name: name.to_ascii_lowercase(), value: alloc::format!("{value}") });
        self
    }

    /// The value of `name` as a number: of the first option of that name (RFC 2347 forbids a
    /// second), if it is decimal digits only.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let value = &self.0.iter().find(|option| option.name == name)?.value;
        value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok())?
    }

    /// The options in the order they were sent.
    pub fn iter(&self) -> impl Iterator<Item = &Opt> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A request to read or to write a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file's name as sent; may hold anything but NUL.
    pub name: String,
    /// How content is translated.
    pub mode: Mode,
    /// What the client would like.
    pub options: Options,
}

/// A TFTP packet. Content is borrowed from the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Read request.
    Rrq(Request),
    /// Write request.
    Wrq(Request),
    /// One block of content.
    Data {
        /// The block's number modulo 65,536; the first block is 1.
        block: u16,
        /// The content; shorter than the block size in the last block only.
        content: &'a [u8],
    },
    /// Everything up to and including this block has arrived.
    Ack {
        /// The block's number modulo 65,536; 0 answers an [`Oack`](Packet::Oack).
        block: u16,
    },
    /// The transfer is over.
    Error {
        /// Its number.
        code: ErrorCode,
        /// Text for people.
        message: String,
    },
    /// The options the server agrees to.
    Oack(Options),
}

impl<'a> Packet<'a> {
    /// Reads a packet from the whole payload of a datagram.
    ///
    /// # Errors
    /// When the bytes are no packet, or exceed a limit of this module.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (operation, rest) = split_u16(bytes)?;
        match operation {
            RRQ => decode_request(rest).map(Self::Rrq),
            WRQ => decode_request(rest).map(Self::Wrq),
            DATA => {
                let (block, content) = split_u16(rest)?;
                if content.len() > usize::from(BLKSIZE_MAX) {
                    return Err(DecodeError::Limit);
                }
                Ok(Self::Data { block, content })
            }
            // Bytes after the block number are padding: some network stacks hand over the
            // whole Ethernet minimum.
            ACK => Ok(Self::Ack { block: split_u16(rest)?.0 }),
            ERROR => {
                let (code, text) = split_u16(rest)?;
                Ok(Self::Error { code: ErrorCode(code), message: decode_message(text) })
            }
            OACK => decode_options(rest).map(Self::Oack),
            other => Err(DecodeError::Operation(other)),
        }
    }

    /// The packet's bytes. NUL bytes inside of texts are left out, so what is encoded always
    /// means what it says.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Rrq(request) => encode_request(&mut bytes, RRQ, request),
            Self::Wrq(request) => encode_request(&mut bytes, WRQ, request),
            Self::Data { block, content } => {
                bytes.reserve_exact(DATA_HEADER_BYTES + content.len());
                bytes.extend(data_header(*block));
                bytes.extend_from_slice(content);
            }
            Self::Ack { block } => {
                push_u16(&mut bytes, ACK);
                push_u16(&mut bytes, *block);
            }
            Self::Error { code, message } => {
                push_u16(&mut bytes, ERROR);
                push_u16(&mut bytes, code.0);
                push_text(&mut bytes, message);
            }
            Self::Oack(options) => {
                push_u16(&mut bytes, OACK);
                encode_options(&mut bytes, options);
            }
        }
        bytes
    }
}

/// The bytes in front of a block's content, for senders that put the content behind themselves.
#[must_use]
pub const fn data_header(block: u16) -> [u8; DATA_HEADER_BYTES] {
    let [high, low] = block.to_be_bytes();
    [0, DATA as u8, high, low]
}

fn split_u16(bytes: &[u8]) -> Result<(u16, &[u8]), DecodeError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(DecodeError::Short)?;
    Ok((u16::from_be_bytes(*head), rest))
}

/// Splits off the bytes up to the next NUL, which must come within `max` bytes.
fn split_text(bytes: &[u8], max: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    match bytes.iter().take(max + 1).position(|&b| b == 0) {
        Some(end) => Ok((&bytes[..end], &bytes[end + 1..])),
        None if bytes.len() > max => Err(DecodeError::Limit),
        None => Err(DecodeError::Text),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    core::str::from_utf8(bytes).map_err(|_| DecodeError::Text)
}

fn decode_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    let (name, rest) = split_text(bytes, NAME_BYTES_MAX)?;
    // Some PXE ROMs copy the file name out of a DHCP packet together with the option's end
    // mark (255). It is never part of UTF-8.
    let end = name.iter().rposition(|&b| b != 0xff).ok_or(DecodeError::Text)?;
    let name = utf8(&name[..=end])?.to_owned();
    let (mode, rest) = split_text(rest, OPTION_BYTES_MAX)?;
    Ok(Request { name, mode: Mode::parse(utf8(mode)?)?, options: decode_options(rest)? })
}

fn decode_options(mut rest: &[u8]) -> Result<Options, DecodeError> {
    let mut options = Options::new();
    // Firmware that sends a fixed-size buffer leaves NULs behind the last option.
    while rest.iter().any(|&b| b != 0) {
        if options.0.len() == OPTIONS_MAX {
            return Err(DecodeError::Limit);
        }
        let (name, after_name) = split_text(rest, OPTION_BYTES_MAX)?;
        if name.is_empty() {
            return Err(DecodeError::Text);
        }
        let (value, after_value) = split_text(after_name, OPTION_BYTES_MAX)?;
        options.0.push(Opt { name: utf8(name)?.to_ascii_lowercase(), value: utf8(value)?.to_owned() });
        rest = after_value;
    }
    Ok(options)
}

/// An error's text. It matters to people only, so nothing about it makes the packet invalid:
/// the transfer has ended in any case.
fn decode_message(bytes: &[u8]) -> String {
    let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
    let mut message = String::from_utf8_lossy(&text[..text.len().min(MESSAGE_BYTES_MAX)]).into_owned();
    // What stands for a byte that is no text is longer than a byte.
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

fn push_u16(bytes: &mut Vec<u8>, value: u16) {
    bytes.extend(value.to_be_bytes());
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(text.bytes().filter(|&b| b != 0));
    bytes.push(0);
}

fn encode_request(bytes: &mut Vec<u8>, operation: u16, request: &Request) {
    push_u16(bytes, operation);
    push_text(bytes, &request.name);
    push_text(bytes, request.mode.as_str());
    encode_options(bytes, &request.options);
}

fn encode_options(bytes: &mut Vec<u8>, options: &Options) {
    for option in options.iter() {
        push_text(bytes, &option.name);
        push_text(bytes, &option.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn request(bytes: &[u8]) -> Result<Request, DecodeError> {
        match Packet::decode(bytes)? {
            Packet::Rrq(request) => Ok(request),
            other => panic!("not a read request: {other:?}"),
        }
    }

    #[test]
    fn requests_of_firmware_are_understood() {
        let ovmf = request(b"\0\x01boot/snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0");
        let ovmf = ovmf.expect("EDK II's request");
        assert_eq!((ovmf.name.as_str(), ovmf.mode), ("boot/snponly.efi", Mode::Octet));
        assert_eq!(ovmf.options.number(Options::TSIZE), Some(0));
        assert_eq!(ovmf.options.number(Options::BLKSIZE), Some(1468));
        assert_eq!(ovmf.options.number(Options::WINDOWSIZE), Some(4));
        assert_eq!(ovmf.options.number(Options::TIMEOUT), None);

        let odd = request(b"\0\x01x\xff\xff\0OcTeT\0BLKSIZE\x0099\0multicast\0\0\0\0\0").expect("padded");
        assert_eq!((odd.name.as_str(), odd.mode), ("x", Mode::Octet));
        assert_eq!(odd.options.number(Options::BLKSIZE), Some(99));
        assert_eq!(odd.options.iter().count(), 2);
        assert_eq!(Packet::decode(b"\0\x04\0\x07padding"), Ok(Packet::Ack { block: 7 }));
        let bare = Packet::Error { code: ErrorCode::OPTIONS, message: String::new() };
        assert_eq!(Packet::decode(b"\0\x05\0\x08"), Ok(bare));
    }

    #[test]
    fn p29_malformed_packets_are_refused() {
        let cases: &[(&[u8], DecodeError)] = &[
            (b"", DecodeError::Short),
            (b"\0", DecodeError::Short),
            (b"\0\x04\0", DecodeError::Short),
            (b"\0\x00ab", DecodeError::Operation(0)),
            (b"\x01\x01a\0octet\0", DecodeError::Operation(257)),
            (b"\0\x01", DecodeError::Text),
            (b"\0\x01\0octet\0", DecodeError::Text),
            (b"\0\x01name\0octet", DecodeError::Text),
            (b"\0\x01name\0raw\0", DecodeError::Mode),
            (b"\0\x01na\xc3\x28\0octet\0", DecodeError::Text),
            (b"\0\x01name\0octet\0blksize\0", DecodeError::Text),
            (b"\0\x01name\0octet\0\0blksize\x009\0", DecodeError::Text),
        ];
        for (bytes, error) in cases {
            assert_eq!(Packet::decode(bytes), Err(*error), "{bytes:?}");
        }
        let mut long = b"\0\x01".to_vec();
        long.extend(vec![b'a'; NAME_BYTES_MAX + 1]);
        long.extend(b"\0octet\0");
        assert_eq!(Packet::decode(&long), Err(DecodeError::Limit));
        let many = (0..=OPTIONS_MAX as u64).fold(Options::new(), |all, n| all.with("o", n));
        assert_eq!(Packet::decode(&Packet::Oack(many).encode()), Err(DecodeError::Limit));
    }

    #[test]
    fn option_values_are_digits_only() {
        for value in ["", "+1", "-1", " 1", "1 ", "0x10", "99999999999999999999999"] {
            let options = Options(vec![Opt { name: "blksize".into(), value: value.into() }]);
            assert_eq!(options.number("blksize"), None, "{value:?}");
        }
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let mode = prop_oneof![Just(Mode::Octet), Just(Mode::Netascii), Just(Mode::Mail)];
        let option = ("[a-z]{1,12}", "[!-~]{0,20}").prop_map(|(name, value)| Opt { name, value });
        ("[^\0]{1,120}", mode, proptest::collection::vec(option, 0..8))
            .prop_map(|(name, mode, options)| Request { name, mode, options: Options(options) })
    }

    proptest! {
        #[test]
        fn p29_any_bytes_decode_or_fail(bytes: Vec<u8>) {
            Packet::decode(&bytes).ok();
        }

        #[test]
        fn p29_damaged_requests_decode_or_fail(
            request in any_request(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            keep: prop::sample::Index,
        ) {
            let mut bytes = Packet::Rrq(request).encode();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            Packet::decode(&bytes).ok();
            Packet::decode(&bytes[..keep.index(bytes.len())]).ok();
        }

        #[test]
        fn packets_round_trip(request in any_request(), block: u16, content: Vec<u8>, code: u16, message in "[ -~]{0,80}") {
            let error = Packet::Error { code: ErrorCode(code), message };
            let oack = Packet::Oack(request.options.clone());
            let data = Packet::Data { block, content: &content };
            let packets = [Packet::Rrq(request.clone()), Packet::Wrq(request), error, oack, data, Packet::Ack { block }];
            for packet in packets {
                let bytes = packet.encode();
                prop_assert_eq!(Packet::decode(&bytes), Ok(packet));
            }
        }
    }
}
