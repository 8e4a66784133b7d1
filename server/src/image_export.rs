//! `ks image export`: the files of images, named as their URLs are, for whatever gives files by HTTP in front of this
//! server.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use std::fs;
use std::path::PathBuf;

use crate::config;
use crate::images::{Catalog, size_and_digest};

/// What is typed.
#[derive(Debug, Args)]
pub struct Export {
    /// Configuration file
    #[arg(long)]
    config: PathBuf,
    /// Directory to make, on the file system of `images.dir`; what is in it goes into the bucket
    to: PathBuf,
}

impl Export {
    /// Makes the directory, with `images/sha256:…` as a hard link to each file of each usable image; says what there is
    /// now, and which images were left out. Every file is read, as one with wrong bytes would cost each machine's
    /// installation time.
    ///
    /// # Errors
    /// When the configuration is wrong, there is such a directory already, it is on another file system, or a file is
    /// not what its manifest says; then there is no directory.
    pub fn run(&self) -> Result<String> {
        let config = config::load(&self.config)?;
        let catalog = Catalog::new(config.images.dir.clone(), config.images.trust());
        let made = || format!("cannot make {}; an export gets a place of its own", self.to.display());
        fs::create_dir(&self.to).with_context(made)?;
        let exported = self.fill(&catalog).inspect_err(|_| {
            // A part of the images would pass for all of them.
            fs::remove_dir_all(&self.to).ok();
        })?;
        for (_, problem) in catalog.refused() {
            eprintln!("left out: {problem}");
        }
        Ok(exported)
    }

    fn fill(&self, catalog: &Catalog) -> Result<String> {
        let images = self.to.join("images");
        fs::create_dir(&images)?;
        let (mut files, mut bytes) = (0, 0);
        for (digest, file) in catalog.files() {
            let (size, found) =
                size_and_digest(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let shown = file.display();
            ensure!(
                found == digest,
                "{shown} is not what its manifest says (it has {found}); build or import it again"
            );
            let to = images.join(digest.to_string());
            fs::hard_link(&file, &to).with_context(|| {
                format!("cannot link {shown} as {}, which must be on the same file system", to.display())
            })?;
            files += 1;
            bytes += size;
        }
        Ok(format!("{}: {files} files of {bytes} bytes", images.display()))
    }
}
