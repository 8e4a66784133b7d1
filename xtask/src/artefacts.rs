//! Everything the demonstration and the end-to-end tests run, in one directory.
//!
//! | path | what |
//! |---|---|
//! | `kaltstart` | the server and client |
//! | `ramdisks/NAME/{vmlinuz,ramdisk.cpio,discovery.cpio}` | the agent's kernel, its ramdisk, and the one that only looks |
//! | `loaders/` | network boot loaders |
//! | `images/NAME/{manifest.json,manifest.json.minisig,…}` | images, signed |
//! | `images.pub` | the public key that signed them |

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::image::file_system::{self, Packing};
use crate::image::sign::Pair;
use crate::image::{self, Compression};
use crate::ramdisk::{self, Kind};
use crate::{boot_files, packages};

/// The agent's target: given explicitly, so that its flags do not touch build scripts.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";
/// The agent is alone in its ramdisk: no loader, no libraries.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static";

/// `cargo xtask artefacts`: for use, so with the optimised server.
pub(crate) fn task(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask artefacts");
    }
    let dir = build_with(&["--release"], &["generic"], &["debian-12"])?;
    println!("{}", dir.display());
    Ok(())
}

/// Builds what is missing and returns the directory, with a server that is quickly built. An image's name may end in `-gzip`, `-raw` or
/// `-chunked`: the same image in that form.
pub(crate) fn build(flavours: &[&str], images: &[&str]) -> Result<PathBuf> {
    build_with(&[], flavours, images)
}

fn build_with(profile: &[&str], flavours: &[&str], images: &[&str]) -> Result<PathBuf> {
    packages::ensure()?;
    let server = executable(cargo().args(["build", "--package", "kaltstart-server"]).args(profile))?;
    let agents = [
        (Kind::Installs, "ramdisk.cpio", agent("kaltstart-agent", &[])?),
        (Kind::Looks, "discovery.cpio", agent("kaltstart-discovery", &["--no-default-features"])?),
    ];
    // TARGET/PROFILE/kaltstart -> TARGET/artefacts
    let dir = server.ancestors().nth(2).context("the server was built in no target directory")?;
    let dir = dir.join("artefacts");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    link(&server, &dir.join("kaltstart"))?;
    link(&boot_files::build()?, &dir.join("loaders"))?;
    for flavour in flavours {
        let base = ramdisk::build(flavour)?;
        let out = dir.join("ramdisks").join(flavour);
        fs::create_dir_all(&out)?;
        link(&base.join("vmlinuz"), &out.join("vmlinuz"))?;
        for (kind, file, agent) in &agents {
            let size = ramdisk::assemble(&base, *kind, agent, &out.join(file))?;
            eprintln!("{flavour} {file}: {:.1} MB, agent {:.1} MB", mb(size), mb(fs::metadata(agent)?.len()));
        }
    }
    let pair = Pair::of_this_machine()?;
    link(&pair.public(), &dir.join("images.pub"))?;
    for image in images {
        let built = match image.rsplit_once('-') {
            Some((name, "gzip")) => image::build(name, Compression::Gzip)?,
            Some((name, "raw")) => file_system::build(name, Packing::Raw, &server)?,
            Some((name, "chunked")) => file_system::build(name, Packing::Chunked, &server)?,
            _ => image::build(image, Compression::Zstd)?,
        };
        let out = dir.join("images").join(image);
        place_image(&built, image, &out)?;
        pair.sign(&out)?;
    }
    Ok(dir)
}

/// Builds one of the agent's programs.
fn agent(program: &str, features: &[&str]) -> Result<PathBuf> {
    executable(
        cargo()
            .args(["build", "--package", "kaltstart-agent", "--bin", program, "--profile", "agent"])
            .args(["--target", AGENT_TARGET])
            .args(features)
            .env("RUSTFLAGS", AGENT_FLAGS),
    )
}

/// Cargo, as this program was started by it.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a build that makes one program, shows its progress, and returns the program's path.
pub(crate) fn executable(build: &mut Command) -> Result<PathBuf> {
    let output = build
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the build failed ({})", output.status);
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .context("the build made no program")
}

/// Makes `link` point to `target`, at once, whatever it was before.
fn link(target: &Path, link: &Path) -> Result<()> {
    let new = link.with_extension("new");
    fs::remove_file(&new).ok();
    symlink(target, &new)
        .and_then(|()| fs::rename(&new, link))
        .with_context(|| format!("cannot link {} to {}", link.display(), target.display()))
}

/// An image under its name: a manifest of its own beside links to the files.
fn place_image(from: &Path, name: &str, to: &Path) -> Result<()> {
    // Written through a link to it, the cache itself would change.
    if to.is_symlink() {
        fs::remove_file(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    fs::create_dir_all(to)?;
    let text = fs::read_to_string(from.join("manifest.json")).context("cannot read the manifest")?;
    let mut manifest: Value = serde_json::from_str(&text).context("the manifest is no JSON")?;
    manifest["name"] = name.into();
    let file = manifest["file"].as_str().context("the manifest names no file")?;
    for file in [Some(file), manifest["format"]["chunked"]["file"].as_str()].into_iter().flatten() {
        link(&from.join(file), &to.join(file))?;
    }
    fs::write(to.join("manifest.json"), manifest.to_string()).context("cannot write the manifest")
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
