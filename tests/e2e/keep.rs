//! A system is laid down anew, and the data of a partition beside it is what it was.

use crate::common::{
    DEPLOY_LIMIT, IMAGE, NODE, config, ensure_identity, half_of_the_image, machine, order_from,
};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::disk::{self, FileSystem};
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::nbd::Recorder;
use kaltstart_tests::process::{run, tethered};
use kaltstart_tests::recording::is_empty;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

/// Its last partition is for data: there the table's copy ends the disk, and what is cleared before it.
const LAYOUT: &str = r#"
[[layout]]
name = "data"
partitions = [
    { label = "bios", role = "bios_boot", min_mib = 1 },
    { label = "esp", role = "esp", min_mib = 260 },
    { label = "root", role = "root", min_mib = 1024 },
    { label = "data", role = "data", min_mib = 64, weight = 1, mount = "/srv" },
]
"#;
/// Bytes of the disk's sectors.
const SECTOR: u64 = 512;
/// Numbers of its partitions.
const ROOT: u32 = 3;
const DATA: u32 = 4;
/// Bytes of an entry of the table, and sectors of all of them.
const ENTRY: u64 = 128;
const ENTRY_SECTORS: u64 = 32;

/// What `sgdisk` tells of a partition, a line each.
fn told(file: &Path, number: u32) -> Result<String> {
    run(Command::new("sgdisk").arg("-i").arg(number.to_string()).arg(file), secs(30))
}

/// The number behind these words.
fn number(told: &str, words: &str) -> Result<u64> {
    let rest = told.lines().find_map(|line| line.strip_prefix(words)).context("sgdisk tells it")?;
    Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
}

/// What must stay as it is: first byte and bytes of the partition, of its entry in both tables, and of the words by which these are found.
fn places(file: &Path) -> Result<Vec<(u64, u64)>> {
    let partition = told(file, DATA)?;
    let (first, last) = (number(&partition, "First sector: ")?, number(&partition, "Last sector: ")?);
    let end = file.metadata()?.len() / SECTOR;
    let entry = |table: u64| (table * SECTOR + u64::from(DATA - 1) * ENTRY, ENTRY);
    let header = |sector: u64| (sector * SECTOR, 8);
    let data = (first * SECTOR, (last - first + 1) * SECTOR);
    Ok(vec![data, entry(2), entry(end - 1 - ENTRY_SECTORS), header(1), header(end - 1)])
}

#[test]
fn p05_a_rebuild_keeps_the_data_that_it_names_over_a_power_cut_and_makes_all_else_anew() -> Result<()> {
    story("keep", |lab| {
        let (artefacts, mut config) = config()?;
        config.profiles[0].layout = "data";
        config.sections = LAYOUT.to_owned();
        let (guest, file) = machine(lab, Firmware::Bios)?;
        let mut ordered = order_from(lab, guest, &artefacts, config, IMAGE)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let first = ordered.server.node(NODE)?.report.context("no report")?.root_uuid;
        ordered.guest.power_off();
        FileSystem::mount(&file, DATA)?.write("/precious", "what nobody has twice")?;
        FileSystem::mount(&file, ROOT)?.write("/of-before", "gone with its system")?;
        let (before, entry, places) = (lab.dir().join("before.raw"), told(&file, DATA)?, places(&file)?);
        run(tethered("cp").arg("--sparse=always").arg(&file).arg(&before), secs(60))?;
        let offset = places.first().context("the partition")?.0.to_string();
        let probe = ["-p", "-s", "UUID", "-o", "value", "-O", &offset];
        let uuid = run(Command::new("blkid").args(probe).arg(&file), secs(30))?;

        let rebuild = ["rebuild", NODE, "--profile", IMAGE, "--confirm", NODE, "-o", "name", "--keep"];
        let refused = ordered.server.ks(&[&rebuild[..], &["root"]].concat(), secs(30))?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success() && said.contains("the system starts from it"), "{said}");
        let placed = ordered.server.ks(&[&rebuild[..], &["data"]].concat(), secs(30))?;
        ensure!(placed.status.success(), "{}", String::from_utf8_lossy(&placed.stderr));
        ordered.job = String::from_utf8_lossy(&placed.stdout).trim().to_owned();

        // Cut off in the midst, and once more from the network to the end.
        for start in 1..=2 {
            let recorder = Recorder::new(lab.dir(), &[(&file, SECTOR as u32)])?;
            ordered.guest.open(|machine| machine.disks[0].recording = Some(recorder.socket(0).to_owned()));
            ordered.power_on()?;
            if start == 1 {
                half_of_the_image(lab, &ordered)?;
                let mut first = [0; SECTOR as usize];
                File::open(&file)?.read_exact(&mut first)?;
                ensure!(is_empty(&first), "the disk has a first sector");
                lab.unthrottle(ordered.guest.tap())?;
            } else {
                let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
                ensure!(job.attempt == 2, "it was started {} times", job.attempt);
                let kept = &job.phase_named("disk").context("no phase")?.detail["kept"];
                ensure!(kept == "data", "the phase tells {kept:?}");
            }
            ordered.guest.power_off();
            let recording = recorder.recording()?;
            ensure!(recording.steps().len() > 9, "{} steps", recording.steps().len());
            for (offset, length) in &places {
                recording.ensure_left(&before, *offset, *length)?;
            }
            let now = told(&file, DATA)?;
            ensure!(now.ends_with(&entry), "the partition is told as {now}, and was {entry}");
        }

        disk::partitions(&file)?;
        let data = FileSystem::mount(&file, DATA)?.read("/precious")?;
        ensure!(data == "what nobody has twice", "the file says {data:?}");
        let root = FileSystem::mount(&file, ROOT)?;
        ensure_identity(&root)?;
        ensure!(root.read("/of-before").is_err(), "a file of the system before");
        let fstab = root.read("/etc/fstab")?;
        let second = ordered.server.node(NODE)?.report.context("no report")?.root_uuid;
        ensure!(fstab.contains(&second) && first != second, "{first} and {second}; {fstab}");
        let mounted = fstab.lines().any(|line| line.starts_with(&format!("UUID={} /srv ext4 ", uuid.trim())));
        ensure!(mounted, "{uuid} is not in {fstab}");
        Ok(())
    })
}
