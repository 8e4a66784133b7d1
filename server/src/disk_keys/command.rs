//! `kaltstart disk-keys` and `kaltstart forget-secrets`, typed on the server's machine.

use super::{DiskKeys, NAME};
use crate::config::Config;
use crate::store::{FILE, Store};
use crate::vault::Vault;
use crate::{data_dir, tls};
use anyhow::{Context as _, Result, ensure};
use kaltstart_protocol::secret::Secret;
use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Writes the keys of `node`, by name, identifier or hardware address, into files of the new directory `to`, for `cryptsetup --key-file`;
/// a server may run meanwhile.
///
/// # Errors
/// When there is no such node, it has none, or `to` is there already.
pub(crate) fn export(config: &Config, node: &str, to: &Path) -> Result<String> {
    let store = open(config)?;
    let id = store.named(node)?.with_context(|| format!("there is no node {node:?}"))?.machine.node.id;
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
