//! Wipe grants: whom they are for, how many there may be, and how they are signed.

use super::{App, AppError};
use crate::clock;
use crate::store::Key;
use kaltstart_core::audit::{Act, Action, Actor};
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::lifecycle::{Assignment, assignment};
use kaltstart_core::machine::{Job, JobKind};
use kaltstart_core::{losses, wipe};
use kaltstart_protocol::agent_api::Task;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::ids::{JobId, NodeId, PublicKey};
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{GrantTrust, SignedGrant, WipeGrant};

/// What became of an agent's question for its task.
enum Outcome {
    Granted(JobId, Vec<WipeGrant>),
    Refused(Finding),
}

impl App {
    /// The epoch, as [`GrantTrust`] has it.
    pub(crate) fn epoch(&self) -> u64 {
        self.restored.map_or(0, |at| at.0)
    }

    /// Whose grants an agent shall take that starts now.
    #[must_use]
    pub fn trust(&self) -> GrantTrust {
        GrantTrust { key: self.tls.grant_key(), epoch: self.epoch() }
    }

    /// Replaces the key that signs wipe grants on the word of `actor`; tells the new one and the old one. Agents that
    /// believe the old one and were granted nothing yet start again.
    ///
    /// # Errors
    /// When it cannot be stored or recorded: the old one goes on. When that it was replaced cannot be recorded.
    pub async fn rotate_grant_key(&self, actor: &Actor) -> Result<[PublicKey; 2], AppError> {
        // The key is a file, and not part of a transaction: what is about to be done is recorded, and then that it was.
        let act = |action| Act::new(actor.clone(), action);
        let rotating = act(Action::GrantKeyRotating).with("key", self.tls.grant_key());
        self.store.record(rotating, clock::now()).await?;
        let tls = self.tls.clone();
        let rotated = tokio::task::spawn_blocking(move || tls.rotate_grant_key(clock::now())).await;
        let [new, old] = rotated.map_err(|error| grant_key(&error))?.map_err(|error| grant_key(&error))?;
        tracing::warn!(key = %new, replaced = %old, "the key of wipe grants was replaced");
        let rotated = act(Action::GrantKeyRotated).with("key", new).with("replaced", old);
        self.store.record(rotated, clock::now()).await?;
        Ok([new, old])
    }

    /// Ends jobs that were ordered before the database was restored.
    pub(super) async fn end_outdated(&self) -> Result<(), AppError> {
        for node in self.store.of_other_epochs(self.epoch())? {
            let ended = self.apply_with(Key::Id(&node), |machine| {
                match machine.job.as_ref().map(|job| wipe::is_of_now(job, self.epoch())) {
                    Some(Err(finding)) => Ok(Event::Hindered(finding)),
                    _ => Err(AppError::Refused("the job may go on".into())),
                }
            });
            match ended.await {
                Ok(_) | Err(AppError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Refuses an order by which one machine more would lose data than may.
    pub(super) fn admit_order(&self, job: &Job, now: Millis) -> Result<(), AppError> {
        self.admit_loss(&job.node, now)?.map_err(|finding| {
            self.metrics.grants_refused(job.kind, &finding);
            AppError::Refused(format!("{finding}. {}", finding.code.next()))
        })
    }

    /// Counts the machines that lose data; the commit counts those that were let meanwhile.
    fn admit_loss(&self, node: &NodeId, now: Millis) -> Result<Result<(), Finding>, AppError> {
        let others = self.store.losing(node, now)?;
        Ok(losses::admit(others, self.config.wipe.machines_per_hour))
    }

    /// Notes that the task of `job` is handed out, with the fingerprints of its tokens, and signs what it may lose,
    /// disk by disk: each grant, and how it travels; or tells what the agent gets instead.
    ///
    /// # Errors
    /// When the job has ended, or store or signing fail.
    pub(crate) async fn grant_wipe(
        &self,
        key: Key<'_>,
        job: &Job,
        [report_token, recall_token, unlock_token]: [Option<&Secret>; 3],
    ) -> Result<Result<Vec<(WipeGrant, SignedGrant)>, Task>, AppError> {
        let trust = self.trust();
        let mut outcome = None;
        self.apply_with(key, |machine| {
            let Assignment::Job(job) = assignment(machine, &trust) else {
                return Err(AppError::Refused("the job has ended, or its agent must start again".into()));
            };
            if let Err(finding) = self.withheld(job.kind, &job.order) {
                outcome = Some(Outcome::Refused(finding.clone()));
                return Ok(Event::Hindered(finding));
            }
            let now = clock::now();
            let mut granted = wipe::grants(&machine.node, &job, trust.epoch, now);
            if granted.as_ref().is_ok_and(|grants| losses::is_granted(grants)) {
                granted = self.admit_loss(&machine.node.id, now)?.and(granted);
            }
            Ok(match granted {
                Ok(grants) => {
                    let event = Event::TaskTaken {
                        job: job.id.clone(),
                        report_token: report_token.map(Secret::fingerprint),
                        recall_token: recall_token.map(Secret::fingerprint),
                        unlock_token: unlock_token.map(Secret::fingerprint),
                        wipe: grants.clone(),
                    };
                    outcome = Some(Outcome::Granted(job.id, grants));
                    event
                }
                Err(finding) => {
                    outcome = Some(Outcome::Refused(finding.clone()));
                    Event::Hindered(finding)
                }
            })
        })
        .await?;
        match outcome {
            Some(Outcome::Granted(id, grants)) if id == job.id => self.sign(job.kind, grants, &trust),
            Some(Outcome::Refused(finding)) => {
                self.metrics.grants_refused(job.kind, &finding);
                Ok(Err(Task::Failed { finding }))
            }
            _ => Ok(Err(Task::Wait)),
        }
    }

    /// Signs the grants of a job of that kind for an agent that takes those of `trust`. If the key was replaced
    /// meanwhile, the agent asks again, and then has to start again.
    fn sign(
        &self,
        kind: JobKind,
        grants: Vec<WipeGrant>,
        trust: &GrantTrust,
    ) -> Result<Result<Vec<(WipeGrant, SignedGrant)>, Task>, AppError> {
        let mut signed = Vec::with_capacity(grants.len());
        for grant in grants {
            let Some(one) = self.tls.sign(&grant, &trust.key).map_err(|error| grant_key(&error))? else {
                return Ok(Err(Task::Wait));
            };
            signed.push((grant, one));
        }
        self.metrics.grants_given(kind, signed.len());
        Ok(Ok(signed))
    }
}

fn grant_key(error: &(dyn std::error::Error + 'static)) -> AppError {
    tracing::error!(error, "key of wipe grants");
    AppError::GrantKey
}
