//! Encrypted disks: who gets their key, and who does not.

use crate::common::{
    AGENT_LIMIT, DEPLOY_LIMIT, IMAGE, NODE, Ordered, UP, ask, blank_disks, ensure_reported, ensure_told,
    order_from,
};
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::board::Tpm;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk::{self, FileSystem};
use kaltstart_tests::guest::{Firmware, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::server::Server;
use kaltstart_tests::ssh;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Enough for the layout `encrypted`; sparse.
const DISK_MIB: u64 = 4096;
/// Numbers of its partitions.
const BOOT: u32 = 3;
const ROOT: u32 = 4;
/// The real Debian: its image, a disk for it, and how long it may take from power-on to its report.
const DEBIAN: &str = "debian-12";
const DEBIAN_MIB: u64 = 8 << 10;
const DEBIAN_LIMIT: Duration = secs(900);
/// Sparse; the layout `encrypted-mirror` wants 4.3 GiB.
const MIRROR_MIB: u64 = 5 << 10;
/// What those say who open the disk.
const BY_SERVER: &str = "the server has released the key";
const BY_TPM: &str = "the TPM has released the key";
const SEALED: &str = "the key is sealed to the TPM";
const NOT_BY_TPM: &str = "the TPM does not release the key";
/// The UUID of another machine's board.
const OTHER_BOARD: &str = "6b616c74-7374-4172-9400-000000000077";
/// What stands in a file of the small image's root file system.
const PLAIN: &str = "Kaltstart test system";

/// Deploys an encrypted system, which is first started so, and was.
fn deployed<'a>(lab: &'a Lab, firmware: Firmware, restart: &str, tpm: Option<&Tpm>) -> Result<Ordered<'a>> {
    let artefacts = Artefacts::from_env()?;
    let mut config = ServerConfig::new(&artefacts, "cloud", &[IMAGE]);
    config.profiles[0].layout = "encrypted";
    config.profiles[0].more = format!("restart = {restart:?}\n");
    let file = lab.dir().join("disk.raw");
    disk::blank(&file, DISK_MIB)?;
    let mut machine = GuestConfig::new("guest", firmware, 1).disk(&file, "KT-DISK-1");
    machine.tpm = tpm.map(|tpm| tpm.socket.clone());
    let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
    let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
    ordered.guest.wait_serial(BY_SERVER, AGENT_LIMIT)?;
    ensure_reported(&ordered, &job)?;
    let detail = &job.phase_named("restart").context("no restart")?.detail;
    ensure!(detail["by"] == restart, "it was started otherwise: {detail:?}");
    let report = ordered.server.node(NODE)?.report.context("no report")?;
    ensure!(report.root_device.contains("dm-") || report.root_device.contains("mapper"), "{report:?}");
    ordered.guest.power_off();
    Ok(ordered)
}

/// Whether a file holds these words somewhere.
fn holds(file: &Path, words: &str) -> Result<bool> {
    // Empty sectors are many short lines then, and not a long one.
    let mut grep = Command::new("grep");
    let status =
        grep.args(["--null-data", "--text", "--fixed-strings", "--quiet", words]).arg(file).status()?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("grep: {status}"),
    }
}

/// Starts the system of a machine that is off from its disk alone, until its console says `until`; what it said of
/// `others` on the way.
fn starts<'w>(ordered: &mut Ordered<'_>, until: &str, others: &[&'w str]) -> Result<Vec<&'w str>> {
    ordered.guest.ask_no_network()?;
    let mark = ordered.guest.console().mark();
    ordered.guest.power_on()?;
    ordered.guest.console().wait(until, mark, DEPLOY_LIMIT)?;
    Ok(others.iter().copied().filter(|words| ordered.guest.console().find(words, mark).is_some()).collect())
}

#[test]
fn p19_a_tpm_opens_the_disk_without_the_server_after_the_same_start_alone() -> Result<()> {
    story("encrypted-tpm", |lab| {
        let mut tpm = Tpm::start(lab, false)?;
        let mut ordered = deployed(lab, Firmware::Uefi, "firmware", Some(&tpm))?;
        ordered.guest.wait_serial(SEALED, AGENT_LIMIT)?;
        ensure!(FileSystem::mount(&ordered.disk, ROOT).is_err(), "the root file system is open to everybody");
        ensure!(
            !holds(&ordered.disk, PLAIN)?,
            "a file of the root file system stands on the disk in the clear"
        );
        ensure!(holds(&ordered.disk, "update-grub may replace it")?, "nothing is found on the disk");

        let all = [BY_SERVER, BY_TPM, NOT_BY_TPM, SEALED];
        ordered.server.kill();
        drop(tpm);
        tpm = Tpm::start(lab, false)?;
        let said = starts(&mut ordered, UP, &all)?;
        ensure!(said == [BY_TPM], "{said:?}");

        // Somebody has changed what starts.
        ordered.guest.power_off();
        let boot = FileSystem::mount_as(&ordered.disk, BOOT, 0, "ext4", "rw")?;
        let menu = boot.read("/grub/grub.cfg")?;
        boot.write("/grub/grub.cfg", &(menu + "# changed\n"))?;
        drop(boot);
        ordered.server.restart()?;
        drop(tpm);
        tpm = Tpm::start(lab, false)?;
        let said = starts(&mut ordered, UP, &all)?;
        ensure!(said == [BY_SERVER, NOT_BY_TPM, SEALED], "{said:?}");

        ordered.guest.power_off();
        ordered.server.kill();
        drop(tpm);
        let _tpm = Tpm::start(lab, false)?;
        let said = starts(&mut ordered, UP, &all)?;
        ensure!(said == [BY_TPM], "sealed anew: {said:?}");
        Ok(())
    })
}

/// How many findings say that the disks of the node stay closed.
fn finding(ordered: &Ordered<'_>) -> Result<usize> {
    let findings = ordered.server.node(NODE)?.findings;
    Ok(findings.iter().filter(|finding| finding.code == "KS-5004").count())
}

/// Gives the stopped server of `lab` another key of its one encrypted disk, in the way in which earlier versions kept them;
/// the key that it had.
fn replace_key(lab: &Lab, server: &Server<'_>, key: &str) -> Result<String> {
    let (data, to) = (lab.dir().join("data"), tempfile::tempdir()?);
    let to = to.path().join("keys");
    server.on_its_machine(&["disk-keys", NODE, &to.to_string_lossy()])?;
    let database = rusqlite::Connection::open(data.join("kaltstart.db"))?;
    let one = "DELETE FROM secrets RETURNING owner, substr(name, 6)";
    let (node, installation): (String, String) =
        database.query_row(one, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let earlier = data.join("disk-keys").join(node);
    fs::create_dir_all(&earlier)?;
    fs::write(earlier.join(&installation), key)?;
    Ok(fs::read_to_string(to.join(installation))?)
}

#[test]
fn p19_without_a_tpm_the_server_is_waited_for_and_no_other_machine_gets_the_key() -> Result<()> {
    story("encrypted-server", |lab| {
        let mut ordered = deployed(lab, Firmware::Bios, "kexec", None)?;
        // It is our server, too, that gives addresses.
        ordered.server.kill();
        let said = starts(&mut ordered, "KS-1004", &[UP])?;
        ensure!(said.is_empty(), "it has started without a key");
        let mark = ordered.guest.console().mark();
        ordered.server.restart()?;
        ordered.guest.console().wait(BY_SERVER, mark, DEPLOY_LIMIT)?;
        ordered.guest.console().wait(UP, mark, DEPLOY_LIMIT)?;

        ordered.guest.power_off();
        ordered.guest.open(|machine| {
            machine.mac = "52:54:00:00:00:77".to_owned();
            machine.uuid = OTHER_BOARD.to_owned();
        });
        let said = starts(&mut ordered, "KS-5004", &[UP, BY_SERVER])?;
        ensure!(said.is_empty(), "another machine was given the key: {said:?}");
        ordered.guest.wait_serial("the disk is not in the machine of e2e-1", AGENT_LIMIT)?;
        ensure!(finding(&ordered)? == 1, "the node does not say who was refused");

        // It is the same machine with another board, somebody says.
        let mark = ordered.guest.console().mark();
        let output = ordered.server.ks(&["node", "accept", NODE, "--board", OTHER_BOARD], secs(30))?;
        ensure!(output.status.success(), "{output:?}");
        ordered.guest.console().wait(BY_SERVER, mark, DEPLOY_LIMIT)?;
        ordered.guest.console().wait(UP, mark, DEPLOY_LIMIT)?;

        // The server has another key than the disk.
        ordered.guest.power_off();
        ordered.server.kill();
        let key = replace_key(lab, &ordered.server, "kst_disk_of_another")?;
        ordered.server.restart()?;
        let said = starts(&mut ordered, "does not open", &[UP, BY_SERVER])?;
        ensure!(said == [BY_SERVER], "{said:?}");
        wait_for("what the server knows of it", AGENT_LIMIT, || {
            Ok(if finding(&ordered)? == 1 { Poll::Ready(()) } else { Poll::pending("no finding") })
        })?;
        let mark = ordered.guest.console().mark();
        ordered.server.kill();
        replace_key(lab, &ordered.server, &key)?;
        ordered.server.restart()?;
        ordered.guest.console().wait(UP, mark, DEPLOY_LIMIT)?;
        ensure!(finding(&ordered)? == 0, "the node still says that its disks are closed");
        Ok(())
    })
}

/// What Debian's own programs say of its disks.
const QUESTIONS: &str = "findmnt -no SOURCE,FSTYPE /; findmnt -no SOURCE,FSTYPE /boot; \
    lsblk -o NAME,TYPE,FSTYPE,MOUNTPOINTS; name=$(basename $(findmnt -no SOURCE /)); cryptsetup status $name; \
    cryptsetup luksDump $(cryptsetup status $name | sed -n 's/^ *device: *//p'); grep EARLY /etc/default/grub";

#[test]
fn debian_starts_from_an_encrypted_disk_and_again() -> Result<()> {
    story("encrypted-debian", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "generic", &[DEBIAN]);
        config.profiles[0].authorized_keys = vec![ssh::key(lab)?];
        config.profiles[0].layout = "encrypted";
        let file = lab.dir().join("disk.raw");
        disk::blank(&file, DEBIAN_MIB)?;
        let machine = GuestConfig::new("guest", Firmware::Bios, 1).disk(&file, "KT-DISK-1");
        let mut ordered = order_from(lab, machine, &artefacts, config, DEBIAN)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEBIAN_LIMIT)?;
        ensure_reported(&ordered, &job)?;
        ensure_told(
            &ask(lab, &ordered, QUESTIONS)?,
            &[
                "/dev/mapper/luks-",
                "ext4",
                "crypt",
                "crypto_LUKS",
                "[SWAP]",
                "cipher:  aes-xts-plain64",
                "LUKS2",
                "pbkdf2",
                "GRUB_EARLY_INITRD_LINUX_CUSTOM=kaltstart-unlock.img",
            ],
        )?;
        ordered.guest.power_off();
        let said = starts(&mut ordered, "login:", &[BY_SERVER])?;
        ensure!(said == [BY_SERVER], "{said:?}");
        Ok(())
    })
}

/// The same of two disks with a volume group.
const LAYERS: &str = "lsblk -rno NAME,TYPE,FSTYPE,MOUNTPOINTS; pvs --noheadings -o pv_name,vg_name; vgck -v 2>&1; \
    lvs --noheadings --separator : -o vg_name,lv_name,lv_active; name=$(basename $(pvs --noheadings -o pv_name)); \
    cryptsetup status $name; array=$(cryptsetup status $name | sed -n 's/^ *device: *//p'); \
    cryptsetup luksDump $array; mdadm --detail $array /dev/md3; findmnt -no SOURCE,FSTYPE /boot; swapon --show";

#[test]
fn a_group_in_an_encrypted_mirror_starts_without_its_first_disk() -> Result<()> {
    story("encrypted-mirror", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "generic", &[DEBIAN]);
        config.profiles[0].authorized_keys = vec![ssh::key(lab)?];
        config.profiles[0].layout = "encrypted-mirror";
        let files = blank_disks(lab, 2, MIRROR_MIB)?;
        let machine =
            GuestConfig::new("guest", Firmware::Uefi, 1).disk(&files[0], "KT-ONE").disk(&files[1], "KT-TWO");
        let mut ordered = order_from(lab, machine, &artefacts, config, DEBIAN)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEBIAN_LIMIT)?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        ensure_reported(&ordered, &job)?;
        let told = ask(lab, &ordered, LAYERS)?;
        ensure_told(
            &told,
            &[
                "crypto_LUKS",
                "LVM2_member",
                "/dev/mapper/luks-",
                "system:root:active",
                "system:swap:active",
                "system-var lvm ext4 /var",
                "cipher:  aes-xts-plain64",
                "device:  /dev/md",
                "LUKS2",
                "Raid Level : raid1",
                "Failed Devices : 0",
                "Active Devices : 2",
                "/dev/md3 ext4",
                "/dev/dm-",
            ],
        )?;
        ensure!(!told.contains("resync"), "what was written together is written once more: {told}");
        ask(lab, &ordered, "sync")?;

        ordered.guest.power_off();
        ordered.guest.open(|machine| drop(machine.disks.remove(0)));
        let said = starts(&mut ordered, "login:", &["runs without all of its members", BY_SERVER])?;
        ensure!(said.len() == 2, "{said:?}");
        ensure_told(&ask(lab, &ordered, LAYERS)?, &["degraded", "Active Devices : 1", "system:root:active"])?;
        ordered.guest.power_off();
        for file in &files {
            ensure!(!holds(file, "www-data:x:33:33")?, "a file of the root file system is in the clear");
            ensure!(holds(file, "update-grub may replace it")?, "nothing is found on the disk");
        }
        Ok(())
    })
}
