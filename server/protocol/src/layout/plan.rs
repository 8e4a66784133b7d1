//! From a layout and a disk to sectors: arithmetic only.

use super::{Layout, Partition, Role};
use alloc::string::String;
use alloc::vec::Vec;

/// Partitions start at multiples of this many bytes.
pub const ALIGNMENT: u64 = 1 << 20;

/// Smallest EFI system partition, in MiB: below it FAT32 on 4096-byte sectors has too few
/// clusters and becomes FAT16, which firmware need not read.
pub const ESP_MIN_MIB: u64 = 260;

/// What will lie where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of a logical sector.
    pub sector_size: u64,
    /// Sectors of the disk.
    pub sectors: u64,
    /// Partitions, by number from 1.
    pub partitions: Vec<Planned>,
}

/// A partition with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Number in the table, from 1.
    pub number: u32,
    /// Name in the table.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub sectors: u64,
}

impl Plan {
    /// The only partition of that role; [`plan`] made sure that there is at most one.
    #[must_use]
    pub fn role(&self, role: Role) -> Option<&Planned> {
        self.partitions.iter().find(|partition| partition.role == role)
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The disk cannot hold the minima.
    #[error("needs {needed} bytes, the disk has {available}")]
    TooSmall {
        /// Bytes needed.
        needed: u64,
        /// Bytes of the disk.
        available: u64,
    },
    /// The layout contradicts itself.
    #[error("layout {layout:?}: {problem}")]
    Layout {
        /// Its name.
        layout: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Neither 512 nor 4096.
    #[error("sector size {0} is not supported")]
    SectorSize(u64),
}

/// Checks what no disk can change: roles, minima and maxima.
///
/// # Errors
/// [`PlanError::Layout`] with the first problem.
pub fn check(layout: &Layout) -> Result<(), PlanError> {
    let fail = |problem| Err(PlanError::Layout { layout: layout.name.clone(), problem });
    if layout.partitions.len() > 128 {
        return fail("more than 128 partitions");
    }
    for role in [Role::BiosBoot, Role::Esp, Role::Root] {
        if layout.partitions.iter().filter(|p| p.role == role).count() > 1 {
            return fail("a role occurs twice");
        }
    }
    if !layout.partitions.iter().any(|p| p.role == Role::Root) {
        return fail("no root partition");
    }
    for partition in &layout.partitions {
        if partition.min_mib == 0 {
            return fail("min_mib must be at least 1");
        }
        if partition.max_mib.is_some_and(|max| max < partition.min_mib) {
            return fail("max_mib is below min_mib");
        }
        if partition.role == Role::Esp && partition.min_mib < ESP_MIN_MIB {
            return fail("an EFI system partition needs at least 260 MiB");
        }
        if partition.label.encode_utf16().count() > 36 {
            return fail("a label is longer than 36 characters");
        }
    }
    Ok(())
}

/// Lays out `layout` on a disk of `bytes` bytes with sectors of `sector_size` bytes.
///
/// Every partition gets its minimum; what is left is shared by weight, up to each maximum.
/// The same input always gives the same plan.
///
/// # Errors
/// When the layout is wrong, the disk too small or its sector size unknown.
pub fn plan(layout: &Layout, bytes: u64, sector_size: u64) -> Result<Plan, PlanError> {
    check(layout)?;
    if sector_size != 512 && sector_size != 4096 {
        return Err(PlanError::SectorSize(sector_size));
    }
    // One unit of alignment in front for the primary table, one behind for the backup.
    let usable = (bytes / ALIGNMENT).saturating_sub(2);
    let minimum: u64 = layout.partitions.iter().fold(0, |sum, p| u64::saturating_add(sum, p.min_mib));
    if minimum > usable {
        let needed = minimum.saturating_add(2).saturating_mul(ALIGNMENT);
        return Err(PlanError::TooSmall { needed, available: bytes });
    }
    let sizes = share(&layout.partitions, usable - minimum);
    let unit = ALIGNMENT / sector_size;
    let mut first = unit;
    let mut partitions = Vec::with_capacity(sizes.len());
    for (i, (partition, mib)) in layout.partitions.iter().zip(sizes).enumerate() {
        let sectors = mib * unit;
        partitions.push(Planned {
            number: u32::try_from(i + 1).unwrap_or(u32::MAX),
            label: partition.label.clone(),
            role: partition.role,
            first,
            sectors,
        });
        first += sectors;
    }
    Ok(Plan { sector_size, sectors: bytes / sector_size, partitions })
}

/// Sizes in MiB: minima plus shares of `free` by weight, none above its maximum.
fn share(partitions: &[Partition], mut free: u64) -> Vec<u64> {
    let mut sizes: Vec<u64> = partitions.iter().map(|p| p.min_mib).collect();
    let room = |i: usize, sizes: &[u64]| {
        let partition = &partitions[i];
        partition.max_mib.map_or(u64::MAX, |max| max - sizes[i])
    };
    loop {
        let open: Vec<usize> =
            (0..partitions.len()).filter(|&i| partitions[i].weight > 0 && room(i, &sizes) > 0).collect();
        let weights: u64 = open.iter().map(|&i| u64::from(partitions[i].weight)).sum();
        if free == 0 || weights == 0 {
            return sizes;
        }
        let mut given = 0;
        for &i in &open {
            let fair = u128::from(free) * u128::from(partitions[i].weight) / u128::from(weights);
            let extra = u64::try_from(fair).unwrap_or(u64::MAX).min(room(i, &sizes));
            sizes[i] += extra;
            given += extra;
        }
        if given == 0 {
            // Less than one unit per weight is left: it goes to the first that has room.
            let extra = free.min(room(open[0], &sizes));
            sizes[open[0]] += extra;
            given = extra;
        }
        free -= given;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn partition(role: Role, min_mib: u64, max_mib: Option<u64>, weight: u32) -> Partition {
        Partition { label: "p".into(), role, min_mib, max_mib, weight }
    }

    fn layout(partitions: Vec<Partition>) -> Layout {
        Layout { name: "test".into(), partitions }
    }

    #[test]
    fn the_default_shape_on_both_sector_sizes() {
        let layout = layout(vec![
            partition(Role::BiosBoot, 1, None, 0),
            partition(Role::Esp, 512, None, 0),
            partition(Role::Root, 1024, None, 1),
        ]);
        for sector in [512, 4096] {
            let plan = plan(&layout, 8 << 30, sector).expect("fits");
            let places: Vec<_> =
                plan.partitions.iter().map(|p| (p.first * sector, p.sectors * sector)).collect();
            assert_eq!(places, [(1 << 20, 1 << 20), (2 << 20, 512 << 20), (514 << 20, (8192 - 515) << 20)]);
        }
    }

    #[test]
    fn refusals_name_the_problem() {
        let root = || partition(Role::Root, 10, None, 0);
        let problem = |partitions| check(&layout(partitions)).expect_err("refused").to_string();
        assert!(problem(vec![]).contains("no root"));
        assert!(problem(vec![root(), root()]).contains("twice"));
        assert!(problem(vec![root(), partition(Role::Esp, 100, None, 0)]).contains("260"));
        assert!(problem(vec![partition(Role::Root, 10, Some(9), 0)]).contains("max_mib"));
        assert_eq!(
            plan(&layout(vec![root()]), 11 << 20, 512),
            Err(PlanError::TooSmall { needed: 12 << 20, available: 11 << 20 })
        );
        assert_eq!(plan(&layout(vec![root()]), 1 << 30, 520), Err(PlanError::SectorSize(520)));
    }

    proptest! {
        #[test]
        fn p04_plans_are_aligned_disjoint_within_bounds_and_repeatable(
            mibs in 1u64..200_000,
            tail in 0u64..ALIGNMENT,
            shapes in prop::collection::vec((1u64..300, prop::option::of(0u64..500), 0u32..5), 1..8),
            wide in any::<bool>(),
        ) {
            let sector = if wide { 4096 } else { 512 };
            let mut partitions: Vec<Partition> = Vec::new();
            for (i, (min, extra, weight)) in shapes.into_iter().enumerate() {
                // One root; the others take distinct roles or are left out.
                let role = match i { 0 => Role::Root, 1 => Role::BiosBoot, 2 => Role::Esp, _ => break };
                let min = if role == Role::Esp { min + ESP_MIN_MIB } else { min };
                partitions.push(partition(role, min, extra.map(|e| min + e), weight));
            }
            let layout = layout(partitions);
            let bytes = mibs * ALIGNMENT + tail;
            match plan(&layout, bytes, sector) {
                Err(PlanError::TooSmall { needed, .. }) => prop_assert!(needed > bytes - tail),
                Err(other) => prop_assert!(false, "{other}"),
                Ok(first) => {
                    prop_assert_eq!(&plan(&layout, bytes, sector), &Ok(first.clone()));
                    let mut end = ALIGNMENT;
                    for (want, got) in layout.partitions.iter().zip(&first.partitions) {
                        let (start, size) = (got.first * sector, got.sectors * sector);
                        prop_assert_eq!(start % ALIGNMENT, 0);
                        prop_assert!(start >= end);
                        prop_assert!(size >= want.min_mib << 20);
                        prop_assert!(want.max_mib.is_none_or(|max| size <= max << 20));
                        end = start + size;
                    }
                    // The backup table's 33 sectors stay free.
                    prop_assert!(end + 33 * sector <= bytes);
                }
            }
        }
    }
}
