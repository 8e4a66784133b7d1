//! A rebuild without a start over the network: the installed system asks, and starts the agent itself.

use crate::common::{DISK_MIB, IMAGE, NODE, Ordered, ensure_deployed, ensure_installed, order_from};
use crate::local::NETWORK_ASKED;
use crate::rescue::rescue;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::api::Job;
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::time::Duration;

/// Debian needs two minutes from its boot loader to its report under emulation, more under load; a system
/// asks every 20 s.
const LIMIT: Duration = secs(900);

/// Deploys the first profile of `config`, whose system shall ask; the machine is off afterwards.
fn deployed<'a>(
    lab: &'a Lab,
    firmware: Firmware,
    artefacts: &Artefacts,
    mut config: ServerConfig,
    disk_mib: u64,
) -> Result<Ordered<'a>> {
    config.profiles[0].more = "recall = true\n".to_owned();
    let profile = config.profiles[0].name.clone();
    let file = lab.dir().join("disk.raw");
    disk::blank(&file, disk_mib)?;
    let guest = GuestConfig::new("guest", firmware, 1).disk(&file, "KT-DISK-1");
    let mut ordered = order_from(lab, guest, artefacts, config, &profile)?;
    ordered.server.wait_deployed(&ordered.job, LIMIT)?;
    ordered.guest.power_off();
    Ok(ordered)
}

/// Starts the machine from its disk, with no network in its boot order, and orders a rebuild that calls its
/// system back; the job when it has ended.
fn called_back(ordered: &mut Ordered<'_>, profile: &str, restart: &str) -> Result<Job> {
    ordered.guest.ask_no_network()?;
    let mark = ordered.guest.console().mark();
    ordered.guest.power_on()?;
    let order = ["rebuild", NODE, "--profile", profile, "--via", "kexec", "--restart", restart];
    let output = ordered.server.ks(&[&order[..], &["--confirm", NODE, "-o", "name"]].concat(), LIMIT)?;
    ensure!(output.status.success(), "{output:?}");
    ordered.job = String::from_utf8(output.stdout)?.trim().to_owned();
    let job = ordered.server.wait_ended(&ordered.job, LIMIT)?;
    let asked = NETWORK_ASKED.iter().find(|words| ordered.guest.console().find(words, mark).is_some());
    ensure!(asked.is_none(), "the network was asked: {asked:?}");
    Ok(job)
}

/// Deploys, and rebuilds without the network in the boot order.
fn rebuilds(
    name: &str,
    firmware: Firmware,
    config: impl Fn(&Artefacts) -> ServerConfig,
    disk_mib: u64,
    restart: &str,
) -> Result<()> {
    story(name, |lab| {
        let artefacts = Artefacts::from_env()?;
        let config = config(&artefacts);
        let profile = config.profiles[0].name.clone();
        let mut ordered = deployed(lab, firmware.clone(), &artefacts, config, disk_mib)?;
        let first = ordered.server.node(NODE)?.report.context("no report")?.root_uuid;
        let job = called_back(&mut ordered, &profile, restart)?.succeeded()?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        for phase in ["power", "firmware", "dhcp"] {
            let state = job.phase_named(phase).map(|phase| phase.state.as_str());
            ensure!(state == Some("skipped"), "phase {phase} is {state:?}");
        }
        let phase = |name| job.phase_named(name).with_context(|| format!("no phase {name}"));
        let begun = phase("loader")?.started_at.context("nothing was loaded")?;
        let took = phase("inventory")?.started_at.context("no agent")?.saturating_sub(begun) as f64 / 1e3;
        eprintln!("{name}: the agent ran {took:.1} s after the system's question");
        let second = ordered.server.node(NODE)?.report.context("no report")?.root_uuid;
        ensure!(first != second, "the same system is there");
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn bios_with_no_network_in_its_boot_order() -> Result<()> {
    let config = |artefacts: &Artefacts| ServerConfig::new(artefacts, "cloud", &[IMAGE]);
    rebuilds("recall-bios", Firmware::Bios, config, DISK_MIB, "firmware")
}

#[test]
fn uefi_there_and_back_without_firmware() -> Result<()> {
    let config = |artefacts: &Artefacts| ServerConfig::new(artefacts, "cloud", &[IMAGE]);
    rebuilds("recall-uefi", Firmware::Uefi, config, DISK_MIB, "kexec")
}

#[test]
fn debian_goes_down_in_order() -> Result<()> {
    let config = |artefacts: &Artefacts| ServerConfig::new(artefacts, "generic", &["debian-12"]);
    rebuilds("recall-debian", Firmware::Bios, config, 8 << 10, "kexec")
}

#[test]
fn p15_with_secure_boot_on_signed_kernels_follow_each_other() -> Result<()> {
    let config = |artefacts: &Artefacts| ServerConfig {
        uefi_loader: "signed",
        ..ServerConfig::new(artefacts, "cloud", &[IMAGE])
    };
    rebuilds("recall-secure", Firmware::UefiSecure, config, DISK_MIB, "kexec")
}

#[test]
fn a_kernel_that_loads_no_other_keeps_its_system_and_the_job_says_why() -> Result<()> {
    story("recall-refused", |lab| {
        let artefacts = Artefacts::from_env()?;
        let config = ServerConfig::new(&artefacts, "cloud", &[IMAGE]);
        let mut ordered = deployed(lab, Firmware::Bios, &artefacts, config, DISK_MIB)?;
        let root = disk::FileSystem::mount(&ordered.disk, 3)?;
        let grub = root.read("/boot/grub/grub.cfg")?;
        let forbidden = grub.replace(" 'ro' ", " 'ro' 'sysctl.kernel.kexec_load_disabled=1' ");
        ensure!(forbidden != grub, "no kernel arguments in {grub}");
        root.write("/boot/grub/grub.cfg", &forbidden)?;
        drop(root);
        let job = called_back(&mut ordered, IMAGE, "firmware")?;
        job.failed_with("KS-4008")?;
        let detail = &job.findings[0].detail;
        ensure!(detail.contains("kexec_load_disabled"), "it says {detail}");
        // Nor does it go down for a person, which changes nothing of what the node is.
        let before = ordered.server.node(NODE)?.state;
        let (rescue, _) = rescue(&ordered.server, &["--via", "kexec", "--confirm", NODE])?;
        ordered.server.wait_ended(&rescue, LIMIT)?.failed_with("KS-4008")?;
        let state = ordered.server.node(NODE)?.state;
        ensure!(state == before, "the node was {before} and is {state}");
        ordered.guest.ensure_running()?;
        ordered.guest.power_off();
        ensure_installed(&ordered.disk)
    })
}
