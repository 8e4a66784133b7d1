//! What was ordered of a machine.

use crate::recall::Via;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::agent_api::{DiskRule, DiskUuids};
use kaltstart_protocol::ids::{Digest, Fingerprint};
use kaltstart_protocol::layout::Layout;
use kaltstart_protocol::restart::Restart;
use serde::{Deserialize, Serialize};

/// What was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Order {
    /// A system.
    System(alloc::boxed::Box<SystemOrder>),
    /// Empty disks.
    Release(ReleaseOrder),
    /// The machine, for a person.
    Rescue(RescueOrder),
    /// Work for its parts.
    BurnIn(BurnInOrder),
}

impl Order {
    /// Whether its jobs may write to disks.
    #[must_use]
    pub const fn writes(&self) -> bool {
        match self {
            Self::System(_) | Self::Release(_) => true,
            Self::Rescue(order) => !order.writable.is_empty(),
            Self::BurnIn(_) => false,
        }
    }

    /// The system, if one was ordered.
    #[must_use]
    pub fn system(&self) -> Option<&SystemOrder> {
        match self {
            Self::System(order) => Some(order),
            Self::Release(_) | Self::Rescue(_) | Self::BurnIn(_) => None,
        }
    }

    /// By what way the machine comes to the agent.
    #[must_use]
    pub fn via(&self) -> Via {
        match self {
            Self::System(order) => order.via,
            Self::Release(_) | Self::BurnIn(_) => Via::Network,
            Self::Rescue(order) => order.via,
        }
    }

    /// The profile's name; empty where none belongs to it.
    #[must_use]
    pub fn profile(&self) -> &str {
        self.system().map_or("", |order| &order.profile)
    }

    /// Labels of the partitions whose data is kept.
    pub fn keep(&self) -> impl Iterator<Item = &str> + Clone {
        self.system().into_iter().flat_map(|order| &order.keep).map(String::as_str)
    }

    /// Whether anything was given up.
    #[must_use]
    pub fn gives_up(&self) -> bool {
        match self {
            Self::System(order) => !order.erase.is_empty(),
            Self::Release(order) => !order.erase.is_empty(),
            Self::Rescue(_) | Self::BurnIn(_) => false,
        }
    }

    /// The fingerprint of what lies on a disk, if that was given up.
    #[must_use]
    pub fn given_up(&self, disk: &str) -> Option<&Fingerprint> {
        match self {
            Self::System(order) => order.erase.get(disk),
            Self::Release(order) => order.erase.get(disk),
            Self::Rescue(_) | Self::BurnIn(_) => None,
        }
    }
}

/// Order to erase all disks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseOrder {
    /// What was given up: a disk's identity, and the fingerprint of what lies on it.
    pub erase: BTreeMap<String, Fingerprint>,
}

/// Order to hold a machine for a person.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RescueOrder {
    /// Identities of the disks that may be written to; all others are read-only.
    pub writable: Vec<String>,
    /// By what way the machine comes to the agent.
    pub via: Via,
}

/// Order to let the parts of a machine work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurnInOrder {
    /// How long, in minutes.
    pub minutes: u32,
}

/// Order of a system: a profile as it stood at that moment, and what was drawn for this job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemOrder {
    /// Name of the profile.
    pub profile: String,
    /// Name of the image.
    pub image: String,
    /// The image's digest.
    pub image_digest: Digest,
    /// How the disk shall look.
    pub layout: Layout,
    /// Which disk.
    pub disk: DiskRule,
    /// Lines of root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// UUIDs of this installation.
    pub uuids: DiskUuids,
    /// How it shall be started.
    #[serde(default)]
    pub restart: Restart,
    /// By what way the machine comes to the agent.
    #[serde(default)]
    pub via: Via,
    /// Whether the system shall ask if a job calls it back.
    #[serde(default)]
    pub recall: bool,
    /// What was given up: a disk's identity, and the fingerprint of what lies on it.
    #[serde(default)]
    pub erase: BTreeMap<String, Fingerprint>,
    /// Labels of the partitions whose data is kept.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keep: BTreeSet<String>,
}
