//! What the server is told: one TOML file, checked as a whole before anything is bound.

mod authorized_key;
mod boot;
mod class;
mod database;
mod dhcp;
mod dhcp6;
mod dhcp_class;
mod dhcp_option;
mod dhcp_shape;
mod http;
mod images;
mod layout;
mod log;
mod node;
mod profile;
mod ranges;
mod syslog;
mod tftp;
mod warnings;
mod wipe;

pub use boot::Boot;
pub use class::Class;
pub use database::{Database, OtherServer};
pub use dhcp::Dhcp;
pub use dhcp_class::{DhcpClass, DhcpSite};
pub use dhcp_option::DhcpOption;
pub use dhcp6::Dhcp6;
pub use http::Http;
pub use images::Images;
pub use log::{Log, LogFormat, log_filter};
pub use node::{Declaration, NO_INTERFACE, Node, is_host_name};
pub use profile::Profile;
pub use syslog::Syslog;
pub use tftp::Tftp;
pub use wipe::Wipe;

use kaltstart_core::dhcp::host::Rules;
use kaltstart_core::dhcp::subnet::Subnet;
use kaltstart_core::dhcp6::subnet as subnet6;
use kaltstart_protocol::layout::Layout;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The checked configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Holds everything the server remembers.
    pub data_dir: PathBuf,
    /// The user the server becomes once everything is bound, if it is started as root; none = the
    /// user `kaltstart`, if there is one.
    #[serde(default)]
    pub user: Option<String>,
    /// HTTP.
    pub http: Http,
    /// TFTP.
    pub tftp: Tftp,
    /// What machines start over the network.
    pub boot: Boot,
    /// Images.
    pub images: Images,
    /// Where everything is remembered that other servers may share; none = in a file of `data_dir`.
    #[serde(default)]
    pub database: Option<Database>,
    /// What loaders and kernels say; none = they are not heard.
    #[serde(default)]
    pub syslog: Option<Syslog>,
    /// What may be lost.
    #[serde(default)]
    pub wipe: Wipe,
    /// Logging.
    #[serde(default)]
    pub log: Log,
    /// Subnets in which DHCP is served.
    #[serde(default)]
    pub dhcp: Vec<Dhcp>,
    /// Networks in which DHCPv6 is served.
    #[serde(default)]
    pub dhcp6: Vec<Dhcp6>,
    /// What holds in all of those of DHCP.
    #[serde(default)]
    pub dhcp_site: DhcpSite,
    /// Kinds of DHCP clients.
    #[serde(default)]
    pub dhcp_class: Vec<DhcpClass>,
    /// What may be ordered.
    #[serde(default)]
    pub profile: Vec<Profile>,
    /// Machines that are expected.
    #[serde(default)]
    pub node: Vec<Node>,
    /// Kinds of machines, as the decisions want them.
    #[serde(skip)]
    pub classes: Vec<kaltstart_core::class::Class>,
    /// Kinds of machines.
    #[serde(default, rename = "class")]
    own_classes: Vec<Class>,
    /// Layouts by name: the built-in ones, and `own_layouts`, which may take their place.
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
const BUILT_IN_LAYOUTS: [&str; 7] = [
    include_str!("../../../templates/layouts/btrfs.toml"),
    include_str!("../../../templates/layouts/encrypted.toml"),
    include_str!("../../../templates/layouts/encrypted-mirror.toml"),
    include_str!("../../../templates/layouts/single.toml"),
    include_str!("../../../templates/layouts/server.toml"),
    include_str!("../../../templates/layouts/mirror.toml"),
    include_str!("../../../templates/layouts/lvm.toml"),
];

/// Why a configuration is refused; each message names the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("cannot understand {path}{}", .hint.iter().map(|hint| format!(" ({hint})")).collect::<String>())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What to write instead, where that is known.
        hint: Option<String>,
        /// Where and why.
        source: Box<toml::de::Error>,
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
pub enum NoSection {
    /// There is none at all.
    #[error(
        "the configuration has no [[dhcp]] section: add one, with mode = \"off\" if DHCP is not served here"
    )]
    None,
    /// None has that name.
    #[error("no [[dhcp]] section is called {wanted:?}: use --interface with one of: {}", .there.join(", "))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Any of several may be meant.
    #[error("there are several [[dhcp]] sections: choose one by --interface, of: {}", .0.join(", "))]
    Several(Vec<String>),
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
    let parse_error =
        |source, hint| ConfigError::Parse { path: path.to_path_buf(), hint, source: Box::new(source) };
    let mut config: Config = toml::from_str(text).map_err(|error| {
        let hint = hint(text, &error);
        parse_error(error, hint)
    })?;
    for text in BUILT_IN_LAYOUTS {
        let layout: Layout = toml::from_str(text).map_err(|error| parse_error(error, None))?;
        config.layouts.insert(layout.name.clone(), layout);
    }
    config.classes = config.own_classes.iter().map(Class::decided_upon).collect();
    let mut problems = Vec::new();
    twice(&mut problems, "layout.name", config.own_layouts.iter().map(|layout| layout.name.clone()));
    config.layouts.extend(config.own_layouts.iter().map(|layout| (layout.name.clone(), layout.clone())));
    problems.extend(config.problems());
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Check { path: path.to_path_buf(), problems: problems.join("; ") })
    }
}

/// What to write instead of the line that `error` is about, for mistakes that many make.
fn hint(text: &str, error: &toml::de::Error) -> Option<String> {
    let (before, rest) = text.split_at_checked(error.span()?.start)?;
    let begin = before.rfind('\n').map_or(0, |at| at + 1);
    let line = [&before[begin..], rest.lines().next().unwrap_or_default()].concat();
    let line = line.trim();
    let key = line.split('=').next().unwrap_or_default().trim();
    if error.message().starts_with("invalid type: map, expected a sequence") && line.starts_with('[') {
        let name = line.split(['[', ']']).nth(1)?;
        return Some(format!("write [[{name}]]: there may be several"));
    }
    (key.ends_with("_seconds") && error.message().starts_with("invalid type: string"))
        .then(|| format!("write {key} as a number of seconds, without quotes"))
}

impl Config {
    /// The profile of that name.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profile.iter().find(|profile| profile.name == name)
    }

    /// Whether the layout of that name stands in the configuration.
    #[must_use]
    pub fn owns_layout(&self, name: &str) -> bool {
        self.own_layouts.iter().any(|layout| layout.name == name)
    }

    /// The `[[dhcp]]` section of that interface; the only one for none.
    ///
    /// # Errors
    /// When there is no such section, or several to choose from.
    pub fn dhcp_on(&self, interface: Option<&str>) -> Result<&Dhcp, NoSection> {
        let titles = || self.dhcp.iter().map(Dhcp::title).collect();
        match (interface, &self.dhcp[..]) {
            (_, []) => Err(NoSection::None),
            (None, [only]) => Ok(only),
            (None, _) => Err(NoSection::Several(titles())),
            (Some(wanted), all) => all
                .iter()
                .find(|dhcp| dhcp.title() == wanted)
                .ok_or_else(|| NoSection::Unknown { wanted: wanted.to_owned(), there: titles() }),
        }
    }

    /// The subnets as the DHCP decisions want them.
    #[must_use]
    pub fn subnets(&self) -> Vec<Subnet> {
        let (base, rules) = (self.http_base(), self.rules());
        self.dhcp.iter().map(|dhcp| dhcp.decided_upon(&base, &self.dhcp_site, &rules)).collect()
    }

    /// The networks as the DHCPv6 decisions want them.
    #[must_use]
    pub fn subnets6(&self) -> Vec<subnet6::Subnet> {
        let rules = self.rules();
        self.dhcp6.iter().map(|dhcp6| dhcp6.decided_upon(self.http_base_at(dhcp6.address), &rules)).collect()
    }

    fn rules(&self) -> Arc<Rules> {
        let mut rules = Rules::default();
        rules.classes.extend(self.dhcp_class.iter().map(DhcpClass::decided_upon));
        for node in &self.node {
            let (keys, host) = node.decided_upon();
            rules.add(keys, host);
        }
        Arc::new(rules)
    }

    /// The addresses at which machines that start over IPv6 find plain HTTP and TFTP.
    #[must_use]
    pub fn addresses6(&self) -> BTreeSet<Ipv6Addr> {
        self.dhcp6.iter().map(|dhcp6| dhcp6.address).collect()
    }

    /// `http://[ADDRESS]:PORT`, as machines that start over IPv6 are told.
    #[must_use]
    pub fn http_base_at(&self, address: Ipv6Addr) -> String {
        format!("http://[{address}]:{}", self.http.listen.port())
    }

    /// `http://ADDRESS:PORT`, as machines are told.
    #[must_use]
    pub fn http_base(&self) -> String {
        format!("http://{}", self.http.listen)
    }

    /// `https://ADDRESS:PORT`, as agents and installed systems are told.
    #[must_use]
    pub fn https_base(&self) -> String {
        format!("https://{}", self.http.tls_listen())
    }

    /// The same of this server and of all that share its database, in the order in which they are asked.
    #[must_use]
    pub fn https_bases(&self) -> Vec<String> {
        let others = self.others().iter().map(|server| format!("https://{}", server.tls_listen()));
        [self.https_base()].into_iter().chain(others).collect()
    }

    /// The addresses by which those serve DHCP.
    pub fn siblings(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.others().iter().flat_map(OtherServer::addresses)
    }

    /// The servers that share its database.
    #[must_use]
    pub fn others(&self) -> &[OtherServer] {
        self.database.as_ref().map_or(&[], |database| &database.servers)
    }

    /// All addresses and host names by which this server may be called.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.http.names.iter().cloned().collect();
        names.extend(["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()]);
        names.extend([self.http.listen, self.http.tls_listen()].map(|listen| listen.ip().to_string()));
        names.extend(self.dhcp.iter().map(|subnet| subnet.address.to_string()));
        names.extend(self.addresses6().iter().map(Ipv6Addr::to_string));
        let own = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        names.extend(own.filter(|name| name.split('.').all(is_host_name)));
        names
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
            Some(_) if self.siblings().any(|sibling| sibling == address) => {
                Err(format!("{address} is another server's"))
            }
            Some(_) => Ok(()),
        }
    }

    fn reservable6(&self, address: Ipv6Addr) -> bool {
        self.dhcp6.iter().any(|dhcp6| dhcp6.has_host(address) && dhcp6.address != address)
    }

    fn problems(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.http.problems(&mut all);
        if let Some(database) = &self.database {
            database.problems(&self.http, &mut all);
        }
        if let Some(syslog) = &self.syslog {
            syslog.problems(&mut all);
        }
        self.tftp.problems(&mut all);
        self.images.problems(!self.profile.is_empty(), self.http.listen, &mut all);
        self.log.problems(&mut all);
        self.boot.problems(&self.node, &mut all);
        for subnet in &self.dhcp {
            subnet.problems(&mut all);
        }
        for address in self.siblings() {
            if self.dhcp.iter().any(|dhcp| dhcp.address == address) {
                all.push(format!("database.server: {address} is an address of this server, not of another"));
            }
            if let Some(dhcp) = self.dhcp.iter().find(|dhcp| dhcp.gives(address)) {
                let whose = dhcp.title();
                all.push(format!("dhcp {whose}: the pool contains {address}, another server's; see exclude"));
            }
        }
        for layout in self.layouts.values() {
            layout::problems(layout, &mut all);
        }
        for profile in &self.profile {
            if !self.layouts.contains_key(&profile.layout) {
                all.push(format!("profile {:?}: layout {:?} does not exist", profile.name, profile.layout));
            }
            profile.problems(&mut all);
        }
        twice(&mut all, "profile.name", self.profile.iter().map(|profile| profile.name.clone()));
        twice(&mut all, "node.name", self.node.iter().map(|node| node.name.clone()));
        node::shared(&self.node, &mut all);
        let mut shared = Vec::new();
        twice(&mut shared, "dhcp.interface", self.dhcp.iter().filter_map(|dhcp| dhcp.interface.clone()));
        all.extend(shared.into_iter().map(|problem| {
            format!("{problem}: an interface has one [[dhcp]] section; several subnets on one wire cannot be served")
        }));
        for (at, dhcp) in self.dhcp.iter().enumerate() {
            for other in self.dhcp[..at].iter().filter(|other| other.subnet.overlaps(dhcp.subnet)) {
                all.push(format!("dhcp {}: subnet overlaps with that of {}", dhcp.title(), other.title()));
            }
        }
        twice(&mut all, "dhcp6.interface", self.dhcp6.iter().filter_map(|dhcp6| dhcp6.interface.clone()));
        for (at, dhcp6) in self.dhcp6.iter().enumerate() {
            dhcp6.problems(&mut all);
            for other in self.dhcp6[..at].iter().filter(|other| other.prefix.overlaps(dhcp6.prefix)) {
                all.push(format!("dhcp6 {}: prefix overlaps with that of {}", dhcp6.title(), other.title()));
            }
        }
        class::problems(&self.own_classes, &mut all);
        self.dhcp_site.problems(&mut all);
        twice(&mut all, "dhcp_class.name", self.dhcp_class.iter().map(|class| class.name.clone()));
        for class in &self.dhcp_class {
            class.problems(&mut all);
        }
        for node in &self.node {
            node.problems(&mut all);
            if let Some(Err(problem)) = node.address.map(|address| self.reservable(address)) {
                all.push(format!("node {:?}: address {problem}", node.name));
            }
            if let Some(address) = node.address6.filter(|address| !self.reservable6(*address)) {
                all.push(format!(
                    "node {:?}: address6 {address} is in no dhcp6.prefix of this server, or its own",
                    node.name
                ));
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
pub(crate) mod tests;
