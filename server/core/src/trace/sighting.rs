//! One thing a door saw or did.

use super::exchange6::Exchange6;
use crate::dhcp::client::Client;
use crate::dhcp::foreign;
use crate::dhcp::{Drop, Reply};
use crate::tftp::{Outcome, Refusal, Report};
use alloc::string::{String, ToString};
use core::net::{IpAddr, Ipv4Addr};
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::dhcp::{Message, MessageType};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// Characters of a text from the network that are kept.
const TEXT_MAX: usize = 200;

/// Something that was seen, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// By the server's clock.
    pub at: Millis,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a door saw or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "door", rename_all = "snake_case")]
pub enum What {
    /// A client's DHCP message and what became of it.
    Dhcp(Exchange),
    /// A client's DHCPv6 message and what became of it.
    Dhcp6(Exchange6),
    /// Another DHCP server's offer to the machine.
    ForeignOffer(ForeignOffer),
    /// The transfer of a file, which has begun; its end takes the place of this.
    Loading(Loading),
    /// A TFTP request and how it ended.
    Tftp(TftpTransfer),
    /// An answer to an HTTP request for boot files.
    Http(HttpAnswer),
    /// A boot script that was made for the machine.
    Script(Start),
    /// Somebody said, or did, that it was switched on.
    Power,
    /// Its agent said hello.
    Agent {
        /// What the agent may do.
        mode: Mode,
    },
    /// A line of its loader or kernel.
    Syslog {
        /// The line, cleaned.
        text: String,
    },
}

impl What {
    /// The address the machine has from now on, as far as this shows it.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let exchange = match self {
            Self::Dhcp(exchange) => exchange,
            Self::Dhcp6(exchange) => return exchange.taken().map(IpAddr::from),
            _ => return None,
        };
        let address = match (exchange.kind, &exchange.answer) {
            (MessageType::Request, Answer::Sent { kind: MessageType::Ack, address, .. }) => *address,
            // It takes another server's offer, and says so to all on the wire.
            (MessageType::Request, Answer::Silent { why: Drop::OtherServer(_) }) => exchange.wish,
            _ => None,
        };
        address.map(IpAddr::from)
    }
}

/// A client's DHCP message and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Type of the message.
    pub kind: MessageType,
    /// What sent it.
    pub client: Client,
    /// Seconds since the client began to ask, as it says itself (RFC 2131 `secs`).
    pub secs: u16,
    /// The relay it came through.
    pub relay: Option<Ipv4Addr>,
    /// The server it is for (option 54).
    pub server: Option<Ipv4Addr>,
    /// The address it asks for or has.
    pub wish: Option<Ipv4Addr>,
    /// What became of it.
    pub answer: Answer,
}

/// What became of a DHCP message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It asks for none.
    NotAsked,
    /// It was answered.
    Sent {
        /// Type of the answer.
        kind: MessageType,
        /// The address in it; none in the answer of a proxy.
        address: Option<Ipv4Addr>,
        /// The boot file in it: a name, or a URL.
        file: Option<String>,
    },
    /// It was not answered.
    Silent {
        /// Why not.
        why: Drop,
    },
}

impl Exchange {
    /// What `message` says, and its sender; none when it has no type or no usable sender.
    #[must_use]
    pub fn of(message: &Message) -> Option<(Mac, Self)> {
        let exchange = Self {
            kind: message.kind()?,
            client: Client::of(message),
            secs: message.secs,
            relay: some(message.giaddr),
            server: message.server_id(),
            wish: message.requested_address().or_else(|| some(message.ciaddr)),
            answer: Answer::NotAsked,
        };
        Some((message.mac()?, exchange))
    }

    /// The same with what became of it.
    #[must_use]
    pub fn answered(self, outcome: Result<Option<&Reply>, Drop>) -> Self {
        let answer = match outcome {
            Ok(None) => Answer::NotAsked,
            Ok(Some(Reply { message, kind, .. })) => {
                Answer::Sent { kind: *kind, address: some(message.yiaddr), file: boot_file(message) }
            }
            Err(why) => Answer::Silent { why },
        };
        Self { answer, ..self }
    }
}

fn some(address: Ipv4Addr) -> Option<Ipv4Addr> {
    Some(address).filter(|address| !address.is_unspecified())
}

/// The boot file a message names, in option 67 or in its header.
fn boot_file(message: &Message) -> Option<String> {
    let name = message.options.get(code::BOOT_FILE).unwrap_or(&message.file);
    (!name.is_empty()).then(|| clean(&String::from_utf8_lossy(name)))
}

/// What another DHCP server offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignOffer {
    /// Its identifier.
    pub server: Ipv4Addr,
    /// Its hardware address, or that of the router on the way.
    #[serde(rename = "server_mac")]
    pub mac: Option<Mac>,
    /// The address it offers.
    pub address: Option<Ipv4Addr>,
    /// The boot file it names.
    pub file: Option<String>,
}

impl ForeignOffer {
    /// What an offer of another server says, and to whom.
    #[must_use]
    pub fn of(offer: &Message, server: &foreign::Sighting) -> Option<(Mac, Self)> {
        if offer.kind() != Some(MessageType::Offer) {
            return None;
        }
        let foreign::Sighting { server, mac, .. } = *server;
        Some((offer.mac()?, Self { server, mac, address: some(offer.yiaddr), file: boot_file(offer) }))
    }
}

/// The transfer of a file that has not ended yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loading {
    /// By what it is loaded.
    pub by: Protocol,
    /// The file's name, or its path, as it was asked for.
    pub file: String,
}

/// What files are loaded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

impl Protocol {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tftp => "TFTP",
            Self::Http => "HTTP",
        }
    }
}

impl Loading {
    /// A transfer that begins.
    #[must_use]
    pub fn begun(by: Protocol, file: &str) -> Self {
        Self { by, file: clean(file) }
    }

    /// Whether `what` is the end of it.
    #[must_use]
    pub fn is_ended_by(&self, what: &What) -> bool {
        match what {
            What::Tftp(transfer) => self.by == Protocol::Tftp && transfer.file == self.file,
            What::Http(answer) => self.by == Protocol::Http && answer.path == self.file,
            _ => false,
        }
    }
}

/// A TFTP request and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TftpTransfer {
    /// The file's name as it was asked for.
    pub file: String,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks of a window.
    pub window: u32,
    /// Length of the file; none when it was refused before it was known.
    pub size: Option<u64>,
    /// Bytes the client confirmed.
    pub bytes: u64,
    /// Whether the client has confirmed anything: a block, or the options before the first.
    pub answered: bool,
    /// Data packets sent, repetitions included.
    pub sent: u64,
    /// Data packets among them that were sent before.
    pub resent: u64,
    /// Waits that ended without an answer.
    pub timeouts: u64,
    /// Acknowledgements of the block before: the machine still waited for the next.
    pub repeated_acks: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub end: TftpEnd,
}

impl TftpTransfer {
    /// A transfer that has ended.
    #[must_use]
    pub fn ended(file: &str, outcome: &Outcome, report: &Report, duration_ms: u64) -> Self {
        let end = match outcome {
            Outcome::Complete | Outcome::Unconfirmed => TftpEnd::Complete,
            Outcome::Probed => TftpEnd::Probed,
            Outcome::Aborted { message, .. } => TftpEnd::Aborted { why: clean(message) },
            Outcome::Unanswered | Outcome::Stalled => TftpEnd::TimedOut,
            Outcome::Replaced => TftpEnd::Aborted { why: "it asked again".into() },
            Outcome::Displaced => TftpEnd::Refused { why: "too many transfers wait for an answer".into() },
            Outcome::Gone => TftpEnd::Gone,
            Outcome::Unreadable => TftpEnd::Unreadable,
        };
        Self {
            file: clean(file),
            block_bytes: report.blksize.into(),
            window: report.windowsize.into(),
            size: Some(report.size),
            bytes: report.confirmed_bytes(),
            answered: report.is_answered,
            sent: report.sent_blocks,
            resent: report.resent_blocks,
            timeouts: report.timeouts,
            repeated_acks: report.repeated_acks,
            duration_ms,
            end,
        }
    }

    /// A request that was refused.
    #[must_use]
    pub fn refused(file: &str, reason: Refusal) -> Self {
        let end = match reason {
            Refusal::NotFound => TftpEnd::NotFound,
            Refusal::Unreadable => TftpEnd::Unreadable,
            other => TftpEnd::Refused { why: other.to_string() },
        };
        Self {
            file: clean(file),
            block_bytes: 0,
            window: 0,
            size: None,
            bytes: 0,
            answered: false,
            sent: 0,
            resent: 0,
            timeouts: 0,
            repeated_acks: 0,
            duration_ms: 0,
            end,
        }
    }
}

/// How a TFTP request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TftpEnd {
    /// The client has the file: every block was sent, and at most the last was not confirmed.
    Complete,
    /// The client wanted the size only.
    Probed,
    /// There is no such file.
    NotFound,
    /// It was refused for another reason.
    Refused {
        /// Why.
        why: String,
    },
    /// The client said that it does not want it any more.
    Aborted {
        /// Its words.
        why: String,
    },
    /// The client fell silent.
    TimedOut,
    /// The client's port was closed.
    Gone,
    /// The server could not open the file, or not read it to its end.
    Unreadable,
}

/// An answer to an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// The path that was asked for.
    pub path: String,
    /// Status code.
    pub status: u16,
    /// Bytes the client took.
    pub bytes: u64,
    /// Bytes that were announced.
    pub total: Option<u64>,
}

impl HttpAnswer {
    /// Whether the client took less than it was promised.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.total.is_some_and(|total| self.bytes < total)
    }
}

/// What a boot script starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "start", rename_all = "snake_case")]
pub enum Start {
    /// The machine's own disk.
    Local,
    /// The agent.
    Agent {
        /// What it may do.
        mode: Mode,
    },
}

/// A text from the network, cut to a length and without control characters: it is shown in
/// terminals.
#[must_use]
pub fn clean(text: &str) -> String {
    text.trim_end_matches('\0')
        .chars()
        .take(TEXT_MAX)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::dhcp::options::code;

    #[test]
    fn an_exchange_tells_what_counts_of_a_message() {
        let mut message = Message::request(MessageType::Discover, 1, Mac([2; 6]));
        message.secs = 7;
        message.giaddr = Ipv4Addr::new(10, 9, 0, 1);
        message.options.set(code::VENDOR_CLASS, "PXEClient:Arch:00007:UNDI:003000");
        let (mac, exchange) = Exchange::of(&message).expect("a client's");
        let exchange = exchange.answered(Err(Drop::UnknownSubnet));
        assert_eq!((mac, exchange.secs, exchange.relay), (Mac([2; 6]), 7, Some(message.giaddr)));
        assert_eq!(exchange.client.to_string(), "pxe/uefi-x64");
        assert_eq!(exchange.answer, Answer::Silent { why: Drop::UnknownSubnet });
    }

    #[test]
    fn another_server_s_offer_is_told_with_its_boot_file() {
        let server = Ipv4Addr::new(10, 0, 0, 2);
        let mut offer = Message::request(MessageType::Discover, 1, Mac([2; 6])).reply(MessageType::Offer);
        offer.yiaddr = Ipv4Addr::new(10, 0, 0, 9);
        offer.options.set(code::BOOT_FILE, "other.efi");
        let seen = foreign::Sighting { server, mac: Some(Mac([4; 6])), gives: foreign::Gives::Addresses };
        let (mac, told) = ForeignOffer::of(&offer, &seen).expect("an offer");
        let (address, file) = (Some(offer.yiaddr), Some("other.efi".into()));
        assert_eq!((mac, told), (Mac([2; 6]), ForeignOffer { server, mac: seen.mac, address, file }));
        offer.options.set(code::MESSAGE_TYPE, [5]);
        assert_eq!(ForeignOffer::of(&offer, &seen), None);
    }

    #[test]
    fn sightings_are_read_back_as_they_were_written() {
        let all = [
            What::Power,
            What::Loading(Loading::begun(Protocol::Tftp, "snponly.efi")),
            What::Script(Start::Agent { mode: Mode::Install }),
            What::Tftp(TftpTransfer {
                file: clean("snponly.efi\u{1b}[2J"),
                block_bytes: 1468,
                window: 4,
                size: Some(5),
                bytes: 0,
                answered: true,
                sent: 4,
                resent: 3,
                timeouts: 3,
                repeated_acks: 0,
                duration_ms: 9,
                end: TftpEnd::Refused { why: "busy".into() },
            }),
            What::Dhcp(Exchange {
                kind: MessageType::Request,
                client: Client::of(&Message::request(MessageType::Request, 1, Mac([2; 6]))),
                secs: 0,
                relay: None,
                server: None,
                wish: None,
                answer: Answer::Silent { why: Drop::OtherServer(Ipv4Addr::new(10, 0, 0, 1)) },
            }),
        ];
        for what in all {
            let sighting = Sighting { at: Millis(5), what };
            let text = serde_json::to_string(&sighting).expect("it serialises");
            assert_eq!(serde_json::from_str::<Sighting>(&text).expect(&text), sighting);
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }
}
