//! The power fails while a system is laid down over another one: the disk starts nothing or a complete
//! system, and the job goes on at the next start.

use crate::common::{
    AGENT_LIMIT, DEPLOY_LIMIT, DISK_MIB, IMAGE, NODE, Ordered, UP, blank_disks, config, ensure_installed,
    ensure_reported, machine, order, order_only,
};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::nbd::Recorder;
use kaltstart_tests::process::{run, tethered};
use kaltstart_tests::recording::{Deed, Recording, is_empty};
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A kind of machine whose power fails.
struct Kind {
    firmware: Firmware,
    bus: Bus,
    /// Bytes of a sector of its disk.
    sector: u32,
    /// What its firmware says when the disk starts nothing.
    nothing_starts: &'static str,
}

const BIOS: Kind =
    Kind { firmware: Firmware::Bios, bus: Bus::Virtio, sector: 512, nothing_starts: "not a bootable disk" };
/// OVMF's last resort, when no entry of its boot order has started anything, is its shell.
const UEFI: Kind =
    Kind { firmware: Firmware::Uefi, bus: Bus::Nvme, sector: 4096, nothing_starts: "UEFI Interactive Shell" };

/// A small system on each of two disks.
const MIRROR: &str = r#"
[[layout]]
name = "pair"
array = { level = "raid1", disks = 2 }
partitions = [
    { label = "bios", role = "bios_boot", min_mib = 1 },
    { label = "esp", role = "esp", min_mib = 260 },
    { label = "root", role = "root", min_mib = 512 },
]
"#;

/// Starts of one job at which the power fails; a job has one more.
const CUTS_OF_A_JOB: u32 = 4;
/// Installations among which all cuts are divided: no two record quite the same.
const INSTALLATIONS: usize = 8;
/// Says that only every so manyth step is tried.
const EVERY: &str = "KALTSTART_POWERCUT_EVERY";

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(tethered("cp").arg("--sparse=always").arg(from).arg(to), secs(60)).map(drop)
}

/// Serves a machine's disks by `recorder`, or from their files.
fn record(machine: &mut GuestConfig, recorder: Option<&Recorder>) {
    for (index, disk) in machine.disks.iter_mut().enumerate() {
        disk.recording = recorder.map(|recorder| recorder.socket(index).to_owned());
    }
}

/// Waits until an installation is on all disks; that took so many steps.
fn installed(recorder: &Recorder) -> Result<usize> {
    wait_for("the whole installation", AGENT_LIMIT, || {
        let recording = recorder.recording()?;
        let seen = format!("{} steps", recording.steps().len());
        Ok(recording.installation().map_or_else(|| Poll::pending(seen), Poll::Ready))
    })
}

/// Proves that every cut of an installation is safe; how many of its steps are writes.
fn prove(recording: &Recording, before: &[&Path], end: usize) -> Result<usize> {
    recording.prove(before, end).with_context(|| format!("of {end} steps"))?;
    Ok(recording.steps()[..end].iter().filter(|step| step.deed != Deed::Flush).count())
}

/// A machine that is laid down anew and anew, and its recorded disk.
struct Recorded<'a> {
    lab: &'a Lab,
    kind: &'a Kind,
    ordered: Ordered<'a>,
    /// The disk as it was before the latest start.
    before: PathBuf,
    /// Starts of the present job so far.
    starts: u32,
}

impl<'a> Recorded<'a> {
    /// A machine with a system of its own that is to be laid down anew.
    fn new(lab: &'a Lab, kind: &'a Kind) -> Result<Self> {
        let (mut guest, _) = machine(lab, kind.firmware.clone())?;
        (guest.disks[0].bus, guest.disks[0].sector) = (kind.bus, kind.sector);
        let ordered = order(lab, guest)?;
        let before = lab.dir().join("before.raw");
        let mut machine = Self { lab, kind, ordered, before, starts: 1 };
        machine.end_job()?;
        machine.rebuild()?;
        Ok(machine)
    }

    fn rebuild(&mut self) -> Result<()> {
        self.starts = 0;
        self.ordered.job = self.ordered.server.order(NODE, "rebuild", IMAGE)?.id;
        Ok(())
    }

    fn power_on(&mut self, recorder: Option<&Recorder>) -> Result<()> {
        self.starts += 1;
        self.ordered.guest.open(|machine| record(machine, recorder));
        self.ordered.power_on()
    }

    /// Waits until the job has succeeded, and switches the machine off.
    fn end_job(&mut self) -> Result<()> {
        let job = self.ordered.server.wait_deployed(&self.ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == self.starts, "started {} times, the job says {}", self.starts, job.attempt);
        ensure_reported(&self.ordered, &job)?;
        self.ordered.guest.power_off();
        let disk = &self.ordered.disk;
        if self.kind.sector == 512 {
            ensure_installed(disk)
        } else {
            disk::partitions_of_4096(disk).map(drop)
        }
    }

    /// Lays the system down, out of reach of the server from the moment on when the whole image is there,
    /// until everything is on the disk; that took so many steps.
    fn lay_down(&mut self) -> Result<(Recording, usize)> {
        copy(&self.ordered.disk, &self.before)?;
        let recorder = Recorder::new(self.lab.dir(), &[(&self.ordered.disk, self.kind.sector)])?;
        self.power_on(Some(&recorder))?;
        let Self { lab, ordered, starts, .. } = self;
        ordered.server.wait_job(&ordered.job, "the image phase to end", DEPLOY_LIMIT, |job| {
            let image = job.phase_named("image");
            job.attempt == *starts && image.is_some_and(|phase| phase.state == "done")
        })?;
        lab.set_forwarding(ordered.guest.tap(), false)?;
        let end = installed(&recorder)?;
        ordered.guest.power_off();
        lab.set_forwarding(ordered.guest.tap(), true)?;
        Ok((recorder.recording()?, end))
    }

    /// What the firmware finds on the disk, without the network. UEFI's variables are as the agent left them.
    fn disk_starts(&mut self) -> Result<bool> {
        let guest = &mut self.ordered.guest;
        guest.open(|machine| record(machine, None));
        guest.set_bios_asks_network(false);
        let mark = guest.console().mark();
        guest.power_on()?;
        // UEFI asks the network first; without a cable it goes on at once.
        guest.set_link(false)?;
        let said = guest.console().wait_any(&[self.kind.nothing_starts, UP], mark, AGENT_LIMIT)?;
        guest.power_off();
        guest.set_bios_asks_network(true);
        Ok(said.contains(UP))
    }

    /// Lays the system down, proves that every cut is safe, makes those that `which` chooses of so many steps, and lets
    /// the firmware try what is left each time: the system that was there, nothing, or the whole new one. The last of
    /// them is what the next start finds. Tells how many steps there were.
    fn cut(&mut self, which: impl Fn(usize) -> Vec<usize>) -> Result<usize> {
        let (recording, end) = self.lay_down()?;
        let writes = prove(&recording, &[&self.before], end)?;
        let (cuts, mut started) = (which(end), Vec::new());
        for &at in &cuts {
            let disk = &self.ordered.disk;
            copy(&self.before, disk)?;
            recording.cut(at, coin(at as u64), &[disk])?;
            let mut first = vec![0; self.kind.sector as usize];
            File::open(disk)?.read_exact(&mut first)?;
            let starts = self.disk_starts()?;
            ensure!(starts != is_empty(&first), "after step {at} of {end} the disk starts: {starts}");
            started.extend(starts.then_some(at));
        }
        println!(
            "{writes} writes, {} flushes: every cut is safe; of those after steps {cuts:?} the disk starts after \
             {started:?}",
            end - writes
        );
        Ok(end)
    }
}

/// Half of what was not flushed survives, by a small generator (splitmix64).
fn coin(mut state: u64) -> impl FnMut() -> bool {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) & (1 << 40) != 0
    }
}

#[test]
fn p12_a_power_cut_leaves_a_disk_that_does_not_start_or_a_complete_one() -> Result<()> {
    story("powercut", |lab| {
        let mut machine = Recorded::new(lab, &BIOS)?;
        // The old boot sector is gone and its table is not; the image flows; all is there but the first sector.
        machine.cut(|_| vec![3])?;
        machine.cut(|end| vec![end / 2])?;
        machine.cut(|end| vec![end - 2])?;
        machine.power_on(None)?;
        machine.end_job()
    })
}

#[test]
fn p12_the_same_holds_for_uefi_and_sectors_of_4096_bytes() -> Result<()> {
    story("powercut-uefi", |lab| {
        let mut machine = Recorded::new(lab, &UEFI)?;
        machine.cut(|end| vec![end / 2])?;
        machine.power_on(None)?;
        machine.end_job()
    })
}

/// The small system does not start from an array: the job is taken back when its disks are complete.
#[test]
fn p12_of_two_disks_none_has_a_part_of_a_system_while_the_other_starts() -> Result<()> {
    story("powercut-mirror", |lab| {
        let (artefacts, mut config) = config()?;
        config.sections = MIRROR.to_owned();
        config.profiles[0].layout = "pair";
        let files = blank_disks(lab, 2, DISK_MIB)?;
        let before = [lab.dir().join("before1.raw"), lab.dir().join("before2.raw")];
        let disks = files.iter().zip(["KT-ONE", "KT-TWO"]);
        let machine = disks.fold(GuestConfig::new("guest", Firmware::Bios, 1), |machine, (file, serial)| {
            machine.disk(file, serial)
        });
        let mut ordered = order_only(lab, machine, &artefacts, config, IMAGE)?;
        for over in ["nothing", "the system of before"] {
            files.iter().zip(&before).try_for_each(|(file, before)| copy(file, before))?;
            let recorded: Vec<_> = files.iter().map(|file| (file.as_path(), 512)).collect();
            let recorder = Recorder::new(lab.dir(), &recorded)?;
            ordered.guest.open(|machine| record(machine, Some(&recorder)));
            ordered.power_on()?;
            let end = installed(&recorder)?;
            ordered
                .server
                .wait_job(&ordered.job, "the restart", AGENT_LIMIT, |job| job.reached("restart"))?;
            ordered.guest.power_off();
            let writes = prove(&recorder.recording()?, &[&before[0], &before[1]], end)?;
            println!("over {over}: {writes} writes, {} flushes, and every cut is safe", end - writes);
            files.iter().try_for_each(|file| disk::partitions(file).map(drop))?;
            let cancelled = ordered.server.ks(&["job", "cancel", &ordered.job], secs(30))?;
            ensure!(cancelled.status.success(), "{cancelled:?}");
            ordered.job = ordered.server.deploy(NODE, IMAGE)?.id;
        }
        Ok(())
    })
}

/// Cuts the power after every step, or after every so manyth one: of each installation after some of them, of which
/// the next installation goes on from another one each time.
fn every_step(name: &str, kind: &Kind) -> Result<()> {
    let every: usize = std::env::var(EVERY).ok().map_or(Ok(1), |every| every.parse())?;
    story(name, |lab| {
        let mut machine = Recorded::new(lab, kind)?;
        for round in 0..INSTALLATIONS {
            let end = machine.cut(|end| {
                let mut cuts: Vec<_> = (round * every..=end).step_by(INSTALLATIONS * every).collect();
                let begun = cuts.len() * round / INSTALLATIONS;
                cuts.rotate_left(begun);
                cuts
            })?;
            let all = (round + 1) * every > end;
            if machine.starts == CUTS_OF_A_JOB || all {
                machine.power_on(None)?;
                machine.end_job()?;
                machine.rebuild()?;
            }
            if all {
                break;
            }
        }
        Ok(())
    })
}

/// Takes ten minutes and more: `cargo xtask powercut`.
#[test]
#[ignore = "run by cargo xtask powercut"]
fn p12_the_power_is_cut_after_every_step_on_a_bios() -> Result<()> {
    every_step("powercut-all", &BIOS)
}

/// Takes half an hour and more.
#[test]
#[ignore = "run by cargo xtask powercut"]
fn p12_the_power_is_cut_after_every_step_on_uefi_with_sectors_of_4096_bytes() -> Result<()> {
    every_step("powercut-all-uefi", &UEFI)
}
