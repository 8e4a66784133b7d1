//! What most stories start with: a server that expects one machine, and that machine.

use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::api::Job;
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::server::Server;
use kaltstart_tests::ssh;
use kaltstart_tests::wait::secs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The machine's name.
pub(crate) const NODE: &str = "e2e-1";
/// The machine's reserved address.
pub(crate) const ADDRESS: &str = "10.77.0.50";
/// The small system of `images/e2e`.
pub(crate) const IMAGE: &str = "e2e";
/// What the small system prints when it is up.
pub(crate) const UP: &str = "KALTSTART-E2E-UP";
/// Enough for the layout `single` (1.5 GiB); sparse.
pub(crate) const DISK_MIB: u64 = 2048;
/// From power-on to deployed takes 40 to 60 s on a quiet machine.
pub(crate) const DEPLOY_LIMIT: Duration = secs(360);
/// From power-on to the image phase takes 20 to 30 s on a quiet machine.
pub(crate) const AGENT_LIMIT: Duration = secs(240);

/// Makes the 17 MB of the small image take about half a minute.
const SLOW_MBIT: u32 = 5;

/// A server, and a machine that has a job.
pub(crate) struct Ordered<'a> {
    /// The machine; dropped before the server, as its last words belong into the journal.
    pub(crate) guest: Guest<'a>,
    /// The server.
    pub(crate) server: Server<'a>,
    /// The job's id.
    pub(crate) job: String,
    /// The machine's first disk.
    pub(crate) disk: PathBuf,
}

/// The server's usual configuration: the small image, one expected machine.
pub(crate) fn config() -> Result<(Artefacts, ServerConfig)> {
    let artefacts = Artefacts::from_env()?;
    let config = ServerConfig::new(&artefacts, "cloud", &[IMAGE]);
    Ok((artefacts, config))
}

/// A machine with a blank disk in the lab's directory.
pub(crate) fn machine(lab: &Lab, firmware: Firmware) -> Result<(GuestConfig, PathBuf)> {
    let file = lab.dir().join("disk.raw");
    disk::blank(&file, DISK_MIB)?;
    Ok((GuestConfig::new("guest", firmware, 1).disk(&file, "KT-DISK-1"), file))
}

/// Starts the usual server, orders a deploy for `guest` and powers it on.
pub(crate) fn order<'a>(lab: &'a Lab, guest: GuestConfig) -> Result<Ordered<'a>> {
    let (artefacts, config) = config()?;
    order_from(lab, guest, &artefacts, config, IMAGE)
}

/// The same with a server of the caller's.
pub(crate) fn order_from<'a>(
    lab: &'a Lab,
    guest: GuestConfig,
    artefacts: &Artefacts,
    config: ServerConfig,
    profile: &str,
) -> Result<Ordered<'a>> {
    let mut ordered = order_only(lab, guest, artefacts, config, profile)?;
    ordered.power_on()?;
    Ok(ordered)
}

/// The same, with the machine still off.
pub(crate) fn order_only<'a>(
    lab: &'a Lab,
    guest: GuestConfig,
    artefacts: &Artefacts,
    config: ServerConfig,
    profile: &str,
) -> Result<Ordered<'a>> {
    let disk = guest.disks.first().map(|disk| disk.file.clone()).unwrap_or_default();
    let config = config.node(NODE, &guest.mac, Some(ADDRESS));
    let server = Server::start(lab, artefacts, &config)?;
    let job = server.deploy(NODE, profile)?.id;
    Ok(Ordered { guest: Guest::new(lab, guest)?, server, job, disk })
}

impl Ordered<'_> {
    /// Powers the machine on and says so to the server.
    pub(crate) fn power_on(&mut self) -> Result<()> {
        self.guest.power_on()?;
        self.server.power_observed(NODE)
    }
}

/// Checks what an operator sees of a deployed machine, then powers it off and looks at its disk.
pub(crate) fn ensure_deployed(ordered: &mut Ordered<'_>, job: &Job) -> Result<()> {
    ensure_reported(ordered, job)?;
    ordered.guest.power_off();
    ensure_installed(&ordered.disk)
}

/// Checks what an operator sees of a deployed machine.
pub(crate) fn ensure_reported(ordered: &Ordered<'_>, job: &Job) -> Result<()> {
    let open: Vec<&str> = job
        .phases
        .iter()
        .filter(|phase| !matches!(phase.state.as_str(), "done" | "skipped"))
        .map(|phase| phase.name.as_str())
        .collect();
    ensure!(job.phases.len() == 13 && open.is_empty(), "phases not done: {open:?} of {}", job.phases.len());
    let node = ordered.server.node(NODE)?;
    ensure!(node.state == "deployed", "the node is {}, not deployed", node.state);
    let report = node.report.context("the deployed node has no report")?;
    ensure!(report.hostname == NODE, "it reports the host name {:?}", report.hostname);
    ensure!(!report.kernel.is_empty() && report.root_device.starts_with("/dev/"), "it reports {report:?}");
    Ok(())
}

/// Checks partition table and identity on a disk of a machine that is off.
pub(crate) fn ensure_installed(file: &Path) -> Result<()> {
    let table = disk::partitions(file)?;
    let numbers = table.lines().filter(|line| line.trim_start().starts_with(['1', '2', '3'])).count();
    ensure!(numbers == 3, "expected three partitions:\n{table}");
    ensure_identity(&disk::FileSystem::mount(file, 3)?)
}

/// Checks the identity in a root file system.
pub(crate) fn ensure_identity(root: &disk::FileSystem) -> Result<()> {
    let hostname = root.read("/etc/hostname")?;
    ensure!(hostname.trim() == NODE, "the disk's host name is {hostname:?}");
    let machine_id = root.read("/etc/machine-id")?;
    ensure!(machine_id.trim().len() == 32, "the disk's machine id is {machine_id:?}");
    Ok(())
}

/// Waits until part of the image, and not all of it, has arrived; the disk is empty at both ends.
pub(crate) fn in_the_image_phase(lab: &Lab, ordered: &Ordered<'_>) -> Result<Job> {
    let job = half_of_the_image(lab, ordered)?;
    disk::ensure_not_bootable(&ordered.disk)?;
    Ok(job)
}

/// Waits until part of the image, and not all of it, has arrived.
pub(crate) fn half_of_the_image(lab: &Lab, ordered: &Ordered<'_>) -> Result<Job> {
    // Not earlier: boot loader, kernel and ramdisk shall travel at full speed.
    let (server, job) = (&ordered.server, &ordered.job);
    server.wait_job(job, "the start of the kernel", AGENT_LIMIT, |job| job.reached("kernel"))?;
    lab.throttle(ordered.guest.tap(), SLOW_MBIT)?;
    server.wait_job(job, "the middle of the image phase", AGENT_LIMIT, |job| {
        let image = job.phase_named("image").filter(|phase| phase.state == "running");
        image.and_then(|phase| phase.progress.as_ref()).is_some_and(|progress| progress.done > 0)
    })
}

/// Blank disks in the lab's directory.
pub(crate) fn blank_disks(lab: &Lab, count: usize, mib: u64) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = (1..=count).map(|number| lab.dir().join(format!("disk{number}.raw"))).collect();
    files.iter().try_for_each(|file| disk::blank(file, mib))?;
    Ok(files)
}

/// What the deployed machine answers to a line of shell.
pub(crate) fn ask(lab: &Lab, ordered: &Ordered<'_>, question: &str) -> Result<String> {
    let report = ordered.server.node(NODE)?.report.context("no report")?;
    ssh::ask(lab, ADDRESS, &report.ssh_host_keys, question)
}

/// Checks that `told` has all of these words.
pub(crate) fn ensure_told(told: &str, all: &[&str]) -> Result<()> {
    let missing: Vec<&&str> = all.iter().filter(|word| !told.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} not in: {told}");
    Ok(())
}
