//! Where the audit log ends, in a file of each server: who shortens the log in the database is found by it. And
//! `kaltstart audit-verify`, which needs no server.

use crate::config::Config;
use crate::data_dir;
use crate::http::audit::VerdictView;
use crate::store::{self, Store};
use crate::vault::Vault;
use crate::{clock, tls};
use anyhow::{Context as _, Result, ensure};
use kaltstart_core::audit::{Act, Actor, Head};
use nix::unistd::getuid;
use std::fs;
use std::io;
use std::path::Path;

/// Its file in the data directory.
pub(crate) const FILE: &str = "audit.head";

/// Where the log ended when a server with that data directory saw it last; none when it never did.
///
/// # Errors
/// When the file cannot be read, or is damaged.
pub(crate) fn seen(data_dir: &Path) -> io::Result<Option<Head>> {
    match fs::read_to_string(data_dir.join(FILE)) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes note of where the log ends.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn note(data_dir: &Path, head: &Head) -> io::Result<()> {
    data_dir::replace(&data_dir.join(FILE), &format!("{}\n", serde_json::to_string(head)?))
}

/// Opens the database of a site for a command that is typed on a server's machine, under the name `me`.
///
/// # Errors
/// When there is none, or it cannot be used.
pub(crate) fn open(config: &Config, me: &str) -> Result<Store> {
    match &config.database {
        Some(database) => Ok(Store::connect(&database.server()?, me)?),
        None => {
            let file = config.data_dir.join(store::FILE);
            ensure!(file.exists(), "no server was started with data_dir: there is no {}", file.display());
            Ok(Store::open(&config.data_dir)?)
        }
    }
}

/// Lets `store` seal records with the key of `vault`, and know where the log ended that its server saw last.
///
/// # Errors
/// When the file that says so is damaged.
pub(crate) fn seal(config: &Config, store: &Store, vault: &Vault) -> Result<()> {
    let seen = seen(&config.data_dir).with_context(|| {
        let path = config.data_dir.join(FILE);
        format!(
            "{} is damaged; where the audit log ended is not known without it: put it right or away",
            path.display()
        )
    })?;
    store.seal_records(vault.sealer(), seen);
    Ok(())
}

/// Records what somebody does by a command that is typed on a server's machine.
///
/// # Errors
/// When it cannot be recorded. Then it must not be done.
pub(crate) fn record(store: &Store, act: Act) -> Result<()> {
    Ok(runtime()?.block_on(store.record(act, clock::now()))?)
}

/// What a command waits on that changes the database.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()
}

/// Whoever types a command on a server's machine, as far as that knows him.
pub(crate) fn local() -> Actor {
    Actor::named(&format!("uid {} on the server", getuid()))
}

/// Looks at the whole log of a site, whether a server runs or not.
///
/// # Errors
/// When it cannot be looked at, or something is wrong with it.
pub(crate) fn verify(config: &Config) -> Result<String> {
    let store = open(config, "kaltstart audit-verify")?;
    let vault = Vault::existing(&tls::dir(&config.data_dir), &store)?;
    seal(config, &store, &vault)?;
    let view = VerdictView::of(store.verify_log()?, store.log_seen());
    ensure!(view.whole, "{}", view.text());
    Ok(view.text())
}
