//! Debian's kernels, unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, run};
use crate::modules::Modules;
use crate::packages::{self, Deb};

/// The name of the package that holds the kernel a metapackage such as
/// `linux-image-amd64` stands for.
pub(crate) fn package(metapackage: &str) -> Result<String> {
    let record = packages::with_index(|| {
        output(Command::new("apt-cache").args(["show", "--no-all-versions", "--", metapackage]))
    })?;
    image_dependency(&record)
        .map(str::to_owned)
        .with_context(|| format!("{metapackage} depends on no linux-image package"))
}

/// The first `linux-image-…` in the `Depends:` line of a package record.
fn image_dependency(record: &str) -> Option<&str> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    depends.split([',', '|', ' ']).find(|word| word.starts_with("linux-image-"))
}

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// The release as `uname -r` prints it.
    pub(crate) release: String,
    tree: PathBuf,
}

impl Kernel {
    /// Unpacks `deb` into `dir` and indexes its modules.
    pub(crate) fn unpack(deb: &Deb, dir: &Path) -> Result<Kernel> {
        deb.unpack(dir)?;
        let modules = dir.join("lib/modules");
        let release = fs::read_dir(&modules)
            .and_then(|mut entries| entries.next().transpose())
            .with_context(|| format!("cannot read {}", modules.display()))?
            .with_context(|| format!("{} holds no modules", deb.file))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        depmod(dir, &release)?;
        Ok(Kernel { release, tree: dir.to_owned() })
    }

    /// The kernel image.
    pub(crate) fn vmlinuz(&self) -> PathBuf {
        self.tree.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Copies the named modules, what they depend on, and fresh indexes to
    /// `root`/lib/modules. Returns the paths below `root`, sorted.
    pub(crate) fn copy_modules(&self, names: &[String], root: &Path) -> Result<Vec<String>> {
        let prefix = format!("lib/modules/{}", self.release);
        let source = self.tree.join(&prefix);
        let read = |name: &str| {
            let path = source.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let modules = Modules::parse(&read("modules.dep")?, &read("modules.builtin")?);
        let mut files: Vec<String> = modules.closure(names)?.into_iter().collect();
        // depmod wants the latter two; the order decides which of two drivers
        // for one device comes first in modules.alias.
        let lists = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
        for file in files.iter().map(String::as_str).chain(lists) {
            let target = root.join(&prefix).join(file);
            fs::create_dir_all(target.parent().unwrap_or(root))?;
            fs::copy(source.join(file), &target)
                .with_context(|| format!("cannot copy the module file {file}"))?;
        }
        depmod(root, &self.release)?;
        let indexes = ["modules.alias", "modules.builtin", "modules.dep", "modules.softdep"];
        files.extend(indexes.map(str::to_owned));
        files.sort();
        Ok(files.iter().map(|file| format!("{prefix}/{file}")).collect())
    }
}

fn depmod(root: &Path, release: &str) -> Result<()> {
    run(Command::new("/sbin/depmod").arg("-b").arg(root).arg(release))
        .context("cannot index the kernel modules")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_package_is_found_in_the_record() {
        let record = "Package: linux-image-amd64\nVersion: 6.1.1-1\n\
            Depends: linux-image-6.1.0-56-amd64 (= 6.1.1-1)\nSection: kernel\n";
        assert_eq!(image_dependency(record), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(image_dependency("Package: x\n"), None);
    }
}
