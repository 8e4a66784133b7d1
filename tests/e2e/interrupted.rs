//! Server or machine die in the middle of the image phase, and the job still ends well.

use crate::common::{DEPLOY_LIMIT, ensure_deployed, in_the_image_phase, machine, order};
use anyhow::{Result, ensure};
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::story::story;

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
