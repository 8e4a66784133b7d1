//! What is under test: programs, ramdisks and images, all built beforehand by `cargo xtask`.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};

/// Environment variable with the directory of the artefacts.
pub const VARIABLE: &str = "KALTSTART_ARTEFACTS";

/// A directory with everything under test:
///
/// | path | what |
/// |---|---|
/// | `kaltstart` | the server and client |
/// | `ramdisks/NAME/{vmlinuz,ramdisk.cpio,discovery.cpio}` | the agent's kernel, its ramdisk, and the one that only looks |
/// | `loaders/` | network boot loaders |
/// | `images/NAME/{manifest.json,manifest.json.minisig,…}` | images, signed |
/// | `images.pub` | the public key that signed them |
#[derive(Debug, Clone)]
pub struct Artefacts {
    dir: PathBuf,
    image_key: String,
}

impl Artefacts {
    /// Those of the environment.
    pub fn from_env() -> Result<Self> {
        let dir = std::env::var_os(VARIABLE).with_context(|| {
            format!("{VARIABLE} is not set: run `cargo xtask test`, which builds everything first")
        })?;
        Self::at(Path::new(&dir))
    }

    /// Those in `dir`.
    pub fn at(dir: &Path) -> Result<Self> {
        // Absolute, because programs are started in other directories.
        let dir = dir.canonicalize().with_context(|| format!("no artefacts in {}", dir.display()))?;
        ensure!(dir.join("kaltstart").exists(), "{} holds no server `kaltstart`", dir.display());
        let image_key = public_key(&dir.join("images.pub"))?;
        Ok(Self { dir, image_key })
    }

    /// The server and client.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.dir.join("kaltstart")
    }

    /// Kernel of the ramdisk `name` (`cloud`, `generic`).
    #[must_use]
    pub fn kernel(&self, name: &str) -> PathBuf {
        self.dir.join("ramdisks").join(name).join("vmlinuz")
    }

    /// The ramdisk `name` with the agent that only looks.
    #[must_use]
    pub fn discovery(&self, name: &str) -> PathBuf {
        self.dir.join("ramdisks").join(name).join("discovery.cpio")
    }

    /// The ramdisk `name` with the agent in it.
    #[must_use]
    pub fn ramdisk(&self, name: &str) -> PathBuf {
        self.dir.join("ramdisks").join(name).join("ramdisk.cpio")
    }

    /// Network boot loaders.
    #[must_use]
    pub fn loaders(&self) -> PathBuf {
        self.dir.join("loaders")
    }

    /// The public key that signed the images.
    #[must_use]
    pub fn image_key(&self) -> &str {
        &self.image_key
    }

    /// Directory of all images.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }
}

/// The key of a `.pub` file of minisign.
pub fn public_key(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no public key {}", file.display()))?;
    Ok(text.lines().nth(1).context("a public key has two lines")?.to_owned())
}
