//! A system in a volume group of LVM.

use crate::common::{ask, blank_disks, ensure_told, order_from};
use anyhow::Result;
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, GuestConfig};
use kaltstart_tests::ssh;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::time::Duration;

/// Debian needs two minutes from its boot loader to its report under emulation, more under load.
const LIMIT: Duration = secs(1200);
/// Sparse; the layout `lvm` wants 11 GiB.
const DISK_MIB: u64 = 16 << 10;
const IMAGE: &str = "debian-12";
/// What is asked of the system.
const QUESTION: &str = "vgck -v 2>&1; pvs --noheadings -o pv_name,vg_name,pv_free; \
                        lvs --noheadings --separator : -o vg_name,lv_name,lv_size,lv_active; \
                        findmnt -rn -o TARGET,SOURCE,FSTYPE -t ext4,xfs; swapon --noheadings --show; cat /proc/cmdline";

#[test]
fn a_group_with_the_file_systems_of_a_server() -> Result<()> {
    story("lvm", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "generic", &[IMAGE]);
        config.profiles[0].layout = "lvm";
        config.profiles[0].authorized_keys = vec![ssh::key(lab)?];
        let files = blank_disks(lab, 1, DISK_MIB)?;
        let machine = GuestConfig::new("guest", Firmware::Uefi, 1).disk(&files[0], "KT-ONE");
        let ordered = order_from(lab, machine, &artefacts, config, IMAGE)?;
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
        disk::partitions(&files[0]).map(drop)
    })
}
