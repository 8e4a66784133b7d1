//! Causes between the first question and the address.

use super::Likelihood::{High, Low, Medium};
use super::boot::Reached;
use super::{Case, Cause};
use crate::dhcp::Drop;
use crate::dhcp6;
use crate::trace::{Answer, Answer6, Exchange, Exchange6, What};
use alloc::format;
use alloc::string::{String, ToString};
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::facts::Nic;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::time::Millis;

/// A server's firmware may test its memory for minutes before it asks.
const FIRMWARE_MS: u64 = 3 * 60_000;
/// After this long it does not come any more.
const FIRMWARE_MS_MAX: u64 = 10 * 60_000;
/// Firmware collects offers for 4 s or so before it takes one.
const CHOICE_MS: u64 = 10_000;
/// A machine that has asked for so many seconds, and was not heard before, was not heard.
const UNHEARD_SECONDS: u16 = 8;
/// A driver that starts its card and agrees on a speed may lose the carrier once or twice.
const CARRIER_CHANGES: u32 = 6;
/// How long after a choice the machine would have asked for the boot file of a proxy's offer.
const PROXY_MS: u64 = 10_000;

fn dropped<'a>(
    case: &Case<'a>,
    wanted: impl Fn(Drop) -> bool,
) -> impl DoubleEndedIterator<Item = (Millis, &'a Exchange)> {
    case.boot
        .dhcp()
        .filter(move |(_, exchange)| matches!(exchange.answer, Answer::Silent { why } if wanted(why)))
}

/// Whether it was given an address here after `at`.
fn acknowledged(case: &Case<'_>, at: Millis) -> bool {
    case.boot.dhcp().any(|(when, exchange)| {
        when > at && matches!(exchange.answer, Answer::Sent { kind: MessageType::Ack, .. })
    })
}

fn through(exchange: &Exchange) -> String {
    exchange.relay.map_or_else(|| "from this wire".into(), |relay| format!("through the relay {relay}"))
}

/// KS-1007
pub(super) fn unknown_network(case: &Case<'_>) -> Option<Cause> {
    let not_served = |why| matches!(why, Drop::UnknownSubnet | Drop::UnknownRelay(_));
    let (at, exchange) = dropped(case, not_served).next_back()?;
    let count = dropped(case, not_served).count();
    if acknowledged(case, at) {
        return None;
    }
    let served = case.site.networks.iter().map(|network| format!("{}/{}", network.address, network.prefix));
    let served = served.collect::<alloc::vec::Vec<_>>().join(", ");
    let likelihood = if exchange.relay.is_some() { High } else { Medium };
    Some(
        Cause::new(Code::UnknownNetwork, likelihood)
            .seen(
                at,
                format!("{} ({}) {}, {count} in all", exchange.kind, exchange.client, through(exchange)),
            )
            .seen(at, format!("served are {}", if served.is_empty() { "no networks" } else { &served })),
    )
}

/// KS-1025
pub(super) fn subnet_not_served(case: &Case<'_>) -> Option<Cause> {
    let unanswered = || {
        let silent = Answer::Silent { why: Drop::NotServed };
        case.boot.asked().filter(move |(_, exchange)| exchange.answer == silent)
    };
    let (at, exchange) = unanswered().next_back()?;
    // Another DHCP server may have sent it here for its boot file.
    let answered = |(when, e): (Millis, &Exchange)| when > at && matches!(e.answer, Answer::Sent { .. });
    if case.boot.dhcp().any(answered) || case.boot.reached() >= Some(Reached::Loader) {
        return None;
    }
    let count = unanswered().count();
    // The look for other servers at the start is over before firmware asks a second time.
    let mut cause = Cause::new(Code::SubnetNotServed, if count > 1 { High } else { Medium }).seen(
        at,
        format!(
            "{} ({}) {} was not answered, {count} in all: {}",
            exchange.kind,
            exchange.client,
            through(exchange),
            Drop::NotServed
        ),
    );
    if let Some((at, server, _)) = chosen(case) {
        cause = cause.seen(at, format!("REQUEST: it took the offer of {server}"));
    }
    Some(cause)
}

/// KS-1026
pub(super) fn lease_not_stored(case: &Case<'_>) -> Option<Cause> {
    let (at, asked) = case.boot.seen().iter().rev().find_map(|seen| match &seen.what {
        What::Dhcp(Exchange { kind, client, answer: Answer::Silent { why: Drop::NotStored }, .. }) => {
            Some((seen.at, format!("{kind} ({client})")))
        }
        What::Dhcp6(Exchange6 { kind, client, answer, .. })
            if *answer == (Answer6::Silent { why: dhcp6::Drop::NotStored }) =>
        {
            Some((seen.at, format!("DHCPv6 {kind} ({client})")))
        }
        _ => None,
    })?;
    // An offer is kept in memory alone: it shows nothing.
    let leased = case.boot.after(at).any(|seen| match &seen.what {
        What::Dhcp6(exchange) => exchange.taken().is_some(),
        _ => false,
    });
    (!leased && !acknowledged(case, at)).then(|| {
        let text = format!("{asked} was not answered: its lease {}", Drop::NotStored);
        Cause::new(Code::LeaseNotStored, High).seen(at, text)
    })
}

/// KS-1027
pub(super) fn leases_restored(case: &Case<'_>) -> Option<Cause> {
    let (at, exchange) = dropped(case, |why| why == Drop::Restored).next_back()?;
    (!acknowledged(case, at)).then(|| {
        let asked = format!("{} ({}) {}", exchange.kind, exchange.client, through(exchange));
        let text = format!("{asked} was not answered: {}", Drop::Restored);
        Cause::new(Code::LeasesRestored, High).seen(at, text)
    })
}

/// KS-1006
pub(super) fn pool_exhausted(case: &Case<'_>) -> Option<Cause> {
    let (at, exchange) = dropped(case, |why| why == Drop::PoolExhausted).next_back()?;
    (!acknowledged(case, at)).then(|| {
        let text =
            format!("{} ({}) {} found no free address", exchange.kind, exchange.client, through(exchange));
        let cause = Cause::new(Code::PoolExhausted, High).seen(at, text);
        match case.site.in_use {
            0 => cause,
            count => cause.seen(
                case.now,
                format!(
                    "addresses in use by hosts unknown here: {count}; `ks dhcp leases` shows them as in_use"
                ),
            ),
        }
    })
}

/// KS-1019
pub(super) fn address_conflict(case: &Case<'_>) -> Option<Cause> {
    let mut declined = case.boot.dhcp().filter(|(_, exchange)| exchange.kind == MessageType::Decline);
    let (at, exchange) = declined.next_back()?;
    let address = exchange.wish.map_or_else(|| "the address".into(), |address| address.to_string());
    let text = format!("DECLINE: it found {address} in use by another machine");
    let cause = Cause::new(Code::AddressConflict, if acknowledged(case, at) { Low } else { High });
    Some(cause.seen(at, text))
}

/// Whether this server itself gives out addresses where the machine is.
fn gives_addresses(case: &Case<'_>) -> bool {
    let offers =
        |(_, exchange): (Millis, &Exchange)| matches!(exchange.answer, Answer::Sent { address: Some(_), .. });
    case.boot.dhcp().any(offers)
}

/// The other server whose offer firmware or loader took.
fn chosen(case: &Case<'_>) -> Option<(Millis, Ipv4Addr, Option<Ipv4Addr>)> {
    case.boot.asked().rev().find_map(|(at, exchange)| match (&exchange.answer, exchange.kind) {
        (Answer::Silent { why: Drop::OtherServer(server) }, _) => Some((at, *server, exchange.wish)),
        // As a proxy this server is asked for nothing.
        (Answer::NotAsked, MessageType::Request) => Some((at, exchange.server?, exchange.wish)),
        _ => None,
    })
}

fn foreign_file(case: &Case<'_>) -> Option<(Millis, Ipv4Addr, String)> {
    case.boot.seen().iter().rev().find_map(|seen| match &seen.what {
        What::ForeignOffer(offer) => Some((seen.at, offer.server, offer.file.clone()?)),
        _ => None,
    })
}

/// KS-1008
pub(super) fn foreign_server(case: &Case<'_>) -> Option<Cause> {
    let (at, server, address) = chosen(case)?;
    let is_up = case.boot.reached() == Some(Reached::System);
    if !gives_addresses(case) || is_up || fetches_after(case, at) || acknowledged(case, at) {
        return None;
    }
    let mut cause = Cause::new(Code::ForeignServer, High);
    if let Some((offered, exchange)) = case.boot.asked().find(|(_, e)| e.kind == MessageType::Discover) {
        cause =
            cause.seen(offered, format!("DISCOVER ({}): this server offered an address", exchange.client));
    }
    let address = address.map_or_else(String::new, |address| format!(" with {address}"));
    cause = cause.seen(at, format!("REQUEST: it took the offer of {server}{address}"));
    if let Some((at, server, file)) = foreign_file(case) {
        cause = cause.seen(at, format!("{server} names the boot file {file:?}"));
    }
    Some(cause)
}

/// Whether it came for a file of ours after `at`.
fn fetches_after(case: &Case<'_>, at: Millis) -> bool {
    let fetches =
        |what: &What| matches!(what, What::Loading(_) | What::Tftp(_) | What::Http(_) | What::Script(_));
    case.boot.after(at).any(|seen| fetches(&seen.what))
}

/// KS-1009
pub(super) fn proxy_ignored(case: &Case<'_>) -> Option<Cause> {
    let (offered, file) = case.boot.asked().find_map(|(at, exchange)| match &exchange.answer {
        Answer::Sent { kind: MessageType::Offer, address: None, file: Some(file) } => Some((at, file)),
        _ => None,
    })?;
    let (at, server, _) = chosen(case)?;
    let asked_us = fetches_after(case, at) || acknowledged(case, at);
    if asked_us || case.now.since(at) < PROXY_MS {
        return None;
    }
    let mut cause = Cause::new(Code::ProxyIgnored, Medium)
        .seen(offered, format!("this server offered {file:?} beside the other's address"))
        .seen(at, format!("it took the offer of {server} and asked for nothing here"));
    if let Some((at, server, file)) = foreign_file(case) {
        cause.likelihood = High;
        cause = cause.seen(at, format!("{server} names a boot file itself: {file:?}"));
    }
    Some(cause)
}

/// KS-1010
pub(super) fn offer_not_requested(case: &Case<'_>) -> Option<Cause> {
    if case.boot.dhcp().any(|(_, exchange)| exchange.kind == MessageType::Request) {
        return None;
    }
    let offers = || {
        case.boot.asked().filter_map(|(at, exchange)| match &exchange.answer {
            // Firmware that is offered no boot file may rightly go on without the address.
            Answer::Sent { kind: MessageType::Offer, address: Some(address), file: Some(_) } => {
                Some((at, *address))
            }
            _ => None,
        })
    };
    let ((first, address), count) = (offers().next()?, offers().count());
    if case.now.since(first) < CHOICE_MS {
        return None;
    }
    let likelihood = if count >= 3 { High } else { Medium };
    Some(
        Cause::new(Code::OfferNotRequested, likelihood)
            .seen(first, format!("{address} was offered"))
            .seen(offers().next_back()?.0, format!("asked {count} times, answered each time, took nothing")),
    )
}

/// KS-1028
pub(super) fn no_address_server(case: &Case<'_>) -> Option<Cause> {
    let chose = case.boot.dhcp().any(|(_, exchange)| exchange.kind == MessageType::Request);
    if chose || case.boot.seen().iter().any(|seen| matches!(seen.what, What::ForeignOffer(_))) {
        return None;
    }
    let named = || {
        case.boot.asked().filter_map(|(at, exchange)| match &exchange.answer {
            Answer::Sent { kind: MessageType::Offer, address: None, file: Some(file) } => Some((at, file)),
            _ => None,
        })
    };
    let ((first, file), count) = (named().next()?, named().count());
    if case.now.since(first) < CHOICE_MS {
        return None;
    }
    let text = format!("asked {count} times; nobody was seen to offer an address");
    let cause = Cause::new(Code::NoAddressServer, if count > 1 { High } else { Medium });
    Some(
        cause
            .seen(first, format!("{file:?} was named, without an address"))
            .seen(named().next_back()?.0, text),
    )
}

/// KS-1020
pub(super) fn link_delay(case: &Case<'_>) -> Option<Cause> {
    let (at, exchange) = case.boot.asked().find(|(_, exchange)| exchange.kind == MessageType::Discover)?;
    if exchange.secs < UNHEARD_SECONDS || exchange.secs == u16::MAX {
        return None;
    }
    let came_far = case.boot.reached() >= Some(Reached::Loader);
    let text = format!(
        "its first DISCOVER that arrived says that it has been asking for {} s; none came before",
        exchange.secs
    );
    Some(Cause::new(Code::LinkDelay, if came_far { Low } else { Medium }).seen(at, text))
}

/// KS-1024
pub(super) fn link_flaps(case: &Case<'_>) -> Option<Cause> {
    let spoke = case.boot.seen().iter().rfind(|seen| matches!(seen.what, What::Agent { .. }))?;
    let facts = case.machine?.node.facts.as_ref()?;
    let booted = |nic: &&Nic| facts.boot_nic.as_ref().is_none_or(|name| *name == nic.name);
    let nic = facts.nics.iter().filter(booted).max_by_key(|nic| nic.carrier_changes)?;
    (nic.carrier_changes >= CARRIER_CHANGES).then(|| {
        let text = format!(
            "the carrier of {} ({}) had come or gone {} times when its agent said hello",
            nic.name, nic.mac, nic.carrier_changes
        );
        Cause::new(Code::LinkFlaps, Medium).seen(spoke.at, text)
    })
}

/// KS-1001
pub(super) fn no_dhcp(case: &Case<'_>) -> Option<Cause> {
    if case.boot.reached() != Some(Reached::Power) {
        return None;
    }
    let power = case.boot.first()?.at;
    let waited = case.now.since(power);
    if waited < FIRMWARE_MS {
        return None;
    }
    let likelihood = if waited < FIRMWARE_MS_MAX { Medium } else { High };
    let mut cause = Cause::new(Code::NoDhcp, likelihood)
        .seen(power, "it was switched on".to_string())
        .seen(case.now, format!("no DHCP packet in the {} s since", waited / 1_000));
    let before = case.boots.iter().rev().skip(1).find_map(|boot| boot.asked().next_back());
    if let Some((at, exchange)) = before {
        cause.proof.insert(
            0,
            super::Proof { at, text: format!("it did ask in an earlier start ({})", exchange.client) },
        );
    }
    Some(cause)
}
