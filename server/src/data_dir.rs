//! The directory that holds everything the server remembers: made, locked, and the token in it.

use crate::clock;
use crate::store::Store;
use crate::{tls, vault};
use anyhow::{Context, Result, ensure};
use kaltstart_protocol::secret::Secret;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The file that is locked while somebody uses the directory.
pub(crate) const LOCK: &str = "lock";

/// The administrator's token.
const TOKEN: &str = "admin.token";

/// Makes it when there is none: what is remembered of the machines is for the server's own user, who
/// must be able to reach it through the directories above.
pub(crate) fn make(dir: &Path) -> Result<()> {
    let mut above = fs::DirBuilder::new();
    let above = above.recursive(true).mode(0o755);
    dir.parent()
        .map_or(Ok(()), |parent| above.create(parent))
        .and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(dir))
        .with_context(|| format!("cannot make data_dir {}", dir.display()))
}

/// Makes sure that no other server works on the same data: two lease tables would promise one
/// address twice.
pub(crate) fn lock(dir: &Path) -> Result<Flock<fs::File>> {
    let path = dir.join(LOCK);
    let file = fs::File::options().append(true).create(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot make {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => {
            anyhow::anyhow!("another server uses data_dir {}; stop it first", dir.display())
        }
        error => anyhow::anyhow!("cannot lock {}: {error}", path.display()),
    })
}

/// Keys are made at a site's first start alone. A server that joins a site, or goes on from a copy, has them or does not
/// start: with others it would be nobody to the site's agents and systems.
///
/// # Errors
/// Names those that are missing.
pub(crate) fn ensure_keys(dir: &Path, store: &Store) -> Result<()> {
    if store.sealed_by()?.is_none() {
        return Ok(());
    }
    let mut needed = [tls::AUTHORITY, vault::FILE].map(|key| tls::dir(dir).join(key)).to_vec();
    if store.is_shared() {
        needed.push(dir.join(TOKEN));
    }
    let missing: Vec<String> =
        needed.iter().filter(|path| !path.exists()).map(|path| path.display().to_string()).collect();
    ensure!(
        missing.is_empty(),
        "{} is missing, and the site of this database has it: copy tls/ and admin.token of data_dir from a server that \
         runs, or out of a backup. What is lost for good: `kaltstart tls rotate --authority` makes another authority, which \
         agents and systems of before do not believe; `kaltstart forget-secrets` gives up the keys of encrypted disks",
        missing.join(", ")
    );
    Ok(())
}

/// Reads the administrator's token; makes it at first start, readable by the owner alone.
pub(crate) fn admin_token(dir: &Path) -> Result<Secret> {
    let path = dir.join(TOKEN);
    let context = || format!("admin token {}", path.display());
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim().to_owned())),
        Ok(_) => anyhow::bail!("{} is empty: remove it, and a new one is made", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(context),
    }
    let token = clock::token("kst_");
    replace(&path, &format!("{}\n", token.expose())).with_context(context)?;
    tracing::info!(file = %path.display(), "made a token for administrators");
    Ok(token)
}

/// Replaces a file as a whole, for the owner alone: after a crash there is the old one or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let mut file = open?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
    fs::rename(&temporary, path)
}
