//! What the server is told: one TOML file, checked as a whole before anything is bound.

mod boot;
mod dhcp;
mod http;
mod images;
mod log;
mod node;
mod profile;
mod syslog;
mod tftp;

pub use boot::Boot;
pub use dhcp::Dhcp;
pub use http::Http;
pub use images::Images;
pub use log::{Log, LogFormat, log_filter};
pub use node::{Node, is_host_name};
pub use profile::Profile;
pub use syslog::Syslog;
pub use tftp::Tftp;

use kaltstart_protocol::layout::{Layout, plan};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

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
    /// What loaders and kernels say; none = they are not heard.
    #[serde(default)]
    pub syslog: Option<Syslog>,
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

fn yes() -> bool {
    true
}

/// Layouts that come with the server.
const BUILT_IN_LAYOUTS: [&str; 1] = [include_str!("../../../templates/layouts/single.toml")];

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

/// No `[[dhcp]]` section is the one that is meant.
#[derive(Debug, thiserror::Error)]
#[error("name the interface of one [[dhcp]] section; there are: {}", .0.join(" "))]
pub struct NoSection(Vec<String>);

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

    /// The `[[dhcp]]` section of that interface; the only one for none.
    ///
    /// # Errors
    /// When there is no such section, or several to choose from.
    pub fn dhcp_on(&self, interface: Option<&str>) -> Result<&Dhcp, NoSection> {
        let mut fitting =
            self.dhcp.iter().filter(|dhcp| interface.is_none_or(|interface| dhcp.interface == interface));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(NoSection(self.dhcp.iter().map(|dhcp| dhcp.interface.clone()).collect())),
        }
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
        self.http.problems(&mut all);
        if let Some(syslog) = &self.syslog {
            syslog.problems(&mut all);
        }
        self.tftp.problems(&mut all);
        self.tftp.problems(&mut all);
        self.log.problems(&mut all);
        self.boot.problems(&mut all);
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
            profile.problems(&mut all);
        }
        twice(&mut all, "profile.name", self.profile.iter().map(|profile| profile.name.clone()));
        twice(&mut all, "node.name", self.node.iter().map(|node| node.name.clone()));
        twice(&mut all, "node.mac", self.node.iter().map(|node| node.mac.to_string()));
        twice(&mut all, "dhcp.interface", self.dhcp.iter().map(|dhcp| dhcp.interface.clone()));
        let reserved = self.node.iter().filter_map(|node| node.address).map(|address| address.to_string());
        twice(&mut all, "node.address", reserved);
        for node in &self.node {
            node.problems(&mut all);
            if let Some(Err(problem)) = node.address.map(|address| self.reservable(address)) {
                all.push(format!("node {:?}: address {problem}", node.name));
            }
        }
        all
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

#[cfg(test)]
pub(crate) mod tests {
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

    /// A configuration for other modules' tests.
    pub(crate) fn good() -> Config {
        parse(GOOD, Path::new("c.toml")).expect("it is good")
    }

    fn refusal(text: &str) -> String {
        parse(text, Path::new("c.toml")).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_good_file_is_accepted() {
        let config = good();
        assert_eq!(config.dhcp[0].subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert!(config.layouts.contains_key("single"));
    }

    #[test]
    fn refusals_name_the_key() {
        for (from, to, named) in [
            ("[tftp]", "[tftp]\nroot = 1", "root"),
            ("[tftp]", "[tftp]\nblksize_max = 7", "tftp.blksize_max"),
            ("[tftp]", "[tftp]\nblksize_max = 65465", "tftp.blksize_max"),
            ("[tftp]", "[tftp]\nwindowsize_max = 65", "tftp.windowsize_max"),
            ("10.77.0.1:8080", "0.0.0.0:8080", "http.listen"),
            ("[tftp]", "[syslog]\nlisten = \"0.0.0.0:514\"\n[tftp]", "syslog.listen"),
            ("[tftp]", "timeout_seconds = 0\n[tftp]", "http.timeout_seconds"),
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
