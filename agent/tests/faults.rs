//! Disks that refuse to be written, at every stage of an installation. The refusals are the
//! kernel's own: each disk is a file in a file system that has no room left, or becomes read-only.

mod common;

use common::{DISK_BYTES, Loop, Ordered, Served, Watch, archive, archived, entry, install, order, root};
use kaltstart_agent::install::{Observer, Paths, Stop};
use kaltstart_protocol::agent_api::ReportState;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::image::Compression;
use kaltstart_protocol::phase::{Phase, Progress};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use tempfile::TempDir;

/// Room for what an installation writes; the disk itself is sparse.
const ROOM: &str = "size=400m";
const MIB: usize = 1 << 20;

/// A file system in memory, unmounted on drop.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(ROOM)).expect("tmpfs");
        Self(directory)
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Takes all that is left.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).expect("open");
        for size in [MIB, 4096] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Gives it back.
    fn empty(&self) {
        if self.filler().exists() {
            fs::remove_file(self.filler()).expect("removed");
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).expect("unmounted");
    }
}

/// A disk in a room; fields are dropped in this order.
struct Cramped {
    disk: Loop,
    room: Room,
}

impl Cramped {
    fn new() -> Self {
        let room = Room::new();
        Self { disk: Loop::within(room.0.path(), 512), room }
    }

    /// Frees both ends of the disk, which are empty, and takes all room: they cannot be written any more.
    fn refuse_ends(&self) {
        let file = File::options().write(true).open(&self.disk.file).expect("open");
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for offset in [0, DISK_BYTES as i64 - MIB as i64] {
            fallocate(&file, flags, offset, MIB as i64).expect("a hole");
        }
        self.room.fill();
    }
}

/// Does something when it is first asked within a phase whether to go on.
struct Interrupt<'a> {
    watch: Watch<'a>,
    phase: Phase,
    act: &'a (dyn Fn() + Sync),
    is_done: Mutex<bool>,
}

impl Observer for Interrupt<'_> {
    fn phase(
        &self,
        phase: Phase,
        state: ReportState,
        progress: Option<Progress>,
        detail: BTreeMap<String, String>,
    ) {
        self.watch.phase(phase, state, progress, detail);
    }

    fn cancelled(&self) -> Option<String> {
        let now = self.watch.seen.lock().expect("lock").last().cloned();
        let mut is_done = self.is_done.lock().expect("lock");
        if now == Some((self.phase, ReportState::Running)) && !*is_done {
            *is_done = true;
            (self.act)();
        }
        None
    }
}

/// Installs what must fail; its finding, which names the disk. Nothing starts from it, unless its very first
/// sector could not be cleared, and nothing is left.
fn failing(disk: &Loop, ordered: &Ordered, served: &[u8], paths: &Paths, observer: &dyn Observer) -> Finding {
    let first = || fs::read(&disk.file).expect("read")[..512].to_vec();
    let before = first();
    let result =
        install(ordered, std::slice::from_ref(&disk.disk), &Served(served.to_vec()), paths, observer);
    let Err(Stop::Failed(finding)) = result else { panic!("not a failure: {result:?}") };
    assert!(finding.detail.contains("serial S1"), "{finding}");
    let expected = if finding.detail.contains("zeros at byte 0:") { before } else { vec![0; 512] };
    assert!(first() == expected && disk.is_tidy(), "{finding}");
    finding
}

fn image(directory: &Path) -> (Vec<u8>, Ordered) {
    let plain = archive(directory);
    let ordered = order(&plain, plain.len() as u64, Compression::None);
    (plain, ordered)
}

/// A directory with `mke2fs` that takes all room before it starts.
fn greedy_tools(room: &Room) -> TempDir {
    let directory = tempfile::tempdir().expect("directory");
    let program = directory.path().join("mke2fs");
    let filler = room.filler();
    let text = format!(
        "#!/bin/sh\ndd if=/dev/zero of={} bs=64k status=none 2>/dev/null\nexec /sbin/mke2fs \"$@\"\n",
        filler.display()
    );
    fs::write(&program, text).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    directory
}

/// Where a disk begins to refuse.
struct Stage<'a> {
    phase: Phase,
    act: &'a (dyn Fn() + Sync),
    /// Not when the phase begins, but right before its last step.
    is_late: bool,
    paths: &'a Paths,
    /// What the finding says, one of these.
    named: &'a [&'a str],
}

#[test]
fn p12_a_disk_that_refuses_at_any_stage_fails_the_job_by_name_and_works_again_afterwards() {
    if !root() {
        return;
    }
    let base = tempfile::tempdir().expect("directory");
    let (plain, ordered) = image(base.path());
    let cramped = Cramped::new();
    let (disk, room) = (&cramped.disk, &cramped.room);
    let paths = disk.paths();
    let fill = || room.fill();
    // A full file takes zeros: it need not store them.
    let lock = || {
        let locked = Command::new("blockdev").arg("--setro").arg(&disk.node).status();
        assert!(locked.expect("blockdev runs").success());
    };
    let refuse_ends = || cramped.refuse_ends();
    let tools = greedy_tools(room);
    let greedy = Paths { tools: tools.path().into(), ..paths.clone() };
    let nothing = || {};
    let stages = [
        Stage { phase: Phase::Disk, act: &lock, is_late: false, paths: &paths, named: &["clearing"] },
        Stage {
            phase: Phase::Disk,
            act: &nothing,
            is_late: false,
            paths: &greedy,
            named: &["mke2fs", "mount"],
        },
        Stage { phase: Phase::Image, act: &fill, is_late: false, paths: &paths, named: &["writing the i"] },
        Stage { phase: Phase::Configure, act: &refuse_ends, is_late: true, paths: &paths, named: &["table"] },
    ];
    for Stage { phase, act, is_late, paths, named } in stages {
        let look = |now: Phase, state: &ReportState| {
            if !is_late && now == phase && *state == ReportState::Running && !room.filler().exists() {
                act();
            }
        };
        let watch = Watch { look: Some(&look), ..Watch::default() };
        let late = if is_late { act } else { &nothing };
        let observer = Interrupt { watch, phase, act: late, is_done: Mutex::default() };
        let finding = failing(disk, &ordered, &plain, paths, &observer);
        println!("{finding}");
        assert!([Code::DiskFailed, Code::ToolFailed].contains(&finding.code), "{finding}");
        assert!(named.iter().any(|words| finding.detail.contains(words)), "{finding}");
        room.empty();
    }
    let again =
        install(&ordered, std::slice::from_ref(&disk.disk), &Served(plain), &paths, &Watch::default());
    assert_eq!(again.expect("there is room").disk, "S1");
}

#[test]
fn a_file_system_without_room_for_the_image_says_so() {
    if !root() {
        return;
    }
    let disk = Loop::new(512);
    // More files than the file system has inodes.
    let files: Vec<Vec<u8>> = (0..70_000).map(|n| entry(&format!("f{n}"), b'0', "", b"")).collect();
    let plain = archived(&files);
    let ordered = order(&plain, plain.len() as u64, Compression::None);
    let finding = failing(&disk, &ordered, &plain, &disk.paths(), &Watch::default());
    assert_eq!(finding.code, Code::DiskTooSmall, "{finding}");
    assert!(finding.detail.contains("writing f"), "{finding}");
}
