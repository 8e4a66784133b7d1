//! DHCP clients of other makers, each at a station of its own on the lab's bridge.

use crate::lab::{Lab, Station};
use crate::process::{Process, run};
use crate::unpacked::Unpacked;
use crate::wait::{Poll, secs, wait_for};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long a client may take for one step of its life.
const LIMIT: Duration = secs(90);

/// A client of another maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// ISC dhclient.
    Dhclient,
    /// dhcpcd.
    Dhcpcd,
    /// `busybox udhcpc`.
    Udhcpc,
}

/// What happens to a client. Makers call it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has an address, after an offer.
    Bound,
    /// It has the address again that it remembered (INIT-REBOOT, RFC 2131 §3.2).
    Rebooted,
    /// Its lease was made longer by the server that gave it.
    Renewed,
    /// Its lease was made longer, after it asked all servers.
    Rebound,
    /// It was told parameters for an address of its own.
    Informed,
}

impl Event {
    /// The words of the makers: udhcpc's argument, the others' `$reason`.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Bound => &["bound", "BOUND"],
            Self::Rebooted => &["REBOOT"],
            Self::Renewed => &["renew", "RENEW"],
            Self::Rebound => &["REBIND"],
            Self::Informed => &["INFORM"],
        }
    }
}

/// What a client's script was told, in the form of [`SCRIPT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The address.
    pub address: Ipv4Addr,
    /// Its other words, as `router=10.77.0.254`; lists are joined by commas.
    pub parameters: Vec<String>,
}

/// What clients run on news, after lines that set `events` and `maker`: dhclient and udhcpc leave it to
/// the script to use the address, and dhclient also to see whether somebody else has it.
const SCRIPT: &str = r#"event=${reason:-$1} address=${new_ip_address:-$ip}
case $maker:$event in
Dhclient:BOUND)
    ip link set eth0 up
    if ! busybox arping -q -D -c 1 -w 1 -I eth0 "$address"; then
        echo "conflict address=$address" >>"$events"
        exit 1
    fi ;;
esac
case $maker:$event in
Dhclient:BOUND | Dhclient:REBOOT | Udhcpc:bound)
    router=${new_routers:-$router}
    ip address replace "$address/24" dev eth0
    ip route replace default ${router:+via "$router"} dev eth0 ;;
Dhclient:RELEASE | Dhclient:EXPIRE | Dhclient:STOP | Udhcpc:deconfig) ip address flush dev eth0 ;;
esac
list() { echo "$*" | tr ' ' ','; }
echo "$event address=$address router=${new_routers:-$router}" \
    "dns=$(list ${new_domain_name_servers:-$dns}) ntp=$(list ${new_ntp_servers:-$ntpsrv})" \
    "domain=${new_domain_name:-$domain} lease=${new_dhcp_lease_time:-$lease}" \
    "server=${new_dhcp_server_identifier:-$serverid}" >>"$events"
"#;

/// A client with its memory, which outlives its process.
#[derive(Debug)]
pub struct DhcpClient {
    maker: Maker,
    name: String,
    /// Dropped before the station.
    process: Option<Process>,
    station: Station,
    programs: Unpacked,
    dir: PathBuf,
}

impl DhcpClient {
    /// Starts a client at a new station.
    pub fn start(lab: &Lab, maker: Maker, args: &[&str]) -> Result<Self> {
        Self::start_at(lab, Station::new(lab)?, maker, args)
    }

    /// Starts a client at `station`, with further arguments.
    pub fn start_at(lab: &Lab, station: Station, maker: Maker, args: &[&str]) -> Result<Self> {
        let name = format!("{maker:?}-{}", station.mac()?.replace(':', "")).to_lowercase();
        let dir = lab.dir().to_owned();
        let programs = Unpacked::clients()?;
        let mut client = Self { maker, name, process: None, station, programs, dir };
        let head = format!("#!/bin/sh\nevents={} maker={maker:?}\n{SCRIPT}", client.file("events").display());
        let script = client.file("sh");
        fs::write(&script, head)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        fs::write(client.file("conf"), "also request ntp-servers;\n")?;
        client.restart(args)?;
        Ok(client)
    }

    /// Starts it anew, with what it remembers, after [`DhcpClient::kill`].
    pub fn restart(&mut self, args: &[&str]) -> Result<()> {
        let mut command = self.command()?;
        command.args(args);
        if self.maker != Maker::Udhcpc {
            command.arg(Station::INTERFACE);
        }
        let process = Process::start(&self.name, &mut command, &self.file("log"))?;
        self.process = Some(process);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = match self.maker {
            Maker::Dhclient => self.dhclient(&["-d"]),
            Maker::Dhcpcd => {
                // It wants /run and /var/lib for itself, and a user for a part of itself unless
                // there is none. `ip netns exec` has made a mount namespace already.
                let state = self.file("state");
                fs::create_dir_all(state.join("dhcpcd"))?;
                let program = self.programs.program("usr/sbin/dhcpcd");
                let mut command = self.station.command("sh");
                command.arg("-c").arg(
                    r#"mount -t tmpfs tmpfs /run && mount --bind "$1" /var/lib && mount --bind /dev/null /etc/passwd
                    shift && exec "$@""#,
                );
                command.arg("sh").arg(state).arg(program).args(["-4", "-B", "-d", "-f", "/dev/null", "-c"]);
                command.arg(self.file("sh"));
                for option in ["domain_name_servers", "domain_name", "routers", "ntp_servers"] {
                    command.args(["-o", option]);
                }
                self.programs.with_libraries(command)
            }
            Maker::Udhcpc => {
                let mut command = self.station.command("busybox");
                command.args(["udhcpc", "-f", "-i", Station::INTERFACE, "-O", "ntpsrv", "-A", "1", "-s"]);
                command.arg(self.file("sh"));
                command
            }
        };
        command.current_dir(&self.dir);
        Ok(command)
    }

    fn dhclient(&self, args: &[&str]) -> Command {
        let mut command = self.station.command(self.programs.program("sbin/dhclient"));
        command.arg("-4").args(args).arg("-cf").arg(self.file("conf")).arg("-sf").arg(self.file("sh"));
        command.arg("-lf").arg(self.file("leases")).arg("-pf").arg(self.file("pid"));
        self.programs.with_libraries(command)
    }

    /// A file of the client's: `leases`, `log` and others.
    #[must_use]
    pub fn file(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.name))
    }

    /// Where it is.
    #[must_use]
    pub fn station(&self) -> &Station {
        &self.station
    }

    /// Kills it as a power cut would: it gives nothing back.
    pub fn kill(&mut self) {
        self.process.take();
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("the client does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(process.id())?), signal)?)
    }

    /// Makes it renew now: udhcpc knows no T1.
    pub fn renew(&self) -> Result<()> {
        match self.maker {
            Maker::Udhcpc => self.signal(Signal::SIGUSR1),
            other => bail!("{other:?} renews at T1"),
        }
    }

    /// Makes it give its address back.
    pub fn release(&self) -> Result<()> {
        match self.maker {
            Maker::Udhcpc => self.signal(Signal::SIGUSR2),
            Maker::Dhcpcd => self.signal(Signal::SIGALRM),
            Maker::Dhclient => {
                let mut command = self.dhclient(&["-r"]);
                run(command.arg(Station::INTERFACE).current_dir(&self.dir), secs(10)).map(drop)
            }
        }
    }

    fn events(&self) -> String {
        fs::read_to_string(self.file("events")).unwrap_or_default()
    }

    /// How much it has told so far, for [`DhcpClient::hears_after`].
    #[must_use]
    pub fn told(&self) -> usize {
        self.events().lines().count()
    }

    /// Whether there was `event` since its start.
    #[must_use]
    pub fn has_heard(&self, event: Event) -> bool {
        self.events().lines().any(|line| heard(line, event).is_some())
    }

    /// Waits for `event`, at any time since its start.
    pub fn hears(&self, event: Event) -> Result<Heard> {
        self.hears_after(0, event)
    }

    /// Waits for `event` after it had told so much.
    pub fn hears_after(&self, told: usize, event: Event) -> Result<Heard> {
        wait_for(&format!("{event:?} of {}", self.name), LIMIT, || {
            let text = self.events();
            let found = text.lines().skip(told).find_map(|line| heard(line, event));
            Ok(found.map_or_else(|| Poll::pending(text), Poll::Ready))
        })
    }
}

fn heard(line: &str, event: Event) -> Option<Heard> {
    let mut words = line.split(' ');
    if !event.words().contains(&words.next()?) {
        return None;
    }
    let address = words.next()?.strip_prefix("address=")?.parse().ok()?;
    Some(Heard { address, parameters: words.map(str::to_owned).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_another_event_is_not_heard() {
        let line = "bound address=10.77.0.100 router= dns=10.77.0.53";
        let heard_of = heard(line, Event::Bound).expect("it is bound");
        assert_eq!(heard_of.address, Ipv4Addr::new(10, 77, 0, 100));
        assert_eq!(heard_of.parameters, ["router=", "dns=10.77.0.53"]);
        assert_eq!(heard(line, Event::Renewed), None);
        assert_eq!(heard("bound address=", Event::Bound), None);
    }
}
