//! `cargo xtask boot-files`: the network boot loaders the server hands out.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{cache, packages};

/// Bumped when this file's output changes for the same package.
const CODE_VERSION: &str = "1";

/// The loaders in Debian's `ipxe` package that the server uses.
const FILES: &[&str] = &["undionly.kpxe", "snponly.efi", "ipxe.efi"];

/// `cargo xtask boot-files`
pub(crate) fn task(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask boot-files");
    }
    println!("{}", build()?.display());
    Ok(())
}

/// Returns a directory holding `FILES`.
pub(crate) fn build() -> Result<PathBuf> {
    let debs = packages::resolve(&["ipxe"])?;
    let key = cache::key(&[CODE_VERSION, &FILES.join(" "), &packages::versions_text(&debs)]);
    cache::entry("boot-files", &key, |dir| {
        let tree = dir.join("tree");
        debs[0].unpack(&tree)?;
        for file in FILES {
            fs::rename(tree.join("usr/lib/ipxe").join(file), dir.join(file))
                .with_context(|| format!("the ipxe package holds no {file}"))?;
        }
        fs::remove_dir_all(tree).context("cannot remove the unpacked package")
    })
}
