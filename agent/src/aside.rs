//! What may take its time to answer is asked while the network comes up: the TPM and the management
//! controller. Neither can hold up the agent for longer than [`LIMIT`].

use kaltstart_protocol::facts::{Bmc, Endorsement, Facts};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::{bmc, tpm};

/// How long after the questions were asked the answers are waited for.
const LIMIT: Duration = Duration::from_secs(10);

/// Answers to come.
pub struct Aside {
    asked: Instant,
    bmc: Receiver<Bmc>,
    endorsement: Receiver<Endorsement>,
}

impl Aside {
    /// Asks, on threads of their own; drivers must be loaded.
    #[must_use]
    pub fn start() -> Self {
        Self { asked: Instant::now(), bmc: ask(bmc::look), endorsement: ask(tpm::look) }
    }

    /// Adds the answers that come in time.
    pub fn add_to(self, facts: &mut Facts) {
        let left = || LIMIT.saturating_sub(self.asked.elapsed());
        facts.bmc = self.bmc.recv_timeout(left()).ok();
        facts.endorsement = self.endorsement.recv_timeout(left()).ok();
    }
}

/// An answer from a thread; the channel is closed when there is none.
fn ask<T: Send + 'static>(question: impl FnOnce() -> Option<T> + Send + 'static) -> Receiver<T> {
    let (sender, answer) = channel();
    std::thread::spawn(move || question().map(|answer| sender.send(answer)));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::facts::EndorsementSource;
    use kaltstart_protocol::ids::Digest;

    #[test]
    fn what_does_not_answer_is_not_waited_for() {
        let answer = Endorsement { source: EndorsementSource::EccKey, digest: Digest::of(b"a key") };
        let given = answer.clone();
        let aside = Aside { asked: Instant::now(), bmc: ask(|| None), endorsement: ask(move || Some(given)) };
        let mut facts = Facts::default();
        aside.add_to(&mut facts);
        assert_eq!((facts.bmc, facts.endorsement), (None, Some(answer)));
        // A thread that never comes back, and the time is over.
        let (held, silent) = channel();
        let asked = Instant::now().checked_sub(LIMIT).expect("a clock that runs for longer");
        let mut facts = Facts::default();
        Aside { asked, bmc: silent, endorsement: ask(|| None) }.add_to(&mut facts);
        assert_eq!(facts, Facts::default());
        drop(held);
    }
}
