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
}

impl Mutant {
    /// All of them, and which invariant sees each first.
    pub(crate) const ALL: [(Self, Invariant); 14] = [
        (Self::AckBeforeCommit, Invariant::AckIsStored),
        (Self::LeaseNotStored, Invariant::AckIsStored),
        (Self::LeasesForgotten, Invariant::OneHolder),
        (Self::AnswerBeforeCommit, Invariant::NothingAcknowledgedIsLost),
        (Self::StateSetByHand, Invariant::Lifecycle),
        (Self::JobRevived, Invariant::Lifecycle),
        (Self::LossesUnlimited, Invariant::Losses),
        (Self::RestoreUnnoticed, Invariant::RestoreWipesNothing),
        (Self::DeadlinesIgnored, Invariant::Settled),
        (Self::StartNotTold, Invariant::OutagesHeal),
        (Self::GateSkipped, Invariant::Granted),
        (Self::BootableFirst, Invariant::Bootable),
        (Self::StopIgnored, Invariant::StopObeyed),
        (Self::InstalledTwice, Invariant::OneInstallation),
    ];
}
