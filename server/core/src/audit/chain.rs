//! Whether a log is whole: each record as it was written, in its place, none missing.

use super::{Action, Head, Record, hash};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::ids::Digest;

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The number of the first record that is wrong or missing.
    pub number: u64,
    /// What is wrong with it.
    pub what: String,
}

/// What became of looking at a whole log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How many records were looked at, from the first one on.
    pub records: u64,
    /// Where the log ends; none if nothing was recorded yet.
    pub newest: Option<Head>,
    /// The first thing that is wrong.
    pub fault: Option<Fault>,
    /// Numbers of records that tell of a restored copy: what was recorded between the copy and them is not in the log.
    pub restored: Vec<u64>,
    /// Number of the newest record that tells that what sealed those before was given up: that nobody has changed them
    /// is sure since then alone.
    pub forgotten: Option<u64>,
}

/// A log that is looked at, record by record from the first one on.
#[derive(Debug)]
pub struct Chain {
    /// Where it must not end before.
    seen: Option<Head>,
    verdict: Verdict,
    /// The first record whose seal is not the site's.
    unsealed: Option<u64>,
    /// The hash that is stored of the record before.
    before: Option<Digest>,
}

impl Chain {
    /// A log of which `seen` was its end before.
    #[must_use]
    pub const fn new(seen: Option<Head>) -> Self {
        let verdict =
            Verdict { records: 0, newest: None, fault: None, restored: Vec::new(), forgotten: None };
        Self { seen, verdict, unsealed: None, before: None }
    }

    /// Looks at the next record: it is stored under `number` with that text and hash, and the seal on the hash is the
    /// site's if it `is_sealed`. Whether there is a reason to look at more.
    pub fn look(&mut self, number: u64, text: &str, stored: &Digest, is_sealed: bool) -> bool {
        if self.verdict.fault.is_none() {
            self.verdict.fault = self.check(number, text, stored).err();
        }
        self.check_seal(number, text, stored, is_sealed);
        self.before = Some(*stored);
        // What is wrong first may be explained by a later record.
        self.verdict.fault.is_none() || self.unsealed.is_some()
    }

    fn check_seal(&mut self, number: u64, text: &str, stored: &Digest, is_sealed: bool) {
        if !is_sealed || hash(self.before.as_ref(), text) != *stored {
            self.unsealed.get_or_insert(number);
            return;
        }
        let is_forgotten = |record: Record| record.action == Action::SecretsForgotten.name();
        if serde_json::from_str(text).is_ok_and(is_forgotten) {
            // Whoever had another key could not write this.
            self.unsealed = None;
            self.verdict.forgotten = Some(number);
        }
    }

    fn check(&mut self, number: u64, text: &str, stored: &Digest) -> Result<(), Fault> {
        let before = self.verdict.newest;
        let expected = before.map_or(0, |head| head.number) + 1;
        if number != expected {
            let what = match number.saturating_sub(expected) {
                0 | 1 => format!("record {expected} is missing"),
                _ => format!("records {expected} to {} are missing", number.saturating_sub(1)),
            };
            return Err(Fault { number: expected, what });
        }
        let fault = |what| Fault { number, what };
        let record: Record = serde_json::from_str(text)
            .map_err(|error| fault(format!("record {number} was changed, and is none any more: {error}")))?;
        if record.number != number {
            let what =
                format!("in the place of record {number} is what was written as record {}", record.number);
            return Err(fault(what));
        }
        let head =
            Head { number, hash: hash(before.as_ref().map(|head| &head.hash), text), epoch: record.epoch };
        if head.hash != *stored {
            return Err(fault(format!(
                "record {number} was changed: it does not have the hash that it was written with"
            )));
        }
        if let Some(seen) = self.seen.filter(|seen| seen.number == number && seen.epoch == head.epoch)
            && seen.hash != head.hash
        {
            let what = format!("record {number} is not the one that this server has seen, {}", seen.hash);
            return Err(fault(what));
        }
        self.verdict.records += 1;
        self.verdict.newest = Some(head);
        if record.action == Action::RestoredFound.name() {
            self.verdict.restored.push(number);
        }
        if record.action == Action::LogCut.name() {
            let end = |name| record.detail.get(name).map_or("?", String::as_str);
            return Err(fault(format!(
                "record {number} tells that the log ended with {}, though the server had seen {}",
                end("found"),
                end("seen")
            )));
        }
        Ok(())
    }

    /// What is to be said, when all records were looked at.
    #[must_use]
    pub fn end(self) -> Verdict {
        let Self { seen, mut verdict, unsealed, .. } = self;
        if let Some(number) = unsealed
            && verdict.fault.as_ref().is_none_or(|fault| number < fault.number)
        {
            let what = format!(
                "record {number} was not written by a server of this site: its seal was not made with tls/secrets.key"
            );
            verdict.fault = Some(Fault { number, what });
        }
        if let (None, Some(seen)) = (&verdict.fault, &seen)
            && ends_before(verdict.newest.as_ref(), seen)
        {
            let number = verdict.newest.map_or(0, |head| head.number) + 1;
            let what = format!("the log ends before record {number}, though this server has seen {seen}");
            verdict.fault = Some(Fault { number, what });
        }
        verdict
    }
}

/// Whether a log that ends with `newest` ends before `seen`, and no restored copy was found since that.
fn ends_before(newest: Option<&Head>, seen: &Head) -> bool {
    newest.is_none_or(|newest| (newest.epoch, newest.number) < (seen.epoch, seen.number))
}

/// Whether records are missing in a log that ends with `newest`, if its end was `seen` before; `at_seen` is the hash of
/// the record that has the number of `seen` now.
#[must_use]
pub fn is_cut(newest: Option<&Head>, seen: &Head, at_seen: Option<&Digest>) -> bool {
    let goes_on = newest.is_some_and(|newest| newest.epoch == seen.epoch);
    ends_before(newest, seen) || (goes_on && at_seen != Some(&seen.hash))
}
