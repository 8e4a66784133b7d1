//! Secure Boot stays on: the signed chain starts the agent, and whatever is changed in it is refused.

use crate::common::{DEPLOY_LIMIT, IMAGE, NODE, Ordered, UP, ensure_deployed, machine, order_from};
use crate::local::adds_little;
use crate::why::named;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// From power-on to a refusal takes 10 to 25 s on a quiet machine.
const REFUSAL_LIMIT: Duration = secs(180);

fn config(artefacts: &Artefacts) -> ServerConfig {
    ServerConfig { uefi_loader: "signed", ..ServerConfig::new(artefacts, "cloud", &[IMAGE]) }
}

#[test]
fn p15_the_signed_chain_deploys_and_the_installed_system_starts() -> Result<()> {
    story("secure-deploy", |lab| {
        let artefacts = Artefacts::from_env()?;
        let guest = machine(lab, Firmware::UefiSecure)?.0;
        let mut ordered = order_from(lab, guest, &artefacts, config(&artefacts), IMAGE)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        // The kernel's words, of the agent's start and of the installed system's: it is locked
        // down because the firmware says that Secure Boot is on.
        ordered.guest.wait_serial(UP, DEPLOY_LIMIT)?;
        let facts = ordered.server.node(NODE)?.facts;
        ensure!(facts["secure_boot"] == true, "the agent saw no Secure Boot: {facts}");
        eprintln!("secure-deploy: {:.1} CPU seconds", ordered.guest.cpu_seconds()?);
        ensure_deployed(&mut ordered, &job)?;
        adds_little("secure-deploy", &mut ordered)?;
        starts_its_disk_when_the_job_is_withdrawn(&mut ordered)
    })
}

/// A rebuild is withdrawn while GRUB starts on the machine: what GRUB is told then starts the
/// machine's own disk.
fn starts_its_disk_when_the_job_is_withdrawn(ordered: &mut Ordered<'_>) -> Result<()> {
    let Ordered { guest, server, .. } = ordered;
    let job = server.order(NODE, "rebuild", IMAGE)?;
    let (before, mark) = (server.trace(NODE)?.len(), guest.console().mark());
    guest.power_on()?;
    wait_for("GRUB at the machine", REFUSAL_LIMIT, || {
        let seen = server.trace(NODE)?.split_off(before);
        let whole = |seen: &Value| seen["file"] == "grubx64.efi" && seen["end"] == "complete";
        Ok(if seen.iter().any(whole) { Poll::Ready(()) } else { Poll::pending(format!("{:?}", seen.last())) })
    })?;
    // It asks for its configuration half a second later.
    guest.stop()?;
    let cancelled = server.request("POST", &format!("/v1/jobs/{}/cancel", job.id), None)?;
    ensure!(cancelled.status == 200, "the job was not cancelled: {}", cancelled.text());
    guest.cont()?;
    guest.console().wait(UP, mark, DEPLOY_LIMIT)?;
    let seen = server.trace(NODE)?.split_off(before);
    let told = seen.iter().any(|seen| seen["door"] == "script" && seen["start"] == "local");
    ensure!(told, "it was not GRUB that started the disk: {seen:?}");
    let node = server.node(NODE)?;
    ensure!(node.state == "deployed", "the node is {} now", node.state);
    Ok(())
}

/// Starts a machine from a server with the loaders and the kernel that `change` has changed, and
/// waits for the console's `words`, and until `ks why` names a cause with its proof.
fn refused(
    name: &str,
    words: &str,
    change: impl Fn(&Lab, &mut ServerConfig) -> Result<()>,
    cause: Option<(&str, &str)>,
) -> Result<()> {
    story(name, |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = config(&artefacts);
        change(lab, &mut config)?;
        let server = Server::start(lab, &artefacts, &config)?;
        let mut guest = Guest::new(lab, GuestConfig::new("guest", Firmware::UefiSecure, 1))?;
        guest.power_on()?;
        let line = guest.wait_serial(words, REFUSAL_LIMIT)?;
        eprintln!("{name}: {line}; {:.1} CPU seconds", guest.cpu_seconds()?);
        let node = server.node_by_mac(&guest.config().mac)?.context("the machine was not heard")?;
        ensure!(node.facts.is_null(), "its agent said hello: {}", node.facts);
        cause.map_or(Ok(()), |(code, proof)| named(&server, &node.name, code, proof))
    })
}

/// A copy of `file` in the lab's directory with one bit turned in the middle of it.
fn with_a_flipped_bit(from: &Path, to: &Path) -> Result<()> {
    let mut bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

/// A copy of the loaders in the lab's directory, with one that is changed or another.
fn changed_loader(lab: &Lab, config: &mut ServerConfig, name: &str) -> Result<()> {
    let directory = lab.dir().join("loaders");
    fs::create_dir(&directory)?;
    for entry in fs::read_dir(&config.loaders)? {
        let entry = entry?;
        fs::copy(entry.path(), directory.join(entry.file_name()))?;
    }
    with_a_flipped_bit(&config.loaders.join(name), &directory.join(name))?;
    config.loaders = directory;
    Ok(())
}

#[test]
fn p15_a_flipped_bit_in_shim_is_refused_by_the_firmware() -> Result<()> {
    refused("secure-shim", "Access Denied", |lab, config| changed_loader(lab, config, "shimx64.efi"), None)
}

#[test]
fn p15_a_flipped_bit_in_grub_is_refused_by_shim() -> Result<()> {
    let change = |lab: &Lab, config: &mut ServerConfig| changed_loader(lab, config, "grubx64.efi");
    refused("secure-grub", "Security Violation", change, None)
}

#[test]
fn p15_a_flipped_bit_in_the_kernel_is_refused_by_grub() -> Result<()> {
    let change = |lab: &Lab, config: &mut ServerConfig| {
        let kernel = lab.dir().join("vmlinuz");
        with_a_flipped_bit(&config.kernel, &kernel)?;
        config.kernel = kernel;
        Ok(())
    };
    refused("secure-kernel", "bad shim signature", change, None)
}

#[test]
fn p15_an_unsigned_loader_is_refused_by_the_firmware() -> Result<()> {
    let change = |_: &Lab, config: &mut ServerConfig| {
        config.uefi_loader = "ipxe";
        Ok(())
    };
    refused("secure-ipxe", "Access Denied", change, Some(("KS-1018", "carries no signature")))
}
