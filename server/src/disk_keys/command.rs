//! `kaltstart disk-keys` and `kaltstart forget-secrets`, typed on the server's machine.

use super::{DiskKeys, NAME};
use crate::config::Config;
use crate::vault::Vault;
use crate::{audit, clock, data_dir, tls};
use anyhow::{Context as _, Result, ensure};
use kaltstart_core::audit::{Act, Action};
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
    let store = audit::open(config, "kaltstart disk-keys")?;
    let found = store.named(node)?.with_context(|| format!("there is no node {node:?}"))?.machine.node;
    let id = found.id;
    let vault = Vault::existing(&tls::dir(&config.data_dir), &store)?;
    audit::seal(config, &store, &vault)?;
    let keys = DiskKeys(vault);
    let names = store.secrets_of(id.as_str())?;
    let installations: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(NAME)).collect();
    ensure!(!installations.is_empty(), "{node} has no encrypted disks");
    let opened: Vec<(&str, Secret)> = installations
        .iter()
        .map(|installation| Ok((*installation, keys.read(&store, &id, installation)?)))
        .collect::<Result<_>>()?;
    let about = Some((id, found.name));
    let act = Act { node: about, ..Act::new(audit::local(), Action::DiskKeysExported) };
    audit::record(&store, act.with("installations", installations.join(", ")).with("to", to.display()))?;
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

/// Forgets all secrets of the site whose key is lost, if `count` is how many there are. No server may run.
///
/// # Errors
/// When it is not, and nothing is forgotten.
pub(crate) fn forget(config: &Config, count: i64) -> Result<String> {
    let _alone = data_dir::lock(&config.data_dir)?;
    let store = audit::open(config, "kaltstart forget-secrets")?;
    let found = store.count_secrets()?;
    ensure!(found == count, "there are {found} secrets, which nothing opens afterwards: --confirm {found}");
    // What seals the records before is lost as well: they are vouched for by this one, which the key to come seals.
    audit::seal(config, &store, &Vault::anew(&tls::dir(&config.data_dir))?)?;
    let act = Act::new(audit::local(), Action::SecretsForgotten).with("secrets", found);
    let forgotten = audit::runtime()?.block_on(store.forget_secrets(act, clock::now()))?;
    Ok(format!("{forgotten} secrets are forgotten; another key is there for those to come"))
}
