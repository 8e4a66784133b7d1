//! The parts of a machine at work for a while, before it is trusted with anything.

use crate::common::{AGENT_LIMIT, DISK_MIB, NODE, config, machine};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::api::Job;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Fault, Firmware, Guest};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};

/// The middle of the disk.
const BAD: u64 = DISK_MIB * disk::MIB / 512 / 2;

fn ordered(server: &Server<'_>) -> Result<String> {
    let output = server.ks(&["burn-in", NODE, "--minutes", "1", "-o", "name"], secs(30))?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// What its agent tells of the parts.
fn told(job: &Job, part: &str) -> Result<String> {
    let phase = job.phase_named("inventory").context("no such phase")?;
    let text = phase.detail.get(part).and_then(|text| text.as_str());
    Ok(text.with_context(|| format!("{part:?} is not in {:?}", phase.detail))?.to_owned())
}

#[test]
fn faults_are_named_and_a_good_machine_passes_with_its_disk_as_it_was() -> Result<()> {
    story("burn-in", |lab| {
        let (artefacts, config) = config()?;
        let (mut guest, file) = machine(lab, Firmware::Bios)?;
        guest.disks[0].fault = Some(Fault::BadSector(BAD));
        let before = disk::digest(&file)?;
        let server = Server::start(lab, &artefacts, &config.node(NODE, &guest.mac, None))?;
        let refused = server.ks(&["burn-in", NODE], secs(30))?;
        ensure!(!refused.status.success(), "a machine that nobody has looked at yet was taken");
        let mut guest = Guest::new(lab, guest)?;
        guest.power_on()?;
        wait_for("a node that is available", AGENT_LIMIT, || {
            let state = server.node(NODE)?.state;
            Ok(if state == "available" { Poll::Ready(()) } else { Poll::pending(state) })
        })?;

        // A disk with a bad sector: the agent that looked at the machine restarts it for the job.
        let job = server.wait_ended(&ordered(&server)?, AGENT_LIMIT)?;
        job.failed_with("KS-2208")?;
        let detail = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
        ensure!(detail.contains("serial KT-DISK-1") && detail.contains("read at byte"), "{detail}");
        guest.power_off();
        guest.open(|machine| machine.disks[0].fault = None);

        // A machine that starts again under load.
        let job = ordered(&server)?;
        guest.power_on()?;
        server.wait_job(&job, "a machine at work", AGENT_LIMIT, |job| told(job, "processors").is_ok())?;
        guest.reset()?;
        server.wait_ended(&job, AGENT_LIMIT)?.failed_with("KS-2210")?;
        guest.power_off();

        // A good one.
        let job = ordered(&server)?;
        guest.power_on()?;
        let job = server.wait_ended(&job, AGENT_LIMIT)?.succeeded()?;
        for (part, words) in [
            ("processors", "1 cores, "),
            ("memory", " passes"),
            ("disks", "on KT-DISK-1"),
            ("network", "MB fetched"),
        ] {
            let text = told(&job, part)?;
            println!("{part}: {text}");
            ensure!(text.contains(words) && !text.starts_with("0 "), "{part}: {text}");
        }
        let shown = server.ks(&["job", "show", NODE], secs(30))?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(shown.contains("\nprocessors: 1 cores, "), "{shown}");
        let node = server.node(NODE)?;
        ensure!(node.state == "available", "the node is {}", node.state);
        guest.power_off();
        ensure!(disk::digest(&file)? == before, "something was written to the disk");
        Ok(())
    })
}
