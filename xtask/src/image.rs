//! `cargo xtask image`: operating system images, as the agent lays them down.

mod busybox;
pub(crate) mod file_system;
mod mmdebstrap;
pub(crate) mod sign;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::command::{run, sha256_file, zstd};
use crate::packages::{self, Package};
use crate::{cache, recipes};

/// Bumped when the output changes for the same recipe and packages.
const CODE_VERSION: &str = "1";
/// Where BIOS boot files go in every image's tree.
const BIOS_BOOT: &str = "usr/lib/kaltstart/boot/i386-pc";
const USAGE: &str = "usage: cargo xtask image NAME [--compression zstd|gzip] [--check]";

/// `images/NAME/recipe.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    name: String,
    /// The smallest disk the image with its boot partitions fits on.
    min_disk_mib: u64,
    /// Seconds since 1970; no file in the image is newer.
    source_date_epoch: u64,
    boot: Boot,
    content: Content,
}

/// How the installed system is started; copied to the manifest as it is.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Boot {
    kernel: String,
    initrd: String,
    cmdline: String,
    /// Files of the image and where on the EFI system partition they go.
    efi: Vec<(String, String)>,
    /// `boot.img` and `core.img`.
    bios: [String; 2],
}

/// What the root file system is made from.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Content {
    Mmdebstrap(mmdebstrap::Content),
    Busybox(busybox::Content),
}

/// What building a root file system found out.
struct Built {
    version: String,
    packages: Vec<Package>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Zstd,
    Gzip,
}

/// `manifest.json`: the contract with the server and the agent.
#[derive(Serialize, Deserialize)]
struct Manifest {
    schema: u32,
    name: String,
    version: String,
    digest: String,
    size: u64,
    unpacked_size: u64,
    format: String,
    compression: String,
    file: String,
    min_disk: u64,
    boot: Boot,
    packages: Vec<Package>,
}

/// `cargo xtask image NAME [--compression zstd|gzip] [--check]`
pub(crate) fn task(args: &[String]) -> Result<()> {
    let (mut name, mut compression, mut check) = (None, Compression::Zstd, false);
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--check" => check = true,
            "--compression" => {
                compression = match args.next() {
                    Some("zstd") => Compression::Zstd,
                    Some("gzip") => Compression::Gzip,
                    _ => bail!("{USAGE}"),
                }
            }
            _ if name.is_none() && !arg.starts_with('-') => name = Some(arg),
            _ => bail!("{USAGE}"),
        }
    }
    let name = name.context(USAGE)?;
    let built = build(name, compression)?;
    if check {
        check_reproducible(name, compression, &built)?;
    }
    println!("{}", built.display());
    Ok(())
}

/// Returns a directory holding `rootfs.tar.zst` (or `.gz`) and `manifest.json`.
pub(crate) fn build(name: &str, compression: Compression) -> Result<PathBuf> {
    packages::ensure()?;
    let dir = recipes::dir().join(name);
    let recipe = read_recipe(name)?;
    let grub =
        fs::read_to_string(recipes::dir().join("grub.toml")).context("cannot read images/grub.toml")?;
    let key = cache::key(&[
        CODE_VERSION,
        &cache::recipe_text(&dir)?,
        &grub,
        &recipe.content.versions()?,
        compression.name(),
    ]);
    cache::entry(&format!("image-{name}"), &key, |out| build_into(recipe, compression, out))
}

fn build_into(recipe: Recipe, compression: Compression, out: &Path) -> Result<()> {
    eprintln!("building the image {}", recipe.name);
    let work = out.join("work");
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let tar = out.join("rootfs.tar");
    let built = recipe.content.build(&recipe, &work, &tar)?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    let unpacked_size = size_of(&tar)?;
    compression.apply(&tar)?;
    let file = format!("rootfs.tar.{}", compression.extension());
    let min_disk = recipe.min_disk_mib << 20;
    if min_disk < unpacked_size {
        bail!("min_disk_mib is less than the image's {unpacked_size} bytes; raise it in the recipe");
    }
    let manifest = Manifest {
        schema: 1,
        name: recipe.name,
        version: built.version,
        digest: format!("sha256:{}", sha256_file(&out.join(&file))?),
        size: size_of(&out.join(&file))?,
        unpacked_size,
        format: "tar".to_owned(),
        compression: compression.name().to_owned(),
        file,
        min_disk,
        boot: recipe.boot,
        packages: built.packages,
    };
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    fs::write(out.join("manifest.json"), text).context("cannot write manifest.json")
}

/// Builds the image once more, from nothing, and compares it with `first`.
fn check_reproducible(name: &str, compression: Compression, first: &Path) -> Result<()> {
    let recipe = read_recipe(name)?;
    let first = read_manifest(first)?;
    let second = cache::scratch(&format!("image-{name}-check"), |dir| {
        build_into(recipe, compression, dir)?;
        read_manifest(dir)
    })?;
    if first.digest == second.digest {
        eprintln!("reproducible: {}", first.digest);
        return Ok(());
    }
    let changes = package_changes(&first.packages, &second.packages);
    bail!(
        "two builds of {name} differ: {} and {}\npackages: {}",
        first.digest,
        second.digest,
        if changes.is_empty() { "the same; something in the build is not reproducible" } else { &changes }
    )
}

/// The packages that only one of the two lists has, `-` for the first.
fn package_changes(first: &[Package], second: &[Package]) -> String {
    let only = |these: &[Package], those: &[Package], sign: &str| -> String {
        let missing = these.iter().filter(|package| !those.contains(package));
        missing.map(|package| format!("\n{sign}{} {}", package.name, package.version)).collect()
    };
    only(first, second, "-") + &only(second, first, "+")
}

fn read_recipe(name: &str) -> Result<Recipe> {
    recipes::read(&recipes::dir().join(name).join("recipe.toml"))
}

fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join("manifest.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a manifest", path.display()))
}

fn size_of(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(metadata.len())
}

impl Content {
    /// The versions the content is made from, as far as they are known
    /// without building it.
    fn versions(&self) -> Result<String> {
        match self {
            Content::Mmdebstrap(content) => content.versions(),
            Content::Busybox(content) => content.versions(),
        }
    }

    /// Writes the root file system to `tar`, using the empty directory `work`.
    fn build(&self, recipe: &Recipe, work: &Path, tar: &Path) -> Result<Built> {
        match self {
            Content::Mmdebstrap(content) => content.build(recipe, work, tar),
            Content::Busybox(content) => content.build(recipe, work, tar),
        }
    }
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Compression::Zstd => "zst",
            Compression::Gzip => "gz",
        }
    }

    /// Replaces `path` with its compressed form.
    fn apply(self, path: &Path) -> Result<()> {
        match self {
            Compression::Zstd => zstd(path, 9),
            // Without name and date in the header, which would differ.
            Compression::Gzip => run(Command::new("gzip").args(["-6", "-n", "--force"]).arg(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_changes_show_both_sides() {
        let package = |name: &str, version: &str| Package { name: name.into(), version: version.into() };
        let first = [package("a", "1"), package("b", "1")];
        let second = [package("a", "1"), package("b", "2")];
        assert_eq!(package_changes(&first, &second), "\n-b 1\n+b 2");
        assert_eq!(package_changes(&first, &first), "");
    }
}
