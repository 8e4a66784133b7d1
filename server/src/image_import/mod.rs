//! `kaltstart image import`: a root file system becomes an image of this server.

mod ext4;
mod pack;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use ext4::Ext4;
use kaltstart_protocol::image::{Boot, Manifest, Package};
use serde::Deserialize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::images::is_file_name;

/// What is typed.
#[derive(Debug, Args)]
pub struct Import {
    /// File with the root file system: ext4, from its first byte to its last
    source: PathBuf,
    /// What the file system does not say of itself: name, version and how it starts (TOML)
    #[arg(long, value_name = "FILE")]
    about: PathBuf,
    /// How it is kept and sent
    #[arg(long, value_enum, default_value_t = Packing::Chunked)]
    format: Packing,
    /// Directory of images, as `images.dir` of the configuration
    #[arg(long, value_name = "DIRECTORY")]
    to: PathBuf,
}

/// Formats of images that are file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Packing {
    /// Chunks of 256 KiB: a rebuild fetches and writes only what differs
    Chunked,
    /// One stream
    Raw,
}

/// The file `--about`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    /// Name of the image, as profiles have it.
    name: String,
    /// Version of the contents.
    version: String,
    /// Smallest disk on which it makes sense, in MiB.
    min_disk_mib: u64,
    /// How it starts.
    boot: Boot,
    /// Packages inside, if somebody wants to know.
    #[serde(default)]
    packages: Vec<Package>,
}

impl Import {
    /// Imports; says what there is now, and what is left to do.
    ///
    /// # Errors
    /// When the source is no file system that machines can be given, a file cannot be read or written, or
    /// there is such an image already.
    pub fn run(&self) -> Result<String> {
        let about = fs::read_to_string(&self.about)
            .with_context(|| format!("cannot read {}", self.about.display()))?;
        let about: About =
            toml::from_str(&about).with_context(|| format!("{} is not understood", self.about.display()))?;
        ensure!(is_file_name(&about.name), "{:?} is no name of an image", about.name);
        let source =
            File::open(&self.source).with_context(|| format!("cannot open {}", self.source.display()))?;
        let size = Ext4::read(&source)
            .and_then(|found| found.accept(source.metadata()?.len()))
            .with_context(|| format!("{} cannot be laid down", self.source.display()))?;
        let dir = self.to.join(&about.name);
        fs::create_dir_all(&self.to).with_context(|| format!("cannot make {}", self.to.display()))?;
        fs::create_dir(&dir).with_context(|| {
            format!("cannot make {}; remove the old image or give the new one another name", dir.display())
        })?;
        let manifest = self.fill(about, &source, size, &dir).inspect_err(|_| {
            // An image without a manifest is none; what is left would only be in the way.
            fs::remove_dir_all(&dir).ok();
        })?;
        Ok(format!(
            "{}: {} of {} bytes, stored in {}\nsign it with a key of images.keys: minisign -S -m {}",
            manifest.name,
            manifest.format.name(),
            manifest.unpacked_size,
            manifest.size,
            dir.join(MANIFEST).display()
        ))
    }

    fn fill(&self, about: About, source: &File, size: u64, dir: &Path) -> Result<Manifest> {
        let packed = match self.format {
            Packing::Chunked => pack::chunked(source, size, dir)?,
            Packing::Raw => pack::raw(source, size, dir)?,
        };
        let manifest = Manifest {
            schema: 1,
            name: about.name,
            version: about.version,
            digest: packed.digest,
            size: packed.size,
            unpacked_size: size,
            format: packed.format,
            compression: packed.compression,
            file: packed.file,
            min_disk: (about.min_disk_mib << 20).max(size),
            boot: about.boot,
            packages: about.packages,
        };
        let path = dir.join(MANIFEST);
        let text = serde_json::to_string_pretty(&manifest)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(manifest)
    }
}

const MANIFEST: &str = "manifest.json";
