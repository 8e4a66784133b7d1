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
use std::path::{Path, PathBuf};

/// What SeaBIOS says when the disk's first sector starts nothing.
const NOTHING_STARTS: &str = "not a bootable disk";

/// Where the power fails.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// After that share of the steps, in thousandths, and so many steps later.
    At(usize, usize),
    /// So many steps before the last, the flush of the first sector.
    BeforeEnd(usize),
}

impl Cut {
    fn of(self, steps: usize) -> usize {
        match self {
            Self::At(share, further) => (steps * share / 1_000 + further).min(steps),
            Self::BeforeEnd(count) => steps.saturating_sub(count),
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(tethered("cp").arg("--sparse=always").arg(from).arg(to), secs(60)).map(drop)
}

/// A machine whose disk is recorded.
struct Recorded<'a> {
    lab: &'a Lab,
    ordered: Ordered<'a>,
    log: PathBuf,
    /// The disk as it was before the latest start.
    before: PathBuf,
}

impl<'a> Recorded<'a> {
    /// A machine with a system of its own that is to be laid down anew.
    fn rebuild(lab: &'a Lab) -> Result<Self> {
        let mut ordered = order(lab, machine(lab, Firmware::Bios)?.0)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ordered.guest.power_off();
        ordered.job = ordered.server.order(NODE, "rebuild", IMAGE)?.id;
        let (log, before) = (lab.dir().join("writes"), lab.dir().join("before.raw"));
        Ok(Self { lab, ordered, log, before })
    }

    /// Lays the system down at that start of the job, out of reach of the server from the moment on when the
    /// whole image is there, until everything is on the disk.
    fn lay_down(&mut self, attempt: u32) -> Result<(Recording, usize)> {
        let Self { lab, ordered, log, before } = self;
        copy(&ordered.disk, before)?;
        recording::prepare(log, ordered.disk.metadata()?.len())?;
        ordered.guest.open(|machine| machine.disks[0].recording = Some(log.clone()));
        ordered.power_on()?;
        ordered.server.wait_job(&ordered.job, "the image phase to end", DEPLOY_LIMIT, |job| {
            let image = job.phase_named("image");
            job.attempt == attempt && image.is_some_and(|phase| phase.state == "done")
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
    fn starts(&mut self) -> Result<bool> {
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
}

/// Half of what was not flushed survives, by a small generator (splitmix64).
fn coin(mut state: u64) -> impl FnMut() -> bool {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) & (1 << 40) != 0
    }
}

/// Cuts the power in one job after the other start, lets the firmware try the disk, and lets the last start
/// end the job.
fn cut(lab: &Lab, cuts: &[Cut]) -> Result<()> {
    let mut machine = Recorded::rebuild(lab)?;
    for (attempt, cut) in (1..).zip(cuts) {
        let (recording, end) = machine.lay_down(attempt)?;
        let writes = recording.steps()[..end].iter().filter(|step| **step != Step::Flush).count();
        recording.prove(&machine.before, end).with_context(|| format!("of {end} steps"))?;
        let at = cut.of(end);
        println!("{writes} writes, {} flushes: every cut is safe; cut after step {at}", end - writes);
        copy(&machine.before, &machine.ordered.disk)?;
        recording.cut(at, coin(attempt.into()), &machine.ordered.disk)?;
        let starts = machine.starts()?;
        ensure!(starts == (at == end), "after step {at} of {end} the disk starts: {starts}");
    }
    let mut ordered = machine.ordered;
    ordered.power_on()?;
    let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
    ensure!(job.attempt as usize == cuts.len() + 1, "the machine was started {} times", job.attempt);
    ensure_deployed(&mut ordered, &job)
}

#[test]
fn p12_a_power_cut_leaves_a_disk_that_does_not_start_or_a_complete_one() -> Result<()> {
    // The old boot sector is gone and its table is not; the image flows; all is there but the first sector.
    story("powercut", |lab| cut(lab, &[Cut::At(0, 3), Cut::At(500, 0), Cut::BeforeEnd(2)]))
}
