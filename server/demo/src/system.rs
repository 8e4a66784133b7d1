//! The installed system: gets an address as any system does, and lets the agent's reporter tell that it is up.

use crate::agent::boot_id;
use crate::disk::Disk;
use crate::wire::Wire;
use crate::{Machine, SYSTEM};
use kaltstart_agent::http;
use kaltstart_agent::report::{read_config, send_until_noted};
use kaltstart_protocol::node_api::{BootOrder, REPORT_CONFIG};
use std::fs;
use std::thread::sleep;

/// Starts what lies on the disk; gives what to say when nothing more is to be done.
pub(crate) fn start(machine: &Machine, wire: &Wire, disk: &Disk) -> String {
    let root = disk.root();
    // A disk without a table starts nothing, whatever lies on it.
    let partitioned = disk.measured().holds.is_some_and(|holds| !holds.is_blank());
    let Ok(host) = fs::read_to_string(root.join("etc/hostname")) else {
        return "firmware: no disk with a system; stands still".into();
    };
    if !partitioned {
        return "firmware: the disk does not start; stands still".into();
    }
    sleep(SYSTEM);
    let address = wire.lease(machine);
    let boot = root.join("proc/sys/kernel/random");
    if let Err(error) = fs::create_dir_all(&boot).and_then(|()| fs::write(boot.join("boot_id"), boot_id())) {
        return format!("{host}: {error}");
    }
    let path = root.join(REPORT_CONFIG.trim_start_matches('/'));
    let Ok(config) = read_config(&path) else { return format!("{host}: up at {address}") };
    let said = match http::pinned(config.authority, config.not_before) {
        Ok(http) => send_until_noted(&http, &config, root, &BootOrder::None, sleep),
        Err(error) => format!("cannot report: there is no TLS: {error}"),
    };
    // As the reporter does: it is said once.
    let _ = fs::remove_file(path);
    format!("{host}: up at {address}; {said}")
}
