//! Images on this server: a directory `NAME/manifest.json` with the file it names beside it.

use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::Manifest;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name would leave the directory.
    #[error("{0:?} is not an image name")]
    Name(String),
    /// No manifest, or not readable.
    #[error("image {name:?}: cannot read {path}: {source}; build or import the image into images.dir")]
    Read {
        /// The image.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a manifest.
    #[error("image {name:?}: {path}: {source}")]
    Parse {
        /// The image.
        name: String,
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The file has another size than its manifest says.
    #[error(
        "image {name:?}: {path} has {found} bytes, its manifest says {expected}; build or import it again"
    )]
    Size {
        /// The image.
        name: String,
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The size in the manifest.
        expected: u64,
    },
}

/// The images of one directory.
#[derive(Debug)]
pub struct Catalog {
    dir: PathBuf,
    /// Where files of known digests lie.
    known: Mutex<BTreeMap<Digest, Known>>,
}

/// A file whose digest was asked for.
#[derive(Debug)]
struct Known {
    file: PathBuf,
    manifest: PathBuf,
    /// The manifest's file and change time; another one must be read anew.
    stamp: Stamp,
}

type Stamp = (u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.ino(), about.mtime(), about.mtime_nsec()))
}

impl Catalog {
    /// The images below `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, known: Mutex::default() }
    }

    /// The manifest of the image `name`, and its file.
    ///
    /// # Errors
    /// When there is no such image, or manifest and file do not fit together. The file's digest
    /// is the agent's to check, on what it received.
    pub fn find(&self, name: &str) -> Result<(Manifest, PathBuf), ImageError> {
        if !is_file_name(name) {
            return Err(ImageError::Name(name.to_owned()));
        }
        let path = self.dir.join(name).join("manifest.json");
        let read = |path: &Path, source| ImageError::Read { name: name.into(), path: path.into(), source };
        let text = std::fs::read_to_string(&path).map_err(|source| read(&path, source))?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|source| ImageError::Parse {
            name: name.into(),
            path: path.clone(),
            source,
        })?;
        if !is_file_name(&manifest.file) {
            return Err(ImageError::Name(manifest.file));
        }
        let file = self.dir.join(name).join(&manifest.file);
        let found = std::fs::metadata(&file).map_err(|source| read(&file, source))?.len();
        if found != manifest.size {
            let (name, expected) = (name.into(), manifest.size);
            return Err(ImageError::Size { name, path: file, found, expected });
        }
        Ok((manifest, file))
    }

    /// All usable images, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Manifest> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().filter_map(|name| self.find(name).ok()).map(|(manifest, _)| manifest).collect()
    }

    /// The file with that digest.
    #[must_use]
    pub fn file(&self, digest: &Digest) -> Option<PathBuf> {
        // Manifests list thousands of packages, and an image is asked for in many ranges.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(digest).filter(|found| stamp(&found.manifest) == Some(found.stamp)) {
            return Some(found.file.clone());
        }
        known.remove(digest);
        let name = self.all().into_iter().find(|manifest| manifest.digest == *digest)?.name;
        let manifest = self.dir.join(&name).join("manifest.json");
        let stamp = stamp(&manifest)?;
        let (read, file) = self.find(&name).ok()?;
        if read.digest != *digest {
            return None;
        }
        known.insert(*digest, Known { file: file.clone(), manifest, stamp });
        Some(file)
    }
}

/// Whether `name` is one plain component of a path.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}
