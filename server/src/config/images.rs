//! `[images]`

use serde::Deserialize;
use std::path::PathBuf;

/// `[images]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Directory with `NAME/manifest.json` and the file it names.
    pub dir: PathBuf,
}
