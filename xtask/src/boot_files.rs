//! `cargo xtask boot-files`: the network boot loaders the server hands out.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{cache, packages};

/// Bumped when this file's output changes for the same package.
const CODE_VERSION: &str = "1";

/// The loaders the server uses, where Debian's `ipxe` package has them.
/// `usr/lib/ipxe/ipxe.efi` is a link to an absolute path.
const FILES: &[&str] = &["usr/lib/ipxe/undionly.kpxe", "usr/lib/ipxe/snponly.efi", "boot/ipxe.efi"];

/// `cargo xtask boot-files`
pub(crate) fn task(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask boot-files");
    }
    println!("{}", build()?.display());
    Ok(())
}

/// Returns a directory holding `undionly.kpxe`, `snponly.efi` and `ipxe.efi`.
pub(crate) fn build() -> Result<PathBuf> {
    let debs = packages::resolve(&["ipxe"])?;
    let key = cache::key(&[CODE_VERSION, &FILES.join(" "), &packages::versions_text(&debs)]);
    cache::entry("boot-files", &key, |dir| {
        let tree = dir.join("tree");
        debs[0].unpack(&tree)?;
        for path in FILES {
            let name = path.rsplit('/').next().unwrap_or(path);
            fs::rename(tree.join(path), dir.join(name))
                .with_context(|| format!("the ipxe package holds no {path}"))?;
        }
        fs::remove_dir_all(tree).context("cannot remove the unpacked package")
    })
}
