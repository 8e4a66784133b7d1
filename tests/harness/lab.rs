//! A laboratory: one network namespace with a bridge, and a directory, both thrown away at the end.

use crate::process::{self, Process};
use crate::wait::secs;
use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The bridge all machines and the server are on.
pub const BRIDGE: &str = "br0";
/// The server's address on the bridge.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The server's IPv6 address on the bridge, where the lab has one.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The bridge's network.
pub const SUBNET: &str = "10.77.0.0/24";

/// Names of all namespaces made here start so; the rest is PID and number.
const PREFIX: &str = "kt-";
/// Where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";
/// What the capture holds: all of DHCP and TFTP, of HTTP the requests and connection ends only,
/// so that images do not fill the disk.
const CAPTURE: &str =
    "udp or arp or icmp or icmp6 or (tcp dst port 8080) or (tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0)";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// One namespace, its bridge and its directory.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    taps: AtomicU32,
    capture: Mutex<Option<Process>>,
}

impl Lab {
    /// Makes a namespace with a bridge that has the server's address.
    pub fn new() -> Result<Self> {
        let (name, _) = new_namespace()?;
        // Short, because a UNIX socket's path has at most 107 bytes.
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lab = Self { name, dir, taps: AtomicU32::new(0), capture: Mutex::new(None) };
        // The bridge's IPv6 address is usable at once: boot loaders do not wait for a second answer.
        lab.inside(|| Ok(fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?)).ok();
        lab.ip(&["link", "set", "lo", "up"])?;
        // Without spanning tree and forward delay a new port forwards its first packet.
        lab.ip(&["link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
        lab.ip(&["address", "add", &format!("{SERVER}/24"), "dev", BRIDGE])?;
        lab.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(lab)
    }

    /// The namespace's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's directory: logs, sockets, disks.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `program`, to be run inside the namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = process::tethered("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` in a thread inside the namespace: sockets it opens belong there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.name, work)
    }

    /// Adds a tap to the bridge and returns its name.
    pub fn tap(&self) -> Result<String> {
        let tap = format!("tap{}", self.taps.fetch_add(1, Ordering::Relaxed));
        self.ip(&["tuntap", "add", "dev", &tap, "mode", "tap"])?;
        self.ip(&["link", "set", &tap, "master", BRIDGE, "up"])?;
        Ok(tap)
    }

    /// Lets at most `mbit` megabits per second through to the machine at `tap`.
    pub fn throttle(&self, tap: &str, mbit: u32) -> Result<()> {
        let rate = format!("{mbit}mbit");
        self.run(
            "tc",
            &[
                "qdisc", "replace", "dev", tap, "root", "tbf", "rate", &rate, "burst", "32k", "latency",
                "100ms",
            ],
        )
    }

    /// Takes the limit of [`Lab::throttle`] away.
    pub fn unthrottle(&self, tap: &str) -> Result<()> {
        self.run("tc", &["qdisc", "del", "dev", tap, "root"])
    }

    /// Lets the server reach `network` through `router`.
    pub fn route(&self, network: &str, router: Ipv4Addr) -> Result<()> {
        self.ip(&["route", "add", network, "via", &router.to_string()])
    }

    /// Loses that share of all UDP packets that come to the server; 0 loses none.
    pub fn lose(&self, percent: u32) -> Result<()> {
        lose(&self.name, percent)
    }

    /// Loses all UDP packets that come to the server's `port`, as a firewall on the way does.
    pub fn block(&self, port: u16) -> Result<()> {
        drop_incoming(&self.name, Some(&format!("udp dport {port}")))
    }

    /// Gives the bridge the server's IPv6 address too.
    pub fn dual_stack(&self) -> Result<()> {
        self.ip(&["address", "add", &format!("{SERVER6}/64"), "dev", BRIDGE, "nodad"])
    }

    /// Lets the port of the tap forward or not, as a switch does with spanning tree; the machine
    /// has its link either way.
    pub fn set_forwarding(&self, tap: &str, forwards: bool) -> Result<()> {
        let port: &[&str] = if forwards { &["master", BRIDGE] } else { &["nomaster"] };
        self.ip(&[&["link", "set", tap], port].concat())
    }

    /// Keeps those UDP packets from the machine at `tap`, in nft's words, and tells nobody.
    pub fn withhold(&self, tap: &str, which: &str) -> Result<()> {
        let rules = format!(
            "table netdev withheld {{\nchain out {{\ntype filter hook egress device {tap} priority 0\n\
             udp {which} drop\n}}\n}}\n"
        );
        self.run("nft", &[&rules])
    }

    /// Ports that come up forward only after 30 seconds (spanning tree, IEEE 802.1D).
    pub fn spanning_tree(&self) -> Result<()> {
        self.ip(&["link", "set", BRIDGE, "type", "bridge", "stp_state", "1", "forward_delay", "1500"])
    }

    /// Takes the server's address off the bridge, so that nobody answers there.
    pub fn silence(&self) -> Result<()> {
        self.ip(&["address", "flush", "dev", BRIDGE])
    }

    /// Starts to record the bridge's packets into `lab.pcap`.
    pub fn capture(&self) -> Result<()> {
        let mut command = self.command("tcpdump");
        command.args(["-i", BRIDGE, "-U", "-n", "-Z", "root", "-w"]).arg(self.dir.join("lab.pcap"));
        let process = Process::start("tcpdump", command.arg(CAPTURE), &self.dir.join("tcpdump.log"))?;
        *self.capture.lock().ok().context("the capture's lock is poisoned")? = Some(process);
        Ok(())
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], args].concat())
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        process::run(self.command(program).args(args), secs(10)).map(drop)
    }
}

/// A second namespace plugged into a lab's bridge: where synthetic clients send from.
#[derive(Debug)]
pub struct Station {
    name: String,
}

impl Station {
    /// The station's only interface.
    pub const INTERFACE: &str = "eth0";

    /// Plugs a station without address into the lab's bridge.
    pub fn new(lab: &Lab) -> Result<Self> {
        let (name, number) = new_namespace()?;
        let station = Self { name };
        let port = format!("port{number}");
        lab.ip(&["link", "add", &port, "type", "veth", "peer", "name", Self::INTERFACE])?;
        lab.ip(&["link", "set", Self::INTERFACE, "netns", &station.name])?;
        lab.ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        station.ip(&["link", "set", Self::INTERFACE, "up"])?;
        // What runs there may speak to itself.
        station.ip(&["link", "set", "lo", "up"])?;
        // Lets packets to 255.255.255.255 out before there is an address.
        station.ip(&["route", "add", "default", "dev", Self::INTERFACE])?;
        Ok(station)
    }

    /// A station on a wire of its own behind this one, which has `address` (with its prefix) there on
    /// `interface`, and forwards.
    pub fn behind(&self, interface: &str, address: &str) -> Result<Self> {
        self.forward(true)?;
        let (name, _) = new_namespace()?;
        let station = Self { name };
        let peer = ["peer", "name", Self::INTERFACE, "netns", station.name.as_str()];
        self.ip(&[&["link", "add", interface, "type", "veth"], &peer[..]].concat())?;
        self.ip(&["address", "add", address, "dev", interface])?;
        self.ip(&["link", "set", interface, "up"])?;
        station.ip(&["link", "set", Self::INTERFACE, "up"])?;
        station.ip(&["route", "add", "default", "dev", Self::INTERFACE])?;
        Ok(station)
    }

    /// Gives one of its interfaces an IPv6 address.
    pub fn address6(&self, interface: &str, address: Ipv6Addr) -> Result<()> {
        self.ip(&["address", "add", &format!("{address}/64"), "dev", interface, "nodad"])
    }

    /// Whether packets from one of its networks to another pass.
    pub fn forward(&self, pass: bool) -> Result<()> {
        let digit = if pass { "1" } else { "0" };
        self.inside(|| Ok(fs::write("/proc/sys/net/ipv4/ip_forward", digit)?))
    }

    /// Loses that share of all UDP packets that come to the station; 0 loses none.
    pub fn lose(&self, percent: u32) -> Result<()> {
        lose(&self.name, percent)
    }

    /// Gives the station an address.
    pub fn address(&self, address: Ipv4Addr) -> Result<()> {
        self.ip(&["address", "replace", &format!("{address}/24"), "dev", Self::INTERFACE])
    }

    /// `program`, to be run inside the station's namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = process::tethered("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// The station's addresses.
    pub fn addresses(&self) -> Result<Vec<Ipv4Addr>> {
        let text = self.show(&["-4", "-brief", "address"])?;
        let words = text.split_whitespace().skip(2);
        Ok(words.filter_map(|word| word.split('/').next()?.parse().ok()).collect())
    }

    /// Hardware address of the station's interface.
    pub fn mac(&self) -> Result<String> {
        let text = self.show(&["-brief", "link"])?;
        let mac = text.split_whitespace().nth(2).context("`ip -brief link` names no hardware address")?;
        Ok(mac.to_owned())
    }

    /// Runs `work` in a thread inside the station's namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.name, work)
    }

    fn show(&self, what: &[&str]) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(what).args(["show", "dev", Self::INTERFACE]);
        process::run(&mut command, secs(10))
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], args].concat())
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(mut capture) = self.capture.lock() {
            capture.take();
        }
        delete(&self.name);
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Makes an empty namespace; its name, and the number in it.
pub(crate) fn new_namespace() -> Result<(String, u32)> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        remove_left_over()?;
    }
    let name = format!("{PREFIX}{}-{number}", std::process::id());
    ip(&["netns", "add", &name])
        .context("cannot make a network namespace: root (or sudo) and iproute2 are needed")?;
    Ok((name, number))
}

pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new(NAMESPACES).join(namespace);
    let enter = move || {
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
        work()
    };
    // A thread of its own, because its namespace cannot be trusted for anything else afterwards.
    thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

pub(crate) fn delete(namespace: &str) {
    if let Err(error) = ip(&["netns", "delete", namespace])
        // Another laboratory may have tidied it away meanwhile.
        && Path::new(NAMESPACES).join(namespace).exists()
    {
        eprintln!("cannot remove the namespace {namespace}: {error:#}");
    }
}

/// Removes namespaces and directories whose process is gone: it was killed before it could.
fn remove_left_over() -> Result<()> {
    for dir in [PathBuf::from(NAMESPACES), std::env::temp_dir()] {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let name = entry?.file_name();
            let Some(owner) = name.to_str().and_then(owner) else { continue };
            if Path::new("/proc").join(owner.to_string()).exists() {
                continue;
            }
            let name = name.to_string_lossy();
            if dir == Path::new(NAMESPACES) {
                delete(&name);
            } else {
                fs::remove_dir_all(dir.join(&*name)).ok();
            }
        }
    }
    Ok(())
}

/// The PID in a namespace's name, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Loses that share of all UDP packets that come into a namespace.
///
/// On the way in, never on the way out: there the kernel would tell the sender (EPERM), and servers
/// give up a transfer for that.
pub(crate) fn lose(namespace: &str, percent: u32) -> Result<()> {
    let share = format!("ip protocol udp numgen random mod 100 < {percent}");
    drop_incoming(namespace, (percent > 0).then_some(&share))
}

fn drop_incoming(namespace: &str, which: Option<&str>) -> Result<()> {
    let mut rules = String::from("add table ip loss\ndelete table ip loss\n");
    if let Some(which) = which {
        // A line break ends a statement of nft.
        rules += &format!(
            "table ip loss {{\nchain input {{\ntype filter hook input priority 0\n{which} drop\n}}\n}}\n"
        );
    }
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", namespace, "nft", &rules]);
    process::run(&mut nft, secs(10)).map(drop).context("cannot set the loss")
}

pub(crate) fn ip(args: &[&str]) -> Result<()> {
    let output = process::run_to_end(Command::new("ip").args(args), secs(10))?;
    if !output.status.success() {
        bail!("`ip {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_have_an_owner() {
        assert_eq!(owner("kt-12-0"), Some(12));
        for other in ["kt-12", "kt-a-0", "lab", "kt-12-0-x", "cni-12-0"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
