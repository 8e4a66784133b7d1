//! What the server notes of the end of the audit log, besides the records themselves.

use super::App;
use crate::audit;
use crate::store::Store;
use crate::vault::Vault;
use kaltstart_core::audit::Head;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What was noted of the log's end.
#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What is in the file.
    head: Option<Head>,
    /// Whether the server's log tells that records are missing.
    told: bool,
}

/// Lets `store` seal records by the key of `vault`, and know where the log ended when the server saw it last.
pub(super) fn begin(data_dir: &Path, store: &Store, vault: &Vault) -> Noted {
    let head = audit::seen(data_dir).unwrap_or_else(|error| {
        let file = data_dir.join(audit::FILE);
        tracing::error!(%error, file = %file.display(), "where the audit log ended is not known");
        None
    });
    store.seal_records(vault.sealer(), head);
    Noted(Mutex::new(State { head, told: false }))
}

impl App {
    /// Looks where the audit log ends, and notes it in the data directory: of what is recorded from now on nothing can be
    /// taken off the end without being found. Blocks.
    pub(crate) fn note_end_of_log(&self) {
        let mut state = self.log_end.0.lock().unwrap_or_else(PoisonError::into_inner);
        match self.store.look_at_log() {
            Ok(true) => state.told = false,
            Ok(false) if state.told => {}
            Ok(false) => {
                tracing::error!(
                    "the audit log ends before what this server has seen: `ks audit verify` tells more"
                );
                state.told = true;
            }
            // It is told by whoever needs it.
            Err(error) => tracing::debug!(%error, "the end of the audit log"),
        }
        let seen = self.store.log_seen();
        let Some(head) = seen.filter(|_| seen != state.head) else { return };
        match audit::note(&self.config.data_dir, &head) {
            Ok(()) => state.head = seen,
            Err(error) => {
                tracing::error!(%error, file = audit::FILE, "the end of the audit log is not noted")
            }
        }
    }
}
