//! Installations on more than plain partitions with ext4, on loop devices.

mod common;

use common::{Loop, Ordered, Served, Watch, archive, install, measured, order, root, run};
use kaltstart_protocol::image::Compression;
use kaltstart_protocol::layout::{FileSystem, Partition, Role, Subvolume};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An order with these partitions, the third of which GRUB reads, on a machine that starts by BIOS.
fn ordered(plain: &[u8], partitions: Vec<Partition>) -> Ordered {
    let mut ordered = order(plain, plain.len() as u64, Compression::None);
    // Its own, as mkfs.btrfs refuses one that it finds on any disk.
    static DISKS: AtomicUsize = AtomicUsize::new(1);
    let disk = DISKS.fetch_add(1, Ordering::Relaxed);
    let uuid = |n: usize| format!("{disk:08x}-4b5a-4978-8796-a5b4c3d2e1{n:02x}");
    let count = partitions.len();
    ordered.task.layout.partitions = partitions;
    ordered.task.uuids.root = uuid(0);
    ordered.task.uuids.partitions = (1..=count).map(uuid).collect();
    ordered.task.uuids.further = (100..100 + count).map(uuid).collect();
    ordered.image.boot.kernel = "/boot/vmlinuz-6.1".into();
    ordered.image.boot.initrd = "/boot/initrd.img-6.1".into();
    ordered
}

fn partition(role: Role, min_mib: u64, weight: u32) -> Partition {
    Partition { label: format!("{role:?}"), role, min_mib, weight, ..Partition::default() }
}

/// The first two partitions: what GRUB needs, and something small.
fn front() -> Vec<Partition> {
    vec![partition(Role::BiosBoot, 1, 0), partition(Role::Swap, 16, 0)]
}

/// A file as GRUB reads it where its `core.img` looks.
fn read_by_grub(disk: &Loop, path: &str) -> String {
    run("grub-fstest", &[disk.file.to_str().expect("path"), "cat", &format!("(loop0,gpt3){path}")])
}

/// A mounted partition; unmounted on drop.
struct Look<'a> {
    disk: &'a Loop,
    number: &'static str,
    path: PathBuf,
}

impl<'a> Look<'a> {
    fn at(disk: &'a Loop, number: &'static str, kind: &str, options: &str) -> Self {
        let path = disk.directory.path().join("look");
        fs::create_dir_all(&path).expect("mkdir");
        run("partx", &["-a", "--nr", number, &disk.node]);
        let node = format!("{}p{number}", disk.node);
        run("mount", &["-t", kind, "-o", options, &node, path.to_str().expect("path")]);
        Self { disk, number, path }
    }

    fn holds(&self, path: &str) -> bool {
        self.path.join(path).exists()
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        run("umount", &[self.path.to_str().expect("path")]);
        run("partx", &["-d", "--nr", self.number, &self.disk.node]);
    }
}

#[test]
fn a_root_of_subvolumes_starts_and_each_holds_its_part() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    let plain = archive(disk.directory.path());
    let subvolume = |name: &str, mount: &str| Subvolume {
        name: name.into(),
        mount: mount.into(),
        options: vec!["nodev".into()],
    };
    let btrfs = Partition {
        file_system: Some(FileSystem::Btrfs),
        options: vec!["compress=zstd".into()],
        subvolumes: vec![subvolume("@", "/"), subvolume("@log", "/var/log")],
        ..partition(Role::Root, 128, 1)
    };
    let ordered = ordered(&plain, [front(), vec![btrfs]].concat());
    let disks = [disk.disk.clone()];
    install(&ordered, &disks, &Served(plain), &disk.paths(), &Watch::default()).expect("installs");
    assert!(disk.is_tidy());
    let contents = measured(&disks)[0].holds.clone().expect("read");
    let found = contents.0.iter().find(|area| area.kind == "btrfs").expect("a btrfs");
    assert_eq!(found.id, ordered.task.uuids.root, "known as the node's own by a rebuild");

    let config = read_by_grub(&disk, "/boot/grub/grub.cfg");
    let arguments = format!("'root=UUID={}' 'rootflags=subvol=@' 'ro' ", ordered.task.uuids.root);
    assert!(config.contains("linux '/boot/vmlinuz-6.1'") && config.contains(&arguments), "{config}");
    assert_eq!(read_by_grub(&disk, "/boot/initrd.img-6.1"), "initrd");

    let top = Look::at(&disk, "3", "btrfs", "ro,subvolid=5");
    assert_eq!(fs::read_link(top.path.join("boot")).expect("a link"), PathBuf::from("@/boot"));
    drop(top);
    let system = Look::at(&disk, "3", "btrfs", "ro,subvol=@");
    assert!(system.holds("var/lib/state") && system.holds("var/log") && !system.holds("var/log/first"));
    let fstab = fs::read_to_string(system.path.join("etc/fstab")).expect("fstab");
    assert!(fstab.contains(" /var/log btrfs subvol=@log,compress=zstd,nodev,"), "{fstab}");
    drop(system);
    assert!(Look::at(&disk, "3", "btrfs", "ro,subvol=@log").holds("first"));
}

#[test]
fn grub_reads_every_file_system_that_a_root_may_have() {
    if !root() {
        return;
    }
    for (kind, mib) in [(FileSystem::Ext4, 64), (FileSystem::Xfs, 300), (FileSystem::Btrfs, 128)] {
        let disk = Loop::new(512);
        let plain = archive(disk.directory.path());
        let system = Partition { file_system: Some(kind), ..partition(Role::Root, mib, 1) };
        let ordered = ordered(&plain, [front(), vec![system]].concat());
        install(&ordered, std::slice::from_ref(&disk.disk), &Served(plain), &disk.paths(), &Watch::default())
            .unwrap_or_else(|stop| panic!("{kind:?}: {stop:?}"));
        let config = read_by_grub(&disk, "/boot/grub/grub.cfg");
        assert!(config.contains("menuentry"), "{kind:?}: {config}");
        assert_eq!(read_by_grub(&disk, "/boot/initrd.img-6.1"), "initrd", "{kind:?}");
        let fstab = read_by_grub(&disk, "/etc/fstab");
        assert!(fstab.contains(&format!(" / {} ", kind.name())), "{fstab}");
    }
}
