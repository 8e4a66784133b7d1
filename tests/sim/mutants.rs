//! Servers and agents that are broken on purpose, each in one way that some invariant must see.

use crate::invariants::Invariant;

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
    /// All machines may lose data at once.
    LossesUnlimited,
    /// The server does not notice that its database is a restored copy.
    RestoreUnnoticed,
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
    /// Servers count the machines that lose data without waiting for each other.
    NoTurn,
}

impl Mutant {
    /// All of them, and which invariant sees each first.
    pub(crate) const ALL: [(Self, Invariant); 19] = [
        (Self::AckBeforeCommit, Invariant::AckIsStored),
        (Self::LeaseNotStored, Invariant::AckIsStored),
        (Self::LeasesForgotten, Invariant::OneHolder),
        (Self::AnswerBeforeCommit, Invariant::NothingAcknowledgedIsLost),
        (Self::StateSetByHand, Invariant::Lifecycle),
        (Self::JobRevived, Invariant::Lifecycle),
        (Self::OrderedTwice, Invariant::OneJob),
        (Self::LossesUnlimited, Invariant::Losses),
        (Self::RestoreUnnoticed, Invariant::RestoreWipesNothing),
        (Self::DeadlinesIgnored, Invariant::Settled),
        (Self::StartNotTold, Invariant::OutagesHeal),
        (Self::GateSkipped, Invariant::Granted),
        (Self::BootableFirst, Invariant::Bootable),
        (Self::StopIgnored, Invariant::StopObeyed),
        (Self::InstalledTwice, Invariant::OneInstallation),
        (Self::OthersNotHeard, Invariant::KnownToOthers),
        (Self::LeasesNotGuarded, Invariant::OneHolder),
        (Self::CutOffPromises, Invariant::AckIsStored),
        (Self::NoTurn, Invariant::Losses),
    ];

    /// A seed at which it was seen: where the search begins.
    pub(crate) const fn first_seed(self) -> u64 {
        match self {
            Self::CutOffPromises => 12,
            _ => 1,
        }
    }

    /// How many servers it takes.
    pub(crate) const fn servers(self) -> usize {
        match self {
            Self::OthersNotHeard | Self::LeasesNotGuarded | Self::CutOffPromises | Self::NoTurn => 2,
            _ => 1,
        }
    }
}
