//! The past of a machine, divided into its starts.

use crate::dhcp::bootfile::MISSING_FILE;
use crate::dhcp::client::{Client, Stage};
use crate::trace::{
    Answer, Answer6, Exchange, Exchange6, HttpAnswer, Sighting, Start, TftpEnd, TftpTransfer, What,
};
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::dhcp6;
use kaltstart_protocol::time::Millis;

/// A machine that was silent for so long was off, or in its system: what follows is a new start.
const IDLE_MS: u64 = 10 * 60_000;

/// The word that a machine was switched on may come so late after its first packet.
const LATE_WORD_MS: u64 = 30_000;

/// No boot file takes longer, even at the slowest rate at which TFTP is of use.
const LOADING_MS: u64 = 30 * 60_000;

/// How far a start came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// It was switched on, as somebody said.
    Power,
    /// It asked for an address.
    Asking,
    /// It has an address.
    Address,
    /// It was told to start from its own disk.
    Disk,
    /// It has its first loader.
    Loader,
    /// It has its boot script.
    Script,
    /// It has kernel or ramdisk.
    Kernel,
    /// Its agent, or its system, is up.
    System,
}

impl Reached {
    /// The same in words, to be put behind "came as far as".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Power => "being switched on",
            Self::Asking => "asking for an address",
            Self::Address => "an address",
            Self::Disk => "its own disk",
            Self::Loader => "the loader",
            Self::Script => "the boot script",
            Self::Kernel => "the kernel",
            Self::System => "its system",
        }
    }
}

/// One start: what was seen between two times that the firmware began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Boot<'a> {
    seen: &'a [Sighting],
}

impl<'a> Boot<'a> {
    /// The first sighting.
    #[must_use]
    pub fn first(&self) -> Option<&'a Sighting> {
        self.seen.first()
    }

    /// The last sighting.
    #[must_use]
    pub fn last(&self) -> Option<&'a Sighting> {
        self.seen.last()
    }

    /// How far it came.
    #[must_use]
    pub fn reached(&self) -> Option<Reached> {
        self.seen.iter().filter_map(|seen| reached(&seen.what)).max()
    }

    /// The DHCP messages of firmware and loaders.
    pub(super) fn asked(&self) -> impl DoubleEndedIterator<Item = (Millis, &'a Exchange)> + use<'a> {
        self.dhcp().filter(|(_, exchange)| exchange.client.boots())
    }

    /// All DHCP messages.
    pub(super) fn dhcp(&self) -> impl DoubleEndedIterator<Item = (Millis, &'a Exchange)> + use<'a> {
        self.seen.iter().filter_map(|seen| match &seen.what {
            What::Dhcp(exchange) => Some((seen.at, exchange)),
            _ => None,
        })
    }

    /// The DHCPv6 messages of firmware and loaders.
    pub(super) fn asked6(&self) -> impl DoubleEndedIterator<Item = (Millis, &'a Exchange6)> + use<'a> {
        self.seen.iter().filter_map(|seen| match &seen.what {
            What::Dhcp6(exchange) if exchange.client.boots() => Some((seen.at, exchange)),
            _ => None,
        })
    }

    /// When firmware or a loader began to ask for an address, in either family, and which it was.
    pub(super) fn began(&self) -> impl DoubleEndedIterator<Item = (Millis, Client)> + use<'a> {
        self.seen.iter().filter_map(|seen| Some((seen.at, asks_anew(&seen.what)?)))
    }

    /// When the firmware itself asked, in either family; the loader it started does not count.
    pub(super) fn firmware_asked(&self) -> impl DoubleEndedIterator<Item = (Millis, Client)> + use<'a> {
        let client = |what: &What| match what {
            What::Dhcp(exchange) => Some(exchange.client),
            What::Dhcp6(exchange) => Some(exchange.client),
            _ => None,
        };
        let own = |client: &Client| client.boots() && client.stage != Stage::Ipxe;
        self.seen.iter().filter_map(move |seen| Some((seen.at, client(&seen.what).filter(own)?)))
    }

    /// The firmware's own messages, not those of a loader it started.
    pub(super) fn firmware(&self) -> impl DoubleEndedIterator<Item = (Millis, &'a Exchange)> + use<'a> {
        self.asked().filter(|(_, exchange)| exchange.client.stage != Stage::Ipxe)
    }

    pub(super) fn tftp(&self) -> impl DoubleEndedIterator<Item = (Millis, &'a TftpTransfer)> + use<'a> {
        self.seen.iter().filter_map(|seen| match &seen.what {
            What::Tftp(transfer) => Some((seen.at, transfer)),
            _ => None,
        })
    }

    pub(super) fn http(&self) -> impl DoubleEndedIterator<Item = (Millis, &'a HttpAnswer)> + use<'a> {
        self.seen.iter().filter_map(|seen| match &seen.what {
            What::Http(answer) => Some((seen.at, answer)),
            _ => None,
        })
    }

    /// Whether a transfer has not ended yet. The end of one that began long ago was lost with a
    /// server that crashed.
    pub(super) fn is_loading(&self, now: Millis) -> bool {
        let runs = |seen: &Sighting| matches!(seen.what, What::Loading(_)) && now.since(seen.at) < LOADING_MS;
        self.seen.iter().any(runs)
    }

    pub(super) fn seen(&self) -> &'a [Sighting] {
        self.seen
    }

    /// When it was given an address and told a boot file last, with that file.
    pub(super) fn told_file(&self) -> Option<(Millis, &'a str)> {
        self.seen.iter().rev().find_map(|seen| match &seen.what {
            What::Dhcp(Exchange {
                client,
                answer: Answer::Sent { kind: MessageType::Ack | MessageType::Offer, file: Some(file), .. },
                ..
            })
            | What::Dhcp6(Exchange6 { client, answer: Answer6::Sent { file: Some(file), .. }, .. })
                if client.boots() =>
            {
                Some((seen.at, file.as_str()))
            }
            _ => None,
        })
    }

    /// What was seen after `at`.
    pub(super) fn after(&self, at: Millis) -> impl Iterator<Item = &'a Sighting> + use<'a> {
        self.seen.iter().filter(move |seen| seen.at > at)
    }
}

/// What a file is for, by its name: loaders ask for the next one by well-known names.
pub(super) fn file_is_for(name: &str) -> Option<Reached> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| last.ends_with(suffix));
    if last == MISSING_FILE {
        Some(Reached::Disk)
    } else if last.starts_with("vmlinuz") || last.starts_with("ramdisk") || last.starts_with("initrd") {
        Some(Reached::Kernel)
    } else if is_optional(last) {
        None
    } else if ends(&[".efi", ".kpxe", ".pxe", ".0"]) {
        Some(Reached::Loader)
    } else {
        None
    }
}

/// Files that shim and GRUB ask for and do without.
pub(super) fn is_optional(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.starts_with("revocations") || last.starts_with("shim_certificate") || last.ends_with(".lst")
}

/// Whether that is iPXE's answer when the machine shall start from its own disk: an address, and
/// nothing to boot.
pub(super) fn is_sent_to_disk(exchange: &Exchange) -> bool {
    let nothing = matches!(exchange.answer, Answer::Sent { kind: MessageType::Ack, file: None, .. });
    exchange.client.stage == Stage::Ipxe && nothing
}

fn reached(what: &What) -> Option<Reached> {
    match what {
        What::Power => Some(Reached::Power),
        What::Dhcp(exchange) if !exchange.client.boots() => Some(Reached::System),
        What::Dhcp(exchange) if is_sent_to_disk(exchange) => Some(Reached::Disk),
        What::Dhcp(Exchange { answer: Answer::Sent { kind: MessageType::Ack, .. }, .. }) => {
            Some(Reached::Address)
        }
        // Firmware's IPv6 asks for an address of its own before it starts anything.
        What::Dhcp6(exchange) if !exchange.client.boots() => None,
        What::Dhcp6(exchange) if exchange.taken().is_some() => Some(Reached::Address),
        What::Dhcp(_) | What::Dhcp6(_) => Some(Reached::Asking),
        What::Tftp(transfer) => {
            let is_for = file_is_for(&transfer.file);
            let whole = transfer.end == TftpEnd::Complete || is_for == Some(Reached::Disk);
            is_for.filter(|_| whole)
        }
        What::Http(answer) => {
            let is_for = file_is_for(&answer.path);
            // A question about the length alone is no fetch.
            let whole = answer.status / 100 == 2 && answer.bytes > 0 && !answer.is_aborted();
            is_for.filter(|is_for| whole || *is_for == Reached::Disk)
        }
        What::Script(Start::Local) => Some(Reached::Disk),
        What::Script(Start::Agent { .. }) => Some(Reached::Script),
        What::Agent { .. } => Some(Reached::System),
        What::Loading(_) | What::ForeignOffer(_) | What::Syslog { .. } => None,
    }
}

/// Divides the past into starts.
#[must_use]
pub fn boots(trace: &[Sighting]) -> Vec<Boot<'_>> {
    let mut all = Vec::new();
    let mut range: Range<usize> = 0..0;
    for (index, sighting) in trace.iter().enumerate() {
        let seen = &trace[range.clone()];
        if begins(seen, sighting) && !seen.is_empty() {
            all.push(Boot { seen });
            range = index..index;
        }
        range.end = index + 1;
    }
    if !range.is_empty() {
        all.push(Boot { seen: &trace[range] });
    }
    all
}

/// Whether a start ends with `seen` and `next` begins another.
fn begins(seen: &[Sighting], next: &Sighting) -> bool {
    let Some(last) = seen.last() else { return true };
    if next.at.since(last.at) > IDLE_MS {
        return true;
    }
    let reached = Boot { seen }.reached();
    match &next.what {
        What::Power => {
            let first = seen.first().map_or(next.at, |first| first.at);
            next.at.since(first) > LATE_WORD_MS || seen.iter().any(|seen| seen.what == What::Power)
        }
        what => match asks_anew(what).map(|client| client.stage) {
            // A loader asks again for itself; after its script it has begun anew.
            Some(Stage::Ipxe) => reached >= Some(Reached::Script) || reached == Some(Reached::Disk),
            Some(stage @ (Stage::Pxe | Stage::HttpBoot)) => match reached {
                Some(Reached::Disk) => {
                    // Another boot entry of the same start asks in another way.
                    let same = |before: &Sighting| {
                        mem::discriminant(&before.what) == mem::discriminant(what)
                            && asks_anew(&before.what).is_some_and(|client| client.stage == stage)
                    };
                    seen.iter().any(same)
                }
                reached => reached >= Some(Reached::Loader),
            },
            Some(Stage::Os) | None => false,
        },
    }
}

/// Which firmware or loader begins to ask for an address there, in either family.
fn asks_anew(what: &What) -> Option<Client> {
    match what {
        What::Dhcp(exchange) if exchange.kind == MessageType::Discover => Some(exchange.client),
        What::Dhcp6(exchange) if exchange.kind == dhcp6::MessageType::Solicit => Some(exchange.client),
        _ => None,
    }
    .filter(|client| client.boots())
}
