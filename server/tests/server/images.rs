//! `kaltstart image import`, and the image as machines get it.

use crate::agent::Agent;
use crate::client::USAGE;
use crate::site::{PROGRAM, Site, mac, sign_image};
use kaltstart_protocol::agent_api::{Mode, Task};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::blocks::{Chunk, ChunkList};
use kaltstart_protocol::image::{Format, Manifest};
use reqwest::StatusCode;
use std::fs;
use std::path::Path;
use std::process::Command;

const SIZE: usize = 16 << 20;
const ABOUT: &str = r#"
name = "tiny"
version = "7"
min_disk_mib = 1
boot = { kernel = "/k", initrd = "/i", cmdline = "quiet", efi = [["/shim", "EFI/BOOT/BOOTX64.EFI"]] }
"#;

/// A file system of `SIZE` bytes with one file of noise.
fn file_system(dir: &Path) -> Vec<u8> {
    let (tree, file) = (dir.join("tree"), dir.join("root.ext4"));
    fs::create_dir_all(&tree).expect("made");
    let noise: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(tree.join("noise"), noise).expect("written");
    fs::File::create(&file).expect("made").set_len(SIZE as u64).expect("length");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed", "-d"]);
    assert!(mke2fs.args([&tree, &file]).status().expect("mke2fs").success());
    fs::read(file).expect("read")
}

/// How the command ended, and its words.
fn import(dir: &Path, format: &str, to: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["image", "import", "--format", format, "--about"]).arg(dir.join("about.toml"));
    let output = command.arg("--to").arg(to).arg(dir.join("root.ext4")).output().expect("it runs");
    let words = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(words).expect("text"))
}

fn manifest(image: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(image.join("manifest.json")).expect("read")).expect("a manifest")
}

/// The file system that the chunks of an image give.
fn joined(list: &ChunkList, stored: &[u8]) -> Vec<u8> {
    let (mut whole, mut at) = (Vec::new(), 0);
    for (i, chunk) in list.chunks.iter().enumerate() {
        let length = usize::try_from(list.place(i, SIZE as u64).1).expect("small");
        let Some(Chunk(digest, bytes)) = chunk else {
            whole.resize(whole.len() + length, 0);
            continue;
        };
        let bytes = usize::try_from(*bytes).expect("small");
        let plain = zstd::bulk::decompress(&stored[at..at + bytes], length).expect("zstd");
        assert_eq!(Digest::of(&plain), *digest, "chunk {i}");
        whole.extend(plain);
        at += bytes;
    }
    assert_eq!(at, stored.len());
    whole
}

#[tokio::test]
async fn a_file_system_is_imported_signed_and_given_to_a_machine_in_chunks() {
    let mut site = Site::start().await;
    let dir = tempfile::tempdir().expect("directory");
    let plain = file_system(dir.path());
    fs::write(dir.path().join("about.toml"), ABOUT).expect("written");
    let images = site.dir.path().join("images");
    let (code, words) = import(dir.path(), "chunked", &images);
    assert!(code == Some(1) && words.contains("remove the old image"), "{code:?} {words}");
    fs::remove_dir_all(images.join("tiny")).expect("removed");
    let (code, words) = import(dir.path(), "chunked", &images);
    assert!(code == Some(0) && words.contains("minisign -S -m"), "{code:?} {words}");
    let image = images.join("tiny");
    let manifest = manifest(&image);
    assert_eq!((manifest.version.as_str(), manifest.unpacked_size), ("7", SIZE as u64));
    assert_eq!(manifest.boot.bios, None);
    sign_image(&image);

    // As a machine gets it.
    site.declare("n1", mac(1)).await;
    site.order("n1", "deploy").await;
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    let Task::Install(task) = agent.task().await else { panic!("no installation") };
    let chunks_url = task.chunks_url.expect("a list of chunks");
    let list = fetched(&chunks_url);
    let Format::Chunked(file) = &manifest.format else { panic!("{:?}", manifest.format) };
    assert_eq!((Digest::of(&list), list.len() as u64), (file.digest, file.size));
    let list: ChunkList = serde_json::from_slice(&list).expect("a list");
    list.check(&manifest).expect("it fits");
    assert!(list.chunks.iter().any(Option::is_none), "zeros are stored");
    let stored = fetched(&task.image_url);
    assert_eq!(Digest::of(&stored), manifest.digest);
    assert!(joined(&list, &stored) == plain, "the chunks are another file system");

    // Half an image is none.
    fs::write(image.join(&file.file), b"short").expect("written");
    site.stop();
    site.power_on().await;
    let (code, words) = check_config(&site);
    assert!(code == Some(0) && words.contains("has 5 bytes, its manifest says"), "{words}");
}

fn fetched(url: &str) -> Vec<u8> {
    let output =
        Command::new("curl").args(["-sS", "--fail", "--max-time", "20", url]).output().expect("curl");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn check_config(site: &Site) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    let output =
        command.arg("check-config").arg("--config").arg(site.dir.path().join("server.toml")).output();
    let output = output.expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_file_system_is_imported_as_one_stream_with_a_map_and_what_is_none_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let plain = file_system(dir.path());
    fs::write(dir.path().join("about.toml"), ABOUT).expect("written");
    let images = dir.path().join("images");
    let (code, words) = import(dir.path(), "raw", &images);
    assert_eq!(code, Some(0), "{words}");
    let image = images.join("tiny");
    let about = manifest(&image);
    let stored = fs::read(image.join(&about.file)).expect("read");
    assert_eq!((Digest::of(&stored), stored.len() as u64), (about.digest, about.size));
    assert!(zstd::decode_all(&stored[..]).expect("zstd") == plain, "it is another file system");
    let Format::Raw(map) = &about.format else { panic!("{:?}", about.format) };
    map.check(SIZE as u64).expect("it fits");
    let gaps = map.gaps(SIZE as u64);
    let zeros: u64 = gaps.iter().map(|(_, length)| length).sum();
    assert!(zeros > SIZE as u64 / 2, "{zeros} bytes of zeros");
    let at = |offset: u64, length: u64| &plain[offset as usize..(offset + length) as usize];
    assert!(gaps.iter().all(|(offset, length)| at(*offset, *length).iter().all(|byte| *byte == 0)));

    let refused = |about: &str, source: &[u8], words: &str| {
        fs::write(dir.path().join("about.toml"), about).expect("written");
        fs::write(dir.path().join("root.ext4"), source).expect("written");
        let others = dir.path().join("others");
        let (code, said) = import(dir.path(), "chunked", &others);
        assert!(code == Some(1) && said.contains(words), "{code:?} {said}");
        assert!(!others.exists() || fs::read_dir(&others).expect("read").next().is_none(), "left behind");
    };
    refused(ABOUT, &plain[..SIZE - 4096], "the file only");
    refused(ABOUT, &[0; 100_000], "no ext4 file system");
    refused(&ABOUT.replace("\"tiny\"", "\"../tiny\""), &plain, "no name of an image");
    refused(&ABOUT.replace("version", "versoin"), &plain, "not understood");
    let (code, _) = import(dir.path(), "qcow9", &images);
    assert_eq!(code, Some(USAGE));
}
