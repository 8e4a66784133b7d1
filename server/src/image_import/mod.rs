//! `ks image import`: what others made becomes an image of this server.
//!
//! | module | subject |
//! |---|---|
//! | [`archive`] | archives, copied as they are |
//! | [`oci`] | OCI layouts, whose layers become one archive |
//! | [`registry`] | images in registries, fetched as such a layout |
//! | [`foreign`] | formats of virtual machines, converted in a sandbox |
//! | [`disk`] | disks, of which the root file system is cut out |
//! | [`ext4`] | whether a file system can be laid down |
//! | [`pack`] | file systems, as raw and chunked images |

mod archive;
mod disk;
mod ext4;
mod foreign;
mod oci;
mod pack;
mod registry;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use ext4::Ext4;
use foreign::Foreign;
use kaltstart_protocol::image::{Boot, Compression, Format, Manifest, Package};
use pack::{Hashed, Packed};
use registry::{Access, Reference};
use serde::Deserialize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::images::is_file_name;

const MANIFEST: &str = "manifest.json";

/// What is typed.
#[derive(Debug, Args)]
pub struct Import {
    /// Image in a registry, as `oci://HOST/REPOSITORY:TAG` or `…@sha256:…`; directory with an OCI layout; or a file:
    /// archive (tar, also by gzip or zstd), ext4 file system, or disk (raw, QCOW2, VMDK, VHDX, VHD)
    source: PathBuf,
    /// What the source does not say of itself: name, version and how it starts (TOML)
    #[arg(long, value_name = "FILE")]
    about: PathBuf,
    /// How a file system is kept and sent
    #[arg(long, value_enum, default_value_t = Packing::Chunked)]
    format: Packing,
    /// Directory of images, as `images.dir` of the configuration
    #[arg(long, value_name = "DIRECTORY")]
    to: PathBuf,
    #[command(flatten)]
    access: Access,
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
        ensure_starts(&about.boot).with_context(|| self.about.display().to_string())?;
        let dir = self.to.join(&about.name);
        fs::create_dir_all(&self.to).with_context(|| format!("cannot make {}", self.to.display()))?;
        fs::create_dir(&dir).with_context(|| {
            format!("cannot make {}; remove the old image or give the new one another name", dir.display())
        })?;
        let packed = self.pack(&about.boot, &dir).with_context(|| self.source.display().to_string());
        let packed = packed.inspect_err(|_| {
            // An image without a manifest is none; what is left would only be in the way.
            fs::remove_dir_all(&dir).ok();
        })?;
        let manifest = Manifest {
            schema: 1,
            name: about.name,
            version: about.version,
            digest: packed.digest,
            size: packed.size,
            unpacked_size: packed.unpacked_size,
            format: packed.format,
            compression: packed.compression,
            file: packed.file,
            min_disk: (about.min_disk_mib << 20).max(packed.unpacked_size),
            boot: about.boot,
            packages: about.packages,
            places: packed.places,
        };
        let path = dir.join(MANIFEST);
        let text = serde_json::to_string_pretty(&manifest)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(format!(
            "{}: {} of {} bytes, stored in {}\nsign it with a key of images.keys: minisign -S -m {}",
            manifest.name,
            manifest.format.name(),
            manifest.unpacked_size,
            manifest.size,
            path.display()
        ))
    }

    /// Writes the files of the image into `dir`.
    fn pack(&self, boot: &Boot, dir: &Path) -> Result<Packed> {
        let reference = self.source.to_str().and_then(Reference::parse).transpose()?;
        if reference.is_none() && self.source.is_dir() {
            ensure!(oci::is_layout(&self.source), "it is a directory and no OCI layout; pack it with tar");
            return flattened(&oci::layers(&self.source)?, boot, dir);
        }
        let work = dir.join("work");
        fs::create_dir(&work)?;
        let packed = match reference {
            Some(reference) => registry::fetch(&reference, &self.access, &work)
                .and_then(|()| flattened(&oci::layers(&work)?, boot, dir)),
            None => {
                let source = File::open(&self.source).context("cannot open it")?;
                self.pack_file(&source, boot, dir, &work)
            }
        };
        fs::remove_dir_all(&work).context("cannot remove what was only needed meanwhile")?;
        packed
    }

    fn pack_file(&self, source: &File, boot: &Boot, dir: &Path, work: &Path) -> Result<Packed> {
        if let Some(foreign) = Foreign::of(source) {
            let raw = work.join("disk.raw");
            foreign.convert(&self.source, &raw)?;
            let disk = File::open(&raw)?;
            ensure!(disk::is_disk(&disk), "the disk in it has no GUID partition table");
            return self.pack_disk(&disk, dir, work);
        }
        if disk::is_disk(source) {
            return self.pack_disk(source, dir, work);
        }
        match Ext4::read(source)? {
            Some(found) => self.pack_file_system(source, &found, dir),
            None => copied(source, boot, dir),
        }
    }

    fn pack_disk(&self, disk: &File, dir: &Path, work: &Path) -> Result<Packed> {
        let root = work.join("root.ext4");
        disk::cut(disk, disk::root(disk)?, &root)?;
        let Some(found) = Ext4::read(&File::open(&root)?)? else { bail!("its root is no ext4") };
        if found.needs_seed() {
            // The copy is ours to change.
            ext4::give_seed(&root)?;
        }
        let root = File::open(&root)?;
        let Some(found) = Ext4::read(&root)? else { bail!("its root is no ext4") };
        self.pack_file_system(&root, &found, dir)
    }

    fn pack_file_system(&self, source: &File, found: &Ext4, dir: &Path) -> Result<Packed> {
        let size = found.accept(source.metadata()?.len())?;
        match self.format {
            Packing::Chunked => pack::chunked(source, size, dir),
            Packing::Raw => pack::raw(source, size, dir),
        }
    }
}

/// Refuses what agents refuse on every machine: what no boot configuration can hold, and what leads out of the EFI system
/// partition.
fn ensure_starts(boot: &Boot) -> Result<()> {
    let plain = |c: char| c == ' ' || (c.is_ascii_graphic() && c != '\'');
    for (key, text) in [("kernel", &boot.kernel), ("initrd", &boot.initrd), ("cmdline", &boot.cmdline)] {
        if let Some(odd) = text.chars().find(|c| !plain(*c)) {
            bail!("boot.{key} holds {odd:?}: it must be one line of printable ASCII without single quotes");
        }
    }
    for (_, to) in &boot.efi {
        let mut parts = to.split(['/', '\\']).filter(|part| !part.is_empty()).peekable();
        let inside = parts.peek().is_some() && parts.all(|part| part != "." && part != "..");
        ensure!(
            inside && !to.chars().any(char::is_control),
            "boot.efi: {to:?} is no place on an EFI system partition, as EFI/BOOT/BOOTX64.EFI is"
        );
    }
    Ok(())
}

/// An archive as it is.
fn copied(source: &File, boot: &Boot, dir: &Path) -> Result<Packed> {
    let file = "rootfs.tar".to_owned();
    let mut to = Hashed::create(&dir.join(&file))?;
    let checked = archive::copy(source, boot, &mut to)?;
    let (digest, size) = to.finish()?;
    let archive::Checked { compression, unpacked_size, places } = checked;
    Ok(Packed { format: Format::Tar, compression, file, digest, size, unpacked_size, places })
}

/// An archive of all layers.
fn flattened(layers: &[oci::Layer], boot: &Boot, dir: &Path) -> Result<Packed> {
    let file = "rootfs.tar.zst".to_owned();
    let mut encoder = zstd::Encoder::new(Hashed::create(&dir.join(&file))?, pack::LEVEL)?;
    let (unpacked_size, places) = oci::flatten(layers, boot, &mut encoder)?;
    let (digest, size) = encoder.finish()?.finish()?;
    let compression = Compression::Zstd;
    Ok(Packed { format: Format::Tar, compression, file, digest, size, unpacked_size, places })
}
