//! Erasing loop devices.

mod common;

use common::{DISK_BYTES, Loop, NOW, Watch, gate, grant, measured, root};
use kaltstart_agent::disk::device::Device;
use kaltstart_agent::erase::choice;
use kaltstart_agent::erase::erase;
use kaltstart_agent::install::Stop;
use kaltstart_protocol::agent_api::{DiskGrant, EraseTask, Erased, ReportState};
use kaltstart_protocol::erasure::{EraseMethod, Reach};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::DiskIdentity;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where data lie that no signature tells of.
const SECRET_AT: u64 = DISK_BYTES / 3;

/// A disk of that serial number with data in its middle.
fn disk(sector_size: u32, serial: &str) -> Loop {
    let mut disk = Loop::new(sector_size);
    disk.disk.serial = serial.into();
    let file = File::options().write(true).open(&disk.file).expect("open");
    file.write_all_at(&[0x5e; 100_000], SECRET_AT).expect("write");
    disk
}

/// The task to erase `disks` as they are.
fn task(disks: &[Disk]) -> EraseTask {
    let job = JobId::new(Millis(1), 1);
    let granted = |disk: &Disk| DiskGrant { disk: DiskIdentity::of(disk), grant: grant(&job, 1, disk) };
    EraseTask { disks: disks.iter().map(granted).collect(), job, attempt: 1 }
}

fn run(task: &EraseTask, disks: &[Disk], paths: &Loop, watch: &Watch<'_>) -> Result<Erased, Stop> {
    erase(&gate(), task, disks, NOW, &paths.paths(), &choice::methods, watch)
}

fn is_empty(disk: &Loop) -> bool {
    let mut bytes = Vec::new();
    File::open(&disk.file).expect("open").read_to_end(&mut bytes).expect("read");
    bytes.len() as u64 == DISK_BYTES && bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn p10_every_byte_of_every_disk_is_gone() {
    if !root() {
        return;
    }
    let (first, second) = (disk(512, "S1"), disk(4096, "S2"));
    let disks = measured(&[first.disk.clone(), second.disk.clone()]);
    assert!(!is_empty(&first) && !is_empty(&second));
    let watch = Watch::default();
    let erased = run(&task(&disks), &disks, &first, &watch).expect("erased");
    let told: Vec<_> = erased.disks.iter().map(|one| (one.disk.serial.as_str(), one.method)).collect();
    assert_eq!(told, [("S1", EraseMethod::Overwrite), ("S2", EraseMethod::Overwrite)]);
    assert!(erased.disks.iter().all(|one| one.samples >= 64), "{erased:?}");
    assert!(is_empty(&first) && is_empty(&second));
    let all = Progress { done: 2 * DISK_BYTES, total: 2 * DISK_BYTES, unit: Unit::Bytes };
    assert_eq!(watch.at_end.into_inner().expect("lock"), [(Phase::Disk, all)]);
}

#[test]
fn p10_what_a_disk_cannot_do_is_told_and_the_next_method_is_taken() {
    use EraseMethod::{FormatCrypto, FormatErase, Overwrite, SanitizeBlock, SanitizeCrypto};
    use EraseMethod::{SecureErase, SecureEraseEnhanced};
    if !root() {
        return;
    }
    let first = disk(512, "S1");
    let disks = measured(std::slice::from_ref(&first.disk));
    let watch = Watch::default();
    // A loop device knows none of them.
    let own = [SanitizeBlock, SanitizeCrypto, FormatErase, FormatCrypto, SecureEraseEnhanced, SecureErase];
    let with = |methods: Vec<EraseMethod>| {
        let methods = |_: &Disk, _: &Device| (methods.clone(), Vec::new());
        erase(&gate(), &task(&disks), &disks, NOW, &first.paths(), &methods, &watch)
    };
    let Err(Stop::Failed(finding)) = with(own.to_vec()) else { panic!("erased by nothing") };
    assert_eq!(finding.code, Code::NotErased);
    let named = own.iter().all(|method| finding.detail.contains(&method.to_string()));
    assert!(named && finding.detail.contains("serial S1"), "{finding}");
    assert!(first.is_blank() && !is_empty(&first), "its ends are cleared, and no more");
    let disks = measured(std::slice::from_ref(&first.disk));
    let methods = |_: &Disk, _: &Device| ([&own[..], &[Overwrite]].concat(), Vec::new());
    let erased = erase(&gate(), &task(&disks), &disks, NOW, &first.paths(), &methods, &watch);
    let [erasure] = &erased.expect("erased").disks[..] else { panic!("one disk") };
    assert_eq!((erasure.method, erasure.reach, erasure.changed), (Overwrite, Reach::Sectors, 0));
    let tried: Vec<EraseMethod> = erasure.instead_of.iter().map(|unused| unused.method).collect();
    assert_eq!(tried, own);
    assert!(erasure.instead_of.iter().all(|unused| !unused.why.is_empty()));
    assert!(is_empty(&first));
}

#[test]
fn p10_what_the_grants_do_not_say_is_refused_before_the_first_write() {
    if !root() {
        return;
    }
    let (first, second) = (disk(512, "S1"), disk(512, "S2"));
    let disks = measured(&[first.disk.clone(), second.disk.clone()]);
    let refused = |task: &EraseTask, disks: &[Disk], named: &str| {
        let watch = Watch::default();
        let result = run(task, disks, &first, &watch);
        let Err(Stop::Failed(finding)) = result else { panic!("not refused: {result:?}") };
        assert_eq!(finding.code, Code::GrantRefused, "{finding}");
        assert!(finding.detail.contains(named), "{named:?} is not in {finding}");
        assert!(!first.is_blank() && !second.is_blank(), "{finding}");
        let last = watch.seen.into_inner().expect("lock").pop();
        assert_eq!(last, Some((Phase::Disk, ReportState::Failed { finding })));
    };
    refused(&task(&disks[..1]), &disks, "there is none for it");
    refused(&task(&disks), &disks[..1], "serial S2 is not there");
    let mut swapped = task(&disks);
    swapped.disks[1].grant = swapped.disks[0].grant.clone();
    refused(&swapped, &disks, "serial number");
    let before = task(&disks);
    let file = File::options().write(true).open(&second.file).expect("open");
    file.write_all_at(b"XFSB", 150 << 20).expect("write");
    file.write_all_at(b"LABELONE", 512).expect("write");
    refused(&before, &measured(&disks), "what is on");
}

#[test]
fn p10_a_disk_that_is_not_there_to_be_written_is_no_success() {
    if !root() {
        return;
    }
    let first = disk(512, "S1");
    let mut disks = measured(std::slice::from_ref(&first.disk));
    disks[0].size += 512;
    let result = run(&task(&disks), &disks, &first, &Watch::default());
    let failed = |code: &Code| *code == Code::DiskFailed;
    assert!(matches!(&result, Err(Stop::Failed(Finding { code, .. })) if failed(code)), "{result:?}");
    assert!(!first.is_blank(), "nothing was written");
}

#[test]
fn a_cancelled_erasure_leaves_a_disk_that_does_not_start() {
    if !root() {
        return;
    }
    let first = disk(512, "S1");
    let disks = measured(std::slice::from_ref(&first.disk));
    // Cancelled once the first piece is told.
    let told = AtomicUsize::new(0);
    let count = |_, _: &ReportState| {
        told.fetch_add(1, Ordering::Relaxed);
    };
    let watch = Watch { look: Some(&count), cancel_in: Some(Phase::Disk), ..Watch::default() };
    assert_eq!(run(&task(&disks), &disks, &first, &watch), Err(Stop::Cancelled("by hand".into())));
    assert!(first.is_blank() && !is_empty(&first));
    assert_eq!(told.into_inner(), 1, "stopped at once");
}
