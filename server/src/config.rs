//! What the server is told: one TOML file, checked as a whole before anything is bound.

use crate::images::is_file_name;
use kaltstart_core::dhcp::bootfile::LocalAnswer;
use kaltstart_core::dhcp::lease::Pool;
use kaltstart_core::dhcp::subnet::{Network, Subnet};
use kaltstart_protocol::agent_api::DiskRule;
use kaltstart_protocol::facts::TRANSPORTS;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::layout::{Layout, plan};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The checked configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Holds everything the server remembers.
    pub data_dir: PathBuf,
    /// HTTP.
    pub http: Http,
    /// TFTP.
    pub tftp: Tftp,
    /// What machines start over the network.
    pub boot: Boot,
    /// Images.
    pub images: Images,
    /// Logging.
    #[serde(default)]
    pub log: Log,
    /// Interfaces on which DHCP is served.
    #[serde(default)]
    pub dhcp: Vec<Dhcp>,
    /// What may be ordered.
    #[serde(default)]
    pub profile: Vec<Profile>,
    /// Machines that are expected.
    #[serde(default)]
    pub node: Vec<Node>,
    /// Layouts by name: the built-in ones, and those of `layouts`.
    #[serde(skip)]
    pub layouts: BTreeMap<String, Layout>,
    /// Further layouts.
    #[serde(default, rename = "layout")]
    own_layouts: Vec<Layout>,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port of boot files, images, agent API and `/v1`. Machines are told this address.
    pub listen: SocketAddrV4,
}

/// `[tftp]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tftp {
    /// Address and port; firmware always asks port 69.
    pub listen: SocketAddrV4,
}

/// `[boot]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The agent's kernel.
    pub kernel: PathBuf,
    /// The agent's ramdisk.
    pub ramdisk: PathBuf,
    /// Directory with the first-stage loaders: `undionly.kpxe`, `snponly.efi`, `snponly-arm64.efi`.
    pub loaders: PathBuf,
    /// Kernel arguments for the agent, besides its own.
    #[serde(default)]
    pub cmdline: String,
    /// Whether machines nobody declared are looked at.
    #[serde(default = "yes")]
    pub discover_unknown: bool,
}

/// `[images]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Directory with `NAME/manifest.json` and the file it names.
    pub dir: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Text for people, JSON for collectors.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `kaltstart_server::net=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One line of JSON.
    Json,
}

/// `[[dhcp]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp {
    /// Interface.
    pub interface: String,
    /// Network, as `10.77.0.0/24`.
    #[serde(deserialize_with = "network")]
    pub subnet: Network,
    /// This server's address on it.
    pub address: Ipv4Addr,
    /// First and last dynamic address; none = reservations only.
    #[serde(default)]
    pub pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Default router.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// How long an address is lent, in seconds.
    #[serde(default = "an_hour")]
    pub lease_seconds: u32,
    /// Whether router solicitations are answered with "no router here", so that boot loaders do
    /// not wait for IPv6. Harmless beside real routers.
    #[serde(default = "yes")]
    pub answer_router_solicitations: bool,
}

/// Reads a network as `10.77.0.0/24`: a prefix of 1 to 30 bits, no host bits set.
fn network<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Network, D::Error> {
    let text = String::deserialize(from)?;
    let bad = || serde::de::Error::custom(format!("{text:?} is not a network, as 10.77.0.0/24"));
    let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
    let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=30).contains(prefix)).ok_or_else(bad)?;
    let network = Network { address, prefix };
    if address & network.mask() == address {
        Ok(network)
    } else {
        Err(serde::de::Error::custom(format!("{text:?} has host bits set")))
    }
}

/// `[[profile]]`: what a machine shall become.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Image, by name.
    pub image: String,
    /// Layout, by name.
    #[serde(default = "single")]
    pub layout: String,
    /// Which disk.
    #[serde(default)]
    pub disk: DiskRule,
    /// Lines of root's `authorized_keys`.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
}

/// `[[node]]`: a machine that is expected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Host name, one label.
    pub name: String,
    /// Hardware address of the interface it boots from.
    pub mac: Mac,
    /// Reserved address.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
}

fn yes() -> bool {
    true
}

fn an_hour() -> u32 {
    3600
}

fn single() -> String {
    "single".into()
}

/// Layouts that come with the server.
const BUILT_IN_LAYOUTS: [&str; 1] = [include_str!("../../templates/layouts/single.toml")];

/// Why a configuration is refused; each message names the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// Contradicts itself.
    #[error("{path}: {problems}")]
    Check {
        /// The file.
        path: PathBuf,
        /// All problems, separated by `; `.
        problems: String,
    },
}

/// Reads and checks a configuration; binds and creates nothing.
///
/// # Errors
/// When it cannot be read, has an unknown key or a bad value, or contradicts itself.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let parse_error = |source| ConfigError::Parse { path: path.to_path_buf(), source };
    let mut config: Config = toml::from_str(text).map_err(parse_error)?;
    for text in BUILT_IN_LAYOUTS {
        let layout: Layout = toml::from_str(text).map_err(parse_error)?;
        config.layouts.insert(layout.name.clone(), layout);
    }
    let mut problems = Vec::new();
    twice(&mut problems, "layout.name", config.own_layouts.iter().map(|layout| layout.name.clone()));
    for layout in std::mem::take(&mut config.own_layouts) {
        config.layouts.insert(layout.name.clone(), layout);
    }
    problems.extend(config.problems());
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Check { path: path.to_path_buf(), problems: problems.join("; ") })
    }
}

impl Config {
    /// The profile of that name.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profile.iter().find(|profile| profile.name == name)
    }

    /// `http://ADDRESS:PORT`, as machines are told.
    #[must_use]
    pub fn http_base(&self) -> String {
        format!("http://{}", self.http.listen)
    }

    /// Whether `address` can be reserved for a machine.
    ///
    /// # Errors
    /// When it is not a machine's to have; the message tells why.
    pub fn reservable(&self, address: Ipv4Addr) -> Result<(), String> {
        match self.dhcp.iter().find(|dhcp| dhcp.subnet.has_host(address)) {
            None => Err(format!("{address} is in no dhcp.subnet of this server")),
            Some(dhcp) if dhcp.address == address => Err(format!("{address} is the server's own")),
            Some(dhcp) if dhcp.router == Some(address) => Err(format!("{address} is the router's")),
            Some(_) => Ok(()),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.http.listen.ip().is_unspecified() || self.http.listen.port() == 0 {
            all.push("http.listen: machines must be told an address and a port, not 0.0.0.0 or 0".into());
        }
        if let Err(problem) = log_filter(&self.log.level) {
            all.push(format!("log.level: {problem}"));
        }
        if self.boot.cmdline.chars().any(char::is_control) {
            all.push("boot.cmdline: is one line of kernel arguments, without control characters".into());
        }
        for subnet in &self.dhcp {
            subnet.problems(&mut all);
        }
        for layout in self.layouts.values() {
            if let Err(problem) = plan::check(layout) {
                all.push(format!("layout: {problem}"));
            }
        }
        for profile in &self.profile {
            if !self.layouts.contains_key(&profile.layout) {
                all.push(format!("profile {:?}: layout {:?} does not exist", profile.name, profile.layout));
            }
            disk_problems(profile, &mut all);
            if !is_file_name(&profile.image) {
                all.push(format!(
                    "profile {:?}: image {:?} is not an image name",
                    profile.name, profile.image
                ));
            }
            if profile.authorized_keys.iter().any(|key| key.chars().any(char::is_control)) {
                all.push(format!("profile {:?}: an entry of authorized_keys is not one line", profile.name));
            }
        }
        twice(&mut all, "profile.name", self.profile.iter().map(|profile| profile.name.clone()));
        twice(&mut all, "node.name", self.node.iter().map(|node| node.name.clone()));
        twice(&mut all, "node.mac", self.node.iter().map(|node| node.mac.to_string()));
        twice(&mut all, "dhcp.interface", self.dhcp.iter().map(|dhcp| dhcp.interface.clone()));
        let reserved = self.node.iter().filter_map(|node| node.address).map(|address| address.to_string());
        twice(&mut all, "node.address", reserved);
        for node in &self.node {
            if !is_host_name(&node.name) {
                all.push(format!("node.name {:?} is not a host name (letters, digits, -)", node.name));
            }
            if let Some(Err(problem)) = node.address.map(|address| self.reservable(address)) {
                all.push(format!("node {:?}: address {problem}", node.name));
            }
        }
        all
    }
}

impl Dhcp {
    /// The subnet as the DHCP decisions want it; `http_base` is the base of this server's URLs.
    #[must_use]
    pub fn decided_upon(&self, http_base: &str) -> Subnet {
        Subnet {
            network: self.subnet,
            server: self.address,
            http: http_base.to_owned(),
            pool: self.pool.map_or(Pool::EMPTY, |(first, last)| Pool { first, last }),
            routers: self.router.into_iter().collect(),
            name_servers: self.dns.clone(),
            domain: None,
            lease_seconds: self.lease_seconds,
            local: LocalAnswer::default(),
        }
    }

    fn problems(&self, all: &mut Vec<String>) {
        let name = &self.interface;
        let outside = |address| !self.subnet.has_host(address);
        if outside(self.address) {
            all.push(format!("dhcp {name}: address {} is not a host of its subnet", self.address));
        }
        if let Some((first, last)) = self.pool {
            if outside(first) || outside(last) || first > last {
                all.push(format!("dhcp {name}: pool {first} to {last} does not lie in its subnet"));
            }
            if (first..=last).contains(&self.address) {
                all.push(format!("dhcp {name}: the pool contains the server's own address"));
            }
            if self.router.is_some_and(|router| (first..=last).contains(&router)) {
                all.push(format!("dhcp {name}: the pool contains the router's address"));
            }
        }
        if let Some(router) = self.router.filter(|router| outside(*router)) {
            all.push(format!("dhcp {name}: router {router} is not a host of its subnet"));
        }
        if self.lease_seconds < 60 {
            all.push(format!("dhcp {name}: lease_seconds must be at least 60"));
        }
    }
}

/// Rules that no disk can fit.
fn disk_problems(profile: &Profile, all: &mut Vec<String>) {
    let DiskRule { transport, min_gib, max_gib, .. } = &profile.disk;
    if let Some(transport) = transport.as_ref().filter(|text| !TRANSPORTS.contains(&text.as_str())) {
        let known = TRANSPORTS.join(", ");
        all.push(format!("profile {:?}: disk.transport {transport:?} is none of {known}", profile.name));
    }
    if min_gib.zip(*max_gib).is_some_and(|(min, max)| min > max) {
        all.push(format!("profile {:?}: disk.min_gib is above disk.max_gib", profile.name));
    }
}

fn twice(all: &mut Vec<String>, key: &str, values: impl Iterator<Item = String>) {
    let mut seen = std::collections::BTreeSet::new();
    for value in values {
        if !seen.insert(value.clone()) {
            all.push(format!("{key}: {value:?} occurs twice"));
        }
    }
}

/// What `log.level` lets through.
///
/// # Errors
/// When it is neither a level nor directives; the message tells what is expected.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    // A misspelt level alone would be taken for the name of a module, and silence all others.
    let misspelt = |word: &&str| !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err();
    match text.split(',').map(str::trim).find(misspelt) {
        Some(word) => Err(format!("{word:?} is none of error, warn, info, debug, trace, off")),
        None => EnvFilter::try_new(text).map_err(|error| format!("{text:?}: {error}")),
    }
}

/// Whether `name` is one label of a host name (RFC 1123 §2.1), and cannot be taken for a MAC.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.parse::<Mac>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        data_dir = "/d"
        [http]
        listen = "10.77.0.1:8080"
        [tftp]
        listen = "10.77.0.1:69"
        [boot]
        kernel = "k"
        ramdisk = "r"
        loaders = "l"
        [images]
        dir = "i"
        [[dhcp]]
        interface = "br0"
        subnet = "10.77.0.0/24"
        address = "10.77.0.1"
        pool = ["10.77.0.100", "10.77.0.199"]
        [[profile]]
        name = "debian"
        image = "debian-12"
        [[node]]
        name = "db-07"
        mac = "52:54:00:00:00:01"
        address = "10.77.0.50"
    "#;

    fn refusal(text: &str) -> String {
        parse(text, Path::new("c.toml")).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_good_file_is_accepted() {
        let config = parse(GOOD, Path::new("c.toml")).expect("it is good");
        assert_eq!(config.dhcp[0].subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert!(config.layouts.contains_key("single"));
    }

    #[test]
    fn refusals_name_the_key() {
        for (from, to, named) in [
            ("[tftp]", "[tftp]\nroot = 1", "root"),
            ("10.77.0.1:8080", "0.0.0.0:8080", "http.listen"),
            ("10.77.0.0/24", "10.77.0.5/24", "host bits"),
            ("[[profile]]", "router = \"10.77.0.150\"\n[[profile]]", "router's"),
            ("[[profile]]", "router = \"10.78.0.1\"\n[[profile]]", "router 10.78"),
            ("[[node]]", "disk = { transport = \"nvm\" }\n[[node]]", "transport"),
            ("[[node]]", "disk = { min_gib = 9, max_gib = 8 }\n[[node]]", "min_gib"),
            ("10.77.0.199", "10.78.0.199", "pool"),
            ("\"10.77.0.100\", ", "\"10.77.0.1\", ", "own address"),
            ("\"10.77.0.50\"", "\"10.9.0.50\"", "db-07"),
            ("db-07", "DB_07", "node.name"),
            ("image = \"debian-12\"", "image = \"debian-12\"\nlayout = \"x\"", "layout \"x\""),
            ("52:54:00:00:00:01", "52:54", "mac"),
            ("10.77.0.1:8080", "10.77.0.1:0", "http.listen"),
            ("\"10.77.0.50\"", "\"10.77.0.1\"", "server's own"),
            ("image = \"debian-12\"", "image = \"../debian-12\"", "image"),
            ("image = \"debian-12\"", "image = \"i\"\nauthorized_keys = [\"a\\nb\"]", "authorized_keys"),
            ("loaders = \"l\"", "loaders = \"l\"\ncmdline = \"a\\nb\"", "boot.cmdline"),
            ("[tftp]", "[log]\nlevel = \"inof\"\n[tftp]", "log.level"),
            ("[tftp]", "[log]\nlevel = \"a=b=c\"\n[tftp]", "log.level"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from:?} stands in the good file");
            let message = refusal(&text);
            assert!(message.contains(named), "{named:?} in {message:?}");
        }
        assert!(refusal("data_dir = 3").contains("data_dir"));
    }
}
