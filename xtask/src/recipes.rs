//! Where the recipes are and how they are read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// The repository's `images` directory.
pub(crate) fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images")
}

/// Reads one TOML file of a recipe.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("there is no recipe {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a valid recipe", path.display()))
}
