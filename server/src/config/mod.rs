//! What the server is told: one TOML file, checked as a whole before anything is bound.

mod authorized_key;
mod boot;
mod dhcp;
mod dhcp6;
mod dhcp_class;
mod dhcp_option;
mod dhcp_shape;
mod http;
mod images;
mod log;
mod node;
mod profile;
mod ranges;
mod syslog;
mod tftp;

pub use boot::Boot;
pub use dhcp::Dhcp;
pub use dhcp_class::{DhcpClass, DhcpSite};
pub use dhcp_option::DhcpOption;
pub use dhcp6::Dhcp6;
pub use http::Http;
pub use images::Images;
pub use log::{Log, LogFormat, log_filter};
pub use node::{Declaration, Node, is_host_name};
pub use profile::Profile;
pub use syslog::Syslog;
pub use tftp::Tftp;

use kaltstart_core::dhcp::host::Rules;
use kaltstart_core::dhcp::subnet::Subnet;
use kaltstart_core::dhcp6::subnet as subnet6;
use kaltstart_protocol::layout::{Layout, plan};
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
    /// What loaders and kernels say; none = they are not heard.
    #[serde(default)]
    pub syslog: Option<Syslog>,
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
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("cannot understand {path}")]
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
            Some(_) => Ok(()),
        }
    }

    fn reservable6(&self, address: Ipv6Addr) -> bool {
        self.dhcp6.iter().any(|dhcp6| dhcp6.has_host(address) && dhcp6.address != address)
    }

    fn problems(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.http.problems(&mut all);
        if let Some(syslog) = &self.syslog {
            syslog.problems(&mut all);
        }
        self.tftp.problems(&mut all);
        self.images.problems(!self.profile.is_empty(), &mut all);
        self.log.problems(&mut all);
        self.boot.problems(&self.node, &mut all);
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
        node::shared(&self.node, &mut all);
        twice(&mut all, "dhcp.interface", self.dhcp.iter().filter_map(|dhcp| dhcp.interface.clone()));
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
pub(crate) mod tests {
    use super::*;
    use kaltstart_core::dhcp::host::HostKey;

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
        keys = ["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"]
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
        let error = parse(text, Path::new("c.toml")).expect_err("must be refused");
        format!("{:#}", anyhow::Error::from(error))
    }

    #[test]
    fn a_good_file_is_accepted() {
        let config = good();
        assert_eq!(config.dhcp[0].subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert!(config.layouts.contains_key("single"));
    }

    #[test]
    fn dhcp_levels_pools_and_keys_come_out_as_they_were_meant() {
        let text = GOOD.replace(
            "[[profile]]",
            r#"exclude = ["10.77.0.100", "10.77.0.120-10.77.0.129"]
            pools = [["10.77.0.210", "10.77.0.219"]]
            router = "10.77.0.254"
            [[dhcp]]
            subnet = "10.9.0.0/16"
            address = "10.77.0.1"
            relays = ["10.1.0.1", "10.2.0.0/24"]
            lease_seconds = 600
            [dhcp_site]
            lease_seconds = 7200
            options = [{ code = 42, ips = ["10.77.0.1", "10.77.0.2"] }, { code = 26, u16 = 1500 }]
            [[dhcp_class]]
            name = "phones"
            vendor_class = "Phone"
            mac = "00:80:f0"
            options = [{ code = 150, ip = "10.77.0.9" }]
            [[node]]
            name = "rack1-port7"
            address = "10.77.0.57"
            circuit_id = "eth 1/7"
            remote_id = "0x00:ff"
            [[profile]]"#,
        );
        let config = parse(&text, Path::new("c.toml")).expect("it is good");
        let [direct, far] = config.subnets().try_into().expect("two subnets");
        let host = |n| Ipv4Addr::new(10, 77, 0, n);
        let pools: Vec<_> = direct.pools.iter().map(|pool| (pool.first, pool.last)).collect();
        assert_eq!(pools, [(host(101), host(119)), (host(130), host(199)), (host(210), host(219))]);
        assert!(direct.direct && !far.direct && far.relays.len() == 2);
        assert_eq!((direct.parameters.lease_seconds, far.parameters.lease_seconds), (Some(7200), Some(600)));
        assert_eq!(direct.parameters.options.addresses(42), [host(1), host(2)]);
        assert_eq!(far.parameters.options.get(26), Some(&[5, 220][..]));
        assert_eq!(
            (direct.parameters.options.addresses(3), far.parameters.options.get(3)),
            (vec![host(254)], None)
        );
        assert_eq!(direct.rules.classes[0].mac, [0, 0x80, 0xf0]);
        let port = HostKey::Port(Some(b"eth 1/7".to_vec()), Some(vec![0, 255]));
        assert_eq!(direct.rules.find(&port).and_then(|found| found.address), Some(host(57)));
        assert_eq!(config.node.iter().filter_map(Node::declaration).count(), 1);
    }

    const DHCP6: &str = r#"[[dhcp6]]
        interface = "br0"
        prefix = "fd77::/64"
        address = "fd77::1"
        pool = ["fd77::100", "fd77::1ff"]
        exclude = ["fd77::110-fd77::11f"]
        domains = ["example.org"]
        [[node]]
        name = "six"
        uuid = "6b616c74-7374-4172-9400-000000000001"
        address6 = "fd77::50"
        [[profile]]"#;

    #[test]
    fn dhcp6_sections_come_out_as_they_were_meant() {
        let config = parse(&GOOD.replace("[[profile]]", DHCP6), Path::new("c.toml")).expect("it is good");
        let [subnet] = config.subnets6().try_into().expect("one");
        let host = |n| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n);
        let pools: Vec<_> = subnet.pools.iter().map(|pool| (pool.first, pool.last)).collect();
        assert_eq!(pools, [(host(0x100), host(0x10f)), (host(0x120), host(0x1ff))]);
        assert_eq!((subnet.http.as_str(), subnet.direct), ("http://[fd77::1]:8080", true));
        assert_eq!(subnet.rules.reserved6, BTreeSet::from([host(0x50)]));
        assert!(config.names().contains("fd77::1"));
        for (from, to, named) in [
            ("fd77::/64", "fd77::1/64", "host bits"),
            ("fd77::/64", "10.0.0.0/8", "not an IPv6 network"),
            ("address = \"fd77::1\"", "address = \"fe80::1\"", "URLs"),
            ("address = \"fd77::1\"", "address = \"fd78::1\"", "its prefix"),
            ("address = \"fd77::1\"", "address = \"fd77::120\"", "own address"),
            ("fd77::1ff", "fd78::1ff", "pool"),
            ("fd77::1ff", "fd77::1:0:1ff", "more than"),
            ("example.org", "exa mple", "domains"),
            ("domains", "lease_seconds = 1\ndomains", "lease_seconds"),
            ("address6 = \"fd77::50\"", "address6 = \"fd78::50\"", "address6"),
            ("address6 = \"fd77::50\"", "duid = \"0x00\"", "duid"),
        ] {
            let text = GOOD.replace("[[profile]]", &DHCP6.replace(from, to));
            assert!(refusal(&text).contains(named), "{to:?}: {}", refusal(&text));
        }
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
            ("[tftp]", "tls_listen = \"10.77.0.1:8080\"\n[tftp]", "http.tls_listen"),
            ("[tftp]", "names = [\"a b\"]\n[tftp]", "http.names"),
            ("10.77.0.0/24", "10.77.0.5/24", "host bits"),
            ("[[profile]]", "router = \"10.77.0.150\"\n[[profile]]", "router's"),
            ("[[profile]]", "router = \"10.78.0.1\"\n[[profile]]", "router 10.78"),
            ("[[node]]", "disk = { transport = \"nvm\" }\n[[node]]", "transport"),
            ("[[node]]", "disk = { min_gib = 9, max_gib = 8 }\n[[node]]", "min_gib"),
            ("10.77.0.199", "10.78.0.199", "pool"),
            ("\"10.77.0.100\", ", "\"10.77.0.1\", ", "own address"),
            (
                "\"10.77.0.100\", \"10.77.0.199\"",
                "\"10.77.0.199\", \"10.77.0.100\"",
                "pool 10.77.0.199 to 10.77.0.100 is reversed",
            ),
            ("\"10.77.0.50\"", "\"10.9.0.50\"", "db-07"),
            ("db-07", "DB_07", "node.name"),
            ("image = \"debian-12\"", "image = \"debian-12\"\nlayout = \"x\"", "layout \"x\""),
            ("52:54:00:00:00:01", "52:54", "mac"),
            ("10.77.0.1:8080", "10.77.0.1:0", "http.listen"),
            ("\"10.77.0.50\"", "\"10.77.0.1\"", "server's own"),
            ("image = \"debian-12\"", "image = \"../debian-12\"", "image"),
            ("image = \"debian-12\"", "image = \"i\"\nauthorized_keys = [\"a\\nb\"]", "authorized_keys"),
            ("loaders = \"l\"", "loaders = \"l\"\ncmdline = \"a\\nb\"", "boot.cmdline"),
            ("loaders = \"l\"", "loaders = \"l\"\ncmdline = \"a ${x}\"", "iPXE"),
            ("loaders = \"l\"", "loaders = \"l\"\nuefi_loader = \"grub\"", "uefi_loader"),
            ("loaders = \"l\"", "loaders = \"l\"\nuefi_loader = \"signed\"\ncmdline = \"a='b'\"", "GRUB"),
            ("[tftp]", "[log]\nlevel = \"inof\"\n[tftp]", "log.level"),
            ("[[profile]]", "exclude = [\"10.77.0.9-10.77.0.8\"]\n[[profile]]", "reversed"),
            ("[[profile]]", "exclude = [\"10.77.0.9-\"]\n[[profile]]", "FIRST-LAST"),
            (
                "[[profile]]",
                "exclude = [\"10.77.0.98-10.77.0.99\"]\n[[profile]]",
                "exclude 10.77.0.98-10.77.0.99 lies in no pool",
            ),
            (
                "[[profile]]",
                "options = [{ code = 26, u8 = 220 }]\n[[profile]]",
                "dhcp br0: options: code 26: interface MTU",
            ),
            ("[[profile]]", "pools = [[\"10.77.0.150\", \"10.77.0.210\"]]\n[[profile]]", "overlap"),
            ("[[profile]]", "options = [{ code = 82, hex = \"00\" }]\n[[profile]]", "code 82"),
            (
                "[[profile]]",
                "options = [{ code = 42, ip = \"10.0.0.1\", u8 = 1 }]\n[[profile]]",
                "exactly one",
            ),
            (
                "[[profile]]",
                "dns = [\"10.0.0.1\"]\noptions = [{ code = 6, hex = \"0a000001\" }]\n[[profile]]",
                "dns",
            ),
            ("[[profile]]", "relays = [\"10.1.0.1/16\"]\n[[profile]]", "relays"),
            ("[[profile]]", "renew_seconds = 3600\n[[profile]]", "renew_seconds"),
            ("[[profile]]", "lease_seconds = 600\nmax_lease_seconds = 300\n[[profile]]", "max_lease_seconds"),
            (
                "[[profile]]",
                "[[dhcp]]\nsubnet = \"10.77.0.0/16\"\naddress = \"10.77.0.1\"\n[[profile]]",
                "overlaps",
            ),
            ("[[profile]]", "[[dhcp_class]]\nname = \"all\"\n[[profile]]", "no condition"),
            ("[[node]]", "[[node]]\nname = \"a\"\nmac = \"52:54:00:00:00:01\"\n[[node]]", "same mac"),
            (
                "[[node]]",
                "[[node]]\nname = \"port\"\ncircuit_id = \"1\"\naddress = \"10.77.0.50\"\n[[node]]",
                "nodes \"port\" and \"db-07\" have the same address 10.77.0.50",
            ),
            ("[[node]]", "[[node]]\nname = \"a\"\naddress = \"10.77.0.51\"\n[[node]]", "give mac"),
            ("[[node]]", "[[node]]\nname = \"a\"\ncircuit_id = \"eth1\"\n[[node]]", "needs an address"),
            ("address = \"10.77.0.50\"", "uuid = \"12\"", "uuid"),
            ("address = \"10.77.0.50\"", "client_id = \"0xabc\"", "client_id"),
            ("[tftp]", "[log]\nlevel = \"a=b=c\"\n[tftp]", "log.level"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from:?} stands in the good file");
            let message = refusal(&text);
            assert!(message.contains(named), "{named:?} in {message:?}");
        }
        assert!(refusal("data_dir = 3").contains("data_dir"));
    }

    #[test]
    fn a_refusal_says_everything_once() {
        let unknown = refusal(&GOOD.replace("[tftp]", "[tftp]\nroot = 1"));
        for part in ["c.toml", "at line 6", "unknown field `root`"] {
            assert_eq!(unknown.matches(part).count(), 1, "{part:?} in {unknown}");
        }
        let missing = anyhow::Error::from(load(Path::new("/nowhere/c.toml")).expect_err("it is not there"));
        assert_eq!(
            format!("{missing:#}"),
            "cannot read /nowhere/c.toml: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn of_several_sections_one_must_be_named() {
        let second = "[[dhcp]]\nsubnet = \"10.9.0.0/16\"\naddress = \"10.77.0.1\"\n[[profile]]";
        let two = parse(&GOOD.replace("[[profile]]", second), Path::new("c.toml")).expect("it is good");
        assert_eq!(good().dhcp_on(None).expect("the only one").title(), "br0");
        assert_eq!(two.dhcp_on(Some("10.9.0.0/16")).expect("named").title(), "10.9.0.0/16");
        let refusal = |interface| two.dhcp_on(interface).expect_err("refused").to_string();
        assert!(
            refusal(None).contains("choose one by --interface, of: br0, 10.9.0.0/16"),
            "{}",
            refusal(None)
        );
        assert!(refusal(Some("br1")).contains("\"br1\": use --interface with one of: br0"));
    }
}
