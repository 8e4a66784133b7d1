//! Whole installations on loop devices.

mod common;

use common::{
    DISK_BYTES, Loop, NOW, Ordered, Served, Watch, archive, archived, entry, gate, granted, install,
    measured, order, root, run,
};
use kaltstart_agent::install::Stop;
use kaltstart_protocol::agent_api::ReportState;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::Compression;
use kaltstart_protocol::layout::array::{Array, Level};
use kaltstart_protocol::layout::{FileSystem, Partition, Role};
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use std::fs;

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("encode")
}

/// Installs what must fail; the finding. The disk must be blank, and nothing left behind.
fn failing(disk: &Loop, ordered: &Ordered, served: Vec<u8>) -> Finding {
    let watch = Watch::default();
    let disks = [disk.disk.clone()];
    let result = install(ordered, &disks, &Served(served), &disk.paths(), &watch);
    let Err(Stop::Failed(finding)) = result else {
        panic!("not a failure: {result:?}");
    };
    assert!(disk.is_blank(), "{finding}");
    assert!(disk.is_tidy(), "{finding}");
    let last = watch.seen.into_inner().expect("lock").pop().map(|(_, state)| state);
    assert_eq!(last, Some(ReportState::Failed { finding: finding.clone() }));
    finding
}

#[test]
fn p11_wrong_images_leave_nothing_that_starts() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    assert!(!disk.is_blank(), "an old system was there");
    let plain = archive(disk.directory.path());
    for (kind, packed) in [(Compression::Zstd, zstd(&plain)), (Compression::None, plain.clone())] {
        let good = order(&packed, plain.len() as u64, kind);
        for at in [0, packed.len() / 3, packed.len() / 2, packed.len() - 1] {
            let mut flipped = packed.clone();
            flipped[at] ^= 0x10;
            assert_eq!(failing(&disk, &good, flipped).code, Code::ImageMismatch, "{kind:?} byte {at}");
        }
        for keep in [0, packed.len() / 2, packed.len() - 1] {
            let finding = failing(&disk, &good, packed[..keep].to_vec());
            assert_eq!(finding.code, Code::ImageTruncated, "{kind:?} {keep}");
        }
        let longer = [&packed[..], b"x"].concat();
        assert_eq!(failing(&disk, &good, longer).code, Code::ImageMismatch);
        let mut bomb = good.clone();
        bomb.image.unpacked_size -= 1;
        assert_eq!(failing(&disk, &bomb, packed).code, Code::ImageInvalid);
    }
}

#[test]
fn p11_archives_that_reach_out_are_refused_with_the_entry_named() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    for (entries, named) in [
        (vec![entry("../out", b'0', "", b"x")], "../out"),
        (vec![entry("/out", b'0', "", b"x")], "/out"),
        (vec![entry("a", b'2', "/tmp", b""), entry("a/out", b'0', "", b"x")], "a/out"),
        (vec![entry("h", b'1', "../../etc/passwd", b"")], "h"),
        (vec![entry("v", b'V', "", b"")], "v"),
    ] {
        let plain = archived(&entries);
        let packed = zstd(&plain);
        let ordered = order(&packed, plain.len() as u64, Compression::Zstd);
        let finding = failing(&disk, &ordered, packed);
        assert_eq!(finding.code, Code::ImageInvalid, "{finding}");
        assert!(finding.detail.starts_with(&format!("{named}: ")), "{finding}");
    }
    // The right digest of something that is no archive, and of one without an end.
    for plain in [vec![7; 100_000], entry("a", b'0', "", &[1; 5000])] {
        let finding = failing(&disk, &order(&plain, 1 << 20, Compression::None), plain);
        assert_eq!(finding.code, Code::ImageInvalid, "{finding}");
    }
    let finding = failing(&disk, &order(b"not zstd", 1 << 20, Compression::Zstd), b"not zstd".to_vec());
    assert_eq!(finding.code, Code::ImageInvalid, "{finding}");
}

#[test]
fn p12_nothing_can_start_until_everything_is_there() {
    if !root() {
        return;
    }
    for (sector_size, uefi) in [(512, false), (4096, true)] {
        let disk = Loop::new(sector_size);
        let plain = archive(disk.directory.path());
        let packed = zstd(&plain);
        let ordered = order(&packed, plain.len() as u64, Compression::Zstd);
        let mut paths = disk.paths();
        let efivars = disk.directory.path().join("efivars");
        fs::create_dir(&efivars).expect("mkdir");
        paths.efivars = uefi.then(|| efivars.clone());
        let look = |phase, state: &ReportState| {
            // The start of the first phase comes before the disk is touched; the end of the last
            // one after its table was written.
            let inside = (phase, state) != (Phase::Disk, &ReportState::Running)
                && (phase, state) != (Phase::Configure, &ReportState::Done);
            assert!(!inside || disk.is_blank(), "{phase:?} {state:?}");
        };
        let size = packed.len() as u64;
        let watch = Watch { look: Some(&look), ..Watch::default() };
        let disks = [disk.disk.clone()];
        let installed = install(&ordered, &disks, &Served(packed), &paths, &watch).expect("installs");
        assert_eq!((installed.disk.as_str(), installed.boot_entry), ("S1", uefi));
        assert!(disk.is_tidy());
        let all = Progress { done: size, total: size, unit: Unit::Bytes };
        assert_eq!(watch.at_end.into_inner().expect("lock"), [(Phase::Image, all)]);
        let seen: Vec<_> = watch.seen.into_inner().expect("lock");
        let ends = [Phase::Disk, Phase::Image, Phase::Configure].map(|phase| (phase, ReportState::Done));
        assert!(seen.iter().filter(|(_, state)| *state == ReportState::Done).eq(&ends), "{seen:?}");

        let verify = run("sgdisk", &["-v", &disk.node]);
        assert!(verify.contains("No problems found"), "{verify}");
        check_esp(&disk, sector_size);
        check_root(&disk, &ordered.task, &installed);
        let first = fs::read(&disk.file).expect("read");
        assert_eq!(first[0..4] == [0x90; 4], sector_size == 512, "boot code");
        assert_eq!(efivars.join("BootNext-8be4df61-93ca-11d2-aa0d-00e098032b8c").exists(), uefi);
    }
}

fn check_esp(disk: &Loop, sector_size: u32) {
    let image = format!("{}@@{}", disk.file.display(), 2 << 20);
    let stub = run("mtype", &["-i", &image, "::EFI/debian/grub.cfg"]);
    assert!(stub.contains("--set=root 0f1e2d3c-4b5a-4978-8796-a5b4c3d2e109"), "{sector_size} {stub}");
    let list = run("mdir", &["-i", &image, "-b", "::EFI/BOOT"]);
    assert!(list.contains("BOOTX64.EFI") && list.contains("grubx64.efi"), "{list}");
}

fn check_root(
    disk: &Loop,
    task: &kaltstart_protocol::agent_api::InstallTask,
    installed: &kaltstart_protocol::agent_api::Installed,
) {
    let plan = kaltstart_protocol::layout::plan::plan(&task.layout, DISK_BYTES, disk.disk.sector_size.into());
    let plan = plan.expect("plan");
    let root = plan.role(Role::Root).expect("root");
    run("partx", &["-a", "--nr", "3", &disk.node]);
    let node = format!("{}p{}", disk.node, root.number);
    let clean = run("e2fsck", &["-fn", &node]);
    assert!(!clean.contains("error"), "{clean}");
    let mount = disk.directory.path().join("look");
    fs::create_dir(&mount).expect("mkdir");
    run("mount", &["-o", "ro", &node, mount.to_str().expect("path")]);
    let read = |path: &str| fs::read_to_string(mount.join(path)).expect(path);
    let (hostname, config, id) = (read("etc/hostname"), read("boot/grub/grub.cfg"), read("etc/machine-id"));
    let (kernel, agent) = (fs::read(mount.join("vmlinuz")).expect("kernel"), read("usr/lib/kaltstart/agent"));
    run("umount", &[mount.to_str().expect("path")]);
    run("partx", &["-d", "--nr", "3", &disk.node]);
    assert_eq!((hostname.as_str(), agent.as_str()), ("node7\n", "the agent"));
    assert_eq!(id.trim(), installed.machine_id);
    assert!(config.contains("'root=UUID=0f1e2d3c-4b5a-4978-8796-a5b4c3d2e109' 'ro' 'console=ttyS0,115200'"));
    assert_eq!(kernel.len(), 3_000_000);
}

#[test]
fn file_systems_of_their_own_hold_what_lies_there() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let plain = archive(disk.directory.path());
    let mut ordered = order(&plain, plain.len() as u64, Compression::None);
    // The inner one first: what is mounted where does not depend on the order on the disk.
    for (label, role, mount, mib) in [
        ("var-log", Role::Data, Some("/var/log"), 24),
        ("a long label, cut", Role::Data, Some("/var"), 40),
        ("swap", Role::Swap, None, 16),
    ] {
        let mount = mount.map(Into::into);
        let root = &ordered.task.layout.partitions[2];
        let further = Partition { label: label.into(), role, mount, min_mib: mib, weight: 0, ..root.clone() };
        ordered.task.layout.partitions.push(further);
    }
    let uuid = |n: u8| format!("0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1{n:02x}");
    ordered.task.uuids.partitions = (1..7).map(uuid).collect();
    ordered.task.uuids.further = (10..16).map(uuid).collect();
    let disks = [disk.disk.clone()];
    install(&ordered, &disks, &Served(plain), &disk.paths(), &Watch::default()).expect("installs");
    assert!(disk.is_tidy());
    assert!(run("sgdisk", &["-v", &disk.node]).contains("No problems found"));
    let mount = disk.directory.path().join("look");
    fs::create_dir(&mount).expect("mkdir");
    for (number, there, absent) in
        [("3", "etc/fstab", "var/lib"), ("4", "first", "lib"), ("5", "lib/state", "log/first")]
    {
        run("partx", &["-a", "--nr", number, &disk.node]);
        let node = format!("{}p{number}", disk.node);
        run("e2fsck", &["-fn", &node]);
        run("mount", &["-o", "ro", &node, mount.to_str().expect("path")]);
        let found = (mount.join(there).exists(), mount.join(absent).exists());
        run("umount", &[mount.to_str().expect("path")]);
        run("partx", &["-d", "--nr", number, &disk.node]);
        assert_eq!(found, (true, false), "{number}: {there}, {absent}");
    }
    // All of it is known as the node's own by a rebuild.
    let uuids = &ordered.task.uuids;
    let own: Vec<&String> =
        [&uuids.disk, &uuids.root].into_iter().chain(&uuids.partitions).chain(&uuids.further).collect();
    let contents = measured(&disks)[0].holds.clone().expect("read");
    let known = |id: &String| own.contains(&id) || id == "1234-ABCD";
    assert!(contents.0.iter().all(|area| known(&area.id)), "{contents}");
    assert!(contents.0.iter().any(|area| area.kind == "swap" && area.id == uuid(15)), "{contents}");

    // Without an UUID for it nothing is written.
    let mut few = ordered.clone();
    few.task.uuids.further.pop();
    let before = Digest::of(&fs::read(&disk.file).expect("read"));
    let refused = install(&few, &disks, &Served(Vec::new()), &disk.paths(), &Watch::default());
    assert!(
        matches!(&refused, Err(Stop::Failed(finding)) if finding.detail.contains("\"swap\" has no UUID")),
        "{refused:?}"
    );
    assert_eq!(Digest::of(&fs::read(&disk.file).expect("read")), before);
}

#[test]
fn a_data_partition_may_be_xfs() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let plain = archive(disk.directory.path());
    let mut ordered = order(&plain, plain.len() as u64, Compression::None);
    // In place of the EFI system partition: the disk has no room for both.
    ordered.task.layout.partitions[1] = Partition {
        label: "a long label, cut".into(),
        role: Role::Data,
        file_system: Some(FileSystem::Xfs),
        mount: Some("/var".into()),
        min_mib: 300,
        ..ordered.task.layout.partitions[1].clone()
    };
    let disks = [disk.disk.clone()];
    install(&ordered, &disks, &Served(plain), &disk.paths(), &Watch::default()).expect("installs");
    assert!(disk.is_tidy());
    let contents = measured(&disks)[0].holds.clone().expect("read");
    let xfs = contents.0.iter().find(|area| area.kind == "xfs").expect("an XFS");
    assert_eq!(xfs.id, ordered.task.uuids.further[1], "known as the node's own by a rebuild");
    let mount = disk.directory.path().join("look");
    fs::create_dir(&mount).expect("mkdir");
    run("partx", &["-a", "--nr", "2", &disk.node]);
    let node = format!("{}p2", disk.node);
    run("xfs_repair", &["-n", &node]);
    run("mount", &["-t", "xfs", "-o", "ro", &node, mount.to_str().expect("path")]);
    let found = (mount.join("lib/state").exists(), mount.join("log/first").exists());
    run("umount", &[mount.to_str().expect("path")]);
    run("partx", &["-d", "--nr", "2", &disk.node]);
    assert_eq!(found, (true, true));
}

#[test]
fn p03_a_disk_that_is_not_as_granted_is_refused_untouched() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let ordered = order(b"", 0, Compression::None);
    let all = || Digest::of(&fs::read(&disk.file).expect("read"));
    let refused = |task: &kaltstart_protocol::agent_api::InstallTask, disks: &[_], now| {
        let before = all();
        let (served, watch) = (Served(Vec::new()), Watch::default());
        let result =
            kaltstart_agent::install::install(&gate(), task, disks, now, &served, &disk.paths(), &watch);
        assert_eq!(all(), before);
        match result {
            Err(Stop::Failed(finding)) => {
                assert_eq!(finding.code, Code::GrantRefused, "{finding}");
                finding.detail
            }
            other => panic!("not refused: {other:?}"),
        }
    };
    let before = measured(std::slice::from_ref(&disk.disk));
    let task = ordered.signed();
    let good = granted(&task, &before);
    assert!(refused(&task, &before, NOW).contains("there is none for it"));
    let forged = kaltstart_protocol::agent_api::InstallTask {
        grants: good
            .grants
            .iter()
            .map(|one| {
                let mut one = one.clone();
                one.grant.grant.push(' ');
                one
            })
            .collect(),
        ..good.clone()
    };
    assert!(refused(&forged, &before, NOW).contains("signature"));
    assert!(refused(&good, &before, NOW.plus(1000)).contains("expired"));
    let other = kaltstart_protocol::agent_api::InstallTask { attempt: 2, ..good.clone() };
    assert!(refused(&other, &before, NOW).contains("start of the machine"));
    // Formatted after the grant: seen before the agent's look at the machine, and after it.
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "offset=1048576", &disk.node, "64M"]);
    run("sync", &[&disk.node]);
    assert!(
        refused(&good, &measured(std::slice::from_ref(&disk.disk)), NOW)
            .contains("found ext4 in partition 1")
    );
    assert!(refused(&good, &before, NOW).contains("found ext4 in partition 1"));
}

#[test]
fn p03_the_disks_of_an_array_are_granted_together_or_none_is_written() {
    if !root() {
        return;
    }
    let (first, mut second) = (Loop::new(512), Loop::new(512));
    second.disk.serial = "S2".into();
    let disks = measured(&[first.disk.clone(), second.disk.clone()]);
    let mut ordered = order(b"", 0, Compression::None);
    ordered.task.layout.array = Some(Array { level: Level::Raid1, disks: 2 });
    let good = granted(&ordered.signed(), &disks);
    assert_eq!(good.grants.len(), 2);
    let all = || [&first, &second].map(|disk| Digest::of(&fs::read(&disk.file).expect("read")));
    let before = all();
    let refused = |task: &kaltstart_protocol::agent_api::InstallTask, disks: &[_]| {
        let (served, watch) = (Served(Vec::new()), Watch::default());
        let result =
            kaltstart_agent::install::install(&gate(), task, disks, NOW, &served, &first.paths(), &watch);
        assert_eq!(all(), before, "a disk was written");
        let Err(Stop::Failed(finding)) = result else { panic!("not refused: {result:?}") };
        (finding.code, finding.detail)
    };
    let with = |change: &dyn Fn(&mut kaltstart_protocol::agent_api::InstallTask)| {
        let mut task = good.clone();
        change(&mut task);
        refused(&task, &disks)
    };
    for (named, result) in [
        ("there is none for it", with(&|task| drop(task.grants.remove(0)))),
        ("there is none for it", with(&|task| drop(task.grants.remove(1)))),
        ("serial number", with(&|task| task.grants[1].grant = task.grants[0].grant.clone())),
    ] {
        assert!(result.0 == Code::GrantRefused && result.1.contains(named), "{named}: {result:?}");
    }
    assert_eq!(refused(&good, &disks[..1]).0, Code::DiskCount, "one disk alone");
    // The second is formatted after the agent's look at the machine.
    let changed = fs::File::options().write(true).open(&second.node).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&changed, b"LABELONE", 512).expect("written");
    changed.sync_all().expect("synced");
    drop(changed);
    let before = all();
    let (served, watch) = (Served(Vec::new()), Watch::default());
    let result =
        kaltstart_agent::install::install(&gate(), &good, &disks, NOW, &served, &first.paths(), &watch);
    assert!(
        matches!(&result, Err(Stop::Failed(finding)) if finding.code == Code::GrantRefused),
        "{result:?}"
    );
    assert_eq!(all(), before, "the first was written");
}

#[test]
fn p14_an_image_that_is_not_believed_is_refused_before_the_first_write() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let disks = measured(std::slice::from_ref(&disk.disk));
    let good = granted(&order(b"", 0, Compression::None).signed(), &disks);
    let all = || Digest::of(&fs::read(&disk.file).expect("read"));
    let before = all();
    let refused = |gate: &kaltstart_agent::gate::Gate, task: &kaltstart_protocol::agent_api::InstallTask| {
        let (served, watch) = (Served(Vec::new()), Watch::default());
        let result =
            kaltstart_agent::install::install(gate, task, &disks, NOW, &served, &disk.paths(), &watch);
        assert!(
            matches!(&result, Err(Stop::Failed(finding)) if finding.code == Code::ImageUntrusted),
            "{result:?}"
        );
        assert_eq!(all(), before);
    };
    let mut changed = good.clone();
    changed.image.manifest = changed.image.manifest.replace("debian-12", "debian-13");
    refused(&gate(), &changed);
    let mut unsigned = good.clone();
    unsigned.image.signature.clear();
    refused(&gate(), &unsigned);
    let mut strict = gate();
    strict.images.since = u64::MAX;
    refused(&strict, &good);
    strict.images = Default::default();
    refused(&strict, &good);
}

#[test]
fn p12_what_an_installation_leaves_is_known_by_its_uuids_and_a_second_one_leaves_the_same() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let plain = archive(disk.directory.path());
    let ordered = order(&plain, plain.len() as u64, Compression::None);
    let mut left = Vec::new();
    for _ in 0..2 {
        // What the first MiB of a partition does not show: md 1.0 at its end, VMFS behind its first MiB.
        let (end, vmfs) = (DISK_BYTES - (1 << 20) - 8192, (263 << 20) + (1 << 20));
        let file = fs::File::options().write(true).open(&disk.node).expect("opened");
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x0d, 0xd0, 0x01, 0xc0], vmfs).expect("written");
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xfc, 0x4e, 0x2b, 0xa9, 1], end).expect("written");
        file.sync_all().expect("synced");
        drop(file);
        install(
            &ordered,
            std::slice::from_ref(&disk.disk),
            &Served(plain.clone()),
            &disk.paths(),
            &Watch::default(),
        )
        .expect("installs");
        let contents = measured(std::slice::from_ref(&disk.disk))[0].holds.clone().expect("read");
        let uuids = &ordered.task.uuids;
        let mut ids = vec![uuids.disk.clone(), uuids.root.clone(), "1234-ABCD".to_owned()];
        ids.extend(uuids.partitions.clone());
        assert_eq!(contents.0.len(), ids.len(), "{contents}");
        assert!(contents.0.iter().all(|area| ids.contains(&area.id)), "{contents}");
        left.push(contents.fingerprint());
    }
    assert_eq!(left[0], left[1]);
}

#[test]
fn p05_a_disk_in_use_is_refused_untouched() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let mount = disk.directory.path().join("busy");
    fs::create_dir(&mount).expect("mkdir");
    run("partx", &["-a", "--nr", "1", &disk.node]);
    let node = format!("{}p1", disk.node);
    run("mke2fs", &["-q", "-F", &node]);
    run("mount", &[&node, mount.to_str().expect("path")]);
    let table = || Digest::of(&fs::read(&disk.file).expect("read")[..1 << 20]);
    let before = table();
    let packed = zstd(b"");
    let disks = [disk.disk.clone()];
    let result = install(
        &order(&packed, 0, Compression::Zstd),
        &disks,
        &Served(packed.clone()),
        &disk.paths(),
        &Watch::default(),
    );
    run("umount", &[mount.to_str().expect("path")]);
    run("partx", &["-d", "--nr", "1", &disk.node]);
    let Err(Stop::Failed(finding)) = result else {
        panic!("not refused: {result:?}");
    };
    assert_eq!(finding.code, Code::DiskFailed);
    assert!(finding.detail.contains("is mounted on") && finding.detail.contains("busy"), "{finding}");
    assert_eq!(table(), before);
}

#[test]
fn p05_only_the_chosen_disk_changes() {
    if !root() {
        return;
    }
    let (chosen, mut other) = (Loop::new(512), Loop::new(512));
    other.disk.serial = "S2".into();
    let plain = archive(chosen.directory.path());
    let mut ordered = order(&plain, plain.len() as u64, Compression::None);
    ordered.task.disk.serial = Some("S1".into());
    let bytes = |disk: &Loop| Digest::of(&fs::read(&disk.file).expect("read"));
    let before = bytes(&other);
    for disks in [[chosen.disk.clone(), other.disk.clone()], [other.disk.clone(), chosen.disk.clone()]] {
        let watch = Watch::default();
        let installed = install(&ordered, &disks, &Served(plain.clone()), &chosen.paths(), &watch);
        assert_eq!(installed.expect("installs").disk, "S1");
    }
    run("sync", &[&other.node]);
    assert_eq!(bytes(&other), before);
    assert_eq!(run("blockdev", &["--getro", &other.node]).trim(), "1");
    assert_eq!(run("blockdev", &["--getro", &chosen.node]).trim(), "0");
}

#[test]
fn what_cannot_work_is_refused_before_the_first_write() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let good = order(b"", 0, Compression::None);
    let code = |change: &dyn Fn(&mut Ordered), disks: &[_], uefi: bool| {
        let mut ordered = good.clone();
        change(&mut ordered);
        let mut paths = disk.paths();
        paths.efivars = uefi.then(|| disk.directory.path().into());
        match install(&ordered, disks, &Served(Vec::new()), &paths, &Watch::default()) {
            Err(Stop::Failed(finding)) => finding.code,
            other => panic!("not refused: {other:?}"),
        }
    };
    let one = [disk.disk.clone()];
    let two = [disk.disk.clone(), kaltstart_protocol::facts::Disk { name: "x".into(), ..disk.disk.clone() }];
    assert_eq!(code(&|_| (), &[], false), Code::NoDisk);
    assert_eq!(code(&|_| (), &two, false), Code::AmbiguousDisk);
    assert_eq!(code(&|t| t.image.min_disk = 1 << 40, &one, false), Code::DiskTooSmall);
    assert_eq!(code(&|t| t.task.layout.partitions[2].min_mib = 4000, &one, false), Code::DiskTooSmall);
    assert_eq!(code(&|t| t.image.boot.bios = None, &one, false), Code::BootloaderFailed);
    assert_eq!(code(&|t| t.image.boot.efi.clear(), &one, true), Code::BootloaderFailed);
    assert_eq!(code(&|t| t.image.schema = 2, &one, false), Code::ImageInvalid);
    assert_eq!(code(&|t| t.task.uuids.partitions[0] = "x".into(), &one, false), Code::DiskFailed);
    assert_eq!(code(&|t| t.image.boot.cmdline = "'".into(), &one, false), Code::BootloaderFailed);
    assert_eq!(code(&|t| t.task.identity.hostname = "a b".into(), &one, false), Code::IdentityRefused);
    let other = [kaltstart_protocol::facts::Disk { size: DISK_BYTES - 512, ..disk.disk.clone() }];
    assert_eq!(code(&|_| (), &other, false), Code::DiskFailed);
    let old = run("sgdisk", &["-v", disk.file.to_str().expect("path")]);
    assert!(old.contains("No problems found"), "{old}");
}

#[test]
fn a_cancelled_job_stops_in_any_phase() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let plain = archive(disk.directory.path());
    let packed = zstd(&plain);
    let ordered = order(&packed, plain.len() as u64, Compression::Zstd);
    for phase in [Phase::Disk, Phase::Image, Phase::Configure] {
        let watch = Watch { cancel_in: Some(phase), ..Watch::default() };
        let disks = [disk.disk.clone()];
        let result = install(&ordered, &disks, &Served(packed.clone()), &disk.paths(), &watch);
        assert_eq!(result, Err(Stop::Cancelled("by hand".into())), "{phase:?}");
        assert!(disk.is_tidy(), "{phase:?}");
        assert!(disk.is_blank() || phase == Phase::Disk, "{phase:?}");
    }
}
