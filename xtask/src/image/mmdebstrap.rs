//! Images of a Debian installation, made by mmdebstrap.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{BIOS_BOOT, Built, Recipe};
use crate::command::{output, run};
use crate::packages::{self, Package};
use crate::{apt_sources, cache, grub};

/// The `[content]` of a recipe of kind `mmdebstrap`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    suite: String,
    packages: Vec<String>,
    /// dpkg's `path-exclude` and `path-include`, in order.
    path_rules: Vec<String>,
    enable: Vec<String>,
    mask: Vec<String>,
    /// Paths, with shell wildcards, deleted at the end.
    remove: Vec<String>,
    /// Link and target.
    links: BTreeMap<String, String>,
    /// Path and text.
    files: BTreeMap<String, String>,
    /// The same for files that are there before the packages, which read them when they are installed.
    early_files: BTreeMap<String, String>,
}

impl Content {
    /// The versions of the packages the recipe names. Those of their
    /// dependencies cost a build to find out; apt's security updates reach
    /// the image when a named package changes or the cache is deleted.
    pub(super) fn versions(&self) -> Result<String> {
        let names: Vec<&str> = self.packages.iter().map(String::as_str).collect();
        Ok(packages::versions_text(&packages::resolve(&names)?))
    }

    /// See [`super::Content::build`].
    pub(super) fn build(&self, recipe: &Recipe, work: &Path, tar: &Path) -> Result<Built> {
        let overlay = self.write_overlay(work)?;
        let early = work.join("early");
        write_files(&early, &self.early_files)?;
        let early = pack(&early)?;
        let sources = apt_sources::write(&self.suite, work)?;
        let mut command = Command::new("mmdebstrap");
        command
            .env("SOURCE_DATE_EPOCH", recipe.source_date_epoch.to_string())
            .args(["--variant=minbase", "--format=tar"])
            // The tree starts with a merged /usr. Otherwise apt chooses the
            // package that merges it afterwards, which brings all of Perl.
            .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
            .arg(format!("--include={}", self.packages.join(",")))
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--aptopt=Acquire::Languages \"none\"")
            .args(self.path_rules.iter().map(|rule| format!("--dpkgopt={rule}")))
            .arg(format!("--essential-hook=tar-in {early} /"))
            .arg(format!("--customize-hook=tar-in {overlay} /"))
            .args(self.hooks().iter().map(|hook| format!("--customize-hook={hook}")))
            .arg(&self.suite)
            .arg(tar)
            .args(&sources);
        run(&mut command)?;
        describe(tar)
    }

    /// Shell commands that finish the tree, which is `$1`.
    fn hooks(&self) -> Vec<String> {
        let mut hooks = vec![
            format!("chroot \"$1\" systemctl --quiet enable {}", self.enable.join(" ")),
            format!("chroot \"$1\" systemctl --quiet mask {}", self.mask.join(" ")),
        ];
        hooks.extend(self.remove.iter().map(|path| format!("rm -rf \"$1\"{path}")));
        hooks.extend(self.links.iter().map(|(link, target)| format!("ln -sfn {target} \"$1\"{link}")));
        hooks
    }

    /// Packs the recipe's files and GRUB's into a tar; returns its path.
    fn write_overlay(&self, work: &Path) -> Result<String> {
        let tree = work.join("overlay");
        write_files(&tree, &self.files)?;
        let deb = packages::resolve(&[grub::PACKAGE])?.remove(0);
        grub::write_images(&deb, &work.join("grub"), &tree.join(BIOS_BOOT))?;
        pack(&tree)
    }
}

/// Writes texts to paths below `tree`.
fn write_files(tree: &Path, files: &BTreeMap<String, String>) -> Result<()> {
    for (path, text) in files {
        let path = tree.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap_or(tree))?;
        // TOML's multi-line strings are easier to read with a first line break.
        fs::write(&path, text.trim_start_matches('\n'))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Packs `tree` into a tar beside it; returns its path.
fn pack(tree: &Path) -> Result<String> {
    let (list, tar) = (tree.with_extension("list"), tree.with_extension("tar"));
    // Only files: a directory in the tar would change the mode of the
    // image's own directory.
    fs::write(&list, output(Command::new("find").args(["-type", "f"]).current_dir(tree))?)?;
    run(Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX", "-T"])
        .arg(list)
        .arg("-cf")
        .arg(&tar)
        .current_dir(tree))?;
    let path = tar.to_str().context("the cache's path is not UTF-8; set KALTSTART_CACHE")?;
    // It becomes a word of mmdebstrap's hook.
    if path.contains([' ', '\'', '"', '$']) {
        bail!("the cache's path {path} has special characters; set KALTSTART_CACHE");
    }
    Ok(path.to_owned())
}

/// Reads version and packages from the image itself.
fn describe(tar: &Path) -> Result<Built> {
    let member = |name: &str| {
        output(Command::new("tar").arg("-xOf").arg(tar).arg(name))
            .with_context(|| format!("the image holds no {name}"))
    };
    let status = member("./var/lib/dpkg/status")?;
    let mut packages = installed(&status);
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    let list: String =
        packages.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect();
    // The point release and which set of packages it is.
    let release = member("./etc/debian_version")?;
    let version = format!("{}+{}", release.trim(), &cache::key(&[&list])[..8]);
    Ok(Built { version, packages })
}

/// The packages in dpkg's status file.
fn installed(status: &str) -> Vec<Package> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    status
        .split("\n\n")
        .filter_map(|stanza| {
            Some(Package { name: field(stanza, "Package:")?, version: field(stanza, "Version:")? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_file_lists_packages() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\n\nPackage: b\nVersion: 4\n\n";
        let packages = installed(status);
        let expected = [("a", "1:2-3"), ("b", "4")];
        assert_eq!(packages.len(), expected.len());
        for (package, (name, version)) in packages.iter().zip(expected) {
            assert_eq!((package.name.as_str(), package.version.as_str()), (name, version));
        }
    }
}
