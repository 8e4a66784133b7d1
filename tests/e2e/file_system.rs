//! Images that are file systems: the root partition is the image, grown to its size.

use crate::common::{DEPLOY_LIMIT, NODE, ensure_deployed, machine, order_from};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::api::Job;
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, GuestConfig};
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::time::Duration;

/// Debian needs two minutes from its boot loader to its report under emulation, more under load.
const DEBIAN_LIMIT: Duration = secs(900);

/// Bytes that the image phase of a job told of.
fn told(job: &Job, name: &str) -> Result<u64> {
    let phase = job.phase_named("image").context("no image phase")?;
    let value = phase.detail.get(name).and_then(|value| value.as_str());
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no {name} in {:?}", phase.detail))
}

#[test]
fn a_raw_one_is_deployed_by_bios() -> Result<()> {
    story("file-system-raw", |lab| {
        let artefacts = Artefacts::from_env()?;
        let config = ServerConfig::new(&artefacts, "cloud", &["e2e-raw"]);
        let mut ordered = order_from(lab, machine(lab, Firmware::Bios)?.0, &artefacts, config, "e2e-raw")?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure_deployed(&mut ordered, &job)?;
        let size = disk::FileSystem::mount(&ordered.disk, 3)?.size()?;
        ensure!(size > 1 << 30, "the file system has {size} bytes");
        Ok(())
    })
}

#[test]
fn p11_a_rebuild_from_chunks_fetches_and_writes_what_differs_alone() -> Result<()> {
    story("file-system-chunked", |lab| {
        let artefacts = Artefacts::from_env()?;
        let image = "e2e-chunked";
        let config = ServerConfig::new(&artefacts, "cloud", &[image]);
        let mut ordered = order_from(lab, machine(lab, Firmware::Uefi)?.0, &artefacts, config, image)?;
        let first = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let all = told(&first, "fetched_bytes")?;
        ensure!(told(&first, "kept_bytes")? == 0, "something was kept on a blank disk");
        let uuid = |node: kaltstart_tests::api::NodeView| node.report.map(|report| report.root_uuid);
        let before = uuid(ordered.server.node(NODE)?).context("no report")?;

        ordered.job = ordered.server.order(NODE, "rebuild", image)?.id;
        ordered.guest.reset()?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let (fetched, kept) = (told(&job, "fetched_bytes")?, told(&job, "kept_bytes")?);
        eprintln!("file-system-chunked: {all} bytes fetched, then {fetched}, {kept} kept");
        ensure!(fetched < all / 2 && kept > 0, "{fetched} of {all} bytes were fetched again, {kept} kept");
        let after = uuid(ordered.server.node(NODE)?).context("no report")?;
        ensure!(before != after, "the root file system has the old UUID");
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn debian_comes_in_chunks() -> Result<()> {
    story("file-system-debian", |lab| {
        let artefacts = Artefacts::from_env()?;
        let image = "debian-12-chunked";
        let config = ServerConfig::new(&artefacts, "generic", &[image]);
        let file = lab.dir().join("disk.raw");
        disk::blank(&file, 8 << 10)?;
        let machine =
            GuestConfig::new("guest", Firmware::Uefi, 1).memory(512).disk_on(Bus::Nvme, &file, "KT-DEBIAN");
        let mut ordered = order_from(lab, machine, &artefacts, config, image)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEBIAN_LIMIT)?;
        ensure_deployed(&mut ordered, &job)?;
        let root = disk::FileSystem::mount(&file, 3)?;
        ensure!(root.read("/var/lib/dpkg/status")?.contains("Package: linux-image-"), "it is no Debian");
        ensure!(root.size()? > 6 << 30, "the file system did not grow");
        Ok(())
    })
}
