//! From a layout and a disk to sectors: arithmetic only.

use super::array::{self, Array};
use super::group::{self, DATA_START, EXTENT, EXTENT_MIB};
use super::{FileSystem, Layout, Partition, Role, Subvolume, subvolumes};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Partitions start at multiples of this many bytes.
pub const ALIGNMENT: u64 = 1 << 20;

/// Space in MiB besides the partitions: one in front for the primary table, one behind for the backup.
const TABLES_MIB: u64 = 2;

/// What encryption needs at the start of a partition, in MiB: the header, its copy and keys.
pub const ENCRYPTION_MIB: u64 = 16;

/// Smallest EFI system partition, in MiB: below it FAT32 on 4096-byte sectors has too few
/// clusters and becomes FAT16, which firmware need not read.
pub const ESP_MIN_MIB: u64 = 260;

/// What will lie where, on the disk or on each of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which arrays its partitions are members of, if of any.
    pub array: Option<Array>,
    /// Bytes of a logical sector.
    pub sector_size: u64,
    /// Sectors of the disk, the smallest if there are several.
    pub sectors: u64,
    /// Partitions, by number from 1, and behind them logical volumes.
    pub partitions: Vec<Planned>,
}

/// A partition or logical volume with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Number in the table, from 1; logical volumes, which are in none, go on counting.
    pub number: u32,
    /// Name in the table.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// The group that it is a logical volume of.
    pub group: Option<String>,
    /// Where the installed system mounts it, if it does.
    pub mount: Option<String>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The file system that is made in it, see [`Partition::made`].
    pub file_system: Option<FileSystem>,
    /// Its mount options; each subvolume has them, too.
    pub options: Vec<String>,
    /// Subvolumes of its btrfs.
    pub subvolumes: Vec<Subvolume>,
    /// First sector; of a logical volume, from the start of the partition or array that the group lies on.
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

    /// First byte and bytes of a partition; of a logical volume in what its group lies on.
    #[must_use]
    pub fn place(&self, planned: &Planned) -> (u64, u64) {
        (planned.first * self.sector_size, planned.sectors * self.sector_size)
    }

    /// Those of all partitions.
    #[must_use]
    pub fn places(&self) -> Vec<(u64, u64)> {
        self.in_table().map(|planned| self.place(planned)).collect()
    }

    /// The partitions alone.
    pub fn in_table(&self) -> impl Iterator<Item = &Planned> {
        self.partitions.iter().filter(|planned| planned.group.is_none())
    }

    /// The logical volumes of a partition.
    pub fn volumes<'a>(&'a self, group: &'a Planned) -> impl Iterator<Item = &'a Planned> {
        self.partitions.iter().filter(|planned| planned.group.as_ref() == Some(&group.label))
    }

    /// The array that a partition is a member of.
    #[must_use]
    pub fn array_of(&self, planned: &Planned) -> Option<Array> {
        self.array.filter(|_| planned.role.in_arrays() && planned.group.is_none())
    }

    /// Bytes for what lies in a partition, or in the array that it is a member of.
    #[must_use]
    pub fn room(&self, planned: &Planned) -> u64 {
        let bytes = planned.sectors * self.sector_size;
        let bytes = self.array_of(planned).map_or(bytes, |array| array.capacity(bytes));
        if planned.encrypted { bytes.saturating_sub(ENCRYPTION_MIB << 20) } else { bytes }
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
        problem: String,
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
    let fail =
        |problem: &str| Err(PlanError::Layout { layout: layout.name.clone(), problem: problem.into() });
    if layout.partitions.len() > 128 {
        return fail("more than 128 partitions");
    }
    for role in [Role::BiosBoot, Role::Esp, Role::Boot, Role::Root] {
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
        let header = if partition.encrypted { ENCRYPTION_MIB } else { 0 };
        if let Some(made) = partition.made().filter(|made| partition.min_mib < made.min_mib() + header) {
            return fail(&format!("{} needs a min_mib of at least {}", made.name(), made.min_mib() + header));
        }
        if partition.encrypted && partition.min_mib <= header {
            return fail(&format!("an encrypted partition needs a min_mib of more than {header}"));
        }
        if partition.encrypted && !matches!(partition.role, Role::Root | Role::Data | Role::Swap) {
            return fail("only root, data and swap can be encrypted");
        }
        if let Some(problem) = mount_problem(partition).or_else(|| subvolumes::problem(partition)) {
            return fail(&format!("partition {:?}: {problem}", partition.label));
        }
    }
    let has = |role: Role| layout.partitions.iter().any(|p| p.role == role);
    if layout.partitions.iter().any(|p| p.role == Role::Root && p.encrypted) && !has(Role::Boot) {
        return fail(
            "the root partition is encrypted, and boot loaders have no key for it: add a partition of the role boot",
        );
    }
    if let Some(problem) = array::problem(layout).or_else(|| group::problem(layout)) {
        return fail(&problem);
    }
    let (boot, name) = if has(Role::Boot) { (Role::Boot, "boot") } else { (Role::Root, "root") };
    let third = layout.partitions.get(2).is_some_and(|p| p.role == boot);
    // Groups and arrays are looked for by name, see the agent's boot loaders.
    let plain = |p: &Partition| p.role == boot && p.group.is_none() && layout.array.is_none();
    if has(Role::BiosBoot) && !third && layout.partitions.iter().any(plain) {
        return fail(&format!(
            "with a bios_boot partition the {name} partition must be the third, where GRUB looks"
        ));
    }
    let mut seen = BTreeSet::new();
    for mount in layout.mounts() {
        if let Some(problem) = path_problem(mount) {
            return fail(&format!("mount {mount:?} {problem}"));
        }
        if !seen.insert(mount) {
            return fail(&format!("mount {mount:?} occurs twice"));
        }
    }
    match layout.tmpfs.iter().find_map(|tmpfs| options_problem(&tmpfs.options)) {
        Some(problem) => fail(&problem),
        None => Ok(()),
    }
}

/// What its role has, and what it cannot have.
fn mount_problem(partition: &Partition) -> Option<String> {
    let mounted = matches!(partition.role, Role::Root | Role::Data);
    let has_options = mounted || partition.role == Role::Boot;
    match &partition.mount {
        None if partition.role == Role::Data && partition.subvolumes.is_empty() => {
            Some("role data needs a mount".into())
        }
        Some(_) if partition.role != Role::Data => Some("only role data has a mount".into()),
        Some(_) if !partition.subvolumes.is_empty() => {
            Some("its subvolumes are mounted, and not the whole".into())
        }
        _ if !has_options && !partition.options.is_empty() => {
            Some("only root, boot and data have options".into())
        }
        _ if !mounted && partition.file_system.is_some() => {
            Some("only root and data have a file_system".into())
        }
        _ => options_problem(&partition.options),
    }
}

/// Places that the root file system must hold itself: to mount the others, to start from, or because the
/// system mounts something there.
const ROOTS_OWN: [&str; 13] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys",
    "/usr",
];

/// What is wrong with the place of a mount. It stands in a line of fstab(5) as it is.
fn path_problem(path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
    let plain = |part: &&str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part.chars().all(known) && !part.chars().all(|c| c == '.')
    };
    if !path.starts_with('/') || !parts.iter().all(plain) {
        return Some("is no absolute path of letters, digits, '-', '_' and '.'");
    }
    // Memory that programs share lies below /dev, and is mounted after it.
    let own =
        |own: &&str| path.strip_prefix(*own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (path != "/dev/shm" && ROOTS_OWN.iter().any(own)).then_some("must be a part of the root file system")
}

/// What is wrong with mount options. They stand between commas in a line of fstab(5).
pub(super) fn options_problem(options: &[String]) -> Option<String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.=:%+/".contains(c);
    let bad = options.iter().find(|option| option.is_empty() || !option.chars().all(known));
    bad.map(|option| format!("{option:?} is no mount option"))
}

/// Bytes of the smallest disk that `layout` fits on.
#[must_use]
pub fn smallest_disk(layout: &Layout) -> u64 {
    least_mib(layout).saturating_mul(ALIGNMENT)
}

/// All minima and the tables, in MiB.
fn least_mib(layout: &Layout) -> u64 {
    layout
        .partitions
        .iter()
        .filter(|p| p.group.is_none())
        .fold(TABLES_MIB, |sum, p| u64::saturating_add(sum, p.min_mib))
}

/// Lays out `layout` on a disk (each disk, where there are several) of `bytes` bytes with sectors of `sector_size` bytes.
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
    let Some(free) = (bytes / ALIGNMENT).checked_sub(least_mib(layout)) else {
        return Err(PlanError::TooSmall { needed: smallest_disk(layout), available: bytes });
    };
    let (in_table, volumes): (Vec<_>, Vec<_>) =
        (1..).zip(&layout.partitions).partition(|(_, partition)| partition.group.is_none());
    let unit = ALIGNMENT / sector_size;
    let mut plan =
        Plan { array: layout.array, sector_size, sectors: bytes / sector_size, partitions: Vec::new() };
    let mut first = unit;
    for ((number, partition), mib) in in_table.iter().zip(share(&in_table, 1, free)) {
        plan.partitions.push(planned(*number, partition, first, mib * unit));
        first += mib * unit;
    }
    let groups: Vec<Planned> = plan.partitions.iter().filter(|it| it.role == Role::Lvm).cloned().collect();
    for group in groups {
        let volumes: Vec<_> = volumes
            .iter()
            .copied()
            .filter(|(_, volume)| volume.group.as_ref() == Some(&group.label))
            .collect();
        let least = group::least(volumes.iter().map(|(_, volume)| *volume));
        // It has room for them: `check` made sure.
        let free = (plan.room(&group).saturating_sub(DATA_START) / EXTENT).saturating_sub(least);
        let (unit, mut first) = (EXTENT / sector_size, DATA_START / sector_size);
        for ((number, volume), extents) in volumes.iter().zip(share(&volumes, EXTENT_MIB, free)) {
            plan.partitions.push(planned(*number, volume, first, extents * unit));
            first += extents * unit;
        }
    }
    plan.partitions.sort_by_key(|planned| planned.number);
    Ok(plan)
}

fn planned(number: u32, partition: &Partition, first: u64, sectors: u64) -> Planned {
    Planned {
        number,
        label: partition.label.clone(),
        role: partition.role,
        group: partition.group.clone(),
        mount: partition.mounted_at().map(ToOwned::to_owned),
        encrypted: partition.encrypted,
        file_system: partition.made(),
        options: partition.options.clone(),
        subvolumes: partition.subvolumes.clone(),
        first,
        sectors,
    }
}

/// Sizes in units of `unit` MiB: minima plus shares of `free` units by weight, none above its maximum.
fn share(partitions: &[(u32, &Partition)], unit: u64, mut free: u64) -> Vec<u64> {
    let mut sizes: Vec<u64> = partitions.iter().map(|(_, p)| p.min_mib.div_ceil(unit)).collect();
    let room = |i: usize, sizes: &[u64]| {
        let (_, partition) = partitions[i];
        partition.max_mib.map_or(u64::MAX, |max| (max / unit).saturating_sub(sizes[i]))
    };
    let weight = |i: usize| partitions[i].1.weight;
    loop {
        let open: Vec<usize> =
            (0..partitions.len()).filter(|&i| weight(i) > 0 && room(i, &sizes) > 0).collect();
        let weights: u64 = open.iter().map(|&i| u64::from(weight(i))).sum();
        if free == 0 || weights == 0 {
            return sizes;
        }
        let mut given = 0;
        for &i in &open {
            let fair = u128::from(free) * u128::from(weight(i)) / u128::from(weights);
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
    use crate::layout::Tmpfs;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn partition(role: Role, min_mib: u64, max_mib: Option<u64>, weight: u32) -> Partition {
        Partition { label: "p".into(), role, min_mib, max_mib, weight, ..Partition::default() }
    }

    fn layout(partitions: Vec<Partition>) -> Layout {
        Layout { name: "test".into(), partitions, ..Layout::default() }
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
    fn logical_volumes_have_whole_extents_behind_each_other_in_their_group() {
        let volume = |label: &str, role, min_mib, max_mib, weight| Partition {
            label: label.into(),
            group: Some("system".into()),
            ..partition(role, min_mib, max_mib, weight)
        };
        let group = Partition { label: "system".into(), ..partition(Role::Lvm, 1001, None, 1) };
        let mut layout = layout(vec![
            partition(Role::BiosBoot, 1, None, 0),
            group,
            volume("root", Role::Root, 402, None, 3),
            volume("swap", Role::Swap, 5, Some(14), 1),
        ]);
        let places = |layout: &Layout| {
            let plan = plan(layout, 2 << 30, 512).expect("fits");
            let place = |planned: &Planned| {
                (planned.number, plan.place(planned).0 >> 20, plan.place(planned).1 >> 20)
            };
            let all: Vec<_> = plan.partitions.iter().map(place).collect();
            assert_eq!(plan.places().len(), 2, "volumes are in no table");
            assert_eq!(plan.role(Role::Lvm).map(|group| plan.volumes(group).count()), Some(2));
            all
        };
        // 2045 MiB for the group: 511 extents behind the first MiB; swap stays at its three whole ones.
        assert_eq!(places(&layout), [(1, 1, 1), (2, 2, 2045), (3, 1, 2032), (4, 2033, 12)]);
        layout.partitions[2].weight = 0;
        assert_eq!(places(&layout)[2..], [(3, 1, 404), (4, 405, 12)], "the rest is nobody's yet");
        layout.array = Some(Array { level: array::Level::Raid1, disks: 2 });
        assert_eq!(places(&layout)[1..3], [(2, 2, 2045), (3, 1, 404)]);
    }

    #[test]
    fn refusals_name_the_problem() {
        let root = || partition(Role::Root, 10, None, 0);
        let problem = |partitions| check(&layout(partitions)).expect_err("refused").to_string();
        assert!(problem(vec![]).contains("no root"));
        assert!(problem(vec![root(), root()]).contains("twice"));
        assert!(problem(vec![root(), partition(Role::Esp, 100, None, 0)]).contains("260"));
        assert!(problem(vec![partition(Role::Root, 10, Some(9), 0)]).contains("max_mib"));
        assert!(problem(vec![root(), partition(Role::BiosBoot, 1, None, 0)]).contains("third"));
        let data = |mount: &str| Partition { mount: Some(mount.into()), ..partition(Role::Data, 1, None, 0) };
        for bad in ["", "var", "/", "/var/", "/var//log", "/var/..", "/a b", "/a,b", "/a\n", "/wür"] {
            assert!(problem(vec![root(), data(bad)]).contains("no absolute path"), "{bad:?}");
        }
        for bad in ["/boot", "/usr", "/usr/local", "/etc", "/run/x", "/dev"] {
            assert!(problem(vec![root(), data(bad)]).contains("part of the root"), "{bad:?}");
        }
        assert!(problem(vec![root(), data("/var"), data("/var")]).contains("twice"));
        assert!(problem(vec![root(), partition(Role::Data, 1, None, 0)]).contains("needs a mount"));
        let swap = Partition { mount: Some("/x".into()), ..partition(Role::Swap, 1, None, 0) };
        assert!(problem(vec![root(), swap]).contains("only role data"));
        let xfs = |role, min_mib| Partition {
            file_system: Some(FileSystem::Xfs),
            mount: (role == Role::Data).then(|| "/srv".into()),
            ..partition(role, min_mib, None, 0)
        };
        assert!(problem(vec![root(), xfs(Role::Data, 299)]).contains("at least 300"));
        assert!(
            problem(vec![root(), xfs(Role::Swap, 300)]).contains("only root and data have a file_system")
        );
        assert_eq!(check(&layout(vec![root(), xfs(Role::Data, 300)])), Ok(()));
        let sealed = |of: Partition| Partition { encrypted: true, ..of };
        assert!(problem(vec![sealed(xfs(Role::Data, 315)), root()]).contains("at least 316"));
        assert!(problem(vec![xfs(Role::Root, 299)]).contains("at least 300"));
        let btrfs = |role, subvolumes: &[(&str, &str)]| {
            let subvolumes = subvolumes.iter().map(|(name, mount)| Subvolume {
                name: (*name).into(),
                mount: (*mount).into(),
                options: vec![],
            });
            Partition {
                file_system: Some(FileSystem::Btrfs),
                subvolumes: subvolumes.collect(),
                ..partition(role, 128, None, 0)
            }
        };
        let at = |mount| btrfs(Role::Root, &[("@", "/"), ("@x", mount)]);
        assert_eq!(check(&layout(vec![at("/var")])), Ok(()));
        assert_eq!(
            check(&layout(vec![root(), btrfs(Role::Data, &[("a", "/srv/a"), ("b", "/srv/b")])])),
            Ok(())
        );
        assert!(problem(vec![at("/var"), data("/var")]).contains("\"/var\" occurs twice"));
        assert!(problem(vec![at("/usr")]).contains("part of the root"));
        assert!(problem(vec![at("var")]).contains("no absolute path"));
        assert!(problem(vec![at("/")]).contains("must be mounted at"));
        let both = Partition { mount: Some("/srv".into()), ..btrfs(Role::Data, &[("a", "/a")]) };
        assert!(problem(vec![root(), both]).contains("not the whole"));
        let none = btrfs(Role::Data, &[]);
        assert!(problem(vec![root(), none]).contains("needs a mount"));
        for bad in ["", "a b", "ro,rw", "a\n", "#"] {
            let data = Partition { options: vec![bad.into()], ..data("/var") };
            assert!(problem(vec![root(), data]).contains("no mount option"), "{bad:?}");
        }
        let tmpfs = |mount: &str| Tmpfs { mount: mount.into(), options: vec!["size=10%".into()] };
        let with = |mount| Layout { tmpfs: vec![tmpfs(mount)], ..layout(vec![root(), data("/var")]) };
        assert_eq!((check(&with("/tmp")), check(&with("/dev/shm"))), (Ok(()), Ok(())));
        assert!(check(&with("/var")).expect_err("twice").to_string().contains("twice"));
        assert_eq!(
            plan(&layout(vec![root()]), 11 << 20, 512),
            Err(PlanError::TooSmall { needed: 12 << 20, available: 11 << 20 })
        );
        assert_eq!(plan(&layout(vec![root()]), 1 << 30, 520), Err(PlanError::SectorSize(520)));
    }

    #[test]
    fn what_cannot_start_or_hold_anything_encrypted_is_refused() {
        let problem = |partitions| check(&layout(partitions)).expect_err("refused").to_string();
        let encrypted = |role, min_mib| Partition { encrypted: true, ..partition(role, min_mib, None, 0) };
        let boot = || partition(Role::Boot, 300, None, 0);
        assert!(problem(vec![encrypted(Role::Root, 100)]).contains("add a partition of the role boot"));
        assert_eq!(check(&layout(vec![boot(), encrypted(Role::Root, 100)])), Ok(()));
        assert_eq!(
            check(&layout(vec![partition(Role::Root, 1, None, 0), encrypted(Role::Swap, 17)])),
            Ok(())
        );
        assert!(
            problem(vec![partition(Role::Root, 1, None, 0), encrypted(Role::Swap, 16)])
                .contains("more than 16")
        );
        assert!(problem(vec![boot(), encrypted(Role::Root, 16)]).contains("at least 17"));
        for role in [Role::Boot, Role::Esp, Role::BiosBoot] {
            let refused = problem(vec![partition(Role::Root, 1, None, 0), encrypted(role, 300)]);
            assert!(refused.contains("only root, data and swap"), "{refused}");
        }
        assert!(problem(vec![boot(), boot(), encrypted(Role::Root, 100)]).contains("twice"));
        let bios = |rest: [Partition; 2]| {
            let [third, fourth] = rest;
            check(&layout(vec![
                partition(Role::BiosBoot, 1, None, 0),
                partition(Role::Esp, 300, None, 0),
                third,
                fourth,
            ]))
        };
        assert_eq!(bios([boot(), encrypted(Role::Root, 100)]), Ok(()));
        let refused = bios([encrypted(Role::Root, 100), boot()]).expect_err("refused").to_string();
        assert!(refused.contains("the boot partition must be the third"), "{refused}");
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
            let roles: &[Role] = match shapes.len() {
                // The fewest, then with both ways to start, then more.
                1 => &[Role::Root],
                2 => &[Role::Esp, Role::Root],
                _ => &[Role::BiosBoot, Role::Esp, Role::Root],
            };
            for (i, (min, extra, weight)) in shapes.into_iter().enumerate() {
                let role = roles.get(i).copied().unwrap_or(if i % 2 == 0 { Role::Swap } else { Role::Data });
                let min = if role == Role::Esp { min + ESP_MIN_MIB } else { min };
                let mount = (role == Role::Data).then(|| format!("/srv/{i}"));
                partitions.push(Partition { mount, ..partition(role, min, extra.map(|e| min + e), weight) });
            }
            let layout = layout(partitions);
            let bytes = mibs * ALIGNMENT + tail;
            match plan(&layout, bytes, sector) {
                Err(PlanError::TooSmall { needed, .. }) => {
                    prop_assert!(needed > bytes);
                    prop_assert!(plan(&layout, needed, sector).is_ok());
                    prop_assert_eq!(needed, smallest_disk(&layout));
                }
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
