//! Two namespaces joined by one cable: a server's side and a side of clients. Without the bridge
//! of a [`crate::lab`], so that little but the programs is measured.

use crate::lab::{delete, inside, ip, lose, new_namespace};
use crate::process::tethered;
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The clients' own address, also that of a relay.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The network between both.
pub const SUBNET: &str = "10.99.0.0/16";
/// Bits of its prefix.
const PREFIX: u8 = 16;
/// A network whose every address is the clients' too; reached by a route, so without ARP.
const MANY_CLIENTS: &str = "10.200.0.0/16";
/// The server's interface.
pub const SERVER_INTERFACE: &str = "srv0";
/// The clients' interface.
pub const CLIENT_INTERFACE: &str = "cli0";

/// The namespaces, and a directory; all thrown away at the end.
#[derive(Debug)]
pub struct Pair {
    server: String,
    client: String,
    dir: PathBuf,
}

impl Pair {
    /// Makes both sides and joins them.
    pub fn new() -> Result<Self> {
        let (server, _) = new_namespace()?;
        let dir = std::env::temp_dir().join(&server);
        // From here on everything is taken away again, also when the next step fails.
        let mut pair = Self { server, client: String::new(), dir };
        fs::create_dir_all(&pair.dir).with_context(|| format!("cannot make {}", pair.dir.display()))?;
        (pair.client, _) = new_namespace()?;
        let (server, client) = (pair.server.as_str(), pair.client.as_str());
        for side in [server, client] {
            ip(&["-n", side, "link", "set", "lo", "up"])?;
        }
        let cable =
            ["link", "add", SERVER_INTERFACE, "type", "veth", "peer", "name", CLIENT_INTERFACE, "netns"];
        ip(&[&["-n", server], cable.as_slice(), &[client]].concat())?;
        ip(&["-n", server, "address", "add", &format!("{SERVER}/{PREFIX}"), "dev", SERVER_INTERFACE])?;
        ip(&["-n", server, "link", "set", SERVER_INTERFACE, "up"])?;
        ip(&["-n", client, "link", "set", CLIENT_INTERFACE, "up"])?;
        pair.address_client()?;
        ip(&["-n", server, "route", "add", MANY_CLIENTS, "via", &CLIENT.to_string()])?;
        ip(&["-n", client, "route", "add", "local", MANY_CLIENTS, "dev", "lo"])?;
        Ok(pair)
    }

    /// The directory for logs and data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The address of the client of that number, below 65,000.
    #[must_use]
    pub fn client_address(number: u16) -> Ipv4Addr {
        let [high, low] = (number + 256).to_be_bytes();
        Ipv4Addr::new(10, 200, high, low)
    }

    /// `program`, to be run on the server's side.
    #[must_use]
    pub fn server_command(&self, program: impl AsRef<OsStr>) -> Command {
        command(&self.server, program)
    }

    /// `program`, to be run on the clients' side.
    #[must_use]
    pub fn client_command(&self, program: impl AsRef<OsStr>) -> Command {
        command(&self.client, program)
    }

    /// Runs `work` in a thread on the clients' side.
    pub fn in_client<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.client, work)
    }

    /// Runs `work` in a thread on the server's side.
    pub fn in_server<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.server, work)
    }

    /// Gives the clients' side its address, as a relay or a running machine has one.
    pub fn address_client(&self) -> Result<()> {
        let address = format!("{CLIENT}/{PREFIX}");
        ip(&["-n", &self.client, "address", "replace", &address, "dev", CLIENT_INTERFACE])
    }

    /// Gives it one more: that of a machine that runs.
    pub fn also_address_client(&self, address: Ipv4Addr) -> Result<()> {
        ip(&["-n", &self.client, "address", "add", &format!("{address}/{PREFIX}"), "dev", CLIENT_INTERFACE])
    }

    /// Takes the clients' address away, as machines that start have none.
    pub fn unaddress_client(&self) -> Result<()> {
        ip(&["-n", &self.client, "address", "flush", "dev", CLIENT_INTERFACE])?;
        // Lets packets to 255.255.255.255 out.
        ip(&["-n", &self.client, "route", "replace", "default", "dev", CLIENT_INTERFACE])
    }

    /// Loses that share of all UDP packets, in both directions; 0 loses none.
    pub fn lose(&self, percent: u32) -> Result<()> {
        [&self.server, &self.client].into_iter().try_for_each(|side| lose(side, percent))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in [&self.server, &self.client] {
            if !side.is_empty() {
                delete(side);
            }
        }
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn command(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = tethered("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}
