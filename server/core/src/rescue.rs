//! A job that holds a machine for a person: its one-time code, and how long it may last.

use crate::machine::{Job, JobKind, Machine};
use alloc::string::String;
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::ids::{Digest, JobId};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// How long a code may be used, in milliseconds.
pub const CODE_LIFETIME_MS: u64 = 3_600_000;

/// Wrong codes after which the right one is void.
pub const TRIES_MAX: u32 = 5;

/// A rescue ends so long after its newest code was made, or after its machine came, in milliseconds: a machine
/// that was forgotten goes back to its work.
pub const RESCUE_MAX_MS: u64 = 12 * 3_600_000;

/// What a code is made of: no letter is taken for another one or a digit (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters of a code, 60 bits: its fingerprint cannot be turned back within its life.
const CHARACTERS: usize = 12;

/// Characters between two dashes.
const GROUP: usize = 4;

/// What is known of a rescue besides its order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// The code that opens the shell once; none when it was used or tried too often.
    pub code: Option<Code>,
    /// When it ends by itself; none while it waits for its machine.
    pub until: Option<Millis>,
}

/// A one-time code, as the server keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Fingerprint of the code.
    pub fingerprint: Digest,
    /// Not valid from here on.
    pub expires_at: Millis,
    /// How often a wrong one may still be tried.
    pub tries_left: u32,
}

/// Why a code opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is another one, and this many tries are left.
    Other(u32),
    /// None is valid: used, expired, or tried too often.
    None,
}

impl Code {
    /// A code with that fingerprint, made now.
    #[must_use]
    pub const fn new(fingerprint: Digest, now: Millis) -> Self {
        Self { fingerprint, expires_at: now.plus(CODE_LIFETIME_MS), tries_left: TRIES_MAX }
    }
}

impl Rescue {
    /// Tries a code. The right one is used up; a wrong one counts.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub fn try_code(&mut self, fingerprint: &Digest, now: Millis) -> Result<(), Wrong> {
        let Some(code) = self.code.as_mut().filter(|code| now < code.expires_at) else {
            self.code = None;
            return Err(Wrong::None);
        };
        if code.fingerprint.matches(fingerprint) {
            self.code = None;
            return Ok(());
        }
        code.tries_left = code.tries_left.saturating_sub(1);
        let left = code.tries_left;
        if left == 0 {
            self.code = None;
        }
        Err(Wrong::Other(left))
    }
}

/// A code of the caller's random bytes, as people read and type it: `7F3K-Q2MN-XA4P`.
#[must_use]
pub fn code(random: &[u8; CHARACTERS]) -> Secret {
    let mut text = String::new();
    for (at, byte) in random.iter().enumerate() {
        if at > 0 && at.is_multiple_of(GROUP) {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    Secret::new(text)
}

/// The fingerprint of a code as somebody typed it: dashes, spaces and case mean nothing, and what looks alike is
/// the same.
#[must_use]
pub fn fingerprint(typed: &Secret) -> Digest {
    let kept = typed.expose().chars().filter(|c| !c.is_whitespace() && *c != '-');
    let read = kept.map(|c| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    });
    Digest::of(read.collect::<String>().as_bytes())
}

/// The job that holds `machine` for a person, if the agent that runs on it was started for that job and attempt.
#[must_use]
pub fn held<'a>(machine: &'a Machine, id: &JobId, attempt: u32) -> Option<&'a Job> {
    let session = machine.node.session.as_ref()?;
    let started = session.mode == Mode::Rescue && session.job.as_ref() == Some(id);
    open(machine).filter(|job| started && job.id == *id && job.attempt == attempt)
}

/// The job that holds `machine` for a person, once its agent is there.
#[must_use]
pub fn open(machine: &Machine) -> Option<&Job> {
    let job = machine.job.as_ref()?;
    (job.kind == JobKind::Rescue && !job.state.ended() && job.phase == Phase::Handoff).then_some(job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_000);

    fn rescue(code: &str) -> Rescue {
        let code = Code::new(fingerprint(&Secret::new(code.to_string())), NOW);
        Rescue { code: Some(code), until: None }
    }

    #[test]
    fn p17_a_code_opens_once_within_its_life() {
        let right = fingerprint(&Secret::new("7F3K-Q2MN-XA4P".into()));
        let mut rescue = rescue("7F3K-Q2MN-XA4P");
        assert_eq!(rescue.clone().try_code(&right, NOW.plus(CODE_LIFETIME_MS)), Err(Wrong::None));
        assert_eq!(rescue.try_code(&right, NOW.plus(CODE_LIFETIME_MS - 1)), Ok(()));
        assert_eq!(rescue.try_code(&right, NOW), Err(Wrong::None), "used");
    }

    #[test]
    fn p17_wrong_codes_void_the_right_one() {
        let mut rescue = rescue("7F3K-Q2MN-XA4P");
        let (right, wrong) = (rescue.code.as_ref().expect("made").fingerprint, Digest::of(b"wrong"));
        for left in (0..TRIES_MAX).rev() {
            assert_eq!(rescue.try_code(&wrong, NOW), Err(Wrong::Other(left)));
        }
        assert_eq!(rescue.try_code(&right, NOW), Err(Wrong::None));
    }

    proptest! {
        #[test]
        fn a_code_is_known_however_it_is_typed(random in any::<[u8; CHARACTERS]>()) {
            let made = code(&random);
            let typed = made.expose().to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(fingerprint(&Secret::new(typed)), fingerprint(&made));
            prop_assert_eq!(made.expose().len(), 14);
        }
    }
}
