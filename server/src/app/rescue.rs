//! Rescues: one-time codes, and who is let into a machine's shell.

use super::{App, AppError};
use crate::clock;
use crate::shell::{RecordError, Shell};
use crate::store::Key;
use kaltstart_core::audit::Actor;
use kaltstart_core::lifecycle::event::{Event, Happening};
use kaltstart_core::machine::Machine;
use kaltstart_core::rescue::{self, CODE_LIFETIME_MS, Code};
use kaltstart_protocol::ids::{JobId, NodeId};
use kaltstart_protocol::rescue::Size;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use std::sync::Arc;

/// Somebody is in.
pub(crate) struct Inside {
    /// Proves it from now on.
    pub(crate) token: Secret,
    /// Where what is shown begins.
    pub(crate) after: u64,
}

impl App {
    /// Makes a new one-time code for the shell of a rescue; the code before it is void.
    ///
    /// # Errors
    /// When the job is no rescue or has ended, or the store fails.
    pub(crate) async fn issue_code(
        &self,
        actor: &Actor,
        node: &NodeId,
        job: &JobId,
    ) -> Result<(Secret, Millis), AppError> {
        let (code, now) = (rescue::code(&clock::random()), clock::now());
        let issued = Code::new(rescue::fingerprint(&code), now);
        self.apply_to_job(actor, node, job, &Event::CodeIssued(issued)).await?;
        Ok((code, now.plus(CODE_LIFETIME_MS)))
    }

    /// Lets somebody into the shell of a rescue who has its code; else the tries that are left.
    ///
    /// # Errors
    /// When the machine is not there, or nothing can be stored or recorded.
    pub(crate) async fn enter_shell(
        &self,
        actor: &Actor,
        (node, job): (&NodeId, &JobId),
        code: &Secret,
        who: &str,
        size: Size,
    ) -> Result<Result<Inside, u32>, AppError> {
        let tried = Event::CodeTried(rescue::fingerprint(code));
        let applied = self.apply_to_job(actor, node, job, &tried).await?;
        if let Some(Happening::ShellRefused(left)) = applied.happenings.first() {
            return Ok(Err(*left));
        }
        let attempt = applied.machine.job.as_ref().map_or(0, |job| job.attempt);
        let (shell, token) = (self.shell(&applied.machine, job)?, clock::token("kst_shell_"));
        let after = shell.enter(attempt, who, &token, size).await?;
        tracing::info!(node = applied.machine.node.name, job = job.as_str(), who, "a shell was opened");
        Ok(Ok(Inside { token, after }))
    }

    /// The shell of a job of that machine.
    ///
    /// # Errors
    /// When its recording cannot be opened.
    pub(crate) fn shell(&self, machine: &Machine, job: &JobId) -> Result<Arc<Shell>, AppError> {
        Ok(self.shells.of(job, &machine.node.name).map_err(RecordError::from)?)
    }

    async fn apply_to_job(
        &self,
        actor: &Actor,
        node: &NodeId,
        job: &JobId,
        event: &Event,
    ) -> Result<super::Applied, AppError> {
        self.apply_by(actor, Key::Id(node), |machine| {
            if machine.node.job.as_ref() == Some(job) {
                Ok(event.clone())
            } else {
                Err(AppError::Refused("the job has ended".into()))
            }
        })
        .await
    }
}
