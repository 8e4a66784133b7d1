//! A simulated machine, as the demonstration has six of them: it speaks the real protocols to a real server over
//! loopback, and needs no rights.
//!
//! Firmware and loader are written here and speak DHCP, TFTP and HTTP ([`firmware`]). What they start is the agent's own
//! library ([`agent`]): its kernel arguments, DHCP client, TLS, link, gate for wipe grants, reporter, log, and the way of
//! an image from HTTP to files. Simulated are the hardware and its facts, the kernels, and the disk: a sparse file with the
//! real partition table, beside which the image's files lie in a directory. The installed system is these files; it
//! reports with the agent's reporter.
//!
//! One process is one machine, as the agent's library has one clock, one log and one console.

mod agent;
mod disk;
mod firmware;
mod system;
mod wire;

use kaltstart_agent::log;
use kaltstart_protocol::facts::{self, Cpu, Facts, Nic};
use kaltstart_protocol::ids::Mac;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use disk::Disk;
use wire::Wire;

/// A machine, and where it is plugged in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// What is written on it.
    pub name: String,
    /// Its network card.
    pub mac: Mac,
    /// The boot server.
    pub server: Ipv4Addr,
    /// The server's ports of DHCP and TFTP: a machine of metal knows 67 and 69 alone.
    pub ports: (u16, u16),
    /// The relay of its network.
    pub relay: Ipv4Addr,
    /// Whether its disk says that it fails.
    pub failing: bool,
    /// Where its disk and the files on it lie.
    pub directory: PathBuf,
}

/// How long things take that take time in a machine of metal and none here. No two machines are quite alike.
const SELF_TEST: Duration = Duration::from_millis(1_500);
const LONGER: Duration = Duration::from_millis(350);
const LOADER: Duration = Duration::from_millis(300);
const KERNEL: Duration = Duration::from_millis(1_500);
const SYSTEM: Duration = Duration::from_millis(2_000);

/// What a machine starts next.
enum Next {
    /// Its firmware.
    Firmware,
    /// An agent with these kernel arguments.
    Agent(String),
    /// What lies on its own disk.
    OwnDisk,
}

/// Switches the machine on, and never returns: who wants it off ends the process.
///
/// Its console goes to stdout.
pub fn run(machine: &Machine) -> ! {
    log::start();
    let disk = Disk::open(machine).unwrap_or_else(|error| stop(&format!("it has no disk: {error}")));
    let wire = Wire::plug_in(machine).unwrap_or_else(|error| stop(&format!("it has no network: {error}")));
    let mut next = Next::Firmware;
    loop {
        next = match next {
            Next::Firmware => firmware::start(machine, &wire),
            Next::Agent(arguments) => agent::start(machine, &wire, &disk, &arguments),
            Next::OwnDisk => {
                let why = system::start(machine, &wire, &disk);
                stop(&why)
            }
        };
    }
}

/// Shows why nothing more happens.
fn stop(why: &str) -> ! {
    log::console(why);
    loop {
        std::thread::park();
    }
}

/// What an agent measures of it.
fn facts(machine: &Machine, disk: &Disk) -> Facts {
    let name = "eth0".to_owned();
    let nic = Nic {
        name: name.clone(),
        mac: machine.mac,
        driver: "simulated".into(),
        link: true,
        speed_mbit: Some(10_000),
        ..Nic::default()
    };
    Facts {
        system: facts::System {
            vendor: "Kaltstart".into(),
            product: "simulated machine".into(),
            serial: machine.name.to_uppercase(),
            uuid: format!("00000000-0000-4000-8000-{}", machine.mac.to_string().replace(':', "")),
            ..facts::System::default()
        },
        cpu: Cpu { model: "simulated".into(), threads: 16, architecture: "x86_64".into() },
        memory_bytes: 64 << 30,
        firmware: facts::Firmware::Uefi,
        secure_boot: Some(false),
        nics: vec![nic],
        boot_nic: Some(name),
        disks: vec![disk.measured()],
        kernel: "simulated".into(),
        ..Facts::default()
    }
}
