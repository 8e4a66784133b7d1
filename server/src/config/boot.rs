//! `[boot]`

use super::{Node, yes};
use kaltstart_core::boot::{UefiLoader, arguments};
use serde::Deserialize;
use std::path::PathBuf;

/// `[boot]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The agent's kernel.
    pub kernel: PathBuf,
    /// The agent's ramdisk.
    pub ramdisk: PathBuf,
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
