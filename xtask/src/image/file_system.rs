//! Images that are file systems: an archive's tree made into an ext4, which `kaltstart image import`
//! packs as a user would.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Boot, Compression, Manifest, read_manifest, read_recipe};
use crate::cache;
use crate::command::{output, run};
use crate::packages::Package;

/// Bumped when the output changes for the same archive.
const CODE_VERSION: &str = "2";
/// Features of ext4: checksums that do not depend on the UUID, and nothing that GRUB 2.06 cannot read.
const FEATURES: &str = "metadata_csum_seed,^orphan_file";
/// Whatever would be drawn at random otherwise; machines get UUIDs of their own.
const SEED: &str = "6b616c74-7374-4172-b400-000000000000";
const MIB: u64 = 1 << 20;

/// How an image is kept that is a file system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Raw,
    Chunked,
}

impl Packing {
    fn name(self) -> &'static str {
        match self {
            Packing::Raw => "raw",
            Packing::Chunked => "chunked",
        }
    }
}

/// What `kaltstart image import` is told.
#[derive(Serialize)]
struct About<'a> {
    name: &'a str,
    version: &'a str,
    min_disk_mib: u64,
    boot: &'a Boot,
    packages: &'a [Package],
}

/// Returns a directory like [`super::build`], of the same image in another form. `kaltstart` is the server's
/// program.
pub(crate) fn build(name: &str, packing: Packing, kaltstart: &Path) -> Result<PathBuf> {
    build_larger(name, packing, 0, kaltstart)
}

/// The same with so many MiB more in it, which cannot be compressed.
pub(crate) fn build_larger(name: &str, packing: Packing, more: u64, kaltstart: &Path) -> Result<PathBuf> {
    let archive = super::build(name, Compression::Zstd)?;
    let manifest = read_manifest(&archive)?;
    let key = cache::key(&[CODE_VERSION, &manifest.digest]);
    let larger = if more > 0 { format!("-{more}-mib-more") } else { String::new() };
    cache::entry(&format!("image-{name}-{}{larger}", packing.name()), &key, |out| {
        eprintln!("packing the image {name}: {}", packing.name());
        let work = out.join("work");
        let root = root_file_system(name, &archive.join(&manifest.file), more, &work)?;
        import(&manifest, &root, packing, kaltstart, &work)?;
        for file in fs::read_dir(work.join("images").join(name))? {
            let file = file?;
            fs::rename(file.path(), out.join(file.file_name()))?;
        }
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
    })
}

/// Makes the file system in `work`; its file.
fn root_file_system(name: &str, archive: &Path, more: u64, work: &Path) -> Result<PathBuf> {
    let (tree, root) = (work.join("tree"), work.join("root.ext4"));
    fs::create_dir_all(&tree)?;
    run(Command::new("tar")
        .args(["--zstd", "-xpf"])
        .arg(archive)
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-C"])
        .arg(&tree))?;
    if more > 0 {
        let noise = fs::File::open("/dev/urandom").context("/dev/urandom")?;
        io::copy(&mut noise.take(more * MIB), &mut fs::File::create(tree.join("var/noise"))?)?;
    }
    let used = output(Command::new("du").args(["-s", "--block-size=1M"]).arg(&tree))?;
    let used: u64 = used.split_whitespace().next().unwrap_or_default().parse().context("du said no size")?;
    // With room for what the first start writes, should the partition give no more.
    let size = (used + used / 10 + 64) * MIB;
    fs::File::create(&root)?.set_len(size)?;
    let epoch = read_recipe(name)?.source_date_epoch;
    run(Command::new("mke2fs")
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", FEATURES, "-U", SEED])
        .args(["-E", &format!("hash_seed={SEED},lazy_itable_init=1,lazy_journal_init=1"), "-d"])
        .args([&tree, &root]))?;
    Ok(root)
}

fn import(manifest: &Manifest, root: &Path, packing: Packing, kaltstart: &Path, work: &Path) -> Result<()> {
    let about = About {
        name: &manifest.name,
        version: &manifest.version,
        min_disk_mib: manifest.min_disk / MIB,
        boot: &manifest.boot,
        packages: &manifest.packages,
    };
    let path = work.join("about.toml");
    fs::write(&path, toml::to_string(&about)?).context("cannot write about.toml")?;
    run(Command::new(kaltstart)
        .args(["image", "import", "--format", packing.name(), "--about"])
        .arg(&path)
        .arg("--to")
        .arg(work.join("images"))
        .arg(root))
}
