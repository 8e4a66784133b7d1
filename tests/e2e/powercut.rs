//! The power fails while a system is laid down over another one: the disk starts nothing or a complete
//! system, and the job goes on at the next start.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, IMAGE, NODE, Ordered, UP, ensure_deployed, machine, order};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::lab::Lab;
use kaltstart_tests::process::{run, tethered};
use kaltstart_tests::recording::{self, Recording, Step};
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What SeaBIOS says when the disk's first sector starts nothing.
const NOTHING_STARTS: &str = "not a bootable disk";

/// Starts of one job at which the power fails; a job has one more.
const CUTS_OF_A_JOB: u32 = 4;
/// Says that only every so manyth step is tried.
const EVERY: &str = "KALTSTART_POWERCUT_EVERY";

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(tethered("cp").arg("--sparse=always").arg(from).arg(to), secs(60)).map(drop)
}

/// A machine that is laid down anew and anew, and its recorded disk.
struct Recorded<'a> {
    lab: &'a Lab,
    ordered: Ordered<'a>,
    log: PathBuf,
    /// The disk as it was before the latest start.
    before: PathBuf,
    /// Starts of the present job so far.
    starts: u32,
}

impl<'a> Recorded<'a> {
    /// A machine with a system of its own that is to be laid down anew.
    fn new(lab: &'a Lab) -> Result<Self> {
        let ordered = order(lab, machine(lab, Firmware::Bios)?.0)?;
        let (log, before) = (lab.dir().join("writes"), lab.dir().join("before.raw"));
        let mut machine = Self { lab, ordered, log, before, starts: 1 };
        machine.end_job()?;
        machine.rebuild()?;
        Ok(machine)
    }

    fn rebuild(&mut self) -> Result<()> {
        self.starts = 0;
        self.ordered.job = self.ordered.server.order(NODE, "rebuild", IMAGE)?.id;
        Ok(())
    }

    fn power_on(&mut self, recording: Option<PathBuf>) -> Result<()> {
        self.starts += 1;
        self.ordered.guest.open(|machine| machine.disks[0].recording = recording);
        self.ordered.power_on()
    }

    /// Waits until the job has succeeded, and switches the machine off.
    fn end_job(&mut self) -> Result<()> {
        let job = self.ordered.server.wait_deployed(&self.ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == self.starts, "started {} times, the job says {}", self.starts, job.attempt);
        ensure_deployed(&mut self.ordered, &job)
    }

    /// Lays the system down, out of reach of the server from the moment on when the whole image is there,
    /// until everything is on the disk; that took so many steps.
    fn lay_down(&mut self) -> Result<(Recording, usize)> {
        copy(&self.ordered.disk, &self.before)?;
        recording::prepare(&self.log, self.ordered.disk.metadata()?.len())?;
        self.power_on(Some(self.log.clone()))?;
        let Self { lab, ordered, log, starts, .. } = self;
        ordered.server.wait_job(&ordered.job, "the image phase to end", DEPLOY_LIMIT, |job| {
            let image = job.phase_named("image");
            job.attempt == *starts && image.is_some_and(|phase| phase.state == "done")
        })?;
        lab.set_forwarding(ordered.guest.tap(), false)?;
        let end = wait_for("the whole installation", AGENT_LIMIT, || {
            let recording = Recording::read(log)?;
            let seen = format!("{} steps", recording.steps().len());
            Ok(recording.installation().map_or_else(|| Poll::pending(seen), Poll::Ready))
        })?;
        ordered.guest.power_off();
        lab.set_forwarding(ordered.guest.tap(), true)?;
        Ok((Recording::read(log)?, end))
    }

    /// What the firmware finds on the disk, without the network.
    fn disk_starts(&mut self) -> Result<bool> {
        let guest = &mut self.ordered.guest;
        guest.open(|machine| machine.disks[0].recording = None);
        guest.set_bios_asks_network(false);
        let mark = guest.console().mark();
        guest.power_on()?;
        let said = guest.console().wait_any(&[NOTHING_STARTS, UP], mark, AGENT_LIMIT)?;
        guest.power_off();
        guest.set_bios_asks_network(true);
        Ok(said.contains(UP))
    }

    /// Lays the system down, proves that every cut is safe, makes that one, and lets the firmware try what is
    /// left: the system that was there, nothing, or the whole new one. Tells how many steps there were.
    fn cut(&mut self, at: impl Fn(usize) -> usize) -> Result<usize> {
        let (recording, end) = self.lay_down()?;
        let writes = recording.steps()[..end].iter().filter(|step| **step != Step::Flush).count();
        recording.prove(&self.before, end).with_context(|| format!("of {end} steps"))?;
        let at = at(end).min(end);
        let disk = &self.ordered.disk;
        copy(&self.before, disk)?;
        recording.cut(at, coin(at as u64), disk)?;
        let mut first = [0; recording::SECTOR as usize];
        File::open(disk)?.read_exact(&mut first)?;
        let starts = self.disk_starts()?;
        println!(
            "{writes} writes, {} flushes: every cut is safe; after step {at} the disk starts: {starts}",
            end - writes
        );
        ensure!(starts == first.iter().any(|byte| *byte != 0), "after step {at} the disk starts: {starts}");
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
        let mut machine = Recorded::new(lab)?;
        // The old boot sector is gone and its table is not; the image flows; all is there but the first sector.
        machine.cut(|_| 3)?;
        machine.cut(|end| end / 2)?;
        machine.cut(|end| end - 2)?;
        machine.power_on(None)?;
        machine.end_job()
    })
}

/// Takes half an hour and more: `cargo xtask powercut`.
#[test]
#[ignore = "run by cargo xtask powercut"]
fn p12_the_power_is_cut_after_every_step() -> Result<()> {
    let every: usize = std::env::var(EVERY).ok().map_or(Ok(1), |every| every.parse())?;
    story("powercut-all", |lab| {
        let mut machine = Recorded::new(lab)?;
        let (mut at, mut end) = (0, usize::MAX);
        while at <= end {
            end = machine.cut(|_| at)?;
            at += every;
            if machine.starts == CUTS_OF_A_JOB || at > end {
                machine.power_on(None)?;
                machine.end_job()?;
                machine.rebuild()?;
            }
        }
        Ok(())
    })
}
