//! Configuration of the server under test.

use crate::artefacts::Artefacts;
use crate::lab::{BRIDGE, SERVER, SUBNET};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Port of the server's HTTP listener.
pub const HTTP_PORT: u16 = 8080;
/// Port of the server's TLS listener: the one a server has that is not told otherwise.
pub const TLS_PORT: u16 = 8443;
/// Port of the server's TFTP listener.
pub const TFTP_PORT: u16 = 69;

/// What the server shall know and serve.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its interface.
    pub interface: &'static str,
    /// Kernel of the agent.
    pub kernel: PathBuf,
    /// Ramdisk of the agent.
    pub ramdisk: PathBuf,
    /// The ramdisk that only looks.
    pub discovery: PathBuf,
    /// Network boot loaders.
    pub loaders: PathBuf,
    /// How machines with UEFI are started: `ipxe` or `signed`.
    pub uefi_loader: &'static str,
    /// Images.
    pub images: PathBuf,
    /// The public key that signed them.
    pub image_key: String,
    /// What is installed.
    pub profiles: Vec<Profile>,
    /// Machines it knows beforehand.
    pub nodes: Vec<Node>,
    /// Range of addresses given to unknown machines.
    pub pool: (String, String),
    /// Kernel arguments for the agent.
    pub cmdline: String,
    /// Further lines of the `[boot]` section.
    pub boot: String,
    /// Further lines of the `[tftp]` section.
    pub tftp: String,
    /// Further lines of the `[[dhcp]]` section.
    pub dhcp: String,
    /// Further sections.
    pub sections: String,
}

/// A named way to install.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Image to lay down.
    pub image: String,
    /// How the disk shall look.
    pub layout: &'static str,
    /// Keys that may log in as root.
    pub authorized_keys: Vec<String>,
    /// Serial number of the disk to use; none = the only one.
    pub disk_serial: Option<String>,
    /// Further lines.
    pub more: String,
}

/// A machine known beforehand.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its reserved address.
    pub address: Option<String>,
}

impl ServerConfig {
    /// A server with the ramdisk `flavour` and one profile per image in `images`, of the same name.
    #[must_use]
    pub fn new(artefacts: &Artefacts, flavour: &str, images: &[&str]) -> Self {
        let profile = |image: &&str| Profile {
            name: (*image).to_owned(),
            image: (*image).to_owned(),
            layout: "single",
            authorized_keys: Vec::new(),
            disk_serial: None,
            more: String::new(),
        };
        Self {
            address: SERVER,
            interface: BRIDGE,
            kernel: artefacts.kernel(flavour),
            ramdisk: artefacts.ramdisk(flavour),
            discovery: artefacts.discovery(flavour),
            loaders: artefacts.loaders(),
            uefi_loader: "ipxe",
            images: artefacts.images(),
            image_key: artefacts.image_key().to_owned(),
            profiles: images.iter().map(profile).collect(),
            nodes: Vec::new(),
            pool: ("10.77.0.100".to_owned(), "10.77.0.199".to_owned()),
            cmdline: "console=ttyS0".to_owned(),
            boot: String::new(),
            tftp: String::new(),
            dhcp: String::new(),
            sections: String::new(),
        }
    }

    /// The same, serving DHCP in another mode.
    #[must_use]
    pub fn mode(mut self, mode: &str) -> Self {
        self.dhcp = format!("mode = {mode:?}\n");
        self
    }

    /// The same, expecting one more machine.
    #[must_use]
    pub fn node(mut self, name: &str, mac: &str, address: Option<&str>) -> Self {
        let address = address.map(str::to_owned);
        self.nodes.push(Node { name: name.to_owned(), mac: mac.to_owned(), address });
        self
    }

    /// The configuration file's text. Rust's quoting of plain ASCII text is also TOML's.
    #[must_use]
    pub fn text(&self, data_dir: &Path) -> String {
        let (first, last) = &self.pool;
        let mut text = format!(
            r#"data_dir = {data_dir:?}

[http]
listen = "{address}:{HTTP_PORT}"

[tftp]
listen = "{address}:{TFTP_PORT}"
{tftp}
[boot]
kernel = {kernel:?}
ramdisk = {ramdisk:?}
discovery = {discovery:?}
loaders = {loaders:?}
uefi_loader = {uefi:?}
cmdline = {cmdline:?}
{boot}
[images]
dir = {images:?}
keys = [{key:?}]

[log]
format = "text"
level = "debug"

[[dhcp]]
interface = "{interface}"
subnet = "{SUBNET}"
address = "{address}"
pool = [{first:?}, {last:?}]
lease_seconds = 3600
{dhcp}"#,
            address = self.address,
            interface = self.interface,
            boot = self.boot,
            cmdline = self.cmdline,
            tftp = self.tftp,
            dhcp = self.dhcp,
            kernel = self.kernel,
            ramdisk = self.ramdisk,
            discovery = self.discovery,
            loaders = self.loaders,
            uefi = self.uefi_loader,
            images = self.images,
            key = self.image_key,
        );
        for Profile { name, image, layout, authorized_keys, disk_serial, more } in &self.profiles {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "\n[[profile]]\nname = {name:?}\nimage = {image:?}\nlayout = {layout:?}\n");
            if !authorized_keys.is_empty() {
                let _ = writeln!(text, "authorized_keys = {authorized_keys:?}");
            }
            if let Some(serial) = disk_serial {
                let _ = writeln!(text, "disk = {{ serial = {serial:?} }}");
            }
            text.push_str(more);
        }
        for Node { name, mac, address } in &self.nodes {
            let _ = write!(text, "\n[[node]]\nname = {name:?}\nmac = {mac:?}\n");
            if let Some(address) = address {
                let _ = writeln!(text, "address = {address:?}");
            }
        }
        text.push_str(&self.sections);
        text
    }
}
