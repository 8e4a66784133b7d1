//! Servers and agents that are broken on purpose, each in one way that some invariant must see.

use crate::invariants::{Invariant, label};
use kaltstart_core::audit::{Act, Action, Actor};
use kaltstart_core::losses::WINDOW_MS;
use kaltstart_core::observing::Accepted;
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::time::Millis;
use kaltstart_server::store::{Sealer, Store, Versioned};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// One defect, at the seam between the product and the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// DHCP answers before the lease is durable.
    AckBeforeCommit,
    /// Leases are acknowledged and not stored.
    LeaseNotStored,
    /// A server that starts forgets the leases it gave.
    LeasesForgotten,
    /// HTTP answers before what it rests on is durable: a crash loses it.
    AnswerBeforeCommit,
    /// A machine is called free past `lifecycle::step`.
    StateSetByHand,
    /// A job that has ended goes on, past `lifecycle::step`.
    JobRevived,
    /// A machine that has a job gets another one, past `lifecycle::step`.
    OrderedTwice,
    /// Whoever orders opens the lock.
    LockForgotten,
    /// All machines may lose data at once.
    LossesUnlimited,
    /// The server does not notice that its database is a restored copy.
    RestoreUnnoticed,
    /// It takes a restored copy as it is, before anybody has compared it with the fleet.
    AcceptsByItself,
    /// It carries on orders of before a copy was restored.
    OrdersOutliveCopy,
    /// Nobody looks at the deadlines of jobs.
    DeadlinesIgnored,
    /// A server that starts does not tell jobs, whose time ran on while nobody listened.
    StartNotTold,
    /// The agent writes without holding its grants against what it finds.
    GateSkipped,
    /// The agent makes the disk bootable first.
    BootableFirst,
    /// The agent goes on writing when it was told to stop.
    StopIgnored,
    /// The agent lays its system down a second time after the server took note of the first.
    InstalledTwice,
    /// A server that shares a database hears nothing of what others store.
    OthersNotHeard,
    /// A lease takes the place of another client's, whatever another server has decided.
    LeasesNotGuarded,
    /// A server that has no way to its database acknowledges new leases.
    CutOffPromises,
    /// Servers count the machines that lose data when they decide, and not again when they store that.
    CountedOnce,
}

impl Mutant {
    /// All of them, and which invariant sees each first.
    pub(crate) const ALL: [(Self, Invariant); 22] = [
        (Self::AckBeforeCommit, Invariant::AckIsStored),
        (Self::LeaseNotStored, Invariant::AckIsStored),
        (Self::LeasesForgotten, Invariant::OneHolder),
        (Self::AnswerBeforeCommit, Invariant::NothingAcknowledgedIsLost),
        (Self::StateSetByHand, Invariant::Lifecycle),
        (Self::JobRevived, Invariant::Lifecycle),
        (Self::OrderedTwice, Invariant::OneJob),
        (Self::LockForgotten, Invariant::Locked),
        (Self::LossesUnlimited, Invariant::Losses),
        (Self::RestoreUnnoticed, Invariant::OnlyObserves),
        (Self::AcceptsByItself, Invariant::OnlyObserves),
        (Self::OrdersOutliveCopy, Invariant::RestoreWipesNothing),
        (Self::DeadlinesIgnored, Invariant::Settled),
        (Self::StartNotTold, Invariant::OutagesHeal),
        (Self::GateSkipped, Invariant::Granted),
        (Self::BootableFirst, Invariant::Bootable),
        (Self::StopIgnored, Invariant::StopObeyed),
        (Self::InstalledTwice, Invariant::OneInstallation),
        (Self::OthersNotHeard, Invariant::KnownToOthers),
        (Self::LeasesNotGuarded, Invariant::OneHolder),
        (Self::CutOffPromises, Invariant::AckIsStored),
        (Self::CountedOnce, Invariant::Losses),
    ];

    /// A seed at which it was seen: where the search begins.
    pub(crate) const fn first_seed(self) -> u64 {
        match self {
            Self::RestoreUnnoticed => 21,
            Self::LeasesNotGuarded => 50,
            Self::LossesUnlimited => 64,
            Self::StopIgnored => 68,
            Self::OrdersOutliveCopy => 102,
            Self::CountedOnce => 266,
            Self::StartNotTold => 440,
            _ => 1,
        }
    }

    /// How many servers it takes.
    pub(crate) const fn servers(self) -> usize {
        match self {
            Self::OthersNotHeard | Self::LeasesNotGuarded | Self::CutOffPromises | Self::CountedOnce => 2,
            _ => 1,
        }
    }
}

/// Takes the restored copy as it is, if it is one: [`Mutant::AcceptsByItself`].
pub(crate) async fn accept(store: &Store) {
    records_by_itself(store);
    let accepted = Accepted { at: crate::time::wall(), by: "nobody".into(), differences: 0, not_heard: 0 };
    let act = Act::new(Actor::named("nobody"), Action::RestoredAccepted);
    store.accept(accepted, Vec::new(), act).await.expect("stored");
}

/// Calls all jobs that go on ordered since the copy was restored, and accepts that: [`Mutant::OrdersOutliveCopy`].
pub(crate) async fn keep_orders(store: &Store) {
    records_by_itself(store);
    let epoch = store.restored(crate::time::wall()).await.expect("stored").map_or(0, |epoch| epoch.0);
    for mut found in store.machines().expect("readable") {
        if let Some(job) = found.machine.job.as_mut().filter(|job| !job.state.ended()) {
            job.epoch = epoch;
            put(store, &found).await;
        }
    }
    accept(store).await;
}

/// A broken server does not wait for the key of the audit log.
fn records_by_itself(store: &Store) {
    store.seal_records(Sealer::new(b"a broken server's"), None);
}

async fn put(store: &Store, found: &Versioned) {
    store.commit(&found.machine, found.version, &[], crate::time::wall()).await.expect("stored");
}

/// When a machine, by its name here and its job, began to lose data.
type Loss = (String, JobId, Millis);

/// Lets whoever counts now find no machine that loses data: [`Mutant::CountedOnce`]. What there is of them.
pub(crate) fn hide_losses(runtime: &Runtime, store: Option<&Arc<Store>>) -> Vec<Loss> {
    let Some(store) = store else { return Vec::new() };
    let since = crate::time::wall().minus(WINDOW_MS);
    let mut hidden = Vec::new();
    for mut found in store.machines().expect("readable") {
        let name = label(&found.machine);
        let Some(job) = &mut found.machine.job else { continue };
        let Some(at) = job.loses_at.take_if(|at| *at > since) else { continue };
        hidden.push((name, job.id.clone(), at));
        runtime.block_on(put(store, &found));
    }
    hidden
}

/// Puts them back.
pub(crate) fn show_losses(runtime: &Runtime, store: Option<&Arc<Store>>, hidden: Vec<Loss>) {
    for mut found in store.map(|store| store.machines().expect("readable")).unwrap_or_default() {
        let name = label(&found.machine);
        let Some(job) = &mut found.machine.job else { continue };
        let is_of = |(of, id, _): &&Loss| *of == name && *id == job.id && job.loses_at.is_none();
        if let (Some((.., at)), Some(store)) = (hidden.iter().find(is_of), store) {
            job.loses_at = Some(*at);
            runtime.block_on(put(store, &found));
        }
    }
}
