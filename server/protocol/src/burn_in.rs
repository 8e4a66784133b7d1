//! A burn-in: the parts of a machine at work, all at the same time, for a while; nothing is written to its disks.
//!
//! The agent tells of it in phase [`Inventory`](crate::phase::Phase::Inventory), and that it is *done* when all
//! parts have held out.

use crate::ids::{Digest, JobId};
use alloc::string::String;
use core::ops::RangeInclusive;
use serde::{Deserialize, Serialize};

/// How long a burn-in may take, in minutes: a week at most.
pub const MINUTES: RangeInclusive<u32> = 1..=7 * 24 * 60;

/// How long it takes if nobody says otherwise, in minutes.
pub const MINUTES_USUAL: u32 = 10;

/// Let all parts of the machine work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BurnInTask {
    /// The job this is for.
    pub job: JobId,
    /// Which start of the machine for this job, from 1.
    pub attempt: u32,
    /// How long, in minutes.
    pub minutes: u32,
    /// What is fetched over and over; none where the server has no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkLoad>,
}

/// What goes over the network during a burn-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLoad {
    /// Where it is had.
    pub url: String,
    /// What it must be.
    pub digest: Digest,
    /// Bytes a minute that are not exceeded in the long run: many machines may burn in at the same time.
    pub bytes_a_minute: u64,
}
