//! The thirteen phases of a deploy: fixed names, fixed order, part of the API.

use serde::{Deserialize, Serialize};

/// One phase. The first seven are seen by the server or measured by it, the next three are
/// reported by the agent, the last three by the installed system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The job waits for its machine.
    Queued,
    /// The machine is being switched on.
    Power,
    /// Firmware runs, from power-on to its first DHCP packet.
    Firmware,
    /// From the first DHCP packet to the acknowledged address.
    Dhcp,
    /// Boot loader, kernel and ramdisk travel.
    Loader,
    /// Kernel starts, until the agent runs.
    Kernel,
    /// The agent loads drivers, finds the server and lists the hardware.
    Inventory,
    /// The disk is chosen, cleared and laid out.
    Disk,
    /// The image flows to the disk and is verified.
    Image,
    /// Identity and boot loader are written.
    Configure,
    /// The machine restarts from its own disk.
    Restart,
    /// The installed system configures itself and reports in.
    Handoff,
    /// The server checks what the system reported.
    Verify,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 13] = [
        Self::Queued,
        Self::Power,
        Self::Firmware,
        Self::Dhcp,
        Self::Loader,
        Self::Kernel,
        Self::Inventory,
        Self::Disk,
        Self::Image,
        Self::Configure,
        Self::Restart,
        Self::Handoff,
        Self::Verify,
    ];

    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Power => "power",
            Self::Firmware => "firmware",
            Self::Dhcp => "dhcp",
            Self::Loader => "loader",
            Self::Kernel => "kernel",
            Self::Inventory => "inventory",
            Self::Disk => "disk",
            Self::Image => "image",
            Self::Configure => "configure",
            Self::Restart => "restart",
            Self::Handoff => "handoff",
            Self::Verify => "verify",
        }
    }

    /// The place in [`Phase::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// How far a phase has come, in units of its own (bytes or items).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all; 0 when not known.
    pub total: u64,
    /// What is counted.
    pub unit: Unit,
}

/// What a [`Progress`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Steps, files, packages.
    Items,
}

/// Milliseconds until a job is done that has been in `phase` for `spent` of them, where `usual` tells what
/// phases usually take.
#[must_use]
pub fn left(phase: Phase, spent: u64, progress: Option<Progress>, usual: impl Fn(Phase) -> u64) -> u64 {
    let ahead = Phase::ALL.iter().skip(phase.index() + 1).map(|phase| usual(*phase));
    let here = match progress {
        // What is counted tells more than what was usual.
        Some(p) if p.done > 0 && p.total >= p.done => {
            u64::try_from(u128::from(spent) * u128::from(p.total - p.done) / u128::from(p.done))
                .unwrap_or(u64::MAX)
        }
        _ => usual(phase).saturating_sub(spent),
    };
    ahead.fold(here, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_what_is_counted_else_what_is_usual() {
        let usual = |phase| if phase == Phase::Image { 30_000 } else { 1_000 };
        let progress = |done, total| Some(Progress { done, total, unit: Unit::Bytes });
        assert_eq!(left(Phase::Image, 10_000, None, usual), 24_000);
        assert_eq!(left(Phase::Image, 10_000, progress(1, 3), usual), 24_000);
        assert_eq!(left(Phase::Image, 10_000, progress(0, 3), usual), 24_000);
        assert_eq!(left(Phase::Image, 10_000, progress(3, 4), usual), 7_333);
        assert_eq!(left(Phase::Image, 40_000, progress(4, 3), usual), 4_000, "more than all");
        assert_eq!(left(Phase::Verify, u64::MAX, progress(1, u64::MAX), usual), u64::MAX);
    }

    #[test]
    fn names_index_and_wire_form_agree() {
        for (i, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase.index(), i);
            let wire = serde_json::to_string(&phase).expect("a unit variant serialises");
            assert_eq!(wire.trim_matches('"'), phase.name());
        }
    }
}
