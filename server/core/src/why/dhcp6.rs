//! Causes between the first DHCPv6 question and the address: those that only DHCPv6 has in its own words.
//!
//! Firmware asks in both families, one after the other or at once. What one of them lacks is no cause where the
//! other gave an address.

use super::Likelihood::High;
use super::boot::Reached;
use super::{Case, Cause};
use crate::dhcp6::Drop;
use crate::trace::{Answer6, Exchange6};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kaltstart_protocol::dhcp6::MessageType;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::time::Millis;

/// The questions of firmware and loaders that were answered like that, unless the machine has an address.
fn without_address<'a>(case: &Case<'a>, like: impl Fn(&Exchange6) -> bool) -> Vec<(Millis, &'a Exchange6)> {
    if case.boot.reached() > Some(Reached::Asking) {
        return Vec::new();
    }
    case.boot.asked6().filter(|(_, exchange)| like(exchange)).collect()
}

fn asked(exchange: &Exchange6) -> String {
    let Exchange6 { kind, client, relay, .. } = exchange;
    let from = relay.map_or_else(|| "from this wire".into(), |link| format!("through the relay on {link}"));
    format!("DHCPv6 {kind} ({client}) {from}")
}

/// KS-1007
pub(super) fn unknown_network(case: &Case<'_>) -> Option<Cause> {
    let like = |exchange: &Exchange6| match exchange.answer {
        Answer6::Silent { why } => matches!(why, Drop::UnknownSubnet | Drop::UnknownRelay(_)),
        _ => false,
    };
    let all = without_address(case, like);
    let (at, exchange) = all.last()?;
    let served: Vec<String> = case.site.prefixes.iter().map(ToString::to_string).collect();
    let served = if served.is_empty() { "no networks".into() } else { served.join(", ") };
    Some(
        Cause::new(Code::UnknownNetwork, High)
            .seen(*at, format!("{}, {} in all", asked(exchange), all.len()))
            .seen(*at, format!("served by DHCPv6 are {served}")),
    )
}

/// KS-1006
pub(super) fn pool_exhausted(case: &Case<'_>) -> Option<Cause> {
    // RFC 8415 §18.3.9: an answer without an address, where one was asked for, is that there is none.
    let like = |exchange: &Exchange6| {
        let wants = matches!(exchange.kind, MessageType::Solicit | MessageType::Request);
        wants && matches!(exchange.answer, Answer6::Sent { address: None, .. })
    };
    let all = without_address(case, like);
    let (at, exchange) = all.last()?;
    let text = format!("{} found no free address, {} in all", asked(exchange), all.len());
    Some(Cause::new(Code::PoolExhausted, High).seen(*at, text))
}
