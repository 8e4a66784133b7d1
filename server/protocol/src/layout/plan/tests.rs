use super::*;
use crate::layout::Tmpfs;
use crate::layout::array::Level;
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
        let places: Vec<_> = plan.partitions.iter().map(|p| (p.first * sector, p.sectors * sector)).collect();
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
        let place =
            |planned: &Planned| (planned.number, plan.place(planned).0 >> 20, plan.place(planned).1 >> 20);
        let all: Vec<_> = plan.partitions.iter().map(place).collect();
        assert_eq!(plan.in_table().count() + 2, layout.partitions.len(), "volumes are in no table");
        assert_eq!(plan.role(Role::Lvm).map(|group| plan.volumes(group).count()), Some(2));
        all
    };
    // 2045 MiB for the group: 511 extents behind the first MiB; swap stays at its three whole ones.
    assert_eq!(places(&layout), [(1, 1, 1), (2, 2, 2045), (3, 1, 2032), (4, 2033, 12)]);
    layout.partitions[2].weight = 0;
    assert_eq!(places(&layout)[2..], [(3, 1, 404), (4, 405, 12)], "the rest is nobody's yet");
    layout.array = Some(Array { level: Level::Raid1, disks: 2 });
    assert_eq!(places(&layout)[1..3], [(2, 2, 2045), (3, 1, 404)]);
    // 2043 MiB less those of md and of LUKS: 506 extents behind the first MiB.
    layout.partitions.insert(1, partition(Role::Boot, 2, None, 0));
    (layout.partitions[2].encrypted, layout.partitions[3].weight) = (true, 1);
    assert_eq!(places(&layout)[2..], [(3, 4, 2043), (4, 1, 2012), (5, 2013, 12)]);
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
    assert!(problem(vec![root(), xfs(Role::Swap, 300)]).contains("only root and data have a file_system"));
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
    assert_eq!(check(&layout(vec![root(), btrfs(Role::Data, &[("a", "/srv/a"), ("b", "/srv/b")])])), Ok(()));
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
    assert_eq!(check(&layout(vec![partition(Role::Root, 1, None, 0), encrypted(Role::Swap, 17)])), Ok(()));
    assert!(
        problem(vec![partition(Role::Root, 1, None, 0), encrypted(Role::Swap, 16)]).contains("more than 16")
    );
    assert!(problem(vec![boot(), encrypted(Role::Root, 16)]).contains("at least 17"));
    for role in [Role::Boot, Role::Esp, Role::BiosBoot] {
        let refused = problem(vec![partition(Role::Root, 1, None, 0), encrypted(role, 300)]);
        assert!(refused.contains("only root, data, swap and lvm"), "{refused}");
    }
    assert!(problem(vec![boot(), boot(), encrypted(Role::Root, 100)]).contains("twice"));
    let root = || Partition { group: Some("p".into()), ..partition(Role::Root, 4, None, 0) };
    let group = || encrypted(Role::Lvm, 21);
    assert!(problem(vec![group(), root()]).contains("add a partition of the role boot"));
    assert_eq!(check(&layout(vec![boot(), group(), root()])), Ok(()));
    assert!(problem(vec![boot(), encrypted(Role::Lvm, 20), root()]).contains("at least 21"));
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
    fn p04_volumes_lie_behind_each_other_within_what_their_group_has(
        mibs in 1500u64..200_000,
        level in prop::sample::select([None, Some((Level::Raid0, 3)), Some((Level::Raid1, 2)), Some((Level::Raid10, 4))].as_slice()),
        encrypted in any::<bool>(),
        shapes in prop::collection::vec((17u64..100, prop::option::of(0u64..500), 0u32..5), 1..8),
        wide in any::<bool>(),
    ) {
        let sector = if wide { 4096 } else { 512 };
        let mut partitions = vec![
            partition(Role::Boot, 300, None, 0),
            Partition { label: "group".into(), encrypted, ..partition(Role::Lvm, 1000, None, 1) },
        ];
        for (i, (min, extra, weight)) in shapes.into_iter().enumerate() {
            let role = if i == 0 { Role::Root } else { Role::Swap };
            let volume = partition(role, min, extra.map(|extra| min + extra), weight);
            partitions.push(Partition { label: format!("v{i}"), group: Some("group".into()), ..volume });
        }
        let array = level.map(|(level, disks)| Array { level, disks });
        let layout = Layout { array, ..layout(partitions) };
        let plan = plan(&layout, mibs * ALIGNMENT, sector).expect("it fits");
        let group = plan.role(Role::Lvm).expect("a group");
        let mut end = DATA_START;
        for (want, got) in layout.partitions[2..].iter().zip(plan.volumes(group)) {
            let (start, size) = plan.place(got);
            prop_assert_eq!((start, size % EXTENT), (end, 0));
            prop_assert!(size >= want.min_mib << 20);
            prop_assert!(want.max_mib.is_none_or(|max| size <= (max << 20).max(want.min_mib.div_ceil(EXTENT_MIB) * EXTENT)));
            end = start + size;
        }
        let member = group.sectors * sector;
        let header = if encrypted { ENCRYPTION_MIB << 20 } else { 0 };
        prop_assert!(end + header <= array.map_or(member, |array| array.capacity(member)));
    }

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
