//! `[boot]`

use super::{Node, yes};
use kaltstart_core::boot::{self, Loader, Offer, UefiLoader, arguments};
use kaltstart_core::dhcp::client::Architecture;
use kaltstart_protocol::agent_api::Mode;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// The machines for which there is an agent; loaders for others may be missing.
const INSTALLED: [Architecture; 2] = [Architecture::Bios, Architecture::UefiX64];

/// `[boot]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The agent's kernel.
    pub kernel: PathBuf,
    /// The ramdisk for jobs.
    pub ramdisk: PathBuf,
    /// The ramdisk for machines that are only looked at: its agent cannot write to disks.
    pub discovery: PathBuf,
    /// Directory with the loaders; [`kaltstart_core::boot::Loader`] lists their names.
    pub loaders: PathBuf,
    /// Kernel arguments for the agent, besides its own.
    #[serde(default)]
    pub cmdline: String,
    /// Whether machines nobody declared are looked at.
    #[serde(default = "yes")]
    pub discover_unknown: bool,
    /// How machines with UEFI are started.
    #[serde(default)]
    pub uefi_loader: UefiLoader,
}

impl Boot {
    /// Where the file lies of which a door gives `offer`; none for what is made anew for each machine, and
    /// for what is not given.
    #[must_use]
    pub fn path(&self, file: boot::File, offer: Offer) -> Option<PathBuf> {
        match (file, offer) {
            (boot::File::Loader(loader), Offer::File) => Some(self.loaders.join(loader.name())),
            (boot::File::Kernel(_), Offer::File) => Some(self.kernel.clone()),
            (boot::File::Ramdisk(_), Offer::Ramdisk(Mode::Install | Mode::Rescue)) => {
                Some(self.ramdisk.clone())
            }
            (boot::File::Ramdisk(_), Offer::Ramdisk(Mode::Discover)) => Some(self.discovery.clone()),
            _ => None,
        }
    }

    /// What machines need to start and `read` refuses, with what follows.
    pub(super) fn missing(&self, nodes: &[Node], read: impl Fn(&Path) -> io::Result<()>) -> Vec<String> {
        let mut needed = vec![
            ("boot.kernel", self.kernel.clone(), "no machine can start".to_owned()),
            ("boot.ramdisk", self.ramdisk.clone(), "no job can be carried out".to_owned()),
            ("boot.discovery", self.discovery.clone(), "no machine can be looked at".to_owned()),
        ];
        let of_nodes = nodes.iter().filter_map(|node| node.uefi_loader);
        let kinds: BTreeSet<_> = of_nodes.chain([self.uefi_loader]).collect();
        let mut loaders = BTreeSet::new();
        for architecture in INSTALLED {
            for loader in kinds.iter().flat_map(|kind| Loader::needed(architecture, *kind)) {
                if loaders.insert(loader) {
                    let follows = format!("no machine with {architecture} can start by it");
                    needed.push(("boot.loaders", self.loaders.join(loader.name()), follows));
                }
            }
        }
        let problem = |(key, file, follows): (_, PathBuf, _)| {
            let error = read(&file).err()?;
            Some(format!("{key}: {} cannot be read, so {follows}: {error}", file.display()))
        };
        needed.into_iter().filter_map(problem).collect()
    }

    pub(super) fn problems(&self, nodes: &[Node], all: &mut Vec<String>) {
        let signed = |loader: &UefiLoader| *loader == UefiLoader::Signed;
        let grub = signed(&self.uefi_loader) || nodes.iter().any(|node| node.uefi_loader.iter().any(signed));
        let checks =
            [Some(arguments::for_ipxe(&self.cmdline)), grub.then(|| arguments::for_grub(&self.cmdline))];
        if let Some(problem) = checks.into_iter().flatten().find_map(Result::err) {
            all.push(format!("boot.cmdline: {problem}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::good;
    use kaltstart_core::boot::UefiLoader;
    use std::fs;

    #[test]
    fn what_is_missing_is_named_for_the_loaders_that_are_configured() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = good();
        config.boot.kernel = dir.path().join("vmlinuz");
        (config.boot.ramdisk, config.boot.loaders) = (dir.path().join("ramdisk"), dir.path().into());
        config.boot.discovery = dir.path().join("discovery");
        let mut missing = |uefi: UefiLoader, of_node: Option<UefiLoader>| {
            config.boot.uefi_loader = uefi;
            config.node[0].uefi_loader = of_node;
            let names = |problem: String| {
                let path = problem.split_once(" cannot be read, so ").expect("a reason").0.to_owned();
                path.rsplit_once('/').expect("a path").1.to_owned()
            };
            config
                .boot
                .missing(&config.node, |path| fs::File::open(path).map(drop))
                .into_iter()
                .map(names)
                .collect::<Vec<_>>()
        };
        let ipxe = ["vmlinuz", "ramdisk", "discovery", "undionly.kpxe", "snponly.efi"];
        let signed = ["vmlinuz", "ramdisk", "discovery", "undionly.kpxe", "shimx64.efi", "grubx64.efi"];
        assert_eq!(missing(UefiLoader::Ipxe, None), ipxe);
        assert_eq!(missing(UefiLoader::Signed, None), signed);
        assert_eq!(missing(UefiLoader::Ipxe, Some(UefiLoader::Signed)), [&ipxe[..], &signed[4..]].concat());
        for name in ["vmlinuz", "ramdisk", "discovery", "shimx64.efi", "undionly.kpxe"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        assert_eq!(missing(UefiLoader::Signed, None), ["grubx64.efi"]);
    }
}
