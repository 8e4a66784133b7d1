//! Signatures of images that tests make or change.

use crate::artefacts::public_key;
use crate::process::run;
use crate::wait::secs;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Signs `manifest.json` in the directory `image` by a key of its own; the public key.
pub fn sign(image: &Path) -> Result<String> {
    let [secret, public] = ["own.key", "own.pub"].map(|name| image.join(name));
    let limit = secs(10);
    run(Command::new("minisign").args(["-G", "-W", "-p"]).arg(&public).arg("-s").arg(&secret), limit)?;
    run(
        Command::new("minisign").args(["-S", "-s"]).arg(&secret).arg("-m").arg(image.join("manifest.json")),
        limit,
    )?;
    public_key(&public)
}
