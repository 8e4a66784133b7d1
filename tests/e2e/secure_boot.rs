//! Secure Boot stays on: the signed chain starts the agent, and whatever is changed in it is refused.

use crate::common::{DEPLOY_LIMIT, IMAGE, UP, ensure_deployed, machine, order_from};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
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
        let facts = ordered.server.node(crate::common::NODE)?.facts;
        ensure!(facts["secure_boot"] == true, "the agent saw no Secure Boot: {facts}");
        eprintln!("secure-deploy: {:.1} CPU seconds", ordered.guest.cpu_seconds()?);
        ensure_deployed(&mut ordered, &job)
    })
}

/// Starts a machine from a server with the loaders and the kernel that `change` has changed, and
/// waits for the console's `words`.
fn refused(name: &str, words: &str, change: impl Fn(&Lab, &mut ServerConfig) -> Result<()>) -> Result<()> {
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
        Ok(())
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
    refused("secure-shim", "Access Denied", |lab, config| changed_loader(lab, config, "shimx64.efi"))
}

#[test]
fn p15_a_flipped_bit_in_grub_is_refused_by_shim() -> Result<()> {
    refused("secure-grub", "Security Violation", |lab, config| changed_loader(lab, config, "grubx64.efi"))
}

#[test]
fn p15_a_flipped_bit_in_the_kernel_is_refused_by_grub() -> Result<()> {
    refused("secure-kernel", "bad shim signature", |lab, config| {
        let kernel = lab.dir().join("vmlinuz");
        with_a_flipped_bit(&config.kernel, &kernel)?;
        config.kernel = kernel;
        Ok(())
    })
}

#[test]
fn p15_an_unsigned_loader_is_refused_by_the_firmware() -> Result<()> {
    refused("secure-ipxe", "Access Denied", |_, config| {
        config.uefi_loader = "ipxe";
        Ok(())
    })
}
