//! `cargo xtask boot-files`: the network boot loaders the server hands out.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{cache, packages};

/// Bumped when this file's output changes for the same packages.
const CODE_VERSION: &str = "2";

/// The loaders the server uses: Debian package, path in it, and the name firmware or shim asks for.
/// `usr/lib/ipxe/ipxe.efi` is a link to an absolute path.
const FILES: &[(&str, &str, &str)] = &[
    ("ipxe", "usr/lib/ipxe/undionly.kpxe", "undionly.kpxe"),
    ("ipxe", "usr/lib/ipxe/snponly.efi", "snponly.efi"),
    ("ipxe", "boot/ipxe.efi", "ipxe.efi"),
    ("shim-signed", "usr/lib/shim/shimx64.efi.signed", "shimx64.efi"),
    // With the prefix /grub; the one for the installer looks elsewhere.
    ("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "grubx64.efi"),
];

/// `cargo xtask boot-files`
pub(crate) fn task(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask boot-files");
    }
    println!("{}", build()?.display());
    Ok(())
}

/// Returns a directory holding [`FILES`].
pub(crate) fn build() -> Result<PathBuf> {
    let mut names: Vec<&str> = FILES.iter().map(|(package, ..)| *package).collect();
    names.dedup();
    let debs = packages::resolve(&names)?;
    let files: String = FILES.iter().map(|(_, path, name)| format!("{path} {name}\n")).collect();
    let key = cache::key(&[CODE_VERSION, &files, &packages::versions_text(&debs)]);
    cache::entry("boot-files", &key, |dir| {
        for deb in &debs {
            let tree = dir.join("tree");
            deb.unpack(&tree)?;
            for (_, path, name) in FILES.iter().filter(|(package, ..)| *package == deb.name) {
                fs::rename(tree.join(path), dir.join(name))
                    .with_context(|| format!("the package {} holds no {path}", deb.name))?;
            }
            fs::remove_dir_all(tree).context("cannot remove the unpacked package")?;
        }
        Ok(())
    })
}
