//! Volume groups of LVM: which logical volumes a partition can have, and where they lie in it.

use super::array::DATA_OFFSET as ARRAY_OVERHEAD;
use super::plan::ENCRYPTION_MIB;
use super::{Layout, Partition, Role};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};

/// Bytes of an extent, LVM's usual ones.
pub const EXTENT: u64 = 4 << 20;
/// An extent in MiB.
pub const EXTENT_MIB: u64 = EXTENT >> 20;
/// Where the first extent begins in a physical volume, in bytes.
pub const DATA_START: u64 = 1 << 20;
/// Longest name, in bytes: group and volume stand together in the name of a device.
const NAME_MAX: usize = 48;

/// The logical volumes of a partition, in their order.
pub fn volumes<'a>(layout: &'a Layout, group: &'a str) -> impl Iterator<Item = &'a Partition> {
    layout.partitions.iter().filter(move |partition| partition.group.as_deref() == Some(group))
}

/// Where the kernel shows a logical volume: a dash of a name is doubled there.
#[must_use]
pub fn device(group: &str, volume: &str) -> String {
    let escaped = |name: &str| name.replace('-', "--");
    format!("/dev/mapper/{}-{}", escaped(group), escaped(volume))
}

/// Whole extents that all volumes need at least.
pub(super) fn least<'a>(volumes: impl Iterator<Item = &'a Partition>) -> u64 {
    volumes.fold(0, |sum, volume| sum.saturating_add(volume.min_mib.div_ceil(EXTENT_MIB)))
}

/// What is wrong with the groups of `layout`.
pub(super) fn problem(layout: &Layout) -> Option<String> {
    let mut behind = false;
    for partition in &layout.partitions {
        let label = &partition.label;
        let problem = match &partition.group {
            Some(group) => {
                behind = true;
                volume_problem(layout, partition, group)
            }
            None if behind => Some("a partition cannot stand behind a logical volume".to_string()),
            None if partition.role == Role::Lvm => group_problem(layout, partition),
            None => None,
        };
        if let Some(problem) = problem {
            return Some(format!("{label:?}: {problem}"));
        }
    }
    None
}

fn group_problem(layout: &Layout, partition: &Partition) -> Option<String> {
    let name = &partition.label;
    if !is_name(name) {
        return Some("is no name for a volume group: letters, digits, '-' and '_'".to_string());
    }
    let same = layout.partitions.iter().filter(|other| other.role == Role::Lvm && other.label == *name);
    if same.count() > 1 {
        return Some("two volume groups have this name".to_string());
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = volumes(layout, name).find(|volume| !seen.insert(&volume.label)) {
        return Some(format!("the volume {:?} occurs twice", twice.label));
    }
    if seen.is_empty() {
        return Some("the volume group has no logical volumes".to_string());
    }
    let array = if layout.array.is_some() { ARRAY_OVERHEAD } else { 0 };
    let header = if partition.encrypted { ENCRYPTION_MIB } else { 0 };
    let around = ((DATA_START + array) >> 20) + header;
    let least = least(volumes(layout, name)).saturating_mul(EXTENT_MIB).saturating_add(around);
    (partition.min_mib < least).then(|| format!("its volumes need a min_mib of at least {least}"))
}

fn volume_problem(layout: &Layout, partition: &Partition, group: &str) -> Option<String> {
    if !matches!(partition.role, Role::Root | Role::Data | Role::Swap) {
        return Some("a logical volume is root, data or swap".to_string());
    }
    if partition.encrypted {
        return Some(format!(
            "a logical volume is not encrypted by itself: encrypt {group:?}, which it lies in, with all its volumes"
        ));
    }
    if !is_name(&partition.label) {
        return Some("is no name for a logical volume: letters, digits, '-' and '_'".to_string());
    }
    let there = |other: &Partition| other.role == Role::Lvm && other.label == group;
    (!layout.partitions.iter().any(there)).then(|| format!("there is no partition {group:?} of the role lvm"))
}

/// Names that LVM takes, and that need no quotes anywhere.
fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // LVM keeps some words to itself (lvm(8), VALID NAMES).
    let reserved = ["snapshot", "pvmove"].iter().any(|word| name.starts_with(word))
        || [
            "_cdata", "_cmeta", "_corig", "_mimage", "_mlog", "_pmspare", "_rimage", "_rmeta", "_tdata",
            "_tmeta", "_vorigin",
        ]
        .iter()
        .any(|word| name.contains(word));
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(known) && !name.starts_with('-') && !reserved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::array::{Array, Level};
    use alloc::vec::Vec;

    fn partition(label: &str, role: Role, group: Option<&str>, min_mib: u64) -> Partition {
        let group = group.map(ToString::to_string);
        Partition { label: label.into(), role, group, min_mib, ..Partition::default() }
    }

    fn good() -> Layout {
        let partitions = Vec::from([
            partition("system", Role::Lvm, None, 133),
            partition("root", Role::Root, Some("system"), 128),
            partition("swap", Role::Swap, Some("system"), 1),
        ]);
        Layout { partitions, ..Layout::default() }
    }

    #[test]
    fn groups_that_cannot_be_made_are_refused_and_the_reason_is_named() {
        assert_eq!(problem(&good()), None);
        let says = |change: &dyn Fn(&mut Layout), words: &str| {
            let mut layout = good();
            change(&mut layout);
            let problem = problem(&layout).expect("refused");
            assert!(problem.contains(words), "{problem}");
        };
        says(&|layout| layout.partitions[0].min_mib = 132, "at least 133");
        says(&|layout| layout.array = Some(Array { level: Level::Raid1, disks: 2 }), "at least 134");
        says(&|layout| layout.partitions[0].encrypted = true, "at least 149");
        says(&|layout| layout.partitions[1].encrypted = true, "encrypt \"system\", which it lies in");
        says(&|layout| layout.partitions.truncate(1), "no logical volumes");
        says(&|layout| layout.partitions[2].label = "root".into(), "\"root\" occurs twice");
        says(&|layout| layout.partitions[1].group = Some("other".into()), "no partition \"other\"");
        says(&|layout| layout.partitions[1].role = Role::Esp, "is root, data or swap");
        says(&|layout| layout.partitions.swap(0, 1), "behind a logical volume");
        says(&|layout| layout.partitions.insert(0, layout.partitions[0].clone()), "two volume groups");
        for bad in ["", "a b", "-a", "a.b", "snapshot1", "x_tmeta", "größe"] {
            says(&|layout| layout.partitions[1].label = bad.into(), "no name for a logical volume");
            says(&|layout| layout.partitions[0].label = bad.into(), "no name for a volume group");
        }
    }

    #[test]
    fn dashes_are_doubled_where_the_kernel_shows_volumes() {
        assert_eq!(device("sys", "var-log"), "/dev/mapper/sys-var--log");
    }
}
