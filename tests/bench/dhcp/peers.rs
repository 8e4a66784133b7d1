//! The servers that are measured, and the floors. All log as they do by default, into a file;
//! none looks by ping whether an address is free, as ours does not.

use crate::bench::Bench;
use crate::ours::{self, Site};
use crate::report::OURS;
use crate::subject::{Port, Subject};
use anyhow::{Context as _, Result, bail};
use kaltstart_tests::packets::DHCP_SERVER_PORT;
use kaltstart_tests::pair::{SERVER_INTERFACE, SUBNET};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Kea with one thread; its lease file is never synced.
pub(crate) const KEA: &str = "kea";
/// Kea with two threads.
pub(crate) const KEA_2: &str = "kea-2threads";
pub(super) const ISC: &str = "isc-dhcpd";
pub(super) const DNSMASQ: &str = "dnsmasq";
/// A responder that remembers nothing.
pub(super) const NULL: &str = "null";
/// The same, with one sync of a file per batch.
pub(super) const NULL_FSYNC: &str = "null-fsync";

/// First and last address that is lent.
const POOL: (&str, &str) = ("10.99.1.0", "10.99.239.255");

/// How clients reach the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Through a relay, as perfdhcp plays one.
    Relayed,
    /// By broadcast, without an address.
    Broadcast,
}

/// Starts the server `name`, which knows no client yet.
pub(crate) fn start(bench: &Bench, name: &str, reach: Reach) -> Result<Subject> {
    let port = Port::Udp(DHCP_SERVER_PORT);
    let dir = bench.dir().join("dhcp");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let command = match name {
        OURS => return ours::start(bench, &Site::new(bench), port),
        KEA => kea(bench, &dir, 1, reach)?,
        KEA_2 => kea(bench, &dir, 2, reach)?,
        ISC => isc(bench, &dir)?,
        DNSMASQ => dnsmasq(bench, &dir),
        NULL | NULL_FSYNC => {
            let mut command = bench.pair().server_command(std::env::current_exe()?);
            command.arg("--respond").arg(if name == NULL { "/dev/null" } else { "sync" }).current_dir(&dir);
            command
        }
        other => bail!("no DHCP server {other}"),
    };
    Subject::start(name, &command, &bench.log(name), port)
}

fn kea(bench: &Bench, dir: &Path, threads: u32, reach: Reach) -> Result<Command> {
    let config = json!({"Dhcp4": {
        "interfaces-config": {
            "interfaces": [SERVER_INTERFACE],
            // Kea's manual: "udp" where all clients are behind relays.
            "dhcp-socket-type": if reach == Reach::Relayed { "udp" } else { "raw" },
        },
        "lease-database": {"type": "memfile", "persist": true, "name": dir.join("leases.csv")},
        "multi-threading": {"enable-multi-threading": threads > 1, "thread-pool-size": threads},
        "valid-lifetime": 3600,
        "subnet4": [{"subnet": SUBNET, "pools": [{"pool": format!("{} - {}", POOL.0, POOL.1)}]}],
        "loggers": [{
            "name": "kea-dhcp4", "severity": "INFO",
            "output_options": [{"output": dir.join("kea.log")}],
        }],
    }});
    let file = dir.join("kea.json");
    fs::write(&file, config.to_string())?;
    let mut command = bench.peer("usr/sbin/kea-dhcp4");
    command.env("KEA_PIDFILE_DIR", dir).env("KEA_LOCKFILE_DIR", dir).arg("-c").arg(file);
    Ok(command)
}

fn isc(bench: &Bench, dir: &Path) -> Result<Command> {
    let (network, _) = SUBNET.split_once('/').context("a network has a prefix")?;
    let config = format!(
        "authoritative;\nping-check false;\ndefault-lease-time 3600;\n\
         subnet {network} netmask 255.255.0.0 {{ range {} {}; }}\n",
        POOL.0, POOL.1
    );
    fs::write(dir.join("dhcpd.conf"), config)?;
    fs::write(dir.join("dhcpd.leases"), "")?;
    let mut command = bench.peer("usr/sbin/dhcpd");
    command.args(["-4", "-f", "-d", "--no-pid", "-cf"]).arg(dir.join("dhcpd.conf"));
    command.arg("-lf").arg(dir.join("dhcpd.leases")).arg(SERVER_INTERFACE);
    Ok(command)
}

fn dnsmasq(bench: &Bench, dir: &Path) -> Command {
    let mut command = bench.peer("usr/sbin/dnsmasq");
    command.args(["-k", "-C", "/dev/null", "--port=0", "--bind-interfaces", "--user=root", "--pid-file="]);
    command.args(["-i", SERVER_INTERFACE, "--dhcp-authoritative", "--no-ping", "--dhcp-lease-max=65000"]);
    command.arg(format!("--dhcp-range={},{},255.255.0.0,1h", POOL.0, POOL.1));
    command.arg(format!("--dhcp-leasefile={}", dir.join("dnsmasq.leases").display()));
    command.arg(format!("--log-facility={}", dir.join("dnsmasq.log").display()));
    command
}
