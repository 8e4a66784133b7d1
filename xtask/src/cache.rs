//! The cache of built things, outside the clone.
//!
//! An entry is a directory named after what it is and the digest of what it
//! is made from. It is built under a temporary name and renamed when
//! complete, so an interrupted build leaves no entry. Any entry, and the
//! whole cache, can be deleted at any time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The cache directory: `$KALTSTART_CACHE`, else `$XDG_CACHE_HOME/kaltstart`,
/// else `~/.cache/kaltstart`.
pub(crate) fn root() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = variable("KALTSTART_CACHE") {
        return std::path::absolute(path).context("KALTSTART_CACHE is not a usable path");
    }
    if let Some(path) = variable("XDG_CACHE_HOME") {
        return Ok(Path::new(&path).join("kaltstart"));
    }
    let home = variable("HOME").context("HOME is not set; set KALTSTART_CACHE to a directory")?;
    Ok(Path::new(&home).join(".cache/kaltstart"))
}

/// A digest of everything an entry is made from: recipe text, package
/// versions, and a version of the building code.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps ["ab", "c"] apart from ["a", "bc"].
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..16].to_owned()
}

/// Returns the entry `name` with `key`, building it with `build` if it does
/// not exist. Two processes never build the same name at once: the second
/// waits and then finds the entry.
pub(crate) fn entry(name: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = root()?.join(format!("{name}-{key}"));
    if path.exists() {
        return Ok(path);
    }
    let _lock = lock(name)?;
    if path.exists() {
        return Ok(path);
    }
    let temporary = root()?.join(format!("{name}.building"));
    fresh_dir(&temporary)?;
    build(&temporary).with_context(|| format!("cannot build {name}"))?;
    fs::rename(&temporary, &path)
        .with_context(|| format!("cannot move the finished build to {}", path.display()))?;
    Ok(path)
}

/// Runs `build` in a directory that is deleted afterwards, under the same
/// lock as [`entry`].
pub(crate) fn scratch<T>(name: &str, build: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let _lock = lock(name)?;
    let temporary = root()?.join(format!("{name}.scratch"));
    fresh_dir(&temporary)?;
    let result = build(&temporary);
    fs::remove_dir_all(&temporary).ok();
    result
}

/// Takes the lock of `name`; it is released when the file is dropped, also
/// when the process is killed.
fn lock(name: &str) -> Result<File> {
    let root = root()?;
    fs::create_dir_all(&root).with_context(|| format!("cannot create the cache {}", root.display()))?;
    let path = root.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Makes `path` an empty directory.
fn fresh_dir(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove the leftover {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// All files of a recipe directory as one text, for [`key`].
pub(crate) fn recipe_text(dir: &Path) -> Result<String> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("cannot read the recipe {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    let mut text = String::new();
    for path in paths {
        let content = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("{name} {}\n{content}", content.len());
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_every_part_and_its_borders() {
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab", "c"]), key(&["ab", "d"]));
    }

    #[test]
    fn the_recipe_text_holds_names_and_contents_in_order() {
        let dir = std::env::temp_dir().join(format!("xtask-recipe-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("b"), "two").unwrap();
        fs::write(dir.join("a"), "one\n").unwrap();
        let text = recipe_text(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(text.unwrap(), "a 4\none\nb 3\ntwo");
    }
}
