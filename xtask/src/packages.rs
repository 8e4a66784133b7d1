//! The Debian packages the tasks use: installed on this machine, or
//! downloaded and unpacked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::command::{output, run};

/// Everything the tasks run on this machine. What only goes into an image or
/// a ramdisk is downloaded and unpacked instead (see [`Deb`]): a kernel or a
/// boot loader must not be installed on the machine that builds.
const HOST_PACKAGES: &[&str] = &[
    // images and ramdisks
    "btrfs-progs",
    "cpio",
    "cryptsetup-bin",
    "e2fsprogs",
    "dosfstools",
    "gdisk",
    "grub-common",
    "gzip",
    "kmod",
    "lvm2",
    "mdadm", // reads what the agent writes
    "minisign",
    "mmdebstrap",
    "mtools",
    "tar",
    "postgresql", // of which tests start one of their own
    "strace",     // tells what the database writes
    "umoci",
    "xfsprogs",
    "xz-utils",
    "zstd",
    // virtual machines
    "ipxe-qemu",
    "ovmf",
    "qemu-system-x86",
    "qemu-utils",
    "swtpm",
    // networks
    "iproute2",
    "nftables",
    "tcpdump",
    // other DHCP servers, started by tests alone; dnsmasq without its service
    "dnsmasq-base",
    "isc-dhcp-server",
    "kea-dhcp4-server",
    // a registry of images, started by tests alone, and what puts images there
    "docker-registry",
    "skopeo",
    // caches of images and a store of objects behind them, started by tests alone; of Swift the library, without its
    // services
    "nginx-light",
    "python3-swift",
    "s3cmd",
    // what reads the inventory, started by tests alone
    "ansible-core",
    "prometheus",
    "puppet-agent",
    // the reader of the screens' QR codes
    "zbar-tools",
    // the static agent and the tests
    "busybox-static",
    "ca-certificates",
    "curl",
    "g++",
    "gcc",
    "libc6-dev",
    "openssh-client",
    "systemd",
];

/// Servers and load programs that `cargo xtask bench` measures beside ours. They are unpacked
/// and never installed: Debian starts an installed server at once, and two of them exclude each other.
const PEERS: &[&str] = &[
    "atftpd",
    "bmap-tools",
    "dnsmasq-base",
    "isc-dhcp-server",
    "kea-admin", // perfdhcp
    "kea-dhcp4-server",
    "libarchive-tools", // bsdtar
    "nginx-light",
    "sqlite3",
    "tftpd-hpa",
];

/// Clients, a relay, a TPM and a management controller that the end-to-end stories start beside ours; unpacked as the
/// peers are.
const CLIENTS: &[&str] = &[
    "atftp",
    "dhcpcd-base",
    "isc-dhcp-client",
    "isc-dhcp-relay",
    "openipmi", // ipmi_sim
    "swtpm",
    "swtpm-tools", // swtpm_setup, which makes certificates
    "tftp-hpa",
    "wget",
];

/// A directory with the peers.
pub(crate) fn peers() -> Result<PathBuf> {
    unpacked("bench-peers", PEERS)
}

/// A directory with the clients.
pub(crate) fn clients() -> Result<PathBuf> {
    unpacked("e2e-clients", CLIENTS)
}

/// A directory with `packages`, and what they need beyond what is installed here.
fn unpacked(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let mut names: BTreeSet<String> = packages.iter().map(|name| (*name).to_owned()).collect();
    for package in packages {
        // One at a time, because they exclude each other.
        let missing = with_index(|| {
            let mut apt = Command::new("apt-get");
            apt.args(["install", "--print-uris", "-qq", "-y", "--no-install-recommends", "--", package]);
            output(&mut apt)
        })?;
        names.extend(
            missing
                .lines()
                .filter_map(|line| line.split_whitespace().nth(1)?.split('_').next().map(str::to_owned)),
        );
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let debs = resolve(&names)?;
    cache::entry(name, &cache::key(&[&versions_text(&debs)]), |dir| {
        debs.iter().try_for_each(|deb| deb.unpack(dir))
    })
}

/// `cargo xtask packages`
pub(crate) fn task(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask packages");
    }
    ensure()
}

/// Installs what is missing of the packages the tasks run.
pub(crate) fn ensure() -> Result<()> {
    let missing = missing(HOST_PACKAGES)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing: {}", missing.join(" "));
    update_index()
        .and_then(|()| install(&missing))
        .or_else(|error| {
            // A mirror that was updated between the two steps, or a hiccup of
            // the network: once more from the start.
            eprintln!("trying again: {error:#}");
            update_index()?;
            install(&missing)
        })
        .with_context(|| format!("cannot install the packages; install by hand: {}", missing.join(" ")))
}

/// Those of `wanted` that are not installed.
fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails if any package is unknown to it, which is no error here.
    let listed = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .output()
        .context("cannot start dpkg-query; the tasks need Debian or a relative")?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(wanted.iter().copied().filter(|name| !installed.contains(name)).collect())
}

fn install(names: &[&str]) -> Result<()> {
    run(as_root("apt-get")
        .args(["install", "-y", "--no-install-recommends"])
        .args(["-o", "DPkg::Lock::Timeout=300", "--"])
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

fn update_index() -> Result<()> {
    run(as_root("apt-get").args(["update", "-o", "DPkg::Lock::Timeout=300"]))
}

/// `program`, run as root.
fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Whether this process runs as root: then it owns its own /proc entry.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Runs `query`; if it fails, updates apt's package index and runs it again.
pub(crate) fn with_index<T>(query: impl Fn() -> Result<T>) -> Result<T> {
    query().or_else(|_| {
        update_index().context("cannot update apt's package index")?;
        query()
    })
}

/// A package that apt can download.
pub(crate) struct Deb {
    /// The package's name.
    pub(crate) name: String,
    /// The file's name, which holds the version.
    pub(crate) file: String,
    /// The digest apt's signed index states.
    pub(crate) sha256: String,
}

/// Finds the current versions of `names` in apt's index, in the same order.
pub(crate) fn resolve(names: &[&str]) -> Result<Vec<Deb>> {
    let text =
        with_index(|| output(Command::new("apt-get").args(["download", "--print-uris", "--"]).args(names)))?;
    let mut found: Vec<Deb> = text.lines().filter_map(parse_uri_line).collect();
    names
        .iter()
        .map(|name| {
            let index = found.iter().position(|deb| deb.name == *name);
            index
                .map(|index| found.swap_remove(index))
                .with_context(|| format!("apt knows no package {name}; check the machine's apt sources"))
        })
        .collect()
}

/// Reads a line of `apt-get download --print-uris`:
/// `'URI' NAME_VERSION_ARCH.deb SIZE SHA256:HEX`.
fn parse_uri_line(line: &str) -> Option<Deb> {
    let mut words = line.split_whitespace().skip(1);
    let file = words.next()?;
    let sha256 = words.nth(1)?.strip_prefix("SHA256:")?;
    Some(Deb { name: file.split('_').next()?.to_owned(), file: file.to_owned(), sha256: sha256.to_owned() })
}

/// The versions of `debs` as one text, for [`cache::key`].
pub(crate) fn versions_text(debs: &[Deb]) -> String {
    debs.iter().map(|deb| format!("{} {}\n", deb.file, deb.sha256)).collect()
}

/// A package's name and version, as manifests list them.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Deb {
    /// The package's name and version.
    pub(crate) fn package(&self) -> Package {
        let version = self.file.split('_').nth(1).unwrap_or_default().replace("%3a", ":");
        Package { name: self.name.clone(), version }
    }

    /// Downloads the package unless it is in the cache, and unpacks its files
    /// into `dir`.
    pub(crate) fn unpack(&self, dir: &Path) -> Result<()> {
        let key = cache::key(&[&self.file, &self.sha256]);
        let entry = cache::entry(&format!("deb-{}", self.name), &key, |download| {
            with_index(|| {
                let mut apt = Command::new("apt-get");
                run(apt.args(["download", "--", &self.name]).current_dir(download))
            })
        })?;
        run(Command::new("dpkg-deb").arg("-x").arg(entry.join(&self.file)).arg(dir))
            .with_context(|| format!("cannot unpack {}", self.file))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_line_gives_name_version_and_digest() {
        let line = "'http://host/b/busybox-static_1%3a1.35.0-4_amd64.deb' \
            busybox-static_1%3a1.35.0-4_amd64.deb 928188 SHA256:00ff";
        let deb = parse_uri_line(line).unwrap();
        assert_eq!(deb.name, "busybox-static");
        assert_eq!(deb.package().version, "1:1.35.0-4");
        assert_eq!(deb.sha256, "00ff");
        assert!(parse_uri_line("Reading package lists...").is_none());
    }
}
