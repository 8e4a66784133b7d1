//! Server or machine die in the middle of the image phase, and the job still ends well.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, Ordered, ensure_deployed, machine, order};
use anyhow::{Result, ensure};
use kaltstart_tests::api::Job;
use kaltstart_tests::disk;
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::lab::Lab;
use kaltstart_tests::story::story;

/// Makes the 17 MB of the small image take about half a minute.
const SLOW_MBIT: u32 = 5;

/// Waits until part of the image, and not all of it, has arrived.
fn in_the_image_phase(lab: &Lab, ordered: &Ordered<'_>) -> Result<Job> {
    // Not earlier: boot loader, kernel and ramdisk shall travel at full speed.
    let (server, job) = (&ordered.server, &ordered.job);
    server.wait_job(job, "the start of the kernel", AGENT_LIMIT, |job| job.reached("kernel"))?;
    lab.throttle(ordered.guest.tap(), SLOW_MBIT)?;
    let job = server.wait_job(job, "the middle of the image phase", AGENT_LIMIT, |job| {
        let image = job.phase_named("image").filter(|phase| phase.state == "running");
        image.and_then(|phase| phase.progress.as_ref()).is_some_and(|progress| progress.done > 0)
    })?;
    disk::ensure_not_bootable(&ordered.disk)?;
    Ok(job)
}

/// The server comes back with new keys and a new authority: agent and installed system, which know
/// the old one, go on.
#[test]
fn server_killed() -> Result<()> {
    story("interrupted-server", |lab| {
        let mut ordered = order(lab, machine(lab, Firmware::Bios)?.0)?;
        in_the_image_phase(lab, &ordered)?;
        ordered.server.kill();
        let before = ordered.server.authority()?;
        ordered.server.new_authority()?;
        ordered.server.restart()?;
        ensure!(ordered.server.authority()? != before, "the authority is the same");
        lab.unthrottle(ordered.guest.tap())?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1, "the machine was started {} times", job.attempt);
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn guest_reset() -> Result<()> {
    story("interrupted-guest", |lab| {
        let mut ordered = order(lab, machine(lab, Firmware::Bios)?.0)?;
        in_the_image_phase(lab, &ordered)?;
        ordered.guest.reset()?;
        lab.unthrottle(ordered.guest.tap())?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 2, "expected a second attempt, got {}", job.attempt);
        ensure_deployed(&mut ordered, &job)
    })
}
