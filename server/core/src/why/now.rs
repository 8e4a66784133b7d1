//! What is going on, and what has worked: said also when nothing is wrong.

use super::boot::{Reached, file_is_for};
use super::{Case, Proof};
use crate::trace::{Answer, Exchange, HttpAnswer, Loading, Sighting, Start, TftpEnd, TftpTransfer, What};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::dhcp::MessageType;

/// The newest sighting in words, or that there is none.
pub(super) fn in_words(case: &Case<'_>) -> Proof {
    match case.boot.last() {
        Some(Sighting { at, what }) => Proof { at: *at, text: told(what) },
        None => Proof { at: case.now, text: "nothing was seen of it lately".into() },
    }
}

fn told(what: &What) -> String {
    match what {
        What::Dhcp(exchange) => dhcp(exchange),
        What::Dhcp6(exchange) => {
            format!("DHCPv6 {} ({}): {}", exchange.kind, exchange.client, exchange.answer)
        }
        What::ForeignOffer(offer) => format!("the DHCP server {} made it an offer", offer.server),
        What::Loading(Loading { by, file }) => format!("{file:?} is being loaded by {}", by.name()),
        What::Tftp(transfer) => tftp(transfer),
        What::Http(answer) => http(answer),
        What::Script(Start::Local) => "it was told to start from its own disk".into(),
        What::Script(Start::Agent { mode }) => format!("it got its boot script ({})", mode.name()),
        What::Power => "it was switched on; servers may test themselves for minutes before they ask".into(),
        What::Agent { mode } => format!("its agent said hello ({})", mode.name()),
        What::Syslog { text } => format!("it said: {text}"),
    }
}

fn dhcp(exchange: &Exchange) -> String {
    let asked = format!("{} ({})", exchange.kind, exchange.client);
    match &exchange.answer {
        Answer::NotAsked => asked,
        Answer::Silent { why } => format!("{asked} was not answered: {why}"),
        Answer::Sent { kind, address, file } => {
            let address = address.map_or_else(String::new, |address| format!(" {address}"));
            let file = file.as_ref().map_or_else(String::new, |file| format!(", boot file {file:?}"));
            format!("{asked} was answered with {kind}{address}{file}")
        }
    }
}

fn tftp(transfer: &TftpTransfer) -> String {
    let name = &transfer.file;
    match &transfer.end {
        _ if file_is_for(name) == Some(Reached::Disk) => "it was told to start from its own disk".into(),
        TftpEnd::Complete => format!("it fetched {name:?} by TFTP ({} bytes)", transfer.bytes),
        TftpEnd::Probed => format!("it asked for the size of {name:?} by TFTP"),
        TftpEnd::NotFound => format!("it asked for {name:?} by TFTP, which is not there"),
        TftpEnd::Refused { why } => format!("it was refused {name:?} by TFTP: {why}"),
        TftpEnd::Aborted { why } => format!("it broke off {name:?} by TFTP: {why}"),
        TftpEnd::Unreadable => format!("it asked for {name:?} by TFTP, which this server cannot read"),
        TftpEnd::TimedOut | TftpEnd::Gone => {
            format!("its transfer of {name:?} by TFTP stopped after {} bytes", transfer.bytes)
        }
    }
}

fn http(answer: &HttpAnswer) -> String {
    let HttpAnswer { path, status, bytes, .. } = answer;
    if file_is_for(path) == Some(Reached::Disk) {
        "it was told to start from its own disk".into()
    } else {
        format!("it asked for {path:?} by HTTP: {status}, {bytes} bytes")
    }
}

/// What has worked in the newest start.
pub(super) fn worked(case: &Case<'_>) -> Vec<String> {
    let mut all = Vec::new();
    let acknowledged = case.boot.asked().find_map(|(_, exchange)| match &exchange.answer {
        Answer::Sent { kind: MessageType::Ack, address: Some(address), .. } => Some(*address),
        _ => None,
    });
    if let Some(address) = acknowledged {
        all.push(format!("DHCP (it has {address})"));
    }
    if let Some(address) = case.boot.asked6().find_map(|(_, exchange)| exchange.taken()) {
        all.push(format!("DHCPv6 (it has {address})"));
    }
    let mut fetched = Vec::new();
    for seen in case.boot.seen() {
        let file = match &seen.what {
            What::Tftp(transfer) if transfer.end == TftpEnd::Complete => Some((&transfer.file, "TFTP")),
            What::Http(answer) if answer.status / 100 == 2 && answer.bytes > 0 && !answer.is_aborted() => {
                Some((&answer.path, "HTTP"))
            }
            _ => None,
        };
        if let Some((file, door)) = file {
            let name = file.rsplit('/').next().unwrap_or(file);
            let text = format!("{door} ({name} fetched whole)");
            if !fetched.contains(&text) {
                fetched.push(text);
            }
        }
    }
    all.extend(fetched);
    if case.boot.reached() == Some(Reached::System) {
        all.push("its system or agent is up".into());
    }
    all
}
