//! Keys and certificates on the disk: whole files, the owner's alone, changed by one at a time.

use super::TlsError;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// The directory of keys; nobody else changes it while this value lives.
pub(crate) struct Files {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Files {
    /// Waits for others, for the moment they need to write two files.
    pub(crate) fn lock(dir: &Path) -> Result<Self, TlsError> {
        let io = |source| TlsError::File { path: dir.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let file =
            File::options().append(true).create(true).mode(0o600).open(dir.join("lock")).map_err(io)?;
        give_to_owner_of(dir, &file).map_err(io)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io(error.into()))?;
        Ok(Self { dir: dir.into(), _lock: lock })
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, TlsError> {
        let path = self.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TlsError::File { path, source }),
        }
    }

    /// Replaces a file as a whole; after a crash there is the old one or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), TlsError> {
        let (path, temporary) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let write = || {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            give_to_owner_of(&self.dir, &file)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| TlsError::File { path: path.clone(), source })
    }
}

/// Root may change keys while the server runs as its own user, who must be able to read them.
fn give_to_owner_of(dir: &Path, file: &File) -> std::io::Result<()> {
    let (owner, now) = (dir.metadata()?, file.metadata()?);
    if (owner.uid(), owner.gid()) != (now.uid(), now.gid()) {
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}
