//! DHCP servers of other makers, in a namespace of their own on the lab's bridge.

use crate::lab::{Lab, SUBNET, Station};
use crate::process::Process;
use anyhow::{Context as _, Result};
use std::fs;
use std::net::Ipv4Addr;

/// The address every other server has.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// First and last address it gives out; apart from those of the server under test.
const POOL: (&str, &str) = ("10.77.0.20", "10.77.0.60");

/// A maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Kea's DHCPv4 server.
    Kea,
    /// dnsmasq.
    Dnsmasq,
    /// ISC dhcpd.
    Isc,
    /// `busybox udhcpd`.
    Udhcpd,
}

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct OtherServer {
    /// Dropped before the namespace.
    _process: Process,
    station: Station,
}

impl OtherServer {
    /// Starts a server; `further` is added to its configuration.
    pub fn start(lab: &Lab, maker: Maker, further: &str) -> Result<Self> {
        let station = Station::new(lab)?;
        station.address(OTHER)?;
        let name = maker.name();
        let file = |what: &str| lab.dir().join(format!("{name}.{what}"));
        fs::write(file("conf"), maker.configuration(further))?;
        fs::write(file("leases"), "")?;
        let (conf, leases) = (file("conf"), file("leases"));
        let mut command = match maker {
            Maker::Kea => {
                let mut command = station.command("kea-dhcp4");
                command.arg("-c").arg(conf);
                command.env("KEA_PIDFILE_DIR", lab.dir()).env("KEA_LOCKFILE_DIR", "none");
                command
            }
            Maker::Dnsmasq => {
                let mut command = station.command("dnsmasq");
                command.args(["--no-daemon", "--user=root", "--port=0", "--no-ping"]);
                command.arg(format!("--conf-file={}", conf.display()));
                command.arg(format!("--dhcp-leasefile={}", leases.display()));
                command
            }
            Maker::Isc => {
                let mut command = station.command("dhcpd");
                command.args(["-4", "-f", "-d", "-cf"]).arg(conf).arg("-lf").arg(leases);
                command.arg("-pf").arg(file("pid")).arg(Station::INTERFACE);
                command
            }
            Maker::Udhcpd => {
                let mut command = station.command("busybox");
                command.args(["udhcpd", "-f"]).arg(conf);
                command
            }
        };
        let process = Process::start(name, &mut command, &file("log"))
            .with_context(|| format!("cannot start {name}: `cargo xtask packages` installs it"))?;
        Ok(Self { _process: process, station })
    }

    /// Its hardware address.
    pub fn mac(&self) -> Result<String> {
        self.station.mac()
    }
}

impl Maker {
    /// Its short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kea => "kea",
            Self::Dnsmasq => "dnsmasq",
            Self::Isc => "isc",
            Self::Udhcpd => "udhcpd",
        }
    }

    fn configuration(self, further: &str) -> String {
        let ((first, last), interface) = (POOL, Station::INTERFACE);
        match self {
            Self::Kea => format!(
                r#"{{ "Dhcp4": {{
                "interfaces-config": {{ "interfaces": ["{interface}"] }},
                "lease-database": {{ "type": "memfile", "persist": false }},
                "subnet4": [{{ "id": 1, "subnet": "{SUBNET}", "pools": [{{ "pool": "{first} - {last}" }}] }}]
                {separator}{further} }} }}"#,
                separator = if further.is_empty() { "" } else { "," },
            ),
            Self::Dnsmasq => format!("dhcp-range={first},{last},1h\n{further}"),
            Self::Isc => format!(
                "ping-check false;\n{further}\nsubnet 10.77.0.0 netmask 255.255.255.0 {{ range {first} {last}; }}\n"
            ),
            Self::Udhcpd => format!(
                "interface {interface}\nstart {first}\nend {last}\nlease_file /dev/null\n\
                 option subnet 255.255.255.0\noption lease 3600\n{further}"
            ),
        }
    }
}
