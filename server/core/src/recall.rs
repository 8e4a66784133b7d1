//! Ways from an installed system to the agent of its next job.

use crate::boot;
use crate::machine::Machine;
use core::str::FromStr;
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::ids::JobId;
use serde::{Deserialize, Serialize};

/// The way by which a machine comes to the agent of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// It starts over the network.
    #[default]
    Network,
    /// Its installed system is told when it asks, and starts the agent by kexec; a start over the
    /// network does as well.
    Kexec,
}

impl Via {
    /// The word in API and client.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Kexec => "kexec",
        }
    }
}

impl FromStr for Via {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Network, Self::Kexec];
        all.into_iter().find(|one| one.name() == text).ok_or("is \"network\" or \"kexec\"")
    }
}

/// The job for which the installed system of `machine` shall start an agent, and what that may do; none when
/// it shall stay.
#[must_use]
pub fn wanted(machine: &Machine) -> Option<(Mode, JobId)> {
    let calls = machine.job.as_ref()?.order.via() == Via::Kexec;
    match boot::decide(machine).agent() {
        Some((mode, Some(job))) if calls => Some((mode, job.clone())),
        _ => None,
    }
}

/// Shortest and longest of the longest pauses between two questions, in seconds.
const PAUSE_SECS: (u64, u64) = (20, 600);

/// Systems for each second of it. They draw pauses of about half the length they are told, so that
/// however many they are, they ask about a hundred times a second.
const SYSTEMS_PER_SEC: u64 = 50;

/// Longest time until a system of so many asks again, in seconds.
#[must_use]
pub fn pause_secs(systems: u64) -> u64 {
    (systems / SYSTEMS_PER_SEC).clamp(PAUSE_SECS.0, PAUSE_SECS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p36_the_more_systems_ask_the_longer_they_wait() {
        let pauses = [0, 1_000, 1_001, 10_000, 100_000, u64::MAX].map(pause_secs);
        assert_eq!(pauses, [20, 20, 20, 200, 600, 600]);
    }
}
