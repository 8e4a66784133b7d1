//! A damaged image is refused, and what was written of it cannot start.

use crate::common::{AGENT_LIMIT, IMAGE, NODE, config, machine, order_from, order_only};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::disk;
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::server::Server;
use kaltstart_tests::signing::sign;
use kaltstart_tests::story::story;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

fn refused(name: &str, code: &str, damage: impl FnOnce(&File, u64) -> Result<()>) -> Result<()> {
    story(name, |lab| {
        let (artefacts, mut config) = config()?;
        let copy = lab.dir().join("images");
        let file = copy_image(&config.images.join(IMAGE), &copy.join(IMAGE))?;
        damage(&file, file.metadata()?.len())?;
        config.image_key = state_size(&copy.join(IMAGE), file.metadata()?.len())?;
        config.images = copy;
        let mut ordered = order_from(lab, machine(lab, Firmware::Bios)?.0, &artefacts, config, IMAGE)?;
        let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
        job.failed_with(code)?;
        // The machine stays up and says why.
        ordered.guest.wait_serial(code, AGENT_LIMIT)?;
        ordered.guest.power_off();
        disk::ensure_not_bootable(&ordered.disk)
    })
}

/// Makes the manifest agree with the file's size, and signs it by a key of its own, so that only the
/// agent can see the damage. Answers with the public key.
fn state_size(image: &Path, size: u64) -> Result<String> {
    let path = image.join("manifest.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    manifest["size"] = size.into();
    fs::write(&path, manifest.to_string())?;
    sign(image)
}

/// Copies an image and opens its file.
fn copy_image(from: &Path, to: &Path) -> Result<File> {
    fs::create_dir_all(to)?;
    for name in ["manifest.json", "manifest.json.minisig"] {
        fs::copy(from.join(name), to.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    let manifest: Value = serde_json::from_str(&fs::read_to_string(to.join("manifest.json"))?)?;
    let file = manifest["file"].as_str().context("the manifest names no file")?;
    fs::copy(from.join(file), to.join(file)).context("cannot copy the image")?;
    Ok(File::options().read(true).write(true).open(to.join(file))?)
}

#[test]
fn flipped_bit() -> Result<()> {
    refused("damage-flipped", "KS-3001", |file, size| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, size / 2)?;
        file.write_all_at(&[byte[0] ^ 0x10], size / 2)?;
        Ok(())
    })
}

#[test]
fn truncated() -> Result<()> {
    // The length is as announced, so it is the digest that tells.
    refused("damage-truncated", "KS-3001", |file, size| Ok(file.set_len(size / 2)?))
}

/// An image that is not as long as its manifest says is refused when it is ordered, in words.
#[test]
fn shorter_than_its_manifest() -> Result<()> {
    story("damage-order", |lab| {
        let (artefacts, mut config) = config()?;
        let copy = lab.dir().join("images");
        let file = copy_image(&config.images.join(IMAGE), &copy.join(IMAGE))?;
        file.set_len(file.metadata()?.len() / 2)?;
        config.images = copy;
        let refusal = order_only(lab, machine(lab, Firmware::Bios)?.0, &artefacts, config, IMAGE).err();
        let text = refusal.map(|error| format!("{error:#}")).context("the order was taken")?;
        ensure!(text.contains("image-unusable"), "the order was refused otherwise: {text}");
        Ok(())
    })
}

/// An image that a key of another site has signed, or nobody, is refused when it is ordered, in words.
#[test]
fn p14_signed_by_another_key_or_not_at_all() -> Result<()> {
    story("damage-signature", |lab| {
        let (artefacts, mut config) = config()?;
        let copy = lab.dir().join("images");
        let size = copy_image(&config.images.join(IMAGE), &copy.join(IMAGE))?.metadata()?.len();
        state_size(&copy.join(IMAGE), size)?;
        config.images = copy.clone();
        let server = Server::start(lab, &artefacts, &config.node(NODE, "52:54:00:00:00:01", None))?;
        let refused = |why: &str| {
            let refusal = server.deploy(NODE, IMAGE).err();
            let text = refusal.map(|error| format!("{error:#}")).context("the order was taken")?;
            ensure!(text.contains(why), "the order was refused otherwise: {text}");
            Ok(())
        };
        refused("no key of this site has signed")?;
        fs::remove_file(copy.join(IMAGE).join("manifest.json.minisig"))?;
        refused("is not there: sign the manifest")
    })
}
