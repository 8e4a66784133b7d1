//! Programs out of packages that `cargo xtask` unpacks and does not install.

use anyhow::{Context as _, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable with the directory of the clients that the stories start.
pub const VARIABLE: &str = "KALTSTART_CLIENTS";
/// Where Debian has its libraries, within a tree.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A tree of unpacked packages.
#[derive(Debug, Clone)]
pub struct Unpacked(PathBuf);

impl Unpacked {
    /// The tree in `dir`.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The clients of the environment.
    pub fn clients() -> Result<Self> {
        let dir = std::env::var_os(VARIABLE)
            .with_context(|| format!("{VARIABLE} is not set: run `cargo xtask e2e`, which unpacks them"))?;
        ensure!(Path::new(&dir).is_dir(), "{VARIABLE} is no directory: {}", Path::new(&dir).display());
        Ok(Self(dir.into()))
    }

    /// The program with that path in the tree.
    #[must_use]
    pub fn program(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Lets what `command` starts find the tree's libraries.
    #[must_use]
    pub fn with_libraries(&self, mut command: Command) -> Command {
        let mut path = OsString::from(self.0.join(LIBRARIES));
        // Those that swtpm has for itself.
        path.push(":");
        path.push(self.0.join(LIBRARIES).join("swtpm"));
        if let Some(more) = std::env::var_os("LD_LIBRARY_PATH") {
            path.push(":");
            path.push(more);
        }
        command.env("LD_LIBRARY_PATH", path);
        command
    }
}
