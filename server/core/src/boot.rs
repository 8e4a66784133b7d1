//! May a machine start from the network, and into what?
//!
//! Every door (DHCP, TFTP, HTTP, iPXE, UEFI HTTP boot) asks [`decide`](crate::lifecycle) and
//! obeys its [`BootDecision`].

use kaltstart_protocol::ids::JobId;

/// What a machine that asks the network may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootDecision {
    /// Its own disk: it gets an address, and no boot file.
    Local,
    /// The agent, which looks and never writes.
    Discover,
    /// The agent, for a granted job.
    Install {
        /// The job.
        job: JobId,
    },
}

impl BootDecision {
    /// Whether the machine is given something to start over the network.
    #[must_use]
    pub const fn is_network(&self) -> bool {
        !matches!(self, Self::Local)
    }
}
