//! The audit log: who did what, when, why, and what came of it, as records that are chained and sealed.
//!
//! Each record has the SHA-256 of the record before it and of its own text, so that whoever reads the log can tell that
//! nothing was taken out, changed or moved; and a seal over that, which only the site's servers can make. Both are in
//! the database. What the newest record was is also told to each server's own disk ([`Head`]), so that a log which ends
//! too early is found.

mod acts;
mod chain;

pub use acts::{act, declared};
pub use chain::{Chain, Fault, Verdict, is_cut};

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use core::net::IpAddr;
use kaltstart_protocol::ids::{Digest, JobId, NodeId};
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// Characters of each text of a record that others made up.
pub const TEXT_CHARS_MAX: usize = 500;

/// How long the server does not record once more what is exactly as it was, in milliseconds: who asks it again and
/// again shall not fill its disk.
pub const REPEATED_MS: u64 = 60_000;

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name by which it is noted.
    pub name: String,
    /// From where, if over the network.
    pub from: Option<IpAddr>,
    /// Why, in his own words.
    pub reason: Option<String>,
}

impl Actor {
    /// Somebody of that name, on this machine.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), from: None, reason: None }
    }

    /// The server itself, by its rules or because a machine asked for something.
    #[must_use]
    pub fn server() -> Self {
        Self::named("server")
    }

    /// What the server's configuration says.
    #[must_use]
    pub fn configuration() -> Self {
        Self::named("configuration")
    }
}

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A node was declared, or declared otherwise.
    NodeDeclared,
    /// Somebody said that a machine was switched on.
    PowerNoted,
    /// A node was moved.
    NodeAccepted,
    /// A node was moved.
    NodeRejected,
    /// A node was moved.
    NodeBroken,
    /// A node was moved.
    NodeRepaired,
    /// A node was moved.
    NodeRetired,
    /// People say something else of a node.
    NodeEdited,
    /// A node was locked.
    NodeLocked,
    /// A node was unlocked.
    NodeUnlocked,
    /// Somebody agreed to what somebody else may order.
    NodeApproved,
    /// Another board was accepted for a node's system.
    BoardAccepted,
    /// A job was ordered.
    JobOrdered,
    /// A job was cancelled.
    JobCancelled,
    /// A job came to its end as it should.
    JobSucceeded,
    /// A job failed.
    JobFailed,
    /// An agent was granted to lose what is on disks.
    WipeGranted,
    /// The server ended a job that would lose data instead of granting it.
    WipeRefused,
    /// All disks of a node were erased.
    DisksErased,
    /// The key of encrypted disks was given to a system.
    DiskKeyReleased,
    /// The key of encrypted disks was refused to a system.
    DiskKeyRefused,
    /// Keys of encrypted disks were written into files.
    DiskKeysExported,
    /// All secrets were given up; what sealed the records before is lost with them.
    SecretsForgotten,
    /// A one-time code for the shell of a rescue was made.
    CodeIssued,
    /// A shell was opened.
    ShellOpened,
    /// A one-time code was wrong.
    ShellRefused,
    /// A token of the API was made.
    TokenMade,
    /// A token of the API was revoked.
    TokenRevoked,
    /// The key that signs wipe grants is about to be replaced.
    GrantKeyRotating,
    /// The key that signs wipe grants was replaced.
    GrantKeyRotated,
    /// The database is a copy that was restored: what was recorded after it was made is not in it.
    RestoredFound,
    /// A restored copy was accepted as it is.
    RestoredAccepted,
    /// Records that a server had seen were not there any more when it was about to write the next one.
    LogCut,
}

impl Action {
    /// The word in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeDeclared => "node.declared",
            Self::PowerNoted => "node.powered_on",
            Self::NodeAccepted => "node.accepted",
            Self::NodeRejected => "node.rejected",
            Self::NodeBroken => "node.broken",
            Self::NodeRepaired => "node.repaired",
            Self::NodeRetired => "node.retired",
            Self::NodeEdited => "node.edited",
            Self::NodeLocked => "node.locked",
            Self::NodeUnlocked => "node.unlocked",
            Self::NodeApproved => "node.approved",
            Self::BoardAccepted => "board.accepted",
            Self::JobOrdered => "job.ordered",
            Self::JobCancelled => "job.cancelled",
            Self::JobSucceeded => "job.succeeded",
            Self::JobFailed => "job.failed",
            Self::WipeGranted => "wipe.granted",
            Self::WipeRefused => "wipe.refused",
            Self::DisksErased => "disks.erased",
            Self::DiskKeyReleased => "disk_key.released",
            Self::DiskKeyRefused => "disk_key.refused",
            Self::DiskKeysExported => "disk_keys.exported",
            Self::SecretsForgotten => "secrets.forgotten",
            Self::CodeIssued => "rescue.code_issued",
            Self::ShellOpened => "rescue.shell_opened",
            Self::ShellRefused => "rescue.shell_refused",
            Self::TokenMade => "token.made",
            Self::TokenRevoked => "token.revoked",
            Self::GrantKeyRotating => "grant_key.rotating",
            Self::GrantKeyRotated => "grant_key.rotated",
            Self::RestoredFound => "restored.found",
            Self::RestoredAccepted => "restored.accepted",
            Self::LogCut => "log.cut",
        }
    }
}

/// Something that is to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Who does it.
    pub by: Actor,
    /// What it is.
    pub action: Action,
    /// The node it is about, and its name then.
    pub node: Option<(NodeId, String)>,
    /// The job it is about.
    pub job: Option<JobId>,
    /// The particulars, and no secrets.
    pub detail: BTreeMap<String, String>,
}

impl Act {
    /// Something about no node.
    #[must_use]
    pub const fn new(by: Actor, action: Action) -> Self {
        Self { by, action, node: None, job: None, detail: BTreeMap::new() }
    }

    /// The same with one particular more; of a long one the beginning.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.detail.insert(name.into(), cut(&value.to_string()));
        self
    }

    /// The record with that number.
    fn record(&self, number: u64, epoch: u64, at: Millis) -> Record {
        let (node, node_name) = self.node.clone().unzip();
        Record {
            number,
            at,
            epoch,
            by: cut(&self.by.name),
            from: self.by.from,
            reason: self.by.reason.as_deref().map(cut),
            action: self.action.name().to_owned(),
            node,
            node_name,
            job: self.job.clone(),
            detail: self.detail.clone(),
        }
    }

    /// Whether the server did exactly this a moment before `now`, as `last` says.
    #[must_use]
    pub fn repeats(&self, last: &Record, now: Millis) -> bool {
        self.by == Actor::server()
            && now.since(last.at) < REPEATED_MS
            && self.record(last.number, last.epoch, last.at) == *last
    }
}

/// The beginning of a text that others made up, as text only: PostgreSQL looks into no document with a NUL in it.
fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A record, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 1, without a gap.
    pub number: u64,
    /// When.
    pub at: Millis,
    /// When the database was last found to be a restored copy, as far as the log knows; 0 if it never was.
    pub epoch: u64,
    /// Who did it.
    pub by: String,
    /// From where, if over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// Why, in his own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it is; see [`Action::name`].
    pub action: String,
    /// The node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The node's name then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The job it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The particulars.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

/// Where a log ends, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the newest record.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
    /// Its epoch.
    pub epoch: u64,
}

/// A record as it is written: its text, and the hash that chains it to the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// JSON of the [`Record`]. What is hashed are its bytes.
    pub text: String,
    /// Where the log ends then.
    pub head: Head,
}

/// Writes what is recorded of `act` behind `newest`, the end of the log so far.
#[must_use]
pub fn append(newest: Option<&Head>, act: &Act, now: Millis) -> Entry {
    let number = newest.map_or(0, |head| head.number) + 1;
    let before = newest.map_or(0, |head| head.epoch);
    // Whoever begins an epoch says which it is.
    let epoch = if act.action == Action::RestoredFound {
        act.detail.get(EPOCH).and_then(|epoch| epoch.parse().ok()).unwrap_or(before)
    } else {
        before
    };
    let record = act.record(number, epoch, now);
    let text = serde_json::to_string(&record).expect("texts and numbers are always JSON");
    let hash = hash(newest.map(|head| &head.hash), &text);
    Entry { text, head: Head { number, hash, epoch } }
}

/// Name of the particular that has the epoch which begins.
const EPOCH: &str = "epoch";

/// Tells of a copy that was restored in the epoch that begins, whose newest entry is of `copied`. `seen` is where the log
/// ended that this server saw last, `found` where that of the copy does.
#[must_use]
pub fn restored(epoch: Millis, copied: Millis, seen: Option<&Head>, found: Option<&Head>) -> Act {
    let end = |head: Option<&Head>| head.map_or_else(|| "nothing".to_owned(), Head::to_string);
    let act = Act::new(Actor::server(), Action::RestoredFound).with(EPOCH, epoch.0).with("copied", copied.0);
    act.with("log_of_copy_ends", end(found)).with("log_seen_before", end(seen))
}

/// Tells that the log ends at `found`, though this server has seen `seen`.
#[must_use]
pub fn log_cut(seen: &Head, found: Option<&Head>) -> Act {
    let end = found.map_or_else(|| "nothing".to_owned(), Head::to_string);
    Act::new(Actor::server(), Action::LogCut).with("seen", seen).with("found", end)
}

impl core::fmt::Display for Head {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "record {} ({})", self.number, self.hash)
    }
}

/// The hash of the record with that text behind one with the hash `before`.
fn hash(before: Option<&Digest>, text: &str) -> Digest {
    let before = before.map_or([0; 32], |hash| hash.0);
    Digest::of(&[&before[..], text.as_bytes()].concat())
}

/// What tells a disk in records: as people are told it, by its serial number.
fn disk_name(disk: &kaltstart_protocol::wipe::DiskIdentity) -> String {
    let name = [&disk.serial, &disk.wwn, &disk.path].into_iter().find(|name| !name.is_empty());
    format!("disk {}", name.map_or("-", String::as_str))
}

#[cfg(test)]
mod tests;
