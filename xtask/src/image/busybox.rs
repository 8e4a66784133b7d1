//! Minute images for tests: a kernel, busybox, and the boot loaders.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{BIOS_BOOT, Built, Recipe};
use crate::command::{output, run, zstd};
use crate::cpio::Archive;
use crate::kernel::{self, Kernel};
use crate::packages::{self, Deb, Package};
use crate::{grub, recipes};

/// The `[content]` of a recipe of kind `busybox`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    /// The metapackage of the kernel.
    kernel: String,
    /// Packages that hold busybox and the boot loaders.
    packages: Vec<String>,
    /// Modules the initramfs loads.
    modules: Vec<String>,
    /// The initramfs's init, a file of the recipe.
    initramfs_init: String,
    /// Path in the image and file of the recipe.
    programs: BTreeMap<String, String>,
    /// Path in the image and text.
    files: BTreeMap<String, String>,
}

/// Directories of the root file system that start empty.
const DIRECTORIES: &[&str] = &["dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/lib", "usr/bin"];

impl Content {
    /// The versions of everything the image is made from.
    pub(super) fn versions(&self) -> Result<String> {
        Ok(packages::versions_text(&self.debs()?))
    }

    /// The kernel, GRUB for BIOS, and the recipe's packages.
    fn debs(&self) -> Result<Vec<Deb>> {
        let kernel = kernel::package(&self.kernel)?;
        let mut names = vec![kernel.as_str(), grub::PACKAGE];
        names.extend(self.packages.iter().map(String::as_str));
        packages::resolve(&names)
    }

    /// See [`super::Content::build`].
    pub(super) fn build(&self, recipe: &Recipe, work: &Path, tar: &Path) -> Result<Built> {
        let debs = self.debs()?;
        let (kernel_deb, grub_deb) = (&debs[0], &debs[1]);
        let (root, tree) = (work.join("root"), work.join("packages"));
        debs[2..].iter().try_for_each(|deb| deb.unpack(&tree))?;
        let kernel = Kernel::unpack(kernel_deb, &work.join("kernel"))?;

        self.write_files(&recipe.name, &root)?;
        install_busybox(&tree, &root)?;
        self.install_kernel(&recipe.name, &kernel, &tree, &root)?;
        for (path, _) in &recipe.boot.efi {
            let path = path.trim_start_matches('/');
            copy(&tree.join(path), &root.join(path))?;
        }
        grub::write_images(grub_deb, &work.join("grub"), &root.join(BIOS_BOOT))?;
        pack(&root, recipe.source_date_epoch, tar)?;

        let mut packages: Vec<Package> = debs.iter().map(Deb::package).collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Built { version: kernel_deb.package().version, packages })
    }

    fn write_files(&self, recipe: &str, root: &Path) -> Result<()> {
        for directory in DIRECTORIES {
            fs::create_dir_all(root.join(directory))?;
        }
        for (path, text) in &self.files {
            write(&root.join(path), text)?;
        }
        for (path, file) in &self.programs {
            let target = root.join(path);
            copy(&recipes::dir().join(recipe).join(file), &target)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// The kernel with its initramfs, under the names Debian gives them.
    fn install_kernel(&self, recipe: &str, kernel: &Kernel, tree: &Path, root: &Path) -> Result<()> {
        let release = &kernel.release;
        copy(&kernel.vmlinuz(), &root.join(format!("boot/vmlinuz-{release}")))?;
        let initrd = root.join(format!("boot/initrd.img-{release}"));
        fs::write(&initrd, self.initramfs(recipe, kernel, tree)?.finish())?;
        zstd(&initrd, 19)?;
        fs::rename(initrd.with_added_extension("zst"), &initrd)?;
        for name in ["vmlinuz", "initrd.img"] {
            symlink(format!("{name}-{release}"), root.join("boot").join(name))?;
        }
        Ok(())
    }

    fn initramfs(&self, recipe: &str, kernel: &Kernel, tree: &Path) -> Result<Archive> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mut archive = Archive::default();
        archive.device("dev/console", 0o600, 5, 1);
        for directory in ["proc", "sys", "root"] {
            archive.directory(directory);
        }
        archive.file("bin/busybox", 0o755, read(&tree.join("bin/busybox"))?);
        for name in applets(tree)? {
            archive.symlink(&format!("bin/{name}"), "busybox");
        }
        archive.file("init", 0o755, read(&recipes::dir().join(recipe).join(&self.initramfs_init))?);
        archive.file("etc/modules", 0o644, self.modules.join("\n").into_bytes());
        for path in kernel.copy_modules(&self.modules, tree)? {
            archive.file(&path, 0o644, read(&tree.join(&path))?);
        }
        Ok(archive)
    }
}

/// The names busybox answers to.
fn applets(tree: &Path) -> Result<Vec<String>> {
    let list = output(Command::new(tree.join("bin/busybox")).arg("--list"))?;
    Ok(list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect())
}

fn install_busybox(tree: &Path, root: &Path) -> Result<()> {
    copy(&tree.join("bin/busybox"), &root.join("bin/busybox"))?;
    for name in applets(tree)? {
        symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(())
}

/// Packs `root` so that equal trees give equal bytes, whatever the builder's
/// user, umask and clock.
fn pack(root: &Path, epoch: u64, tar: &Path) -> Result<()> {
    run(Command::new("tar")
        .args(["--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{epoch}"), "-cf"])
        .arg(tar)
        .arg("-C")
        .arg(root)
        .arg("."))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
