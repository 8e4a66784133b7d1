//! Signatures of manifests, by minisign: agents lay down what a key of their site has signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;
use crate::command::run;

/// This machine's pair of keys, for images that are built on it.
pub(crate) struct Pair(PathBuf);

impl Pair {
    /// The pair, made if there is none. The secret key has no password: it signs what the machine
    /// that holds it has built.
    pub(crate) fn of_this_machine() -> Result<Self> {
        cache::entry("image-keys", "1", |dir| {
            let pair = Self(dir.to_owned());
            run(Command::new("minisign")
                .args(["-G", "-W", "-p"])
                .arg(pair.public())
                .arg("-s")
                .arg(pair.secret()))
        })
        .map(Self)
    }

    /// The file with the public key.
    pub(crate) fn public(&self) -> PathBuf {
        self.0.join("images.pub")
    }

    fn secret(&self) -> PathBuf {
        self.0.join("images.key")
    }

    /// Signs `manifest.json` in `dir`; the signature lies beside it.
    pub(crate) fn sign(&self, dir: &Path) -> Result<()> {
        let manifest = dir.join("manifest.json");
        // Renamed when complete: a server may read it meanwhile.
        let new = dir.join("manifest.json.minisig.new");
        run(Command::new("minisign")
            .args(["-S", "-s"])
            .arg(self.secret())
            .arg("-m")
            .arg(&manifest)
            .arg("-x")
            .arg(&new))?;
        fs::rename(&new, manifest.with_extension("json.minisig"))
            .with_context(|| format!("cannot place the signature in {}", dir.display()))
    }
}
