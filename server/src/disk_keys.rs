//! Keys of encrypted disks: one for each installation, sealed in the store.
//!
//! A node's keys are destroyed when all its disks were erased; one that is laid down anew keeps those of before, since
//! they may be of a disk that was left alone.

use crate::clock;
use crate::config::Config;
use crate::data_dir;
use crate::store::{FILE, Key, Store, StoreError};
use crate::tls;
use crate::vault::{Vault, VaultError};
use anyhow::{Context as _, Result, ensure};
use kaltstart_protocol::ids::NodeId;
use kaltstart_protocol::secret::Secret;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where earlier versions kept them: a file for each, in a directory of its node.
const EARLIER: &str = "disk-keys";

/// The keys.
pub(crate) struct DiskKeys(Vault);

impl DiskKeys {
    /// Keys that `vault` seals; those that an earlier version has left in files of `data_dir` are moved into `store`.
    ///
    /// # Errors
    /// When one of them cannot be read, or not be stored.
    pub(crate) async fn new(vault: Vault, data_dir: &Path, store: &Store) -> Result<Self, VaultError> {
        let earlier = data_dir.join(EARLIER);
        if earlier.exists() {
            let moved = take_over(&vault, &earlier, store).await?;
            tracing::info!(moved, "keys of encrypted disks were moved from files into the database, sealed");
        }
        Ok(Self(vault))
    }

    /// The key of an installation, by the UUID of its partition table; a new one if it has none yet, which is durable
    /// before this returns.
    ///
    /// # Errors
    /// When it cannot be stored or opened.
    pub(crate) async fn keep(
        &self,
        store: &Store,
        node: &NodeId,
        installation: &str,
    ) -> Result<Secret, VaultError> {
        // Without a line break it is a key file for cryptsetup.
        self.0.keep(store, node.as_str(), &name(installation), || clock::token("kst_disk_")).await
    }

    /// The key of an installation.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub(crate) fn read(
        &self,
        store: &Store,
        node: &NodeId,
        installation: &str,
    ) -> Result<Secret, VaultError> {
        self.0.read(store, node.as_str(), &name(installation))
    }

    /// Destroys all keys of a node.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn destroy(&self, store: &Store, node: &NodeId) -> Result<(), StoreError> {
        store.remove_secrets(node.to_string()).await
    }
}

/// What the names of the secrets that open disks begin with; the installation follows.
const NAME: &str = "disk ";

fn name(installation: &str) -> String {
    format!("{NAME}{installation}")
}

/// Writes the keys of `node`, by name, identifier or hardware address, into files of the new directory `to`, for `cryptsetup --key-file`;
/// a server may run meanwhile.
///
/// # Errors
/// When there is no such node, it has none, or `to` is there already.
pub(crate) fn export(config: &Config, node: &str, to: &Path) -> Result<String> {
    let store = open(config)?;
    let (id, mac) = (node.parse().ok(), node.parse().ok());
    let key = mac.map_or_else(|| id.as_ref().map_or(Key::Name(node), Key::Id), Key::Mac);
    let found = store.machine(key)?;
    let id = found.with_context(|| format!("there is no node {node:?}"))?.machine.node.id;
    let keys = DiskKeys(Vault::existing(&tls::dir(&config.data_dir), &store)?);
    let names = store.secrets_of(id.as_str())?;
    let installations: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(NAME)).collect();
    ensure!(!installations.is_empty(), "{node} has no encrypted disks");
    let opened: Vec<(&str, Secret)> = installations
        .iter()
        .map(|installation| Ok((*installation, keys.read(&store, &id, installation)?)))
        .collect::<Result<_>>()?;
    DirBuilder::new().mode(0o700).create(to).with_context(|| format!("cannot make {}", to.display()))?;
    for (installation, key) in opened {
        let path = to.join(installation);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(key.expose().as_bytes()));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(format!(
        "{} of {node} in {}, named by the UUID of the partition table that they were made for",
        installations.len(),
        to.display()
    ))
}

fn open(config: &Config) -> Result<Store> {
    match &config.database {
        Some(database) => Ok(Store::connect(&database.server()?, "kaltstart disk-keys")?),
        None => {
            let file = config.data_dir.join(FILE);
            ensure!(file.exists(), "no server was started with data_dir: there is no {}", file.display());
            Ok(Store::open(&config.data_dir)?)
        }
    }
}

/// Forgets all secrets of the site whose key is lost, if `count` is how many there are. No server may run.
///
/// # Errors
/// When it is not, and nothing is forgotten.
pub(crate) fn forget(config: &Config, count: i64) -> Result<String> {
    let _alone = data_dir::lock(&config.data_dir)?;
    let store = open(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let found = runtime.block_on(store.forget_secrets(count))?;
    ensure!(found == count, "there are {found} secrets, which nothing opens afterwards: --confirm {found}");
    Ok(format!("{found} secrets are forgotten; the next start makes another key for those to come"))
}

/// Moves the keys in files of `directory` into `store`, and removes it; tells how many there were.
async fn take_over(vault: &Vault, directory: &Path, store: &Store) -> Result<usize, VaultError> {
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
    Ok(files.len())
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
