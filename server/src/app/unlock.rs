//! Systems that ask for the key of their disks when they start.

use super::{App, AppError};
use crate::store::Key;
use crate::vault::VaultError;
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::unlock;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::unlock::{UnlockAnswer, UnlockQuestion};
use std::net::IpAddr;

/// Why a system is not given a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Withheld {
    /// It may not have it.
    #[error("{}", .0.detail)]
    Refused(Finding),
    /// The server cannot tell, or cannot note it.
    #[error(transparent)]
    App(#[from] AppError),
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] VaultError),
}

impl App {
    /// Answers a system that asks from `address`. Nothing is released that is not noted; where the key opens nothing, once.
    ///
    /// # Errors
    /// See [`Withheld`].
    pub(crate) async fn unlock(
        &self,
        question: &UnlockQuestion,
        address: IpAddr,
    ) -> Result<UnlockAnswer, Withheld> {
        let token = question.token.fingerprint();
        let mut decided = None;
        self.apply_with(Key::UnlockToken(token), |machine| {
            let answer = unlock::decide(machine, &token, &question.host)
                .map(|uuids| self.disk_keys.read(&self.store, &machine.node.id, &uuids.disk));
            let refused = answer.as_ref().err().cloned();
            // A key that was put right since is another.
            let useless = matches!(&answer, Ok(Ok(key)) if question.useless == Some(key.fingerprint()));
            decided = Some(answer);
            Ok(Event::KeyAsked { address, host: question.host.clone(), refused, useless })
        })
        .await?;
        let unknown = || AppError::NotFound("there is no such machine".into());
        let key = decided.ok_or_else(unknown)?.map_err(Withheld::Refused)??;
        Ok(UnlockAnswer { key, authority: self.tls.authority() })
    }
}
