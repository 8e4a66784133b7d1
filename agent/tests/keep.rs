//! Partitions that keep their data: not a byte of them is written, whatever happens, or nothing at all is. They need
//! root.

mod common;

use common::{
    DISK_BYTES, Loop, NOW, Ordered, Served, Watch, archive, gate, granted_but, measured, order, root, run,
};
use kaltstart_agent::install::{self, Stop};
use kaltstart_protocol::agent_api::{InstallTask, Installed, ReportState};
use kaltstart_protocol::contents::Area;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::Compression;
use kaltstart_protocol::keep::{self, Kept};
use kaltstart_protocol::layout::plan::{Plan, plan};
use kaltstart_protocol::layout::{FileSystem, Partition, Role};
use kaltstart_protocol::phase::Phase;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Where the system mounts what is kept.
const MOUNT: &str = "/srv/data";

/// Where the partition lies among the others.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    /// At the end, before the backup table.
    Last,
    /// In the midst, an XFS.
    Midst,
    /// At the start, behind the table; the machine has UEFI.
    First,
}

impl Case {
    const fn sector(self) -> u32 {
        match self {
            Self::Last | Self::Midst => 512,
            Self::First => 4096,
        }
    }
}

/// A disk with a system and a data partition, and an order that lays it down anew.
struct Machine {
    disk: Loop,
    ordered: Ordered,
    plain: Vec<u8>,
    efivars: Option<PathBuf>,
}

fn partition(label: &str, role: Role, min_mib: u64, weight: u32) -> Partition {
    Partition { label: label.into(), role, min_mib, weight, ..Partition::default() }
}

impl Machine {
    /// Installed, with files in the data partition.
    fn new(case: Case) -> Self {
        let disk = Loop::new(case.sector());
        let plain = archive(disk.directory.path());
        let mut ordered = order(&plain, plain.len() as u64, Compression::None);
        let data = Partition { mount: Some(MOUNT.into()), ..partition("data", Role::Data, 40, 1) };
        let bios = partition("bios", Role::BiosBoot, 1, 0);
        ordered.task.layout.partitions = match case {
            Case::Last => {
                vec![bios, partition("esp", Role::Esp, 261, 0), partition("root", Role::Root, 100, 0), data]
            }
            Case::Midst => {
                let data = Partition { min_mib: 300, weight: 0, file_system: Some(FileSystem::Xfs), ..data };
                vec![bios, data, partition("root", Role::Root, 64, 1)]
            }
            Case::First => {
                let esp = partition("esp", Role::Esp, 261, 0);
                vec![Partition { weight: 0, ..data }, esp, partition("root", Role::Root, 64, 1)]
            }
        };
        let efivars = (case == Case::First).then(|| disk.directory.path().join("efivars"));
        efivars.iter().for_each(|path| fs::create_dir(path).expect("made"));
        let mut machine = Self { disk, ordered, plain, efivars };
        machine.of_installation(1);
        machine.install(&[], &Watch::default()).expect("installs");
        let file = machine.within("data", |mount| {
            fs::write(mount.join("precious"), "data").expect("written");
            fs::set_permissions(mount, std::os::unix::fs::PermissionsExt::from_mode(0o751)).expect("set");
        });
        file.expect("mounted");
        // Its last block, which is nobody's yet, would be cleared first of all.
        let (start, length) = machine.place();
        let file = File::options().write(true).open(&machine.disk.node).expect("open");
        file.write_all_at(b"the end", start + length - 4096).expect("written");
        file.sync_all().expect("synced");
        machine.of_installation(2);
        machine
    }

    /// The order has the UUIDs of another installation.
    fn of_installation(&mut self, n: u8) {
        let uuid = |at: usize| format!("0f1e2d3c-4b5a-4978-8796-a5b4c3d2{n:02x}{at:02x}");
        let count = self.ordered.task.layout.partitions.len();
        let uuids = &mut self.ordered.task.uuids;
        (uuids.disk, uuids.root) = (uuid(0), uuid(1));
        uuids.partitions = (10..10 + count).map(uuid).collect();
        uuids.further = (20..20 + count).map(uuid).collect();
        uuids.esp = 0x1234_0000 | u32::from(n);
    }

    fn now(&self) -> Disk {
        measured(std::slice::from_ref(&self.disk.disk)).remove(0)
    }

    fn plan(&self) -> Plan {
        plan(&self.ordered.task.layout, DISK_BYTES, self.disk.disk.sector_size.into()).expect("plan")
    }

    /// What the server would keep.
    fn found(&self) -> Result<Vec<Kept>, Finding> {
        keep::find(&self.ordered.task.layout, &self.plan(), ["data"], &self.now())
    }

    fn task(&self, kept: &[Kept]) -> InstallTask {
        granted_but(&self.ordered.signed(), &[self.now()], kept)
    }

    fn install(&self, kept: &[Kept], watch: &Watch<'_>) -> Result<Installed, Stop> {
        self.carry_out(&self.task(kept), watch, &self.plain)
    }

    fn carry_out(&self, task: &InstallTask, watch: &Watch<'_>, served: &[u8]) -> Result<Installed, Stop> {
        let paths = install::Paths { efivars: self.efivars.clone(), ..self.disk.paths() };
        install::install(&gate(), task, &[self.now()], NOW, &Served(served.to_vec()), &paths, watch)
    }

    /// Where the data partition lies: first byte and bytes.
    fn place(&self) -> (u64, u64) {
        let plan = self.plan();
        let planned = plan.partitions.iter().find(|planned| planned.label == "data").expect("planned");
        plan.place(planned)
    }

    /// Every byte of the data partition.
    fn data(&self) -> Digest {
        let (start, length) = self.place();
        let mut bytes = vec![0; length as usize];
        run("sync", &[&self.disk.node]);
        File::open(&self.disk.file).expect("open").read_exact_at(&mut bytes, start).expect("read");
        Digest::of(&bytes)
    }

    fn all(&self) -> Digest {
        Digest::of(&fs::read(&self.disk.file).expect("read"))
    }

    fn starts_nothing(&self) -> bool {
        let mut first = vec![0; self.disk.disk.sector_size as usize];
        File::open(&self.disk.file).expect("open").read_exact_at(&mut first, 0).expect("read");
        first.iter().all(|byte| *byte == 0)
    }

    /// Looks into the file system of a partition.
    fn within<T>(&self, label: &str, look: impl FnOnce(&std::path::Path) -> T) -> std::io::Result<T> {
        let plan = self.plan();
        let planned = plan.partitions.iter().find(|planned| planned.label == label).expect("planned");
        let number = planned.number.to_string();
        let mount = self.disk.directory.path().join("look");
        fs::create_dir_all(&mount)?;
        run("partx", &["-a", "--nr", &number, &self.disk.node]);
        let node = format!("{}p{number}", self.disk.node);
        run("mount", &[&node, mount.to_str().expect("path")]);
        let seen = look(&mount);
        run("umount", &[mount.to_str().expect("path")]);
        run("partx", &["-d", "--nr", &number, &self.disk.node]);
        Ok(seen)
    }
}

#[test]
fn p05_what_is_kept_stays_byte_for_byte_and_all_else_is_new() {
    if !root() {
        return;
    }
    for case in [Case::Last, Case::Midst, Case::First] {
        let machine = Machine::new(case);
        let before = machine.data();
        let kept = machine.found().expect("it is as the layout has it");
        let look = |phase, state: &ReportState| {
            let inside = (phase, state) != (Phase::Disk, &ReportState::Running)
                && (phase, state) != (Phase::Configure, &ReportState::Done);
            assert!(!inside || machine.starts_nothing(), "{case:?} {phase:?} {state:?}");
            assert_eq!(machine.found(), Ok(kept.clone()), "{case:?} {phase:?} {state:?}");
        };
        let watch = Watch { look: Some(&look), ..Watch::default() };
        let installed = machine.install(&kept, &watch).expect("installs");
        assert_eq!(machine.data(), before, "{case:?}");
        assert!(machine.disk.is_tidy());
        assert_eq!(machine.found().as_ref(), Ok(&kept));
        let verify = run("sgdisk", &["-v", &machine.disk.node]);
        assert!(verify.contains("No problems found"), "{verify}");

        // Of the installation before there is nothing but what is kept, and of this one everything.
        let uuids = machine.ordered.task.uuids.keeping(&kept);
        let contents = machine.now().holds.expect("read");
        let esp = format!("{:04X}-{:04X}", uuids.esp >> 16, uuids.esp & 0xffff);
        let known = |area: &Area| {
            [&uuids.disk, &uuids.root, &esp].contains(&&area.id)
                || uuids.partitions.contains(&area.id)
                || uuids.further.contains(&area.id)
        };
        assert!(contents.0.iter().all(known), "{case:?} {contents}");
        assert!(kept.iter().flat_map(Kept::areas).all(|area| contents.0.contains(area)), "{contents}");
        let (fstab, id, there) = machine
            .within("root", |root| {
                let read = |path: &str| fs::read_to_string(root.join(path)).expect(path);
                let empty = |path: &str| fs::read_dir(root.join(path)).expect(path).next().is_none();
                (read("etc/fstab"), read("etc/machine-id"), empty("srv/data"))
            })
            .expect("mounted");
        assert_eq!((id.trim(), there), (installed.machine_id.as_str(), true));
        assert!(fstab.contains(&format!("UUID={} {MOUNT} ", kept[0].file_system.id)), "{fstab}");
        let (precious, mode) = machine
            .within("data", |data| {
                let mode = std::os::unix::fs::PermissionsExt::mode(
                    &fs::metadata(data).expect("metadata").permissions(),
                );
                (fs::read_to_string(data.join("precious")).expect("it is there"), mode & 0o777)
            })
            .expect("mounted");
        assert_eq!((precious.as_str(), mode), ("data", 0o751), "{case:?}");
    }
}

#[test]
fn p12_a_job_that_is_broken_off_keeps_what_it_keeps_and_goes_on() {
    if !root() {
        return;
    }
    for case in [Case::Last, Case::First] {
        let machine = Machine::new(case);
        let before = machine.data();
        let kept = machine.found().expect("it is as the layout has it");
        let check = |what: &str| {
            assert!(machine.disk.is_tidy() && machine.starts_nothing(), "{case:?} {what}");
            assert_eq!((machine.found(), machine.data()), (Ok(kept.clone()), before), "{case:?} {what}");
        };
        for phase in [Phase::Image, Phase::Configure] {
            let watch = Watch { cancel_in: Some(phase), ..Watch::default() };
            let stopped = machine.install(&machine.found().expect("found again"), &watch);
            assert_eq!(stopped, Err(Stop::Cancelled("by hand".into())));
            check("cancelled");
        }
        let half = machine.carry_out(&machine.task(&kept), &Watch::default(), &machine.plain[..9000]);
        assert!(
            matches!(&half, Err(Stop::Failed(finding)) if finding.code == Code::ImageTruncated),
            "{half:?}"
        );
        check("half an image");
        // What stands in the table meanwhile is what a partition program sees.
        let listed = run("sgdisk", &["-p", &machine.disk.node]);
        assert!(listed.contains("data") && !listed.contains("root"), "{listed}");
        machine.install(&machine.found().expect("found again"), &Watch::default()).expect("installs");
        assert_eq!((machine.found(), machine.data()), (Ok(kept.clone()), before));
    }
}

#[test]
fn p05_what_is_not_as_the_layout_has_it_is_refused_and_the_disk_is_untouched() {
    if !root() {
        return;
    }
    let machine = Machine::new(Case::Last);
    let kept = machine.found().expect("it is as the layout has it");
    let refused = |task: &InstallTask, named: &str| {
        let before = machine.all();
        let result = machine.carry_out(task, &Watch::default(), &machine.plain);
        assert_eq!(machine.all(), before, "{named}: the disk was written");
        let Err(Stop::Failed(finding)) = result else { panic!("{named}: not refused: {result:?}") };
        assert!(finding.detail.contains(named), "{named}: {finding}");
        finding.code
    };
    let good = machine.task(&kept);
    let with = |change: &dyn Fn(&mut InstallTask)| {
        let mut task = good.clone();
        change(&mut task);
        task
    };
    // A grant is signed, and the agent believes its own eyes all the same.
    let moved = with(&|task| task.layout.partitions[2].min_mib += 1);
    assert_eq!(refused(&moved, "the layout has it as partition 4"), Code::CannotKeep);
    let renamed = with(&|task| task.layout.partitions[3].label = "date".into());
    assert_eq!(refused(&renamed, "no partition \"data\""), Code::CannotKeep);
    let other = with(&|task| task.layout.partitions[3].file_system = Some(FileSystem::Btrfs));
    assert_eq!(refused(&other, "min_mib"), Code::DiskFailed);
    let told = with(&|task| task.uuids.further[3] = task.uuids.root.clone());
    assert_eq!(refused(&told, "another partition than the task"), Code::GrantRefused);
    let lie =
        Kept { file_system: Area { label: "lie".into(), ..kept[0].file_system.clone() }, ..kept[0].clone() };
    assert_eq!(refused(&machine.task(&[lie]), "it is for"), Code::GrantRefused);
    let lie = Kept { number: 3, ..kept[0].clone() };
    assert_eq!(refused(&machine.task(&[lie]), "another partition than the task"), Code::GrantRefused);
    // An order to keep it does not become one to lose it.
    let both = Kept { label: "root".into(), ..kept[0].clone() };
    assert_eq!(refused(&machine.task(&[both]), "the system starts from it"), Code::CannotKeep);

    // The same from the disk's side.
    let changed = |program: &str, args: &[&str], named: &str| {
        run(program, args);
        run("sync", &[&machine.disk.node]);
        let finding = machine.found().expect_err(named);
        assert!(finding.code == Code::CannotKeep && finding.detail.contains(named), "{named}: {finding}");
        assert_eq!(refused(&good, "it is for"), Code::GrantRefused, "{named}: another disk than granted");
    };
    let node = machine.disk.node.as_str();
    changed("sgdisk", &["-c", "4:date", node], "named date");
    run("sgdisk", &["-c", "4:data", node]);
    assert_eq!(machine.found(), Ok(kept.clone()), "as before");
    let offset = format!("offset={}", machine.place().0);
    let ext2 = ["-q", "-F", "-t", "ext2", "-E", &offset, node, "40M"];
    changed("mke2fs", &ext2, "there is ext2");
    changed("sgdisk", &["-d", "4", node], "there is partition 1");
    changed("sgdisk", &["-Z", node], "there is no partition");
}
