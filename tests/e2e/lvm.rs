//! Systems in volume groups of LVM, on one disk and on arrays.

use crate::common::{NODE, ask, blank_disks, ensure_told, order_from};
use anyhow::{Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::{Profile, ServerConfig};
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, GuestConfig};
use kaltstart_tests::ssh;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::time::Duration;

/// Debian needs two minutes from its boot loader to its report under emulation, more under load.
const LIMIT: Duration = secs(1200);
/// Sparse; the layout `lvm` leaves what is beyond 66 GiB free.
const DISK_MIB: u64 = 72 << 10;
const IMAGE: &str = "debian-12";
/// The second order: the same image in a group on a mirror.
const ON_MIRROR: &str = "on-mirror";
const LAYOUT: &str = r#"
[[layout]]
name = "lvm-on-mirror"
array = { level = "raid1", disks = 2 }
partitions = [
    { label = "bios-boot", role = "bios_boot", min_mib = 1 },
    { label = "esp", role = "esp", min_mib = 260 },
    { label = "my-group", role = "lvm", min_mib = 4096, weight = 1 },
    { label = "root", group = "my-group", role = "root", min_mib = 2560, max_mib = 4096, weight = 1 },
    { label = "my-data", group = "my-group", role = "data", mount = "/srv", file_system = "xfs", min_mib = 320 },
    { label = "swap", group = "my-group", role = "swap", min_mib = 64 },
]
"#;
/// What is asked of each system.
const QUESTION: &str = "vgck -v 2>&1; pvs --noheadings -o pv_name,vg_name,pv_free; \
                        lvs --noheadings --separator : -o vg_name,lv_name,lv_size,lv_active; \
                        findmnt -rn -o TARGET,SOURCE,FSTYPE -t ext4,xfs; swapon --noheadings --show; cat /proc/cmdline";

#[test]
fn a_group_on_one_disk_and_anew_on_a_mirror() -> Result<()> {
    story("lvm", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "generic", &[IMAGE]);
        config.sections += LAYOUT;
        config.profiles[0].layout = "lvm";
        config.profiles[0].authorized_keys = vec![ssh::key(lab)?];
        let on_mirror =
            Profile { name: ON_MIRROR.to_owned(), layout: "lvm-on-mirror", ..config.profiles[0].clone() };
        config.profiles[0].disk_serial = Some("KT-ONE".to_owned());
        config.profiles.push(on_mirror);
        let files = blank_disks(lab, 2, DISK_MIB)?;
        let machine =
            GuestConfig::new("guest", Firmware::Uefi, 1).disk(&files[0], "KT-ONE").disk(&files[1], "KT-TWO");
        let mut ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
        ordered.server.wait_deployed(&ordered.job, LIMIT)?;
        let told = ask(lab, &ordered, QUESTION)?;
        eprintln!("{told}");
        ensure_told(
            &told,
            &[
                "system:root:",
                "system:var-log:",
                ":active",
                "/dev/mapper/system-var--log ext4",
                "root=/dev/mapper/system-root",
                "/dev/dm-",
                " system ",
            ],
        )?;
        // It is a group like any other: a volume grows while it is used.
        let grows =
            "lvextend -q -r -L +64M system/home && df -m --output=size /home && vgck system && echo GROWN";
        ensure_told(&ask(lab, &ordered, grows)?, &["GROWN"])?;
        disk::partitions(&files[0])?;

        // Over its own group, and with the second disk beside it.
        let rebuild = ["rebuild", NODE, "--profile", ON_MIRROR, "--confirm", NODE, "-o", "name"];
        let output = ordered.server.ks(&rebuild, secs(30))?;
        ensure!(output.status.success(), "{output:?}");
        ordered.job = String::from_utf8(output.stdout)?.trim().to_owned();
        ordered.guest.reset()?;
        ordered.server.wait_deployed(&ordered.job, LIMIT)?;
        let told = ask(lab, &ordered, &format!("{QUESTION}; cat /proc/mdstat"))?;
        eprintln!("{told}");
        ensure_told(
            &told,
            &[
                "/dev/md3",
                "my-group:root:",
                "/dev/mapper/my--group-my--data xfs",
                "[UU]",
                "root=/dev/mapper/my--group-root",
            ],
        )
    })
}
