//! DHCPv6 clients of other makers, each at a station of its own.

use crate::lab::{Lab, Station};
use crate::process::{Process, run, run_to_end};
use crate::unpacked::Unpacked;
use crate::wait::{Poll, secs, wait_for};
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

/// A client of another maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker6 {
    /// ISC dhclient.
    Dhclient,
    /// dhcpcd, which asks for an address only if a router advertisement says so.
    Dhcpcd,
}

/// What clients run on news, after a line that sets `events`: dhclient leaves it to the script to use
/// the address; dhcpcd calls its address otherwise.
const SCRIPT: &str = r#"address=${new_ip6_address:-$new_dhcp6_ia_na1_ia_addr1}
case $reason in
PREINIT6) ip link set eth0 up ;;
BOUND6) [ -n "$new_ip6_address" ] && ip address replace "$address/128" dev eth0 ;;
esac
list() { echo "$*" | tr ' ' ','; }
echo "$reason address=$address dns=$(list ${new_dhcp6_name_servers:-})" \
    "domains=$(list ${new_dhcp6_domain_search:-})" >>"$events"
exit 0
"#;

/// A client that runs.
#[derive(Debug)]
pub struct Dhcp6Client {
    maker: Maker6,
    name: String,
    /// Dropped before the station.
    process: Process,
    station: Station,
    programs: Unpacked,
    dir: PathBuf,
}

impl Dhcp6Client {
    /// Starts a client at `station`.
    pub fn start(lab: &Lab, station: Station, maker: Maker6) -> Result<Self> {
        let name = format!("{maker:?}6-{}", station.mac()?.replace(':', "")).to_lowercase();
        let (dir, programs) = (lab.dir().to_owned(), Unpacked::clients()?);
        let file = |kind: &str| dir.join(format!("{name}.{kind}"));
        fs::write(file("sh"), format!("#!/bin/sh\nevents={}\n{SCRIPT}", file("events").display()))?;
        fs::set_permissions(file("sh"), fs::Permissions::from_mode(0o755))?;
        // dhclient does not wait until its own address may be used.
        let shown = ["-6", "address", "show", "dev", Station::INTERFACE, "scope", "link", "-tentative"];
        wait_for("a link-local address", secs(10), || {
            let text = run(station.command("ip").args(shown), secs(10))?;
            Ok(if text.contains("fe80::") { Poll::Ready(()) } else { Poll::pending(text) })
        })?;
        let mut command = match maker {
            Maker6::Dhclient => dhclient(&station, &programs, &dir, &name, &["-d"]),
            Maker6::Dhcpcd => {
                // As with DHCPv4: directories and a user for itself.
                fs::create_dir_all(file("state").join("dhcpcd"))?;
                let mut command = station.command("sh");
                command.arg("-c").arg(
                    r#"mount -t tmpfs tmpfs /run && mount --bind "$1" /var/lib && mount --bind /dev/null /etc/passwd
                    shift && exec "$@""#,
                );
                command.arg("sh").arg(file("state")).arg(programs.program("usr/sbin/dhcpcd"));
                command.args(["-6", "-B", "-d", "-f", "/dev/null", "-c"]).arg(file("sh"));
                command.args(["-o", "dhcp6_name_servers", "-o", "dhcp6_domain_search"]);
                programs.with_libraries(command)
            }
        };
        command.current_dir(&dir).arg(Station::INTERFACE);
        let process = Process::start(&name, &mut command, &file("log"))?;
        Ok(Self { maker, name, process, station, programs, dir })
    }

    /// Makes it give its address back, right after a renewal: in the middle of one, clients end without that.
    pub fn release(&self) -> Result<()> {
        let renewals = || self.events().matches("RENEW6").count();
        let before = renewals();
        wait_for(&format!("a renewal of {}", self.name), secs(40), || {
            Ok(if renewals() > before { Poll::Ready(()) } else { Poll::pending(self.events()) })
        })?;
        match self.maker {
            Maker6::Dhcpcd => Ok(kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGALRM)?),
            Maker6::Dhclient => {
                let mut command =
                    dhclient(&self.station, &self.programs, &self.dir, &self.name, &["-r", "-v"]);
                let output = run_to_end(command.arg(Station::INTERFACE).current_dir(&self.dir), secs(10))?;
                fs::write(self.dir.join(format!("{}-release.log", self.name)), &output.stderr)?;
                ensure!(output.status.success(), "dhclient gives nothing back: {}", output.status);
                Ok(())
            }
        }
    }

    /// Waits for an event, as `BOUND6` or `RENEW6`; the rest of its line.
    pub fn hears(&self, event: &str) -> Result<String> {
        wait_for(&format!("{event} of {}", self.name), secs(40), || {
            let text = self.events();
            let found = text.lines().find_map(|line| line.strip_prefix(event)?.strip_prefix(' '));
            Ok(found.map_or_else(|| Poll::pending(&text), |rest| Poll::Ready(rest.to_owned())))
        })
    }

    fn events(&self) -> String {
        fs::read_to_string(self.dir.join(format!("{}.events", self.name))).unwrap_or_default()
    }
}

fn dhclient(
    station: &Station,
    programs: &Unpacked,
    dir: &std::path::Path,
    name: &str,
    args: &[&str],
) -> Command {
    let file = |kind: &str| dir.join(format!("{name}.{kind}"));
    let mut command = station.command(programs.program("sbin/dhclient"));
    command.arg("-6").args(args).args(["-cf", "/dev/null", "-sf"]).arg(file("sh"));
    command.arg("-lf").arg(file("leases")).arg("-pf").arg(file("pid"));
    programs.with_libraries(command)
}
