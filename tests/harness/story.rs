//! One end-to-end test: a lab of its own, evidence when it fails.

use crate::lab::Lab;
use crate::wait::interrupted;
use anyhow::{Context as _, Error, Result};
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

/// Environment variable with the directory for evidence; a temporary one without it.
pub const VARIABLE: &str = "KALTSTART_EVIDENCE";
/// Files larger than this (disks) are not kept.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Runs `body` in a new lab. When it fails or panics, logs, packets and journal are kept, and the
/// error names their folder.
///
/// What `body` starts it must own, so that it has ended, and its logs are whole, when they are kept.
pub fn story<T>(name: &str, body: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    let lab = Lab::new()?;
    lab.capture()?;
    let result = panic::catch_unwind(AssertUnwindSafe(|| body(&lab)));
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(fail(name, &lab, error)),
        Err(payload) => {
            eprintln!("{:#}", fail(name, &lab, Error::msg("panicked")));
            panic::resume_unwind(payload)
        }
    }
}

fn fail(name: &str, lab: &Lab, error: Error) -> Error {
    if interrupted() {
        return error;
    }
    match keep(name, lab, &error) {
        Ok(folder) => error.context(format!("{name} failed; evidence is in {}", folder.display())),
        Err(trouble) => error.context(format!("{name} failed, and evidence was not kept: {trouble:#}")),
    }
}

/// Copies everything but disks out of the lab.
fn keep(name: &str, lab: &Lab, error: &Error) -> Result<PathBuf> {
    let root = std::env::var_os(VARIABLE)
        .map_or_else(|| std::env::temp_dir().join("kaltstart-evidence"), PathBuf::from);
    let folder = root.join(format!("{name}-{}", lab.name()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    copy_small(lab.dir(), &folder)?;
    fs::write(folder.join("cause.txt"), format!("{error:#}\n"))?;
    Ok(folder)
}

fn copy_small(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // Sockets and links have nothing to keep; secrets are not evidence.
        let (kind, name) = (entry.file_type()?, entry.file_name());
        let secret = name == "admin.token" || name == "key";
        if kind.is_file() && !secret && entry.metadata()?.len() <= FILE_BYTES_MAX {
            fs::copy(entry.path(), to.join(&name))
                .with_context(|| format!("cannot keep {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_kept_and_secrets_are_not() {
        let base = std::env::temp_dir().join(format!("kt-story-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(&from).and_then(|()| fs::create_dir_all(&to)).expect("temporary directories");
        for name in ["server.log", "admin.token"] {
            fs::write(from.join(name), "text").expect("writable");
        }
        copy_small(&from, &to).expect("both exist");
        assert!(to.join("server.log").exists() && !to.join("admin.token").exists());
        fs::remove_dir_all(base).expect("it was made");
    }
}
