//! Causes between the address and the last byte of a boot file.

use super::Likelihood::{High, Low, Medium};
use super::boot::{Reached, file_is_for, is_optional};
use super::{Case, Cause};
use crate::boot::File;
use crate::dhcp::bootfile::MISSING_FILE;
use crate::trace::{HttpAnswer, TftpEnd, TftpTransfer, What};
use alloc::format;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::time::Millis;

/// A machine asks for its boot file at once; TFTP clients repeat for some seconds.
const ASK_MS: u64 = 20_000;
/// Blocks of this size pass wherever IPv4 does (RFC 1350: 512, and 36 bytes of headers).
const SMALL_BLOCK: u32 = 512;
/// Waits in vain after which a transfer is given up: from 20 ms they double up to 6 s, and end after
/// 30 s (see [`crate::tftp::Limits`]).
const GIVE_UP_WAITS: u64 = 14;
/// Of so many data packets one that was sent again counts as lossy.
const LOSS_DIVISOR: u64 = 20;

fn block(transfer: &TftpTransfer) -> u64 {
    transfer.bytes / u64::from(transfer.block_bytes.max(1))
}

fn blocks(transfer: &TftpTransfer) -> u64 {
    transfer.size.unwrap_or(transfer.bytes) / u64::from(transfer.block_bytes.max(1)) + 1
}

/// Repetitions that silence at the end does not explain: a transfer that is given up ends with
/// some waits, each of which sends a window again.
fn lost(transfer: &TftpTransfer) -> u64 {
    let waits = if transfer.end == TftpEnd::TimedOut { transfer.timeouts.min(GIVE_UP_WAITS) } else { 0 };
    transfer.resent.saturating_sub(waits * u64::from(transfer.window.max(1)))
}

fn is_lossy(transfer: &TftpTransfer) -> bool {
    transfer.bytes > 0 && lost(transfer) * LOSS_DIVISOR > transfer.sent.max(LOSS_DIVISOR)
}

fn stopped(transfer: &TftpTransfer) -> bool {
    matches!(transfer.end, TftpEnd::TimedOut | TftpEnd::Gone)
}

/// The last transfer that stopped, unless the same file arrived later.
fn stalled<'a>(case: &Case<'a>) -> Option<(Millis, &'a TftpTransfer)> {
    let (at, transfer) = case.boot.tftp().rfind(|(_, transfer)| stopped(transfer))?;
    let later = |(when, other): (Millis, &TftpTransfer)| {
        when > at && other.file == transfer.file && other.end == TftpEnd::Complete
    };
    (!case.boot.tftp().any(later)).then_some((at, transfer))
}

/// Options were agreed by small packets, and then no block of a larger size was acknowledged.
fn is_only_agreed(transfer: &TftpTransfer) -> bool {
    transfer.answered && transfer.bytes == 0 && transfer.block_bytes > SMALL_BLOCK
}

/// What a boot file is asked for by: HTTP boot and IPv6 name it by a URL.
fn path_of(name: &str) -> &str {
    name.split_once("://").and_then(|(_, rest)| Some(rest.split_once('/')?.1)).unwrap_or(name)
}

/// Where HTTP has the loaders; TFTP has them at its root.
const HTTP_LOADERS: &str = "boot/files/";

/// The key of the configuration that says where the file lies which was asked for by that name.
fn key_of(name: &str) -> Option<&'static str> {
    let name = name.trim_start_matches('/');
    File::named(name.strip_prefix(HTTP_LOADERS).unwrap_or(name))?.key()
}

/// Whether a transfer ended for want of its file, and the key if the server cannot read its own one.
fn missing_by_tftp(transfer: &TftpTransfer) -> Option<Option<&'static str>> {
    match transfer.end {
        // It may be another's name, or not be given to this machine.
        TftpEnd::NotFound => Some(None),
        TftpEnd::Unreadable => Some(key_of(&transfer.file)),
        _ => None,
    }
}

/// KS-1011
pub(super) fn boot_file_missing(case: &Case<'_>) -> Option<Cause> {
    let named = case.boot.told_file();
    let is_named = |file: &str| {
        named.is_some_and(|(_, name)| path_of(name).trim_start_matches('/') == file.trim_start_matches('/'))
    };
    let by_tftp =
        case.boot.tftp().filter_map(|(at, it)| Some((at, it.file.as_str(), "TFTP", missing_by_tftp(it)?)));
    // What is not given to this machine is answered with 403.
    let by_http = case.boot.http().filter(|(_, answer)| answer.status == 404);
    let by_http = by_http.map(|(at, answer)| (at, answer.path.as_str(), "HTTP", key_of(&answer.path)));
    let missing = by_tftp.chain(by_http).filter(|(_, file, ..)| {
        !is_optional(file) && file_is_for(file) != Some(Reached::Disk) && !file.ends_with(MISSING_FILE)
    });
    let (at, file, door, own) = missing.max_by_key(|(at, ..)| *at)?;
    let went_on = case.boot.after(at).any(|seen| match &seen.what {
        What::Tftp(transfer) => transfer.end == TftpEnd::Complete && !is_optional(&transfer.file),
        What::Http(answer) => answer.status / 100 == 2 && answer.bytes > 0,
        What::Loading(loading) => !is_optional(&loading.file),
        What::Script(_) | What::Agent { .. } => true,
        _ => false,
    });
    // A machine that shall start from its own disk finds no file at all.
    if went_on || case.is_local() {
        return None;
    }
    let sure = is_named(file) || door == "HTTP" || own.is_some();
    let cause = Cause::new(Code::BootFileMissing, if sure { High } else { Medium });
    let cause = match named.filter(|_| is_named(file)) {
        Some((told, name)) => cause.seen(told, format!("it was told to start {name:?}")),
        None => cause,
    };
    let fault = match own {
        Some(key) => format!("this server cannot read it: {key} of its configuration"),
        None => "is not there".into(),
    };
    Some(cause.seen(at, format!("{door}: {file:?} was asked for and {fault}")))
}

/// KS-1012
pub(super) fn path_mtu(case: &Case<'_>) -> Option<Cause> {
    let (at, transfer) = stalled(case)?;
    if !is_only_agreed(transfer) {
        return None;
    }
    let text = format!(
        "TFTP {:?}: of blocks of {} bytes not one was acknowledged, {} were sent again",
        transfer.file, transfer.block_bytes, transfer.resent
    );
    let cause = Cause::new(Code::PathMtu, if transfer.repeated_acks > 0 { High } else { Medium })
        .seen(at, format!("TFTP {:?}: the small packets that agree on options did pass", transfer.file))
        .seen(at, text);
    Some(match transfer.repeated_acks {
        0 => cause,
        count => {
            cause.seen(at, format!("the machine still waited: it asked {count} times for the first block"))
        }
    })
}

/// KS-1013
pub(super) fn packet_loss(case: &Case<'_>) -> Option<Cause> {
    let (at, transfer) =
        case.boot.tftp().filter(|(_, transfer)| is_lossy(transfer)).max_by_key(|(_, t)| lost(t))?;
    let likelihood = match transfer.end {
        TftpEnd::Complete => Low,
        _ => High,
    };
    let text = format!(
        "TFTP {:?}: {} of {} packets had to be sent again in {}.{} s",
        transfer.file,
        transfer.resent,
        transfer.sent,
        transfer.duration_ms / 1_000,
        transfer.duration_ms % 1_000 / 100
    );
    Some(Cause::new(Code::PacketLoss, likelihood).seen(at, text))
}

/// KS-1014
pub(super) fn transfer_stopped(case: &Case<'_>) -> Option<Cause> {
    let (at, transfer) = stalled(case)?;
    // A machine that waits for its first block, and is there, is told more precisely by another code.
    if is_only_agreed(transfer) && transfer.repeated_acks > 0 {
        return None;
    }
    let how = match (&transfer.end, transfer.answered) {
        (TftpEnd::Gone, _) => "closed its port",
        (_, true) => "acknowledged nothing more",
        (_, false) => "answered nothing",
    };
    let text = format!(
        "TFTP {:?}: the machine {how} after block {} of {} ({} bytes)",
        transfer.file,
        block(transfer),
        blocks(transfer),
        transfer.bytes
    );
    Some(Cause::new(Code::TransferStopped, if is_lossy(transfer) { Medium } else { High }).seen(at, text))
}

/// KS-1015
pub(super) fn http_aborted(case: &Case<'_>) -> Option<Cause> {
    let (at, answer) = case.boot.http().rfind(|(_, answer)| answer.is_aborted())?;
    let again =
        |(when, other): (Millis, &HttpAnswer)| when > at && other.path == answer.path && !other.is_aborted();
    if case.boot.http().any(again) {
        return None;
    }
    let total = answer.total.unwrap_or_default();
    let text = format!("HTTP {:?}: broken off at byte {} of {total}", answer.path, answer.bytes);
    Some(Cause::new(Code::HttpAborted, High).seen(at, text))
}

/// KS-1002
pub(super) fn no_boot_file(case: &Case<'_>) -> Option<Cause> {
    let (at, file) = case.boot.told_file()?;
    if case.is_local() || case.boot.reached() != Some(Reached::Address) || case.now.since(at) < ASK_MS {
        return None;
    }
    let fetches = |what: &What| matches!(what, What::Loading(_) | What::Tftp(_) | What::Http(_));
    let asked = case.boot.after(at).any(|seen| fetches(&seen.what));
    (!asked).then(|| {
        Cause::new(Code::NoBootFile, Medium)
            .seen(at, format!("it has an address and was told to start {file:?}"))
            .seen(case.now, format!("nothing was asked for in the {} s since", case.now.since(at) / 1_000))
    })
}
