//! Partitions that keep their data when a system is laid down anew.
//!
//! Such a partition must lie on the disk exactly as the layout has it: same name, number, type and sectors, and in it the
//! file system that the layout says and nothing else. Then nobody needs to move, grow or understand what is in it: its
//! entry and its file system stay as they are, with their UUIDs. Whatever differs is a refusal, never a repair.
//!
//! Server and agent decide by the same [`find`]. What the server found is in the wipe grant
//! ([`WipeGrant::keep`](crate::wipe::WipeGrant::keep)) and so not among what may be lost; the agent finds it itself once more.

use crate::agent_api::DiskUuids;
use crate::contents::{Area, Entry};
use crate::facts::Disk;
use crate::finding::{Code, Finding};
use crate::layout::plan::{Plan, Planned};
use crate::layout::{Layout, Partition, Role};
use crate::select::describe;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Type of the partitions of [`Role::Data`]: a Linux file system.
pub const DATA_TYPE: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

/// Where each installation writes what is the new system's own: how it reports, and who may log in.
const WRITTEN_ANEW: [&str; 2] = ["/var/lib/kaltstart", "/root/.ssh"];

/// A partition that keeps its data, as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its number in the table.
    pub number: u32,
    /// Its name there and in the layout.
    pub label: String,
    /// Its entry of the table.
    pub entry: Area,
    /// The file system in it.
    pub file_system: Area,
}

impl Kept {
    /// Both of its areas.
    #[must_use]
    pub fn areas(&self) -> [&Area; 2] {
        [&self.entry, &self.file_system]
    }
}

impl DiskUuids {
    /// The same with those of what is kept in their places.
    #[must_use]
    pub fn keeping(&self, kept: &[Kept]) -> Self {
        let mut uuids = self.clone();
        for Kept { number, entry, file_system, .. } in kept {
            let at = (*number as usize).wrapping_sub(1);
            if let Some(partition) = uuids.partitions.get_mut(at) {
                partition.clone_from(&entry.id);
            }
            if let Some(further) = uuids.further.get_mut(at) {
                further.clone_from(&file_system.id);
            }
        }
        uuids
    }
}

/// Why the partitions with these labels cannot be kept, whatever is on the disk; none if they can.
pub fn problem<'a>(layout: &Layout, labels: impl IntoIterator<Item = &'a str>) -> Option<String> {
    labels.into_iter().find_map(|label| {
        let named: Vec<&Partition> = layout.partitions.iter().filter(|one| one.label == label).collect();
        let why = match named[..] {
            [] => {
                let able = |one: &&Partition| of_partition(layout, one).is_none();
                let able = layout.partitions.iter().filter(able).map(|one| format!(" {:?}", one.label));
                let able = able.collect::<String>();
                let able = if able.is_empty() { " none" } else { &able };
                return Some(format!(
                    "layout {:?} has no partition {label:?}; of those it has can be kept:{able}",
                    layout.name
                ));
            }
            [one] => of_partition(layout, one),
            _ => Some("the layout has several of that name"),
        };
        why.map(|why| format!("partition {label:?} of layout {:?} cannot be kept: {why}", layout.name))
    })
}

/// Why such a partition cannot be kept, if it cannot.
fn of_partition(layout: &Layout, partition: &Partition) -> Option<&'static str> {
    let holds = |mount: &str, path: &&str| {
        path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mount = partition.mount.as_deref();
    match partition.role {
        Role::BiosBoot | Role::Esp | Role::Boot | Role::Root => {
            Some("the system starts from it, and is laid down anew")
        }
        Role::Swap => Some("swap space holds nothing that lasts"),
        Role::Lvm => Some("volume groups of LVM are made anew"),
        Role::Data if partition.group.is_some() => Some("it is a logical volume, and its group is made anew"),
        Role::Data if layout.array.is_some() => Some("it lies on an array, and arrays are made anew"),
        Role::Data if partition.encrypted => {
            Some("it is encrypted, and each installation has a key of its own")
        }
        Role::Data if !partition.subvolumes.is_empty() => Some("its subvolumes are made anew"),
        Role::Data if mount.is_some_and(|mount| WRITTEN_ANEW.iter().any(|path| holds(mount, path))) => {
            Some("each installation writes there how the system reports or who may log in")
        }
        Role::Data => None,
    }
}

/// The partitions with these labels as they lie on `disk`, on which `plan` puts `layout`, in the order of the labels.
///
/// # Errors
/// [`Code::CannotKeep`] with the first that cannot be kept, or is not as the plan has it.
pub fn find<'a>(
    layout: &Layout,
    plan: &Plan,
    labels: impl IntoIterator<Item = &'a str> + Clone,
    disk: &Disk,
) -> Result<Vec<Kept>, Finding> {
    let refused = |why: String| Finding::new(Code::CannotKeep, why);
    if let Some(why) = problem(layout, labels.clone()) {
        return Err(refused(why));
    }
    let found = disk.holds.as_ref().map_or(&[][..], |contents| &contents.0);
    labels
        .into_iter()
        .map(|label| {
            let planned = plan.in_table().find(|planned| planned.label == label);
            planned
                .map_or_else(|| Err("the plan does not have it".into()), |planned| look(planned, found))
                .map_err(|why: String| {
                    refused(format!("partition {label:?} is not on {}: {why}", describe(disk)))
                })
        })
        .collect()
}

/// The partition that is planned, if it is among `found`; else what is there instead.
fn look(planned: &Planned, found: &[Area]) -> Result<Kept, String> {
    let Planned { number, label, first, sectors, .. } = planned;
    let entries = || found.iter().filter(|area| area.kind == Area::PARTITION);
    let wanted = Area::from(Entry {
        number: *number,
        id: "",
        kind: DATA_TYPE,
        first: *first,
        last: (first + sectors).saturating_sub(1),
        sector: None,
        name: label,
    });
    let is_wanted = |area: &&Area| (area.partition, &area.label) == (wanted.partition, &wanted.label);
    let Some(entry) = entries().find(is_wanted) else {
        let named = format!(", named {label}");
        let near: Vec<String> =
            match entries().filter(|area| area.label.ends_with(&named)).collect::<Vec<_>>()[..] {
                [] => entries().map(|area| format!("{area}")).collect(),
                ref near => near.iter().map(|area| format!("{area}")).collect(),
            };
        let there = if near.is_empty() { "no partition".into() } else { near.join(", ") };
        return Err(format!("the layout has it as {wanted}; there is {there}"));
    };
    let kind = planned.file_system.unwrap_or_default().name();
    let within: Vec<&Area> = found
        .iter()
        .filter(|area| area.partition == entry.partition && area.kind != Area::PARTITION)
        .collect();
    match within[..] {
        [one] if one.kind == kind && !one.id.is_empty() => {
            Ok(Kept { number: *number, label: label.clone(), entry: entry.clone(), file_system: one.clone() })
        }
        [] => Err(format!("the layout has {kind} in it, and nothing known is there")),
        _ => {
            let there: Vec<String> = within.iter().map(|area| format!("{area}")).collect();
            Err(format!("the layout has {kind} in it, and there is {}", there.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Contents;
    use crate::layout::array::{Array, Level};
    use crate::layout::plan::plan;
    use crate::layout::{FileSystem, Subvolume};
    use alloc::vec;
    use proptest::prelude::*;

    const BYTES: u64 = 64 << 30;

    fn partition(label: &str, role: Role, min_mib: u64, weight: u32) -> Partition {
        let mount = (role == Role::Data).then(|| format!("/srv/{label}"));
        Partition { label: label.into(), role, min_mib, weight, mount, ..Partition::default() }
    }

    fn layout() -> Layout {
        let partitions = vec![
            partition("esp", Role::Esp, 300, 0),
            partition("root", Role::Root, 4096, 0),
            partition("data", Role::Data, 1024, 1),
            partition("other", Role::Data, 1024, 1),
            partition("swap", Role::Swap, 512, 0),
        ];
        Layout { name: "l".into(), partitions, ..Layout::default() }
    }

    /// What an installation of that layout leaves, but for what firmware reads.
    fn left(layout: &Layout, bytes: u64) -> Vec<Area> {
        let plan = plan(layout, bytes, 512).expect("it fits");
        let area = |number, kind: &str, id: String| Area {
            partition: number,
            kind: kind.into(),
            id,
            label: String::new(),
        };
        let mut areas = vec![area(None, "gpt", "G".into())];
        for Planned { number, label, role, first, sectors, file_system, .. } in &plan.partitions {
            let kind = if *role == Role::Data { DATA_TYPE } else { "another" };
            let (id, last) = (format!("p-{label}"), first + sectors - 1);
            let entry =
                Entry { number: *number, id: &id, kind, first: *first, last, sector: None, name: label };
            areas.push(entry.into());
            areas.extend(file_system.map(|made| area(Some(*number), made.name(), format!("f-{label}"))));
        }
        areas
    }

    fn disk(areas: Vec<Area>) -> Disk {
        let holds = Some(Contents::new(areas));
        Disk { serial: "S1".into(), size: BYTES, sector_size: 512, holds, ..Disk::default() }
    }

    fn found(layout: &Layout, labels: &[&str], areas: Vec<Area>) -> Result<Vec<Kept>, Finding> {
        let plan = plan(layout, BYTES, 512).expect("it fits");
        find(layout, &plan, labels.iter().copied(), &disk(areas))
    }

    /// Changes the areas; what the refusal says.
    type Change = (&'static str, fn(&mut Vec<Area>));

    const NUMBER: Option<u32> = Some(3);
    const REFUSED: [Change; 14] = [
        ("there is no partition", |areas| areas.clear()),
        ("there is no partition", |areas| areas.retain(|area| area.kind != Area::PARTITION)),
        ("there is partition 1 p-esp", |areas| areas.retain(|area| area.partition != NUMBER)),
        ("there is partition 4 p-data", |areas| entry(areas).partition = Some(4)),
        ("sectors 9-10, named data", |areas| {
            let place =
                Entry { number: 3, id: "p", kind: DATA_TYPE, first: 9, last: 10, sector: None, name: "data" };
            *entry(areas) = place.into();
        }),
        ("of 4096 bytes", |areas| {
            let label = entry(areas).label.replace(", named", " of 4096 bytes, named");
            entry(areas).label = label;
        }),
        ("named Data", |areas| entry(areas).label = entry(areas).label.replace("named data", "named Data")),
        ("type 8300", |areas| entry(areas).label = entry(areas).label.replace(DATA_TYPE, "8300")),
        ("nothing known is there", |areas| areas.retain(|area| area.id != "f-data")),
        ("there is xfs", |areas| system(areas).kind = "xfs".into()),
        ("there is luks", |areas| system(areas).kind = "luks".into()),
        ("ext4 in it, and there is ext4", |areas| system(areas).id.clear()),
        ("swap in partition 3", |areas| {
            let swap = Area { kind: "swap".into(), ..system(areas).clone() };
            areas.push(swap);
        }),
        ("there is data", |areas| system(areas).kind = Area::DATA.into()),
    ];

    fn entry(areas: &mut [Area]) -> &mut Area {
        areas.iter_mut().find(|area| area.id == "p-data").expect("an entry")
    }

    fn system(areas: &mut [Area]) -> &mut Area {
        areas.iter_mut().find(|area| area.id == "f-data").expect("a file system")
    }

    #[test]
    fn p05_a_partition_is_kept_only_if_it_is_exactly_as_the_layout_has_it() {
        let areas = || left(&layout(), BYTES);
        let kept = found(&layout(), &["data"], areas()).expect("kept");
        let ids = |kept: &Kept| (kept.number, kept.areas().map(|area| area.id.clone()));
        assert_eq!(kept.iter().map(ids).collect::<Vec<_>>(), [(3, ["p-data".into(), "f-data".into()])]);
        let both = found(&layout(), &["other", "data"], areas()).expect("kept");
        assert_eq!(both.iter().map(|kept| kept.number).collect::<Vec<_>>(), [4, 3]);
        // Whatever else is on the disk, and however its file system was named since.
        let mut others = areas();
        others.retain(|area| area.partition == NUMBER || area.partition.is_none());
        system(&mut others).label = "mine".into();
        assert_eq!(found(&layout(), &["data"], others).map(|kept| kept.len()), Ok(1));
        for (words, change) in REFUSED {
            let mut areas = areas();
            change(&mut areas);
            let finding = found(&layout(), &["data"], areas).expect_err(words);
            assert_eq!(finding.code, Code::CannotKeep);
            assert!(finding.detail.contains(words), "{words}: {finding}");
            assert!(finding.detail.contains("\"data\"") && finding.detail.contains("S1"), "{finding}");
        }
        let unread = Disk { holds: None, ..disk(Vec::new()) };
        let plan = plan(&layout(), BYTES, 512).expect("it fits");
        assert!(find(&layout(), &plan, ["data"], &unread).is_err());
    }

    #[test]
    fn p05_what_is_made_anew_or_in_another_way_is_refused_by_the_layout_alone() {
        let change = |change: &dyn Fn(&mut Layout)| {
            let mut layout = layout();
            change(&mut layout);
            problem(&layout, ["data"])
        };
        assert_eq!(change(&|_| ()), None);
        assert_eq!(problem(&layout(), []), None);
        for (words, change) in [
            ("several of that name", change(&|layout| layout.partitions[3].label = "data".into())),
            ("on an array", change(&|layout| layout.array = Some(Array { level: Level::Raid1, disks: 2 }))),
            ("a logical volume", change(&|layout| layout.partitions[2].group = Some("g".into()))),
            ("it is encrypted", change(&|layout| layout.partitions[2].encrypted = true)),
            (
                "subvolumes",
                change(&|layout| {
                    layout.partitions[2].file_system = Some(FileSystem::Btrfs);
                    let (name, mount) = ("@".into(), "/srv".into());
                    layout.partitions[2].subvolumes = vec![Subvolume { name, mount, options: Vec::new() }];
                }),
            ),
            ("who may log in", change(&|layout| layout.partitions[2].mount = Some("/root".into()))),
            ("how the system reports", change(&|layout| layout.partitions[2].mount = Some("/var".into()))),
            (
                "how the system reports",
                change(&|layout| layout.partitions[2].mount = Some("/var/lib".into())),
            ),
            ("can be kept: \"data\" \"other\"", problem(&layout(), ["data", "date"])),
            ("the system starts from it", problem(&layout(), ["root"])),
            ("the system starts from it", problem(&layout(), ["data", "esp"])),
            ("swap space", problem(&layout(), ["swap"])),
        ] {
            let why = change.expect(words);
            assert!(why.contains(words), "{words}: {why}");
        }
        for mount in ["/var/log", "/var/library", "/rooted", "/home"] {
            assert_eq!(change(&|layout| layout.partitions[2].mount = Some(mount.into())), None, "{mount}");
        }
        let finding = found(&layout(), &["root"], left(&layout(), BYTES)).expect_err("refused");
        assert_eq!(finding.code, Code::CannotKeep);
    }

    #[test]
    fn the_uuids_of_what_is_kept_take_their_places_and_no_others() {
        let uuids = |what: &str| (1..=5).map(|number| format!("{what}{number}")).collect::<Vec<_>>();
        let (disk, root) = ("d".into(), "r".into());
        let new = DiskUuids { disk, root, partitions: uuids("new-p"), further: uuids("new-f"), esp: 7 };
        let kept = found(&layout(), &["data"], left(&layout(), BYTES)).expect("kept");
        let mut expected = new.clone();
        (expected.partitions[2], expected.further[2]) = ("p-data".into(), "f-data".into());
        assert_eq!(new.keeping(&kept), expected);
        assert_eq!(expected.keeping(&kept), expected);
        assert_eq!(new.keeping(&[]), new);
        for number in [0, 6, u32::MAX] {
            let odd = Kept { number, ..kept[0].clone() };
            assert_eq!(new.keeping(&[odd]), new, "no such place");
        }
    }

    proptest! {
        /// One installation after another of any other layout: what is kept has not moved by a sector.
        #[test]
        fn p05_nothing_is_kept_that_has_moved(
            (before, after) in (any_layout(), any_layout()),
            bytes in (40_u64..44).prop_map(|gib| gib << 30),
            named in 0_usize..4,
        ) {
            let label = before.partitions[named.min(before.partitions.len() - 1)].label.clone();
            let plans = (plan(&before, bytes, 512).expect("it fits"), plan(&after, BYTES, 512).expect("it fits"));
            let areas = left(&before, bytes);
            let place = |plan: &Plan| {
                let one = |planned: &&Planned| planned.role == Role::Data && planned.label == label;
                plan.partitions.iter().find(one).map(|one| (one.number, one.first, one.sectors, one.file_system))
            };
            let kept = find(&after, &plans.1, [label.as_str()], &disk(areas.clone()));
            prop_assert_eq!(kept.is_ok(), place(&plans.0).is_some() && place(&plans.0) == place(&plans.1));
            for kept in kept.unwrap_or_default() {
                prop_assert!(kept.areas().into_iter().all(|area| areas.contains(area)));
                let planned = plans.1.partitions.iter().find(|planned| planned.number == kept.number);
                prop_assert_eq!(&planned.expect("planned").label, &kept.label);
            }
        }
    }

    /// Layouts that often are alike.
    fn any_layout() -> impl Strategy<Value = Layout> {
        let one = (prop_oneof!["a", "b", "c"], prop_oneof![Just(1024_u64), Just(2048)], any::<bool>());
        proptest::collection::vec(one, 1..4).prop_map(|data| {
            let mut partitions = vec![partition("root", Role::Root, 4096, 0)];
            for (label, mib, xfs) in data {
                if !partitions.iter().any(|other| other.label == label) {
                    let file_system = xfs.then_some(FileSystem::Xfs);
                    partitions.push(Partition { file_system, ..partition(&label, Role::Data, mib, 0) });
                }
            }
            Layout { name: "any".into(), partitions, ..Layout::default() }
        })
    }
}
