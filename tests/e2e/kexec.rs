//! From the agent to the installed system without firmware, and back to it where that is refused.

use crate::common::{DISK_MIB, IMAGE, NODE, Ordered, ensure_deployed, machine, order_from};
use crate::local::{LOADER, NETWORK_ASKED};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::api::Job;
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::console::Mark;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::time::Duration;

/// Debian needs two minutes from its boot loader to its report under emulation, more under load.
const LIMIT: Duration = secs(900);

/// The agent's words when the disk is complete.
const INSTALLED: &str = "==== installed";

/// Orders a deploy whose profile says further `lines`, on a server that gives the agent further kernel
/// `arguments`.
fn deploy<'a>(lab: &'a Lab, firmware: Firmware, lines: &str, arguments: &str) -> Result<Ordered<'a>> {
    let artefacts = Artefacts::from_env()?;
    let mut config = ServerConfig::new(&artefacts, "cloud", &[IMAGE]);
    config.profiles[0].more = lines.to_owned();
    config.cmdline = format!("{} {arguments}", config.cmdline);
    order_from(lab, machine(lab, firmware)?.0, &artefacts, config, IMAGE)
}

/// Waits until the job of `ordered` has deployed the machine, and checks that the system came up by `how`
/// after the console's `mark`. Seconds from the complete disk to the system's report.
fn came_up(ordered: &Ordered<'_>, mark: Mark, how: &str) -> Result<(Job, f64)> {
    let console = ordered.guest.console();
    console.wait(INSTALLED, mark, LIMIT)?;
    let mark = console.mark();
    let job = ordered.server.wait_deployed(&ordered.job, LIMIT)?;
    ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
    let seen = LOADER.iter().chain(&NETWORK_ASKED).find(|words| console.find(words, mark).is_some());
    ensure!(seen.is_some() == (how == "firmware"), "it came up by {how}, and the console shows {seen:?}");
    let phase = |name| job.phase_named(name).with_context(|| format!("no phase {name}"));
    let (restart, verify) = (phase("restart")?, phase("verify")?);
    ensure!(restart.detail["by"] == how, "the server was told {:?}", restart.detail);
    let begun = restart.started_at.context("the restart did not begin")?;
    let took = verify.started_at.context("nothing was verified")?.saturating_sub(begun);
    Ok((job, took as f64 / 1e3))
}

#[test]
fn bios_as_the_profile_says() -> Result<()> {
    story("kexec-bios", |lab| {
        let mut ordered = deploy(lab, Firmware::Bios, "restart = \"kexec\"\n", "")?;
        let (job, took) = came_up(&ordered, Mark::default(), "kexec")?;
        eprintln!("kexec-bios: first report {took:.1} s after the disk was complete");
        ensure_deployed(&mut ordered, &job)
    })
}

/// Deploys `image` through the firmware, and rebuilds it by kexec.
fn both_ways(name: &str, config: impl Fn(&Artefacts) -> ServerConfig, disk_mib: u64) -> Result<()> {
    story(name, |lab| {
        let artefacts = Artefacts::from_env()?;
        let config = config(&artefacts);
        let image = config.profiles[0].name.clone();
        let file = lab.dir().join("disk.raw");
        disk::blank(&file, disk_mib)?;
        let guest = GuestConfig::new("guest", Firmware::Uefi, 1).disk(&file, "KT-DISK-1");
        let mut ordered = order_from(lab, guest, &artefacts, config, &image)?;
        let (_, firmware) = came_up(&ordered, Mark::default(), "firmware")?;
        ordered.guest.power_off();
        let order =
            ["rebuild", NODE, "--profile", &image, "--restart", "kexec", "--confirm", NODE, "-o", "name"];
        let output = ordered.server.ks(&order, LIMIT)?;
        ensure!(output.status.success(), "{output:?}");
        ordered.job = String::from_utf8(output.stdout)?.trim().to_owned();
        let mark = ordered.guest.console().mark();
        ordered.power_on()?;
        let (_, kexec) = came_up(&ordered, mark, "kexec")?;
        eprintln!(
            "{name}: first report {kexec:.1} s after the disk was complete, through the firmware {firmware:.1} s"
        );
        // A start by the firmware is not left aside for the disk: it asks the network, and is sent on.
        ordered.guest.power_off();
        let mark = ordered.guest.console().mark();
        ordered.guest.power_on()?;
        ordered.guest.console().wait_any(&NETWORK_ASKED, mark, LIMIT)?;
        ordered.guest.console().wait_any(&LOADER, mark, LIMIT)?;
        let job = ordered.server.job(&ordered.job)?;
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn uefi_as_a_rebuild_says_against_a_deploy_through_the_firmware() -> Result<()> {
    both_ways("kexec-uefi", |artefacts| ServerConfig::new(artefacts, "cloud", &[IMAGE]), DISK_MIB)
}

#[test]
fn debian_as_a_rebuild_says_against_a_deploy_through_the_firmware() -> Result<()> {
    both_ways("kexec-debian", |artefacts| ServerConfig::new(artefacts, "generic", &["debian-12"]), 8 << 10)
}

#[test]
fn a_kernel_that_loads_no_other_restarts_through_the_firmware_and_says_so() -> Result<()> {
    story("kexec-refused", |lab| {
        let forbidden = "sysctl.kernel.kexec_load_disabled=1";
        let mut ordered = deploy(lab, Firmware::Bios, "restart = \"kexec\"\n", forbidden)?;
        let (job, _) = came_up(&ordered, Mark::default(), "firmware")?;
        let log = ordered.server.get(&format!("/v1/jobs/{}/log", ordered.job))?.text();
        let words = "no kexec, the machine restarts through its firmware: kernel.kexec_load_disabled forbids";
        ensure!(log.contains(words), "the job's log does not say why: {log}");
        ensure_deployed(&mut ordered, &job)
    })
}
