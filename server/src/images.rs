//! Images on this server: directories `NAME` with `manifest.json`, its signature `manifest.json.minisig`
//! and the files it names.

use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::{Manifest, SignedManifest};
use kaltstart_trust::images::{ImageTrust, Untrusted};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
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
    /// Nobody signed it.
    #[error(
        "image {name:?}: {path} is not there: sign the manifest with a key of images.keys, `minisign -S -m manifest.json`"
    )]
    Unsigned {
        /// The image.
        name: String,
        /// Where the signature should be.
        path: PathBuf,
    },
    /// Not signed by whom it should be, or no manifest.
    #[error("image {name:?}: {path}: {source}; see images.keys and images.signed_since")]
    Untrusted {
        /// The image.
        name: String,
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: Untrusted,
    },
    /// A file has another size than its manifest says.
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

/// An image that is believed.
#[derive(Debug)]
pub struct Image {
    /// What it is.
    pub manifest: Manifest,
    /// The same as it was signed.
    pub signed: SignedManifest,
    /// Its file.
    pub file: PathBuf,
    /// The list of its chunks, if it comes in chunks.
    pub list: Option<PathBuf>,
}

impl Image {
    /// Its files, by digest.
    fn files(self) -> impl Iterator<Item = (Digest, PathBuf)> {
        let list = self.manifest.format.chunks().map(|list| list.digest).zip(self.list);
        [(self.manifest.digest, self.file)].into_iter().chain(list)
    }

    /// Its file with that digest.
    fn with_digest(&self, digest: &Digest) -> Option<&PathBuf> {
        let of_list = self.manifest.format.chunks().is_some_and(|list| list.digest == *digest);
        if of_list {
            self.list.as_ref()
        } else {
            Some(&self.file).filter(|_| self.manifest.digest == *digest)
        }
    }
}

/// The images of one directory.
#[derive(Debug)]
pub struct Catalog {
    dir: PathBuf,
    trust: ImageTrust,
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
    /// The images below `dir` that are believed.
    #[must_use]
    pub fn new(dir: PathBuf, trust: ImageTrust) -> Self {
        Self { dir, trust, known: Mutex::default() }
    }

    /// The image `name`.
    ///
    /// # Errors
    /// When there is no such image, it is not believed, or manifest and file do not fit together. The
    /// file's digest is the agent's to check, on what it received.
    pub fn find(&self, name: &str) -> Result<Image, ImageError> {
        if !is_file_name(name) {
            return Err(ImageError::Name(name.to_owned()));
        }
        let path = self.dir.join(name).join("manifest.json");
        let read = |path: &Path, source| ImageError::Read { name: name.into(), path: path.into(), source };
        let text = std::fs::read_to_string(&path).map_err(|source| read(&path, source))?;
        let signature_path = path.with_extension("json.minisig");
        let signature = std::fs::read_to_string(&signature_path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => ImageError::Unsigned { name: name.into(), path: signature_path.clone() },
            _ => read(&signature_path, source),
        })?;
        let signed = SignedManifest { manifest: text, signature };
        let manifest = self.trust.manifest(&signed).map_err(|source| ImageError::Untrusted {
            name: name.into(),
            path: path.clone(),
            source,
        })?;
        let present = |file: &str, expected: u64| {
            if !is_file_name(file) {
                return Err(ImageError::Name(file.to_owned()));
            }
            let path = self.dir.join(name).join(file);
            let found = std::fs::metadata(&path).map_err(|source| read(&path, source))?.len();
            if found != expected {
                return Err(ImageError::Size { name: name.into(), path, found, expected });
            }
            Ok(path)
        };
        let file = present(&manifest.file, manifest.size)?;
        let list = manifest.format.chunks().map(|list| present(&list.file, list.size)).transpose()?;
        Ok(Image { manifest, signed, file, list })
    }

    /// The names of all images, whether they are usable or not.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let has_manifest = |name: &String| self.dir.join(name).join("manifest.json").exists();
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(has_manifest).collect();
        names.sort();
        names
    }

    /// All usable images, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Manifest> {
        self.usable().map(|image| image.manifest).collect()
    }

    /// The names of those that are there and cannot be used, and why.
    #[must_use]
    pub fn refused(&self) -> Vec<(String, ImageError)> {
        let names = self.names().into_iter();
        names.filter_map(|name| self.find(&name).err().map(|error| (name, error))).collect()
    }

    fn usable(&self) -> impl Iterator<Item = Image> {
        self.names().into_iter().filter_map(|name| self.find(&name).ok())
    }

    /// The files of all usable images, by digest. What is in them was not looked at.
    #[must_use]
    pub fn files(&self) -> BTreeMap<Digest, PathBuf> {
        self.usable().flat_map(Image::files).collect()
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
        let image = self.usable().find(|image| image.with_digest(digest).is_some())?;
        let manifest = self.dir.join(&image.manifest.name).join("manifest.json");
        let stamp = stamp(&manifest)?;
        // Once more, should it have changed before its stamp was taken.
        let image = self.find(&image.manifest.name).ok()?;
        let file = image.with_digest(digest)?.clone();
        known.insert(*digest, Known { file: file.clone(), manifest, stamp });
        Some(file)
    }
}

/// Size in bytes and digest of what is in a file, which is read for that.
pub(crate) fn size_and_digest(path: &Path) -> io::Result<(u64, Digest)> {
    let (mut file, mut hash, mut size) = (File::open(path)?, Sha256::new(), 0);
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((size, Digest(hash.finalize().into()))),
            count => {
                hash.update(&piece[..count]);
                size += count as u64;
            }
        }
    }
}

/// Whether `name` is one plain component of a path.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}
