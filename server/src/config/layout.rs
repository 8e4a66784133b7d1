//! `[[layout]]`

use kaltstart_protocol::layout::{Layout, Role, plan};
use std::collections::BTreeSet;

/// Nobody means a partition larger than this: a pebibyte, in MiB. Sizes written in KiB or bytes are.
const MIB_MAX: u64 = 1 << 30;

/// What is wrong with a layout on any disk.
pub(super) fn problems(layout: &Layout, all: &mut Vec<String>) {
    if let Err(problem) = plan::check(layout) {
        all.push(format!("layout: {problem}"));
    }
    let name = &layout.name;
    let mut labels = BTreeSet::new();
    for partition in &layout.partitions {
        let label = &partition.label;
        // Orders name what they keep by its label, and people what they see.
        if !labels.insert(label) {
            all.push(format!("layout {name:?}: label {label:?} occurs twice"));
        }
        if partition.min_mib > MIB_MAX {
            let mib = partition.min_mib;
            all.push(format!(
                "layout {name:?}: min_mib {mib} of {label:?} is above {MIB_MAX}: it counts MiB"
            ));
        }
    }
}

/// Why no machine starts from a layout, whatever its firmware; none if one may.
pub(super) fn starts_nothing(layout: &Layout) -> Option<String> {
    let starts = |role| matches!(role, Role::Esp | Role::BiosBoot);
    (!layout.partitions.iter().any(|partition| starts(partition.role))).then(|| {
        format!(
            "layout {:?}: no machine starts from it: UEFI needs a partition of the role esp, BIOS one of the role bios_boot",
            layout.name
        )
    })
}
