//! `cargo xtask ramdisk`: the kernel and the ramdisk the agent runs in.
//!
//! A ramdisk is cpio archives one after the other: the base with drivers, the
//! tools that make file systems, both built here, and a last one with nothing
//! but the agent as `/init`. So a new agent does not need a new base. The
//! ramdisk that only looks has no tools, and an agent that cannot write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::command::{output, sha256_file, zstd};
use crate::cpio::{self, Archive};
use crate::kernel::{self, Kernel};
use crate::packages::{self, Deb, Package};
use crate::{cache, recipes};

/// Bumped when this file's output changes for the same recipe.
const CODE_VERSION: &str = "2";

/// Drivers.
const BASE: &str = "base.cpio.zst";
/// Programs that make file systems, and those for people.
const TOOLS: &str = "tools.cpio.zst";

/// The dynamic loader that Debian's programs name.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// Where the libraries are, in the packages and in the ramdisk.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const USR_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// `images/agent/base.toml`: what every ramdisk holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    packages: Vec<String>,
    programs: Vec<String>,
    static_programs: Vec<String>,
    copies: Vec<String>,
    directories: Vec<String>,
    files: std::collections::BTreeMap<String, String>,
}

/// `images/agent/FLAVOUR.toml`: a kernel and its drivers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flavour {
    kernel: String,
    modules: Vec<String>,
}

/// `manifest.json` beside the ramdisk.
#[derive(Serialize)]
struct Manifest<'a> {
    schema: u32,
    flavour: &'a str,
    kernel_release: &'a str,
    files: [File; 3],
    modules: Vec<&'a str>,
    packages: Vec<Package>,
}

#[derive(Serialize)]
struct File {
    file: &'static str,
    digest: String,
    size: u64,
}

/// `cargo xtask ramdisk cloud|generic [--agent PATH --out FILE]`
pub(crate) fn task(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [flavour] => println!("{}", build(flavour)?.display()),
        [flavour, "--agent", agent, "--out", out] => {
            let size = assemble(&build(flavour)?, Kind::Installs, agent.as_ref(), out.as_ref())?;
            println!("{size}");
        }
        _ => bail!("usage: cargo xtask ramdisk cloud|generic [--agent PATH --out FILE]"),
    }
    Ok(())
}

/// What a ramdisk is for.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Jobs.
    Installs,
    /// Machines without a job.
    Looks,
}

/// Returns a directory holding `vmlinuz`, the archives `base.cpio.zst` and `tools.cpio.zst`, and
/// `manifest.json`.
pub(crate) fn build(flavour: &str) -> Result<PathBuf> {
    packages::ensure()?;
    let recipes = recipes::dir().join("agent");
    let base: Base = recipes::read(&recipes.join("base.toml"))?;
    let recipe: Flavour = recipes::read(&recipes.join(format!("{flavour}.toml")))?;
    let kernel_name = kernel::package(&recipe.kernel)?;
    let mut names = vec![kernel_name.as_str()];
    names.extend(base.packages.iter().map(String::as_str));
    let debs = packages::resolve(&names)?;
    let (kernel_deb, tool_debs) = (&debs[0], &debs[1..]);
    let key = cache::key(&[CODE_VERSION, &cache::recipe_text(&recipes)?, &packages::versions_text(&debs)]);
    cache::entry(&format!("ramdisk-{flavour}"), &key, |dir| {
        eprintln!("building the {flavour} ramdisk (about a minute)");
        let kernel = Kernel::unpack(kernel_deb, &dir.join("kernel"))?;
        let tree = dir.join("tree");
        tool_debs.iter().try_for_each(|deb| deb.unpack(&tree))?;
        let mut archive = base_archive(&base);
        let modules = add_modules(&mut archive, &kernel, &recipe.modules, &tree)?;
        for (name, archive) in [(BASE, archive), (TOOLS, tools_archive(&base, &tree)?)] {
            // The compressor adds the ending.
            let part = dir.join(name).with_extension("");
            fs::write(&part, archive.finish())?;
            zstd(&part, 19)?;
        }
        fs::copy(kernel.vmlinuz(), dir.join("vmlinuz"))?;
        write_manifest(dir, flavour, &kernel, &modules, &debs)?;
        fs::remove_dir_all(dir.join("kernel"))?;
        fs::remove_dir_all(tree)?;
        Ok(())
    })
}

/// Appends the agent to what [`build`] has left in `built`, writes the ramdisk to `out` and returns
/// its size in bytes.
pub(crate) fn assemble(built: &Path, kind: Kind, agent: &Path, out: &Path) -> Result<u64> {
    let parts: &[&str] = match kind {
        Kind::Installs => &[BASE, TOOLS],
        Kind::Looks => &[BASE],
    };
    let mut ramdisk = Vec::new();
    for part in parts {
        ramdisk.extend(read(&built.join(part))?);
        cpio::pad(&mut ramdisk);
    }
    let binary = fs::read(agent).with_context(|| format!("cannot read the agent {}", agent.display()))?;
    let mut archive = Archive::default();
    archive.file("init", 0o755, binary);
    // The kernel finds the format of each archive by itself; compressed, the
    // agent takes a third of the room.
    let part = out.with_extension("agent.cpio");
    fs::write(&part, archive.finish()).with_context(|| format!("cannot write {}", part.display()))?;
    zstd(&part, 9)?;
    let compressed = part.with_extension("cpio.zst");
    ramdisk.extend(fs::read(&compressed)?);
    fs::remove_file(&compressed)?;
    fs::write(out, &ramdisk).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(ramdisk.len() as u64)
}

/// Device nodes, directories and files.
fn base_archive(base: &Base) -> Archive {
    let mut archive = Archive::default();
    // The kernel opens /dev/console for init before devtmpfs can be mounted.
    archive.device("dev/console", 0o600, 5, 1);
    archive.device("dev/null", 0o666, 1, 3);
    for directory in &base.directories {
        archive.directory(directory);
    }
    for (path, text) in &base.files {
        archive.file(path, 0o644, text.clone().into_bytes());
    }
    archive
}

/// Programs with their libraries, and what they read.
fn tools_archive(base: &Base, tree: &Path) -> Result<Archive> {
    let mut archive = Archive::default();
    for path in &base.copies {
        archive.file(path, 0o644, read(&tree.join(path))?);
    }
    for program in &base.static_programs {
        archive.file(program, 0o755, read(&tree.join(program))?);
    }
    let loader = tree.join(LIBRARIES).join("ld-linux-x86-64.so.2");
    archive.file(LOADER, 0o755, read(&loader)?);
    for program in &base.programs {
        let path = tree.join(program);
        archive.file(program, 0o755, read(&path)?);
        for library in libraries(&loader, tree, &path)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("{LIBRARIES}/{name}"), 0o755, read(&library)?);
        }
    }
    Ok(archive)
}

/// The libraries `program` loads, found by the tree's own loader among the
/// tree's own libraries.
fn libraries(loader: &Path, tree: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let path = format!("{}:{}", tree.join(LIBRARIES).display(), tree.join(USR_LIBRARIES).display());
    let mut list = Command::new(loader);
    list.args(["--inhibit-cache", "--library-path", &path, "--list"]).arg(program);
    library_paths(&output(&mut list)?, tree)
        .with_context(|| format!("cannot collect the libraries of {}", program.display()))
}

/// Reads the loader's `NAME => PATH (ADDRESS)` lines.
fn library_paths(text: &str, tree: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (name, rest) in text.lines().filter_map(|line| line.split_once(" => ")) {
        let path = Path::new(rest.split(" (").next().unwrap_or(rest).trim());
        if path.starts_with(tree) {
            paths.push(path.to_owned());
        } else if !name.contains("ld-linux") {
            bail!("{} is in none of the recipe's packages; add its package", name.trim());
        }
    }
    Ok(paths)
}

/// Adds the modules with their indexes; returns their paths.
fn add_modules(archive: &mut Archive, kernel: &Kernel, names: &[String], tree: &Path) -> Result<Vec<String>> {
    let paths = kernel.copy_modules(names, tree)?;
    for path in &paths {
        archive.file(path, 0o644, read(&tree.join(path))?);
    }
    Ok(paths)
}

fn write_manifest(
    dir: &Path,
    flavour: &str,
    kernel: &Kernel,
    modules: &[String],
    debs: &[Deb],
) -> Result<()> {
    let describe = |file: &'static str| -> Result<File> {
        let path = dir.join(file);
        let digest = format!("sha256:{}", sha256_file(&path)?);
        Ok(File { file, digest, size: fs::metadata(&path)?.len() })
    };
    let manifest = Manifest {
        schema: 1,
        flavour,
        kernel_release: &kernel.release,
        files: [describe("vmlinuz")?, describe(BASE)?, describe(TOOLS)?],
        modules: modules
            .iter()
            .filter_map(|path| path.rsplit('/').next())
            .filter(|name| name.ends_with(".ko"))
            .collect(),
        packages: debs.iter().map(Deb::package).collect(),
    };
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    fs::write(dir.join("manifest.json"), text).context("cannot write manifest.json")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn libraries_come_from_the_tree_only() {
        let tree = Path::new("/tree");
        let inside = "\tlibc.so.6 => /tree/lib/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 => /lib/ld-linux-x86-64.so.2 (0x0)\n\
            \tlinux-vdso.so.1 (0x00007fff)\n";
        assert_eq!(library_paths(inside, tree).unwrap(), [Path::new("/tree/lib/libc.so.6")]);
        let outside = "\tlibz.so.1 => /lib/libz.so.1 (0x0)\n";
        assert!(library_paths(outside, tree).unwrap_err().to_string().contains("libz.so.1"));
    }
}
