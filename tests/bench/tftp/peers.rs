//! The servers that are measured, each as its manual recommends for many clients.

use crate::bench::Bench;
use crate::ours;
use crate::report::OURS;
use crate::subject::{Port, Subject};
use anyhow::{Result, bail};
use kaltstart_tests::packets::TFTP_SERVER_PORT;
use kaltstart_tests::pair::{SERVER, SERVER_INTERFACE};
use std::path::Path;

/// Servers beside ours.
pub(super) const PEERS: [&str; 3] = ["tftpd-hpa", "atftpd", "dnsmasq"];

/// Starts the server `name`, which serves the files in `root`.
pub(super) fn start(bench: &Bench, name: &str, root: &Path) -> Result<Subject> {
    let port = Port::Udp(TFTP_SERVER_PORT);
    let server = SERVER.to_string();
    let command = match name {
        OURS => return ours::start(bench, &ours::Site { loaders: root, ..ours::Site::new(bench) }, port),
        "tftpd-hpa" => {
            let mut command = bench.peer("usr/sbin/in.tftpd");
            command.args(["-L", "-u", "root", "-a", &format!("{server}:69"), "-B", "65464", "-s"]).arg(root);
            command
        }
        "atftpd" => {
            let mut command = bench.peer("usr/sbin/atftpd");
            command.args(["--daemon", "--no-fork", "--no-multicast", "--maxthread", "1000"]);
            command.args(["--bind-address", &server]).arg(root);
            command
        }
        "dnsmasq" => {
            let mut command = bench.peer("usr/sbin/dnsmasq");
            command.args(["-k", "-C", "/dev/null", "--port=0", "-i", SERVER_INTERFACE, "--bind-interfaces"]);
            command.args(["--enable-tftp", "--tftp-max=2000", "--user=root", "--pid-file="]);
            command.arg(format!("--tftp-root={}", root.display()));
            command
        }
        other => bail!("no TFTP server {other}"),
    };
    Subject::start(name, &command, &bench.log(name), port)
}
