//! Keys of encrypted disks: one for each installation, sealed in the store.
//!
//! A node's keys are destroyed when all its disks were erased; one that is laid down anew keeps those of before, since
//! they may be of a disk that was left alone.

mod command;
mod earlier;

pub(crate) use command::{export, forget};

use crate::clock;
use crate::store::{Store, StoreError};
use crate::vault::{Vault, VaultError};
use kaltstart_protocol::ids::NodeId;
use kaltstart_protocol::secret::Secret;
use std::path::Path;

/// The keys.
pub(crate) struct DiskKeys(Vault);

impl DiskKeys {
    /// Keys that `vault` seals; those that an earlier version has left in files of `data_dir` are moved into `store`.
    ///
    /// # Errors
    /// When one of them cannot be read, or not be stored.
    pub(crate) async fn new(vault: Vault, data_dir: &Path, store: &Store) -> Result<Self, VaultError> {
        earlier::take_over(&vault, data_dir, store).await?;
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
