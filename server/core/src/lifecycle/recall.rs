//! A machine that comes to its job by its installed system, without a start over the network.

use super::{Draft, No, Verdict};
use crate::machine::Grant;
use crate::recall;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::phase::Phase;

impl Draft {
    /// The system asked, and is given a grant for the agent of the job that waits for it. If the job was
    /// further, the agent that worked on it is gone.
    pub(super) fn recalled(&mut self, grant: &Grant) -> Verdict {
        let wanted = recall::wanted(&self.machine);
        if wanted.is_none() || grant.job.clone().map(|job| (grant.mode, job)) != wanted {
            return Err(No::Refuse("no job calls its system back"));
        }
        self.heard();
        match self.phase() {
            Some(phase) if phase > Phase::Loader => self.start_over(Phase::Loader),
            _ => self.reach(Phase::Loader),
        }
        // None when it was started too often.
        self.machine.node.grant = self.live().is_some().then(|| grant.clone());
        Ok(())
    }

    /// The system cannot start the agent that it was given. Once an agent spoke, it is too late to say so.
    pub(super) fn recall_failed(&mut self, why: &str) -> Verdict {
        let before_the_agent = self.phase().is_some_and(|phase| phase <= Phase::Kernel);
        if recall::wanted(&self.machine).is_none() || !before_the_agent {
            return Err(No::Ignore("no job calls its system back"));
        }
        self.heard();
        self.fail(Finding::new(Code::RecallFailed, super::cut(why, super::FINDING_CHARS_MAX)));
        Ok(())
    }
}
