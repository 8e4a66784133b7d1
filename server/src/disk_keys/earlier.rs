//! Keys that earlier versions kept in files: one for each installation, in a directory of its node.

use super::name;
use crate::store::Store;
use crate::vault::{Vault, VaultError};
use kaltstart_protocol::secret::Secret;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Their directory in the data directory.
const DIRECTORY: &str = "disk-keys";

/// Moves the keys in files of `data_dir`, if there are any, into `store`.
///
/// # Errors
/// When one cannot be read, or not be stored; it is left then.
pub(super) async fn take_over(vault: &Vault, data_dir: &Path, store: &Store) -> Result<(), VaultError> {
    let directory = &data_dir.join(DIRECTORY);
    if !directory.exists() {
        return Ok(());
    }
    let failed = |path: &Path, source| VaultError::Earlier { path: path.to_owned(), source };
    let files = files(directory).map_err(|source| failed(directory, source))?;
    for file in &files {
        let text = fs::read_to_string(file).map_err(|source| failed(file, source))?;
        if text.is_empty() {
            return Err(failed(file, io::Error::other("it is empty")));
        }
        let part = |path: Option<&Path>| path?.file_name()?.to_str().map(str::to_owned);
        let (Some(node), Some(installation)) = (part(file.parent()), part(Some(file))) else { continue };
        let kept = vault.keep(store, &node, &name(&installation), || Secret::new(text.clone())).await?;
        if kept.expose() != text {
            // Either may be the one that opens the disk.
            return Err(failed(file, io::Error::other("the database has another one; move this file away")));
        }
    }
    for file in &files {
        overwrite(file).map_err(|source| failed(file, source))?;
    }
    fs::remove_dir_all(directory).map_err(|source| failed(directory, source))?;
    let moved = files.len();
    tracing::info!(moved, "keys of encrypted disks were moved from files into the database, sealed");
    Ok(())
}

/// The files of all nodes.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for node in fs::read_dir(directory)? {
        for file in fs::read_dir(node?.path())? {
            files.push(file?.path());
        }
    }
    // Half a key, from before a crash.
    files.retain(|file| file.extension().is_none_or(|extension| extension != "new"));
    Ok(files)
}

/// Overwrites a file, as far as the file system writes to the same place.
fn overwrite(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let zeros = Zeroizing::new(vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)]);
    file.write_all_at(&zeros, 0)?;
    file.sync_all()
}
