//! A machine in the hands of a person: a deployed node is looked into over the network, or called back and mended,
//! and goes back to its work.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, IMAGE, NODE, Ordered, UP, config, machine, order_from};
use crate::local::NETWORK_ASKED;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::disk;
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::process::run_with;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// From power-on into the shell and out of it, under emulation.
const RESCUE_LIMIT: Duration = secs(300);

/// The words of a person who looks, and tries to write: raw, to a file system, and after taking the guard away.
/// Quotes keep what is looked for out of what is typed.
const LOOKS: &str = "cat /proc/partitions\nmount -o ro,noload /dev/vda3 /mnt\n\
     echo installed is $(cat /mnt/etc/hostname)\numount /mnt\n\
     dd if=/dev/zero of=/dev/vda bs=512 count=1 || echo raw writing was re''fused\n\
     mount -o rw /dev/vda3 /mnt && touch /mnt/mended || echo file writing was re''fused\nsync\nexit\n";

/// The words of a person who mends the first disk, and tries to write to the second.
const MENDS: &str = "mount -o rw /dev/vda3 /mnt && echo yes > /mnt/mended && echo it was men''ded\n\
     dd if=/dev/zero of=/dev/vdb bs=512 count=1 || echo the other was re''fused\nexit\n";

/// Orders a rescue; the job and its code.
pub(crate) fn rescue(server: &Server<'_>, args: &[&str]) -> Result<(String, String)> {
    let output = server.ks(&[&["rescue", NODE, "-o", "json"], args].concat(), secs(30))?;
    ensure!(output.status.success(), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    Ok((text(&made["job"]["id"])?, text(&made["code"])?))
}

/// Types `words` into the shell that `code` opens; what is shown until its end, which must hold `wanted`.
fn typed(server: &Server<'_>, code: &str, words: &str, wanted: &[&str]) -> Result<()> {
    let file = server.token_file().with_file_name("typed");
    fs::write(&file, format!("{code}\n{words}"))?;
    let input = Stdio::from(fs::File::open(&file)?);
    let output = run_with(&mut server.ks_command(&["shell", NODE]), input, RESCUE_LIMIT)?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    let missing = wanted.iter().find(|words| !shown.contains(**words));
    ensure!(missing.is_none(), "{missing:?} is not in what was shown:\n{shown}");
    Ok(())
}

/// Waits until the node's own system is up again, after a rescue that has ended well.
fn back_at_work(ordered: &Ordered<'_>, job: &str, mark: kaltstart_tests::console::Mark) -> Result<()> {
    ordered.server.wait_ended(job, AGENT_LIMIT)?.succeeded()?;
    let node = ordered.server.node(NODE)?;
    ensure!(node.state == "deployed" && node.report.is_some(), "the node is {}", node.state);
    ordered.guest.console().wait(UP, mark, DEPLOY_LIMIT).map(drop)
}

#[test]
fn a_deployed_node_is_looked_into_and_not_written_to() -> Result<()> {
    story("rescue-looks", |lab| {
        let (artefacts, config) = config()?;
        let (guest, file) = machine(lab, Firmware::Bios)?;
        let mut ordered = order_from(lab, guest, &artefacts, config, IMAGE)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ordered.guest.power_off();
        let before = disk::digest(&file)?;

        let refused = ordered.server.ks(&["rescue", NODE, "--via", "kexec", "--confirm", NODE], secs(30))?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success() && said.contains("does not ask for jobs"), "{said}");
        let (job, code) = rescue(&ordered.server, &[])?;
        let mark = ordered.guest.console().mark();
        ordered.guest.power_on()?;
        let installed = format!("installed is {NODE}");
        let wanted = [" vda3", installed.as_str(), "raw writing was refused", "file writing was refused"];
        typed(&ordered.server, &code, LOOKS, &wanted)?;
        // Before its own system writes.
        ordered.guest.stop()?;
        let used = ordered.guest.disk_use(0)?;
        ensure!(used.writes == 0 && used.written == 0 && used.reads > 0, "the disk's use: {used:?}");
        ensure!(disk::digest(&file)? == before, "the disk's content changed");
        ordered.guest.cont()?;
        back_at_work(&ordered, &job, mark)?;

        let cast = ordered.server.ks(&["job", "recording", &job], secs(30))?;
        let cast = String::from_utf8(cast.stdout)?;
        for words in ["\"version\":2", "cat /proc/partitions", &installed, "opened by the administrator"] {
            ensure!(cast.contains(words), "{words:?} is not in the recording:\n{cast}");
        }
        ensure!(!cast.contains(&code), "the code is in the recording");
        Ok(())
    })
}

/// The running system is called back for it, and goes down for the agent without firmware and network start.
#[test]
fn a_running_system_goes_down_for_it_and_only_the_disk_that_was_named_is_mended() -> Result<()> {
    story("rescue-mends", |lab| {
        let (artefacts, mut config) = config()?;
        config.profiles[0].more = "recall = true\n".to_owned();
        config.profiles[0].disk_serial = Some("KT-DISK-1".into());
        let (guest, file) = machine(lab, Firmware::Uefi)?;
        let other = lab.dir().join("other.raw");
        let before = disk::sentinel(&other, 64)?;
        let mut ordered = order_from(lab, guest.disk(&other, "KT-DISK-2"), &artefacts, config, IMAGE)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;

        let mark = ordered.guest.console().mark();
        let order = ["--writable", "KT-DISK-1", "--via", "kexec", "--confirm", NODE];
        let (job, code) = rescue(&ordered.server, &order)?;
        let held = ordered.server.wait_job(&job, "the shell", RESCUE_LIMIT, |job| job.reached("handoff"))?;
        let firmware = held.phase_named("firmware").map(|phase| phase.state.as_str());
        ensure!(firmware == Some("skipped"), "the phase of the firmware is {firmware:?}");
        let asked = NETWORK_ASKED.iter().find(|words| ordered.guest.console().find(words, mark).is_some());
        ensure!(asked.is_none(), "the network was asked: {asked:?}");
        let mark = ordered.guest.console().mark();
        typed(&ordered.server, &code, MENDS, &["it was mended", "the other was refused"])?;
        back_at_work(&ordered, &job, mark)?;
        ordered.guest.power_off();
        ensure!(disk::digest(&other)? == before, "the other disk's content changed");
        let mended = disk::FileSystem::mount(&file, 3)?.read("/mended")?;
        ensure!(mended.trim() == "yes", "the disk says {mended:?}");
        Ok(())
    })
}
