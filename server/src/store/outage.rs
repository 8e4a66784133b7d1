//! Whether a shared database is out of reach, as all connections of a store know it.

use super::connection::DatabaseError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long nothing is asked of a database that was found out of reach. Who follows it finds it again before.
const PAUSE: Duration = Duration::from_secs(10);

/// Begins when an answer or a connection does not come, or who follows the database cannot hear it, and ends when that one
/// has heard it again. Meanwhile nobody else waits for it: a question that is asked all the same would take as long as
/// the one before.
#[derive(Clone, Default)]
pub(super) struct Outage(Arc<Mutex<Option<(Instant, DatabaseError)>>>);

impl Outage {
    fn current(&self) -> MutexGuard<'_, Option<(Instant, DatabaseError)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database is out of reach, or still is.
    pub(super) fn begin(&self, why: &DatabaseError) {
        if self.current().replace((Instant::now(), why.clone())).is_none() {
            tracing::error!(
                error = %why,
                "the shared database is lost: nodes, reservations and leases that are known are answered for, \
                 and nothing new is promised"
            );
        }
    }

    /// The database is in reach; whether it was not before.
    pub(super) fn end(&self) -> bool {
        let was_on = self.current().take().is_some();
        if was_on {
            tracing::info!("the shared database is back");
        }
        was_on
    }

    /// Whether the database is out of reach.
    pub(super) fn is_on(&self) -> bool {
        self.current().is_some()
    }

    /// Why nothing is to be asked now.
    pub(super) fn why(&self) -> Option<DatabaseError> {
        self.current().as_ref().filter(|(at, _)| at.elapsed() < PAUSE).map(|(_, why)| why.clone())
    }
}
