//! `kaltstart image import`, and the image as machines get it.

use crate::agent::{Agent, script};
use crate::client::{USAGE, done};
use crate::site::{PROGRAM, Site, mac, put_image, sign_image};
use futures_util::future::join_all;
use kaltstart_protocol::agent_api::{Mode, Task};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::blocks::{Chunk, ChunkList};
use kaltstart_protocol::image::places::Places;
use kaltstart_protocol::image::{Compression, Format, Manifest};
use reqwest::StatusCode;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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
    import_from(&dir.join("root.ext4"), &dir.join("about.toml"), format, to, &[])
}

fn import_from(source: &Path, about: &Path, format: &str, to: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["image", "import", "--format", format, "--about"]).arg(about);
    let output = command.arg("--to").arg(to).args(more).arg(source).output().expect("it runs");
    let words = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(words).expect("text"))
}

pub(crate) fn manifest(image: &Path) -> Manifest {
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
    let listed = done(&site, "image list").await;
    assert!(!listed.out.contains("tiny"), "{}", listed.out);
    assert!(
        listed.err.contains("not usable: image \"tiny\"") && listed.err.contains("has 5 bytes"),
        "{}",
        listed.err
    );
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
    refused(ABOUT, &[0; 100_000], "it has no /k, /i, /shim; install");
    refused(ABOUT, &[7; 100_000], "it is no archive");
    refused(&ABOUT.replace("\"tiny\"", "\"../tiny\""), &plain, "no name of an image");
    refused(&ABOUT.replace("version", "versoin"), &plain, "not understood");
    refused(&ABOUT.replace("quiet", "quiet\\ninit=/bin/sh"), &plain, "boot.cmdline holds '\\n'");
    refused(&ABOUT.replace("/k", "/k\\u0007"), &plain, "boot.kernel holds");
    for to in ["EFI/../../x.efi", "EFI\\\\..\\\\x.efi", "/", "EFI/BOOT/\\tX.EFI"] {
        refused(&ABOUT.replace("EFI/BOOT/BOOTX64.EFI", to), &plain, "is no place on an EFI system partition");
    }
    let (code, _) = import(dir.path(), "qcow9", &images);
    assert_eq!(code, Some(USAGE));
}

/// Runs a program of Debian's; its words.
pub(crate) fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect(program);
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A directory for one import, with what it needs to be told.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("about.toml"), ABOUT).expect("written");
        Self(dir)
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path").to_owned()
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// Imports `name` into a new directory; how it ended, and where the image is.
    fn import(&self, name: &str) -> (Option<i32>, String, PathBuf) {
        self.import_with(&self.at(name), &[])
    }

    /// The same for any source, with further arguments.
    pub(crate) fn import_with(&self, source: &str, more: &[&str]) -> (Option<i32>, String, PathBuf) {
        let to = self.0.path().join("images");
        // That of the last import.
        fs::remove_dir_all(&to).ok();
        let (code, words) =
            import_from(Path::new(source), &self.0.path().join("about.toml"), "chunked", &to, more);
        (code, words, to.join("tiny"))
    }

    fn refused(&self, name: &str, words: &str) {
        let (code, said, image) = self.import(name);
        assert!(code == Some(1) && said.contains(words), "{name}: {code:?} {said}, not {words:?}");
        assert!(!image.exists(), "{name}: something is left behind");
    }
}

#[test]
fn an_archive_is_imported_as_it_is_if_a_system_can_start_from_it() {
    let place = Place::new();
    for (file, text) in [("k-1", "kernel"), ("boot/i-1", "ramdisk"), ("usr/shim", "shim")] {
        place.put(&format!("tree/{file}"), text);
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, place.at(&format!("tree/{name}"))).expect("linked");
    };
    link("k-1", "k");
    link("/../boot/./i-1", "i");
    let tar = |flags: &str, file: &str| run("tar", &["-C", &place.at("tree"), flags, &place.at(file), "."]);
    tar("-cf", "plain.tar");
    place.refused("plain.tar", "it has no /shim; install");
    link("usr/shim", "shim");
    tar("-cf", "plain.tar");
    let plain = fs::read(place.at("plain.tar")).expect("read");
    for (flags, file, compression) in [
        ("-cf", "plain.tar", Compression::None),
        ("-czf", "gzip.tar", Compression::Gzip),
        ("--zstd", "zstd.tar", Compression::Zstd),
    ] {
        if flags == "--zstd" {
            run("zstd", &["-q", &place.at("plain.tar"), "-o", &place.at(file)]);
        } else {
            tar(flags, file);
        }
        let (code, words, image) = place.import(file);
        assert_eq!(code, Some(0), "{words}");
        let about = manifest(&image);
        assert_eq!((about.format.clone(), about.compression), (Format::Tar, compression));
        assert_eq!(about.unpacked_size, plain.len() as u64);
        // Kernel and shim in the root, "ramdisk" in what may be a file system of its own.
        assert_eq!(about.places, Places::from([("/".into(), 10), ("/boot".into(), 7)]));
        let stored = fs::read(image.join(&about.file)).expect("read");
        assert!(stored == fs::read(place.at(file)).expect("read"), "{file} was changed");
        assert_eq!((Digest::of(&stored), stored.len() as u64), (about.digest, about.size));
    }
    fs::write(place.at("cut.tar"), &plain[..plain.len() / 2]).expect("written");
    place.refused("cut.tar", "ends in its middle");
    run("tar", &["-C", &place.at("tree"), "--transform=s,^k-1,../k-1,", "-Pcf", &place.at("out.tar"), "k-1"]);
    place.refused("out.tar", "leads out of the archive");
    place.refused("tree", "no OCI layout");
}

#[test]
fn the_layers_of_an_oci_layout_become_one_archive() {
    let place = Place::new();
    let (layout, bundle) = (place.at("layout"), place.at("bundle"));
    run("umoci", &["init", "--layout", &layout]);
    let image = format!("{layout}:1");
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["unpack", "--image", &image, &bundle]);
    let root = |file: &str| format!("bundle/rootfs/{file}");
    for file in ["k", "i", "shim", "gone", "gone-too/a/b", "emptied/old", "becomes/a/directory", "kept/file"]
    {
        place.put(&root(file), file);
    }
    fs::hard_link(place.at(&root("kept/file")), place.at(&root("kept/again"))).expect("linked");
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, &bundle]);
    fs::remove_file(place.at(&root("gone"))).expect("removed");
    for dir in ["gone-too", "emptied", "becomes"] {
        fs::remove_dir_all(place.at(&root(dir))).expect("removed");
    }
    place.put(&root("becomes"), "a file");
    place.put(&root("emptied/new"), "new");
    place.put(&root("i"), "another");
    fs::set_permissions(place.at(&root("kept")), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("set");
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, &bundle]);

    let (code, words, imported) = place.import("layout");
    assert_eq!(code, Some(0), "{words}");
    let about = manifest(&imported);
    let stored = imported.join(&about.file);
    let bytes = fs::read(&stored).expect("read");
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (about.digest, about.size));
    assert_eq!(zstd::decode_all(&bytes[..]).expect("zstd").len() as u64, about.unpacked_size);
    fs::create_dir(place.at("got")).expect("made");
    run("tar", &["--zstd", "-xpf", stored.to_str().expect("a path"), "-C", &place.at("got")]);
    run("diff", &["-r", &place.at("got"), &place.at("bundle/rootfs")]);
    let kept = fs::metadata(place.at("got/kept")).expect("there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&kept.permissions()) & 0o777, 0o700);
    assert_eq!(
        std::os::unix::fs::MetadataExt::nlink(&fs::metadata(place.at("got/kept/file")).expect("there")),
        2
    );

    // A layer that is not what its name says.
    let largest = fs::read_dir(place.at("layout/blobs/sha256")).expect("read").flatten();
    let largest = largest.max_by_key(|file| file.metadata().expect("there").len()).expect("a blob").path();
    let mut bytes = fs::read(&largest).expect("read");
    bytes[100] ^= 1;
    fs::write(&largest, bytes).expect("written");
    place.refused("layout", "is not what its name says");
    fs::write(place.at("layout/index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).expect("written");
    place.refused("layout", "it holds 0 images");
}

#[test]
fn the_root_is_cut_out_of_a_disk_in_any_format() {
    let place = Place::new();
    file_system(place.0.path());
    // As foreign systems have it: its checksums hold for its UUID alone.
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            "metadata_csum,^metadata_csum_seed",
            "-d",
            &place.at("tree"),
            &place.at("root.ext4"),
        ],
    );
    fs::File::create(place.at("disk.raw")).expect("made").set_len(24 << 20).expect("length");
    let disk = place.at("disk.raw");
    run("sgdisk", &["-n", "1:2048:+16M", "-t", "1:8300", "-n", "2:0:+1M", "-t", "2:ef02", &disk]);
    let root = format!("if={}", place.at("root.ext4"));
    run("dd", &[&root, &format!("of={disk}"), "bs=1M", "seek=1", "conv=notrunc", "status=none"]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", &disk, &place.at("disk.qcow2")]);
    for file in ["disk.raw", "disk.qcow2"] {
        let (code, words, image) = place.import(file);
        assert_eq!(code, Some(0), "{words}");
        assert!(!image.join("work").exists());
        let about = manifest(&image);
        let list = about.format.chunks().expect("a list");
        let list: ChunkList =
            serde_json::from_slice(&fs::read(image.join(&list.file)).expect("read")).expect("JSON");
        let plain = joined(&list, &fs::read(image.join(&about.file)).expect("read"));
        fs::write(place.at("found.ext4"), plain).expect("written");
        run("e2fsck", &["-fn", &place.at("found.ext4")]);
        assert!(run("dumpe2fs", &["-h", &place.at("found.ext4")]).contains("metadata_csum_seed"));
        assert!(run("debugfs", &["-R", "ls", &place.at("found.ext4")]).contains("noise"));
    }
    run("sgdisk", &["-t", "2:8300", &disk]);
    place.refused("disk.raw", "2 partitions of Linux");
    run("sgdisk", &["-d", "2", "-t", "1:ef02", &disk]);
    place.refused("disk.raw", "no partition of Linux");
    run("qemu-img", &["create", "-f", "qcow2", "-F", "raw", "-b", &disk, &place.at("based.qcow2")]);
    place.refused("based.qcow2", "based on another file");
}

#[tokio::test]
async fn p36_images_keep_to_their_rate_and_scripts_do_not_wait_for_them() {
    const MBIT: u64 = 16;
    let mut site = Site::start().await;
    let image: Vec<u8> = (0..2_u32 << 20).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    put_image(site.dir.path(), &image);
    let config = site.dir.path().join("server.toml");
    let text = fs::read_to_string(&config).expect("read");
    fs::write(&config, text.replace("[images]\n", &format!("[images]\nmax_mbit = {MBIT}\n")))
        .expect("written");
    site.kill();
    site.power_on().await;
    assert_eq!(site.declare("n1", mac(1)).await.status, StatusCode::CREATED);

    let began = Instant::now();
    // By the kernel; and by the library, which is given whatever is not plain.
    let fetches = ["", "a body"].map(|body| {
        let request = site.http.get(format!("{}/images/{}", site.base, Digest::of(&image))).body(body);
        let image = &image;
        async move {
            let got = request.send().await.expect("answered").bytes().await.expect("whole");
            assert!(got == *image);
            began.elapsed()
        }
    });
    let scripts = async {
        for _ in 0..100 {
            script(&site, 1).await;
        }
        began.elapsed()
    };
    let (images, scripts) = tokio::join!(join_all(fetches), scripts);
    let last = images.into_iter().max().expect("two");
    // Of the last one a part may wait in buffers.
    let due = Duration::from_micros(2 * image.len() as u64 * 8 / MBIT);
    assert!(last > due.mul_f64(0.9), "two images in {last:?} instead of {due:?}");
    assert!(scripts < last, "scripts after {scripts:?}, images after {last:?}");
}
