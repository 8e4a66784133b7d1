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
    /// Whether it is encrypted; not of a logical volume, which is as its group is.
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
        if partition.encrypted && matches!(partition.role, Role::BiosBoot | Role::Esp | Role::Boot) {
            return fail("only root, data, swap and lvm can be encrypted");
        }
        if let Some(problem) = mount_problem(partition).or_else(|| subvolumes::problem(partition)) {
            return fail(&format!("partition {:?}: {problem}", partition.label));
        }
    }
    if let Some(problem) = array::problem(layout).or_else(|| group::problem(layout)) {
        return fail(&problem);
    }
    let has = |role: Role| layout.partitions.iter().any(|p| p.role == role);
    if layout.partitions.iter().any(|p| p.role == Role::Root && layout.encrypts(p)) && !has(Role::Boot) {
        return fail(
            "the root partition is encrypted, and boot loaders have no key for it: add a partition of the role boot",
        );
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
    (path != "/dev/shm" && must_be_roots(path)).then_some("must be a part of the root file system")
}

/// Whether what lies at an absolute path is in the root file system, or in one of the role boot.
pub(crate) fn must_be_roots(path: &str) -> bool {
    let own =
        |own: &&str| path.strip_prefix(*own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    ROOTS_OWN.iter().any(own)
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
mod tests;
