//! GRUB for BIOS: `boot.img` and a self-contained `core.img`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command::run;
use crate::packages::Deb;
use crate::recipes;

/// The package whose modules and boot sector are used.
pub(crate) const PACKAGE: &str = "grub-pc-bin";

/// `images/grub.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    prefix: String,
    early_config: String,
    modules: Vec<String>,
}

/// Writes `boot.img` and `core.img` into `out`, made from the files of `deb`,
/// using `scratch` for what is not kept.
pub(crate) fn write_images(deb: &Deb, scratch: &Path, out: &Path) -> Result<()> {
    let recipe: Recipe = recipes::read(&recipes::dir().join("grub.toml"))?;
    deb.unpack(scratch)?;
    let modules = scratch.join("usr/lib/grub/i386-pc");
    let early_config = scratch.join("early.cfg");
    fs::write(&early_config, recipe.early_config).context("cannot write GRUB's early configuration")?;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    fs::copy(modules.join("boot.img"), out.join("boot.img")).context("grub-pc-bin holds no boot.img")?;
    run(Command::new("grub-mkimage")
        .args(["--format=i386-pc", "--prefix", &recipe.prefix, "--directory"])
        .arg(&modules)
        .arg("--config")
        .arg(&early_config)
        .arg("--output")
        .arg(out.join("core.img"))
        .args(&recipe.modules))
}
