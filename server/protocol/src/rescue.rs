//! A machine in the hands of a person: what its agent and the server tell each other meanwhile, as JSON bodies
//! of `POST /agent/v1/…`.
//!
//! | path | body | answer |
//! |---|---|---|
//! | `shell/input` | [`InputQuestion`] | [`Input`]; held back until something is typed or the wait is over |
//! | `shell/output` | [`Output`] | 204: it is recorded; 409: no more is taken, the shell has to end |
//! | `rescued` | [`Rescued`] | [`Directive`](crate::agent_api::Directive) |
//!
//! One shell runs on the machine from the first one-time code on that the server took until the rescue ends. What
//! is typed comes with the answers to a question that is always open, so the agent listens to nothing.

use crate::ids::JobId;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Bytes of one [`Output`] at most.
pub const OUTPUT_MAX: usize = 32 << 10;

/// Stay, and let a person work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueTask {
    /// The job this is for.
    pub job: JobId,
    /// Which start of the machine for this job, from 1.
    pub attempt: u32,
    /// Identities of the disks that may be written to; all others stay read-only.
    pub writable: Vec<String>,
}

/// What was typed, behind what I have?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputQuestion {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Bytes of input that the shell has had since the agent's start.
    pub after: u64,
    /// The size the shell's terminal has; none while no shell runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Size>,
    /// Seconds the answer may be held back, at most 60.
    pub wait_seconds: u32,
}

/// What there is for the shell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Whether somebody came with the right code: the shell may run.
    pub open: bool,
    /// Where `bytes` begin; not after `after` of the question.
    pub first: u64,
    /// What was typed.
    pub bytes: Octets,
    /// The size of the terminal at which it was typed.
    pub size: Size,
    /// Why the rescue is over, if it is: the machine shall restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
}

/// What the shell and its programs show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Bytes that came before since the agent's start: a repeated message is recognised.
    pub first: u64,
    /// What is shown.
    pub bytes: Octets,
}

/// The shell was left: nobody works on the machine any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescued {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for Size {
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// Bytes that need not be text, as hexadecimal digits.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Octets(pub Vec<u8>);

impl fmt::Debug for Octets {
    /// What people type and see is nobody's else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Octets({})", self.0.len())
    }
}

impl Serialize for Octets {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        to.collect_str(&digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn octets_read_back_as_they_were(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let octets = Octets(bytes);
            let text = serde_json::to_string(&octets).expect("text");
            prop_assert_eq!(serde_json::from_str::<Octets>(&text).expect("read"), octets);
        }
    }

    #[test]
    fn p29_what_is_no_octets_is_refused_and_none_are_shown() {
        for bad in ["\"0\"", "\"0g\"", "\"é0\"", "1"] {
            assert!(serde_json::from_str::<Octets>(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", Octets(b"hunter2".to_vec())), "Octets(7)");
    }
}
