//! Our server under test: the optimised build, with the log it has by default.

use crate::bench::Bench;
use crate::subject::{Port, Subject};
use anyhow::Result;
use kaltstart_tests::pair::{SERVER, SERVER_INTERFACE, SUBNET};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Port of plain HTTP.
pub(crate) const HTTP_PORT: u16 = 8080;

/// What the server serves.
#[derive(Debug, Clone)]
pub(crate) struct Site<'a> {
    /// What it remembers.
    pub(crate) data: PathBuf,
    /// Boot files.
    pub(crate) loaders: &'a Path,
    /// Images.
    pub(crate) images: &'a Path,
    /// Who signed them; none: there are none.
    pub(crate) image_key: Option<&'a str>,
    /// Network, first and last address of the pool.
    pub(crate) subnet: (&'a str, Ipv4Addr, Ipv4Addr),
    /// Further lines of the configuration.
    pub(crate) more: String,
}

impl<'a> Site<'a> {
    /// A site with nothing in it, not even leases: what an earlier one remembered is removed.
    pub(crate) fn new(bench: &'a Bench) -> Self {
        let data = bench.dir().join("data");
        fs::remove_dir_all(&data).ok();
        let pool = (Ipv4Addr::new(10, 99, 1, 0), Ipv4Addr::new(10, 99, 239, 255));
        Self {
            data,
            loaders: bench.dir(),
            images: bench.dir(),
            image_key: None,
            subnet: (SUBNET, pool.0, pool.1),
            more: String::new(),
        }
    }

    /// The configuration file's text: as its peers, it looks neither for other servers nor for free addresses. Rust's quoting of plain ASCII text is also TOML's.
    fn text(&self) -> String {
        let Self { data, loaders, images, image_key, subnet: (subnet, first, last), more } = self;
        let ramdisk = loaders.join("ramdisk");
        let keys = image_key.map_or_else(|| "[]".to_owned(), |key| format!("[{key:?}]"));
        format!(
            r#"data_dir = {data:?}

[http]
listen = "{SERVER}:{HTTP_PORT}"

[tftp]
listen = "{SERVER}:69"

[boot]
kernel = "/dev/null"
ramdisk = {ramdisk:?}
discovery = "/dev/null"
loaders = {loaders:?}

[images]
dir = {images:?}
keys = {keys}

[[dhcp]]
interface = "{SERVER_INTERFACE}"
subnet = "{subnet}"
address = "{SERVER}"
pool = ["{first}", "{last}"]
ping_check = "never"
allow_other_servers = true

{more}
"#
        )
    }
}

/// Starts the server and waits for `port`.
pub(crate) fn start(bench: &Bench, site: &Site<'_>, port: Port) -> Result<Subject> {
    let mut server = spawn(bench, site)?;
    server.wait_bound(port)?;
    Ok(server)
}

/// Starts the server.
pub(crate) fn spawn(bench: &Bench, site: &Site<'_>) -> Result<Subject> {
    let file = bench.dir().join("server.toml");
    fs::write(site.loaders.join("ramdisk"), b"a ramdisk of a few bytes")?;
    fs::write(&file, site.text())?;
    let mut command = bench.pair().server_command(bench.server());
    command.arg("server").arg("--config").arg(file);
    Subject::spawn("kaltstart", &command, &bench.log("kaltstart"))
}
