//! `kaltstart backup` and `kaltstart restore`: a backup is a directory of the same shape as `data_dir`, taken while
//! the server runs, also of a shared database: so it is the way from the one kind to the other, too.

use crate::audit;
use crate::config::Config;
use crate::confinement;
use crate::data_dir;
use crate::images::size_and_digest;
use crate::store::{self, Snapshot};
use crate::tls;
use crate::vault::Vault;
use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What a backup that is not whole yet is called besides its name.
const UNFINISHED: &str = ".unfinished";

/// Digests of all other files of a backup, as `sha256sum --check` reads them.
const SUMS: &str = "SHA256SUMS";

/// Copies all that the server remembers into `to`, which must not exist yet.
///
/// # Errors
/// When there is something, there is no database, it is damaged or another program's, or anything cannot be copied;
/// then there is no `to`.
pub(crate) fn backup(config: &Config, to: &Path) -> Result<String> {
    ensure!(!exists(to)?, "{} is there already; a backup gets a place of its own", to.display());
    let mut name = to.file_name().with_context(|| format!("{} names no directory", to.display()))?.to_owned();
    let above = to.parent().filter(|above| *above != Path::new("")).unwrap_or(Path::new("."));
    let real = |dir: &Path| dir.canonicalize().with_context(|| cannot("find", dir));
    if real(above)?.starts_with(real(&config.data_dir)?) {
        bail!("{} lies in data_dir: a backup belongs on another disk", to.display());
    }
    name.push(UNFINISHED);
    let unfinished = to.with_file_name(name);
    if exists(&unfinished)? {
        fs::remove_dir_all(&unfinished).with_context(|| cannot("remove", &unfinished))?;
    }
    make(&unfinished)?;
    let database = || match &config.database {
        Some(database) => Ok(store::export(&database.server()?, &unfinished.join(store::FILE))?),
        None => Ok(store::copy(&config.data_dir.join(store::FILE), &unfinished.join(store::FILE))?),
    };
    let copied = copy(&config.data_dir, &unfinished, database).and_then(|copied| {
        write_sums(&unfinished)?;
        // What has the name is whole, also after a power cut.
        fs::rename(&unfinished, to).with_context(|| cannot("make", to))?;
        sync(above)?;
        Ok(copied)
    });
    if copied.is_err() {
        fs::remove_dir_all(&unfinished).ok();
    }
    Ok(format!("{} are in {}, keys among them: keep it as safe as data_dir", copied?, to.display()))
}

/// Makes `data_dir` of a backup. No server may use it, and nothing may be in it.
///
/// # Errors
/// When that does not hold, or `from` is no whole backup; then there is nothing in `data_dir`.
pub(crate) fn restore(config: &Config, from: &Path) -> Result<String> {
    let to = &config.data_dir;
    ensure!(
        exists(&from.join(store::FILE))?,
        "{} holds no backup: there is no {}",
        from.display(),
        store::FILE
    );
    check_sums(from)?;
    data_dir::make(to)?;
    let _alone = data_dir::lock(to)?;
    let there: Vec<PathBuf> =
        entries(to)?.into_iter().filter(|path| !path.ends_with(data_dir::LOCK)).collect();
    if let Some(there) = there.first() {
        bail!(
            "data_dir {} is in use: {} is there; stop the server and move the directory away, so that nothing is lost",
            to.display(),
            there.display()
        );
    }
    let database = || {
        // Out of a copy: a backup is not changed, not even by SQLite's own files beside it.
        let file = to.join(store::FILE);
        let mut snapshot = store::copy(&from.join(store::FILE), &file)?;
        Vault::check(&tls::dir(from), &file).context("the backup is not whole")?;
        if let Some(database) = &config.database {
            snapshot = store::import(&file, &database.server()?)?;
            fs::remove_file(&file).with_context(|| cannot("remove", &file))?;
        }
        Ok(snapshot)
    };
    let copied = copy(from, to, database);
    if copied.is_err() {
        for path in entries(to)? {
            if !path.ends_with(data_dir::LOCK) {
                fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).ok();
            }
        }
    }
    if copied.is_ok() && geteuid().is_root() {
        let owner = owner(config).with_context(|| cannot("give away", to))?;
        confinement::give(to, owner).with_context(|| cannot("give away", to))?;
    }
    Ok(format!(
        "{} are in {}. What was ordered before the backup and is not done ends with KS-2110 when the server starts; \
         what became of the machines since then it does not know: until you accept that it only observes (`ks restored`)",
        copied?,
        to.display()
    ))
}

/// Whose the data directory is: the one that was there, else the user's that the server becomes.
fn owner(config: &Config) -> Result<(u32, u32)> {
    let found = fs::metadata(&config.data_dir)?;
    let user = if found.uid() == 0 { confinement::user(config.user.as_deref())? } else { None };
    Ok(user.map_or((found.uid(), found.gid()), |user| (user.uid.as_raw(), user.gid.as_raw())))
}

/// Copies the database as `database` does and the files of the directory `from` into `to`; tells how many.
fn copy(from: &Path, to: &Path, database: impl FnOnce() -> Result<Snapshot>) -> Result<String> {
    // Before the database, as its log goes on meanwhile: it must not end before that.
    let head = from.join(audit::FILE);
    let noted = exists(&head)? && copy_file(&head, &to.join(audit::FILE))?;
    // Then the database: what it names in other files is in them before it.
    let Snapshot { nodes, jobs } = database()?;
    let files = copy_files(from, to)? + u64::from(noted);
    Ok(format!("a database (nodes: {nodes}, jobs: {jobs}) and {files} files"))
}

/// Copies the files of a directory and of those in it; tells how many. Those of the database and locks are left out.
fn copy_files(from: &Path, to: &Path) -> Result<u64> {
    let mut files = 0;
    for path in entries(from)? {
        let name = path.file_name().unwrap_or_default();
        let target = to.join(name);
        if name == data_dir::LOCK
            || name == SUMS
            || name == audit::FILE
            || name.as_encoded_bytes().starts_with(store::FILE.as_bytes())
        {
            continue;
        }
        let kind = fs::symlink_metadata(&path).with_context(|| cannot("read", &path))?.file_type();
        if kind.is_dir() {
            make(&target)?;
            files += copy_files(&path, &target)?;
        } else if kind.is_file() {
            files += u64::from(copy_file(&path, &target)?);
        } else {
            bail!("{} is neither a file nor a directory; the server makes no such thing", path.display());
        }
    }
    sync(to)?;
    Ok(files)
}

/// Whether it was still there to be copied.
fn copy_file(from: &Path, to: &Path) -> Result<bool> {
    let mut source = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.with_context(|| cannot("read", from))?,
    };
    let target = File::options().write(true).create_new(true).mode(0o600).open(to);
    let mut target = target.with_context(|| cannot("make", to))?;
    io::copy(&mut source, &mut target)
        .and_then(|_| target.sync_all())
        .with_context(|| cannot("copy", from))?;
    Ok(true)
}

/// Writes the digests of all files in `dir`.
fn write_sums(dir: &Path) -> Result<()> {
    let mut lines = String::new();
    for path in all_files(dir)? {
        let (_, digest) = size_and_digest(&path).with_context(|| cannot("read", &path))?;
        let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
        lines += &format!("{}  {name}\n", digest.to_string().trim_start_matches("sha256:"));
    }
    let path = dir.join(SUMS);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(lines.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| cannot("write", &path))?;
    sync(dir)
}

/// Makes sure that all files of a backup are there and as they were; earlier versions noted no digests.
fn check_sums(from: &Path) -> Result<()> {
    let Ok(lines) = fs::read_to_string(from.join(SUMS)) else { return Ok(()) };
    for line in lines.lines() {
        let (digest, name) = line.split_once("  ").context("the backup's list of digests is damaged")?;
        let path = from.join(name);
        let found = size_and_digest(&path);
        let (_, found) = found.with_context(|| format!("the backup is not whole: {}", path.display()))?;
        ensure!(found.to_string() == format!("sha256:{digest}"), "the backup is damaged: {}", path.display());
    }
    Ok(())
}

/// All files in a directory and those in it.
fn all_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in entries(dir)? {
        if path.is_dir() {
            files.extend(all_files(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// What is in a directory, in the order of the names.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<PathBuf> = entries.with_context(|| cannot("read", dir))?;
    entries.sort();
    Ok(entries)
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().with_context(|| cannot("read", path))
}

fn make(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir).with_context(|| cannot("make", dir))
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| cannot("sync", dir))
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}
