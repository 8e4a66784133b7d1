//! Keys of encrypted disks: one for each installation, in a file of its own that the server's user alone can read.
//!
//! They are not in the database, which holds nothing that opens anything: its copies may lie where these must not. Whoever
//! copies the data directory copies the keys; without them the disks stay closed for ever. A node's keys are
//! destroyed when all its disks were erased; one that is laid down anew keeps those of before, since they may be of
//! a disk that was left alone.

use crate::clock;
use kaltstart_protocol::ids::NodeId;
use kaltstart_protocol::secret::Secret;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Their directory in the data directory, with one for each node.
const DIRECTORY: &str = "disk-keys";

/// A key cannot be kept, read or destroyed.
#[derive(Debug, thiserror::Error)]
#[error("key of a disk, {}: {source}", path.display())]
pub(crate) struct KeyError {
    path: PathBuf,
    source: io::Error,
}

/// The keys.
#[derive(Debug)]
pub(crate) struct DiskKeys {
    directory: PathBuf,
}

impl DiskKeys {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { directory: data_dir.join(DIRECTORY) }
    }

    /// The key of an installation, by the UUID of its partition table; a new one if it has none yet, which is on the
    /// medium before this returns.
    pub(crate) fn keep(&self, node: &NodeId, installation: &str) -> Result<Secret, KeyError> {
        let path = self.path(node, installation);
        match self.read(node, installation) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
        let key = clock::token("kst_disk_");
        let kept = (|| {
            let directory = path.parent().unwrap_or(&self.directory);
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            // Written aside: a crash in between leaves no half of a key.
            let new = path.with_extension("new");
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            // Without a line break it is a key file for cryptsetup.
            file.write_all(key.expose().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            for directory in [directory, &self.directory] {
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        })();
        kept.map(|()| key).map_err(|source| KeyError { path, source })
    }

    /// The key of an installation.
    pub(crate) fn read(&self, node: &NodeId, installation: &str) -> Result<Secret, KeyError> {
        let path = self.path(node, installation);
        match fs::read_to_string(&path) {
            Ok(text) if !text.is_empty() => Ok(Secret::new(text)),
            Ok(_) => Err(KeyError { path, source: io::Error::other("it is empty") }),
            Err(source) => Err(KeyError { path, source }),
        }
    }

    /// Destroys all keys of a node.
    pub(crate) fn destroy(&self, node: &NodeId) -> Result<(), KeyError> {
        let path = self.directory.join(node.as_str());
        let destroyed = (|| {
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                let file = File::options().write(true).open(entry?.path())?;
                // As far as the file system writes to the same place.
                let zeros = Zeroizing::new(vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)]);
                file.write_all_at(&zeros, 0)?;
                file.sync_all()?;
            }
            fs::remove_dir_all(&path)?;
            File::open(&self.directory)?.sync_all()
        })();
        destroyed.map_err(|source| KeyError { path, source })
    }

    fn path(&self, node: &NodeId, installation: &str) -> PathBuf {
        self.directory.join(node.as_str()).join(installation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::time::Millis;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn p22_a_key_is_kept_for_the_servers_user_alone_until_its_node_is_empty() {
        let data = tempfile::tempdir().expect("a folder");
        let keys = DiskKeys::new(data.path());
        let (node, other) = (NodeId::new(Millis(1), 1), NodeId::new(Millis(1), 2));
        assert!(keys.read(&node, "a").is_err(), "none is made by asking");
        let key = keys.keep(&node, "a").expect("kept");
        assert_eq!(key.expose().len(), "kst_disk_".len() + 64);
        assert_eq!(keys.keep(&node, "a").expect("kept").expose(), key.expose(), "the same job started again");
        assert_eq!(keys.read(&node, "a").expect("kept").expose(), key.expose());
        assert_ne!(keys.keep(&node, "b").expect("kept").expose(), key.expose());
        keys.keep(&other, "a").expect("kept");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
        let file = data.path().join("disk-keys").join(node.as_str()).join("a");
        assert_eq!((mode(&file), mode(file.parent().expect("a folder"))), (0o600, 0o700));
        assert_eq!(mode(&data.path().join("disk-keys")), 0o700);
        fs::write(&file, "").expect("cut off");
        assert!(keys.keep(&node, "a").is_err(), "a key that is lost is not replaced");

        keys.destroy(&node).expect("destroyed");
        keys.destroy(&node).expect("nothing is left to do");
        assert!(!file.exists() && keys.read(&node, "b").is_err());
        assert!(keys.read(&other, "a").is_ok());
    }
}
