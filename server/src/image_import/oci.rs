//! An OCI image layout: its layers become one archive (OCI image specification 1.1, `image-layout.md` and
//! `layer.md`).

use super::archive::{Archive, Head, Kind, Listing, plain};
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::places::Places;
use kaltstart_protocol::image::{Boot, Compression};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, Write};
use std::path::{Path, PathBuf};

/// Most bytes of an index or manifest.
pub(super) const DOCUMENT_MAX: u64 = 4 << 20;
/// Indexes within indexes that are followed.
pub(super) const DEPTH_MAX: usize = 4;
/// What a name begins with that removes another.
const WHITEOUT: &[u8] = b".wh.";
/// The name that empties the directory it lies in.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What something is, by its digest (`descriptor.md`).
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    manifests: Vec<Descriptor>,
}

impl Index {
    /// What is for this product's machines, or does not say for which.
    pub(super) fn ours(&self) -> impl Iterator<Item = &Descriptor> {
        let ours = |platform: &Platform| platform.os == "linux" && platform.architecture == "amd64";
        self.manifests.iter().filter(move |entry| entry.platform.as_ref().is_none_or(ours))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ImageManifest {
    pub(super) layers: Vec<Descriptor>,
}

/// Whether that is a list of images, by OCI's name or by Docker's, whose documents are alike.
pub(super) fn is_index(media_type: &str) -> bool {
    const TYPES: [&str; 2] = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ];
    TYPES.contains(&media_type)
}

/// Whether that is an image, by OCI's name or by Docker's.
pub(super) fn is_image(media_type: &str) -> bool {
    const TYPES: [&str; 2] = [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ];
    TYPES.contains(&media_type)
}

/// Whether `dir` is a layout.
pub(super) fn is_layout(dir: &Path) -> bool {
    dir.join("oci-layout").is_file()
}

/// The layers of the one image in `dir` for this product's machines, the lowest first.
///
/// # Errors
/// When there is none or several, or a file is not what its digest says.
pub(super) fn layers(dir: &Path) -> Result<Vec<Layer>> {
    let index: Index =
        serde_json::from_slice(&std::fs::read(dir.join("index.json"))?).context("index.json")?;
    let mut images = Vec::new();
    find(dir, &index, DEPTH_MAX, &mut images)?;
    let [image] = images.as_slice() else {
        bail!(
            "it holds {} images for linux/amd64, and one is needed; copy it out, for example by `skopeo copy`",
            images.len()
        );
    };
    image.layers.iter().map(|layer| Layer::open(dir, layer)).collect()
}

fn find(dir: &Path, index: &Index, depth: usize, images: &mut Vec<ImageManifest>) -> Result<()> {
    ensure!(depth > 0, "its indexes are nested too deep");
    for entry in index.ours() {
        match entry.media_type.as_str() {
            list if is_index(list) => find(dir, &document(dir, entry)?, depth - 1, images)?,
            image if is_image(image) => images.push(document(dir, entry)?),
            other => bail!("{} is of type {other}, not an image", entry.digest),
        }
    }
    Ok(())
}

/// The file of a descriptor.
pub(super) fn blob(dir: &Path, descriptor: &Descriptor) -> PathBuf {
    let name = descriptor.digest.to_string();
    dir.join("blobs/sha256").join(name.trim_start_matches("sha256:"))
}

fn document<T: DeserializeOwned>(dir: &Path, descriptor: &Descriptor) -> Result<T> {
    let path = blob(dir, descriptor);
    let named = || path.display().to_string();
    let mut bytes = Vec::new();
    File::open(&path).with_context(named)?.take(DOCUMENT_MAX).read_to_end(&mut bytes).with_context(named)?;
    ensure!(Digest::of(&bytes) == descriptor.digest, "{} is not what its name says", path.display());
    serde_json::from_slice(&bytes).with_context(named)
}

/// A layer whose bytes are what its digest says.
pub(super) struct Layer {
    file: File,
    compression: Compression,
}

impl Layer {
    fn open(dir: &Path, descriptor: &Descriptor) -> Result<Self> {
        let compression = match descriptor.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar" => Compression::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd" => Compression::Zstd,
            other => bail!("a layer is of type {other}"),
        };
        let path = blob(dir, descriptor);
        let mut file = File::open(&path).with_context(|| path.display().to_string())?;
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut HashOnly(&mut hash))?;
        ensure!(
            Digest(hash.finalize().into()) == descriptor.digest,
            "{} is not what its name says",
            path.display()
        );
        Ok(Self { file, compression })
    }

    fn read(&self) -> Result<Archive<Box<dyn Read + '_>>> {
        (&self.file).rewind()?;
        Ok(Archive::new(plain(self.compression, BufReader::new(&self.file))?))
    }
}

struct HashOnly<'a>(&'a mut Sha256);

impl Write for HashOnly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the entry of a name comes from.
struct Origin {
    layer: usize,
    /// Which of the layer's entries.
    number: usize,
    kind: Kind,
    /// The headers of a directory.
    raw: Vec<u8>,
}

/// Writes the archive that the layers are together; how many bytes, and how much of it lies where.
///
/// # Errors
/// When a layer is no archive, a hard link leads to a file that another layer has replaced, or something is
/// missing that `boot` names.
pub(super) fn flatten(layers: &[Layer], boot: &Boot, to: &mut impl Write) -> Result<(u64, Places)> {
    let tree = survey(layers)?;
    let mut listing = Listing::default();
    let mut length = 0;
    let mut write = |to: &mut dyn Write, bytes: &[u8]| {
        length += bytes.len() as u64;
        to.write_all(bytes)
    };
    // Parents before what lies in them, whichever layer they are of.
    for (path, origin) in tree.iter().filter(|(_, origin)| origin.kind == Kind::Directory) {
        write(to, &origin.raw)?;
        listing.add(&Head { path: path.clone(), kind: Kind::Directory, size: 0, raw: Vec::new() });
    }
    let mut contents = 0;
    for (i, layer) in layers.iter().enumerate() {
        let mut archive = layer.read()?;
        let mut number = 0;
        while let Some(head) = archive.next().with_context(|| format!("layer {}", i + 1))? {
            let origin = tree.get(&head.path).filter(|origin| (origin.layer, origin.number) == (i, number));
            number += 1;
            let Some(origin) = origin.filter(|origin| origin.kind != Kind::Directory) else { continue };
            if let Kind::HardLink(target) = &origin.kind {
                let same = tree.get(target).filter(|found| found.layer <= i && found.kind != Kind::Directory);
                ensure!(
                    same.is_some(),
                    "{} is a hard link to {}, which a later layer replaces or removes; make one layer of \
                     the image first",
                    String::from_utf8_lossy(&head.path),
                    String::from_utf8_lossy(target)
                );
            }
            write(to, &head.raw)?;
            let mut counted = Counted { to: &mut *to, bytes: 0 };
            archive.copy_contents(&mut counted)?;
            contents += counted.bytes;
            listing.add(&head);
        }
    }
    // Two empty blocks are the end (POSIX.1-2001, pax).
    write(to, &[0; 1024])?;
    listing.check(boot)?;
    Ok((length + contents, listing.places()))
}

struct Counted<'a, W> {
    to: &'a mut W,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Which entry of which layer every name of the whole has.
fn survey(layers: &[Layer]) -> Result<BTreeMap<Vec<u8>, Origin>> {
    let mut tree: BTreeMap<Vec<u8>, Origin> = BTreeMap::new();
    for (layer, opened) in layers.iter().enumerate() {
        let mut archive = opened.read()?;
        let (mut gone, mut emptied) = (BTreeSet::new(), BTreeSet::new());
        let mut number = 0;
        while let Some(head) = archive.next().with_context(|| format!("layer {}", layer + 1))? {
            let (parent, name) = divided(&head.path);
            if name == OPAQUE {
                emptied.insert(parent.to_vec());
            } else if let Some(name) = name.strip_prefix(WHITEOUT) {
                gone.insert(join(parent, name));
            } else {
                if head.kind != Kind::Directory {
                    emptied.insert(head.path.clone());
                }
                let raw = if head.kind == Kind::Directory { head.raw } else { Vec::new() };
                tree.insert(head.path, Origin { layer, number, kind: head.kind, raw });
            }
            number += 1;
        }
        // They hold for the layers below alone, wherever they stand in theirs.
        tree.retain(|path, origin| {
            origin.layer == layer
                || !(gone.contains(path)
                    || above(path).any(|dir| gone.contains(dir) || emptied.contains(dir)))
        });
    }
    Ok(tree)
}

/// Directory and name of a path.
fn divided(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// All directories above a path, up to the root, which is the empty path.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path).filter(|path| !path.is_empty()), |path| {
        Some(divided(path).0).filter(|parent| !parent.is_empty())
    })
    .map(|path| divided(path).0)
}
