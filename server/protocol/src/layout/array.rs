//! Arrays of several disks (Linux md): how many disks they take, and what they hold.

use super::plan::ENCRYPTION_MIB;
use super::{FileSystem, Layout};
use alloc::format;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Where the data begin in each member, in bytes: behind md's superblock and its map of what is being written.
pub const DATA_OFFSET: u64 = 1 << 20;
/// Bytes in a row on one disk, where data are divided among disks.
pub const CHUNK: u64 = 512 << 10;
/// No layout has more disks.
pub const DISKS_MAX: u32 = 16;

/// Which arrays a layout makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// What the disks are to each other.
    pub level: Level,
    /// How many disks; exactly so many must fit the profile's rule.
    #[cfg_attr(test, schemars(range(min = 2, max = 16)))]
    pub disks: u32,
}

/// What the disks of an array are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Parts of one: nothing is left when a disk is lost.
    Raid0,
    /// Copies: each disk has everything.
    Raid1,
    /// Pairs: each piece lies on two disks.
    Raid10,
}

impl Level {
    /// The name in md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
        }
    }
}

impl Array {
    /// Bytes of an array whose members are partitions of `member` bytes.
    #[must_use]
    pub fn capacity(self, member: u64) -> u64 {
        let parts = match self.level {
            Level::Raid0 => self.disks,
            Level::Raid1 => 1,
            Level::Raid10 => self.disks / 2,
        };
        data_size(member) * u64::from(parts)
    }
}

/// Bytes of data in a member of `member` bytes.
#[must_use]
pub fn data_size(member: u64) -> u64 {
    member.saturating_sub(DATA_OFFSET) / CHUNK * CHUNK
}

/// What is wrong with the arrays of `layout`.
pub(super) fn problem(layout: &Layout) -> Option<String> {
    let array = layout.array?;
    let wants = match array.level {
        Level::Raid0 | Level::Raid1 if !(2..=DISKS_MAX).contains(&array.disks) => "2 to 16 disks",
        Level::Raid10 if !(4..=DISKS_MAX).contains(&array.disks) || array.disks % 2 != 0 => {
            "an even number of 4 to 16 disks"
        }
        _ => {
            return layout.partitions.iter().find_map(|partition| {
                let header = if partition.encrypted { ENCRYPTION_MIB } else { 0 };
                let made = partition.made().map_or(1, FileSystem::min_mib);
                let least = made + header + DATA_OFFSET / (1 << 20);
                (partition.role.in_arrays() && partition.group.is_none() && partition.min_mib < least).then(
                    || {
                        format!(
                            "partition {:?}: in an array it needs a min_mib of at least {least}",
                            partition.label
                        )
                    },
                )
            });
        }
    };
    Some(format!("array: {} takes {wants}", array.level.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Partition, Role};
    use alloc::vec;

    fn layout(level: Level, disks: u32, min_mib: u64) -> Layout {
        let esp = Partition { role: Role::Esp, min_mib: 260, ..Partition::default() };
        let root = Partition { role: Role::Root, min_mib, ..Partition::default() };
        Layout { array: Some(Array { level, disks }), partitions: vec![esp, root], ..Layout::default() }
    }

    #[test]
    fn each_level_takes_its_number_of_disks() {
        let taken = |level| {
            let good = |disks: &u32| problem(&layout(level, *disks, 2)).is_none();
            (0..=20).filter(good).collect::<alloc::vec::Vec<_>>()
        };
        assert_eq!(taken(Level::Raid0), (2..=16).collect::<alloc::vec::Vec<_>>());
        assert_eq!(taken(Level::Raid1), (2..=16).collect::<alloc::vec::Vec<_>>());
        assert_eq!(taken(Level::Raid10), [4, 6, 8, 10, 12, 14, 16]);
        let says = |layout: &Layout| problem(layout).expect("no room for a file system");
        assert!(says(&layout(Level::Raid1, 2, 1)).contains("at least 2"));
        let mut encrypted = layout(Level::Raid1, 2, 17);
        encrypted.partitions[1].encrypted = true;
        assert!(says(&encrypted).contains("at least 18"));
        encrypted.partitions[1].min_mib = 18;
        assert_eq!(problem(&encrypted), None);
    }

    #[test]
    fn arrays_hold_what_their_disks_are_to_each_other() {
        let capacity = |level, disks| Array { level, disks }.capacity(101 << 20) >> 20;
        assert_eq!(capacity(Level::Raid0, 3), 300);
        assert_eq!(capacity(Level::Raid1, 3), 100);
        assert_eq!(capacity(Level::Raid10, 4), 200);
        assert_eq!(Array { level: Level::Raid1, disks: 2 }.capacity(7), 0);
    }
}
