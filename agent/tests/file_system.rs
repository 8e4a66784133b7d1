//! Images that are file systems, laid down on loop devices: raw and in chunks.

mod common;

#[path = "../../server/tests/support/object_store.rs"]
mod object_store;

use common::{DISK_BYTES, Loop, Ordered, Watch, archive, install, measured, order, root, run};
use kaltstart_agent::http_source::HttpSource;
use kaltstart_agent::image::fetch::{FetchError, ImageSource, Part};
use kaltstart_agent::install::{Observer, Stop};
use kaltstart_protocol::agent_api::{ImagePlace, ReportState};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::blocks::{Chunk, ChunkList, DataMap, ListFile};
use kaltstart_protocol::image::{Compression, Format};
use kaltstart_protocol::layout::Role;
use kaltstart_protocol::phase::{Phase, Progress};
use object_store::ObjectStore;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const CHUNK: usize = 64 << 10;
const MIB: u64 = 1 << 20;

/// A root file system as bytes, made of a small tree.
fn file_system(directory: &TempDir) -> Vec<u8> {
    archive(directory.path());
    let (tree, file) = (directory.path().join("tree"), directory.path().join("root.ext4"));
    File::create(&file).expect("file").set_len(96 << 20).expect("length");
    let features = "metadata_csum_seed,^orphan_file";
    let path = |path: &std::path::Path| path.to_str().expect("path").to_owned();
    run(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, "-d", &path(&tree), &path(&file)],
    );
    fs::read(file).expect("read")
}

/// The files of an image, and how many bytes of each were asked for.
struct Files {
    image: Vec<u8>,
    list: Vec<u8>,
    /// After so many bytes of the image there is no more.
    until: usize,
    fetched: Mutex<usize>,
}

impl Files {
    fn new(image: Vec<u8>, list: Vec<u8>) -> Self {
        Self { image, list, until: usize::MAX, fetched: Mutex::new(0) }
    }

    fn take_fetched(&self) -> usize {
        std::mem::take(&mut *self.fetched.lock().expect("lock"))
    }
}

impl ImageSource for Files {
    fn open(&self, part: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
        let file = match part {
            Part::Image => &self.image,
            Part::List => return Ok(Box::new(Cursor::new(self.list.clone()))),
        };
        let end = end.map_or(file.len(), |end| end as usize).min(file.len());
        let bytes = file.get(offset as usize..end).ok_or(FetchError::PastEnd)?;
        let mut fetched = self.fetched.lock().expect("lock");
        let left = self.until.saturating_sub(*fetched).min(bytes.len());
        *fetched += left;
        match left {
            0 if !bytes.is_empty() => Err(FetchError::Missing("the server has lost it".into())),
            left => Ok(Box::new(Cursor::new(bytes[..left].to_vec()))),
        }
    }
}

/// An image of one format: what is ordered, and its files.
fn packed(plain: &[u8], chunked: bool) -> (Ordered, Files) {
    let mut ordered = order(b"", plain.len() as u64, Compression::Zstd);
    let (format, files) = if chunked { in_chunks(plain) } else { as_stream(plain) };
    ordered.image.format = format;
    ordered.image.size = files.image.len() as u64;
    ordered.image.digest = Digest::of(&files.image);
    (ordered, files)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn as_stream(plain: &[u8]) -> (Format, Files) {
    let pieces = plain.chunks(CHUNK).enumerate().filter(|(_, piece)| !is_zero(piece));
    let data = pieces.map(|(i, piece)| ((i * CHUNK) as u64, piece.len() as u64)).collect();
    let stored = zstd::encode_all(plain, 1).expect("encode");
    (Format::Raw(DataMap { data }), Files::new(stored, Vec::new()))
}

fn in_chunks(plain: &[u8]) -> (Format, Files) {
    let mut image = Vec::new();
    let mut chunks = Vec::new();
    for piece in plain.chunks(CHUNK) {
        let stored = zstd::bulk::compress(piece, 1).expect("compress");
        let zero = is_zero(piece);
        chunks.push((!zero).then(|| Chunk(Digest::of(piece), stored.len() as u64)));
        if !zero {
            image.extend(stored);
        }
    }
    let list = serde_json::to_vec(&ChunkList { chunk_size: CHUNK as u64, chunks }).expect("JSON");
    let file = ListFile { file: "l".into(), digest: Digest::of(&list), size: list.len() as u64 };
    (Format::Chunked(file), Files::new(image, list))
}

/// Fills the disk with what shall not show through.
fn soil(disk: &Loop) {
    let file = File::options().write(true).open(&disk.node).expect("open");
    let dirt = vec![0xEE; 1 << 20];
    for at in (262..500).map(|mib| mib * MIB) {
        file.write_all_at(&dirt, at).expect("write");
    }
    file.sync_all().expect("sync");
}

/// Looks into the root file system of the disk, which must be clean.
fn in_root<T>(disk: &Loop, look: impl FnOnce(&std::path::Path, &str) -> T) -> T {
    let mount = disk.directory.path().join("look");
    fs::create_dir_all(&mount).expect("mkdir");
    run("partx", &["-a", "--nr", "3", &disk.node]);
    let node = format!("{}p3", disk.node);
    run("e2fsck", &["-fn", &node]);
    run("mount", &[&node, mount.to_str().expect("path")]);
    let seen = look(&mount, &node);
    run("umount", &[mount.to_str().expect("path")]);
    run("partx", &["-d", "--nr", "3", &disk.node]);
    seen
}

/// Where the root partition lies in bytes: start and length.
fn root_place(ordered: &Ordered, sector: u64) -> (u64, u64) {
    let plan = kaltstart_protocol::layout::plan::plan(&ordered.task.layout, DISK_BYTES, sector);
    let plan = plan.expect("plan");
    let root = plan.role(Role::Root).expect("root");
    (root.first * sector, root.sectors * sector)
}

/// Remembers what the phases told at their end.
#[derive(Default)]
struct Details(Mutex<BTreeMap<String, String>>);

impl Observer for Details {
    fn phase(&self, _: Phase, state: ReportState, _: Option<Progress>, detail: BTreeMap<String, String>) {
        if state == ReportState::Done {
            self.0.lock().expect("lock").extend(detail);
        }
    }

    fn cancelled(&self) -> Option<String> {
        None
    }
}

#[test]
fn p11_a_file_system_is_laid_down_whole_becomes_the_machines_own_and_grows() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let plain = file_system(&directory);
    for (chunked, sector_size) in [(false, 512), (true, 512), (true, 4096)] {
        let disk = Loop::new(sector_size);
        soil(&disk);
        let (ordered, files) = packed(&plain, chunked);
        let disks = [disk.disk.clone()];
        let mut paths = disk.paths();
        // BIOS knows no sectors of 4096 bytes.
        let efivars = disk.directory.path().join("efivars");
        fs::create_dir(&efivars).expect("mkdir");
        paths.efivars = (sector_size == 4096).then_some(efivars);
        install(&ordered, &disks, &files, &paths, &Watch::default()).expect("installs");
        assert!(disk.is_tidy());
        let (start, length) = root_place(&ordered, sector_size.into());
        let room = in_root(&disk, |mount, node| {
            let state = fs::read_to_string(mount.join("var/lib/state")).expect("a file of the image");
            let name = fs::read_to_string(mount.join("etc/hostname")).expect("the identity");
            assert_eq!((state.as_str(), name.as_str()), ("state", "node7\n"));
            let about = run("dumpe2fs", &["-h", node]);
            let field = |name: &str| {
                let line = about.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
                line.trim().to_owned()
            };
            assert_eq!(field("Filesystem UUID:"), ordered.task.uuids.root);
            assert_eq!(field("Filesystem volume name:"), "root");
            field("Block count:").parse::<u64>().expect("a number")
                * field("Block size:").parse::<u64>().expect("a number")
        });
        assert!(room <= length && room + 4 * MIB > length, "{room} of {length}");
        // Known by a rebuild as the node's own.
        let contents = measured(&disks)[0].holds.clone().expect("read");
        assert!(contents.0.iter().any(|area| area.id == ordered.task.uuids.root), "{contents}");
        // What is free in the image is zeros, besides what the identity and growing changed.
        let mut found = vec![0; plain.len()];
        File::open(&disk.file).expect("open").read_exact_at(&mut found, start).expect("read");
        let pairs = found.chunks(CHUNK).zip(plain.chunks(CHUNK));
        let changed = pairs.filter(|(found, plain)| found != plain).count();
        assert!(changed < 60, "{changed} of {} chunks differ", plain.len() / CHUNK);
        assert!(!found.chunks(4096).any(|block| block.iter().all(|byte| *byte == 0xEE)), "old data");
    }
}

/// Installs what must fail; the finding. Nothing that starts may be left.
fn failing(disk: &Loop, ordered: &Ordered, files: &Files) -> Finding {
    let disks = [disk.disk.clone()];
    match install(ordered, &disks, files, &disk.paths(), &Watch::default()) {
        Err(Stop::Failed(finding)) => {
            assert!(disk.is_blank() && disk.is_tidy(), "{finding}");
            finding
        }
        other => panic!("not a failure: {other:?}"),
    }
}

#[test]
fn p11_wrong_bytes_lists_and_maps_leave_nothing_that_starts() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let plain = file_system(&directory);
    let disk = Loop::new(512);
    let refused = |ordered: &Ordered, files: &Files, code, words: &str| {
        let finding = failing(&disk, ordered, files);
        assert!(finding.code == code && finding.detail.contains(words), "{finding}, not {code} {words}");
    };
    for chunked in [false, true] {
        let (good, files) = packed(&plain, chunked);
        let length = files.image.len();
        for at in [0, 1, length / 3, length / 2, length - 1] {
            let mut flipped = files.image.clone();
            flipped[at] ^= 0x10;
            refused(&good, &Files::new(flipped, files.list.clone()), Code::ImageMismatch, "");
        }
        for keep in [0, length / 2, length - 1] {
            let short = Files::new(files.image[..keep].to_vec(), files.list.clone());
            refused(&good, &short, Code::ImageTruncated, "");
        }
    }

    let (mut good, files) = packed(&plain, true);
    for at in [0, 17, files.list.len() / 2, files.list.len() - 1] {
        let mut flipped = files.list.clone();
        flipped[at] ^= 1;
        refused(&good, &Files::new(files.image.clone(), flipped), Code::ImageMismatch, "list of chunks");
    }
    let list: ChunkList = serde_json::from_slice(&files.list).expect("a list");
    let mut listed = |change: &dyn Fn(&mut ChunkList), code, words: &str| {
        let mut list = list.clone();
        change(&mut list);
        let list = serde_json::to_vec(&list).expect("JSON");
        let file = ListFile { file: "l".into(), digest: Digest::of(&list), size: list.len() as u64 };
        good.image.format = Format::Chunked(file);
        refused(&good, &Files::new(files.image.clone(), list), code, words);
    };
    let data: Vec<usize> = (0..list.chunks.len()).filter(|&i| list.chunks[i].is_some()).collect();
    let another = |list: &mut ChunkList| {
        let Some(Chunk(digest, _)) = &mut list.chunks[data[0]] else { panic!("no data") };
        *digest = Digest::of(b"another");
    };
    listed(&another, Code::ImageMismatch, &format!("chunk {}", data[0]));
    // Both are wrong then, and whichever is met first is named.
    listed(&|list| list.chunks.swap(data[0], data[1]), Code::ImageMismatch, "chunk ");
    listed(&|list| list.chunks.truncate(5), Code::ImageInvalid, "5 chunks, the image has");
    listed(&|list| list.chunks[data[3]] = None, Code::ImageInvalid, "are stored in a file of");
    listed(&|list| list.chunk_size = 12345, Code::ImageInvalid, "chunks of 12345 bytes");

    let (mut good, files) = packed(&plain, false);
    let Format::Raw(map) = good.image.format.clone() else { panic!("not raw") };
    let mut mapped = |data: Vec<(u64, u64)>, words: &str| {
        good.image.format = Format::Raw(DataMap { data });
        refused(&good, &files, Code::ImageInvalid, words);
    };
    mapped(map.data[1..].to_vec(), "is data, its map says zeros");
    mapped([&map.data[..], &[(96 * MIB, 4096)]].concat(), "not in order");
    mapped([&map.data[..1], &map.data[..1]].concat(), "not in order");
    // A stream that ends in the middle of a sector, or behind the end, is no fault of the disk.
    good.image.format = Format::Raw(map.clone());
    let longer = [&plain[..], &[7]].concat();
    let short = usize::try_from(map.data[0].0).expect("it is short") + 5000;
    for (stream, words) in
        [(&plain[..short], format!("it ends at byte {short} of")), (&longer, "it is larger".into())]
    {
        let (_, files) = as_stream(stream);
        (good.image.size, good.image.digest) = (files.image.len() as u64, Digest::of(&files.image));
        refused(&good, &files, Code::ImageInvalid, &words);
    }
}

/// A cache before the server that has them: asked until it is distrusted.
struct Cached {
    cache: Files,
    server: Files,
    distrusted: AtomicBool,
}

impl ImageSource for Cached {
    fn open(&self, part: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
        let distrusted = self.distrusted.load(Ordering::Relaxed);
        if distrusted { &self.server } else { &self.cache }.open(part, offset, end)
    }

    fn distrust(&self, _: &str) -> bool {
        !self.distrusted.swap(true, Ordering::Relaxed)
    }
}

#[test]
fn p11_what_a_cache_gave_wrong_is_fetched_from_the_server() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let plain = file_system(&directory);
    for chunked in [false, true] {
        let (ordered, server) = packed(&plain, chunked);
        let length = server.image.len();
        let mut image = server.image.clone();
        image[length / 2] ^= 0x10;
        let cache = Files::new(image, server.list.clone());
        let disk = Loop::new(512);
        soil(&disk);
        let files = Cached { cache, server, distrusted: AtomicBool::new(false) };
        install(&ordered, std::slice::from_ref(&disk.disk), &files, &disk.paths(), &Watch::default())
            .expect("installs");
        assert!(disk.is_tidy());
        let state = in_root(&disk, |mount, _| fs::read_to_string(mount.join("var/lib/state")));
        assert_eq!(state.expect("a file of the image"), "state");
        // What was right in chunks stays.
        let fetched = files.server.take_fetched();
        assert!(
            if chunked { fetched < length } else { fetched == length },
            "{chunked}: {fetched} of {length}"
        );
    }
    // A wrong list is none of the disk's business.
    let (ordered, server) = packed(&plain, true);
    let mut list = server.list.clone();
    list[17] ^= 1;
    let cache = Files::new(server.image.clone(), list);
    let disk = Loop::new(512);
    let files = Cached { cache, server, distrusted: AtomicBool::new(false) };
    install(&ordered, std::slice::from_ref(&disk.disk), &files, &disk.paths(), &Watch::default())
        .expect("installs");
}

#[test]
fn p11_chunks_come_out_of_a_store_of_objects() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let (mut ordered, files) = packed(&file_system(&directory), true);
    let named = |bytes: &[u8]| format!("images/{}", Digest::of(bytes));
    fs::create_dir(directory.path().join("images")).expect("made");
    for bytes in [&files.image, &files.list] {
        fs::write(directory.path().join(named(bytes)), bytes).expect("written");
    }
    let store = ObjectStore::start();
    store.put(directory.path());
    let url = |base: &str, bytes: &[u8]| format!("{base}/{}", named(bytes));
    let (image_url, chunks_url) = (url(&store.base, &files.image), Some(url(&store.base, &files.list)));
    ordered.task.caches = vec![ImagePlace { image_url, chunks_url }];
    // The server has none of it.
    let nobody = "http://127.0.0.1:1";
    ordered.task.image_url = url(nobody, &files.image);
    ordered.task.chunks_url = Some(url(nobody, &files.list));
    let disk = Loop::new(512);
    soil(&disk);
    let source = HttpSource::of(&ordered.task);
    install(&ordered, std::slice::from_ref(&disk.disk), &source, &disk.paths(), &Watch::default())
        .expect("installs");
    assert!(disk.is_tidy());
    let state = in_root(&disk, |mount, _| fs::read_to_string(mount.join("var/lib/state")));
    assert_eq!(state.expect("a file of the image"), "state");
}

#[test]
fn p11_a_file_system_that_is_damaged_in_its_image_is_not_told_as_the_disk_s_fault() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let mut plain = file_system(&directory);
    let file = directory.path().join("root.ext4");
    let blocks = run("debugfs", &["-R", "blocks /etc", file.to_str().expect("path")]);
    let block: usize =
        blocks.split_whitespace().next().and_then(|block| block.parse().ok()).expect("a block");
    // The checksum of the directory in which the identity is written, at the block's end.
    plain[(block + 1) * 4096 - 1] ^= 1;
    let disk = Loop::new(512);
    for chunked in [false, true] {
        let (ordered, files) = packed(&plain, chunked);
        let finding = failing(&disk, &ordered, &files);
        let told = finding.detail.contains("the file system in it is damaged");
        assert!(finding.code == Code::ImageInvalid && told, "{finding}");
    }
}

#[test]
fn p12_what_was_written_before_an_interruption_is_not_fetched_again() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let (mut ordered, mut files) = packed(&file_system(&directory), true);
    let disk = Loop::new(512);
    files.until = files.image.len() / 2;
    let finding = failing(&disk, &ordered, &files);
    assert_eq!(finding.code, Code::ImageMissing, "{finding}");
    assert!(finding.detail.contains("has lost it"), "{finding}");
    files.until = usize::MAX;
    files.take_fetched();
    ordered.task.attempt = 2;
    install(&ordered, std::slice::from_ref(&disk.disk), &files, &disk.paths(), &Watch::default())
        .expect("installs");
    let fetched = files.take_fetched();
    // What was written, but for what clearing the ends of the partition took.
    assert!(fetched < files.image.len() * 3 / 4, "{fetched} of {}", files.image.len());
    in_root(&disk, |mount, _| assert!(mount.join("boot/vmlinuz-6.1").exists()));
}

#[test]
fn p11_a_rebuild_fetches_and_writes_what_differs_alone() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let plain = file_system(&directory);
    let (ordered, files) = packed(&plain, true);
    let disk = Loop::new(512);
    let disks = [disk.disk.clone()];
    install(&ordered, &disks, &files, &disk.paths(), &Watch::default()).expect("installs");
    let all = files.take_fetched();
    assert_eq!(all, files.image.len());
    // The system lives: a changed file, a lost one, new ones.
    in_root(&disk, |mount, _| {
        let kernel = mount.join("boot/vmlinuz-6.1");
        let file = File::options().write(true).open(kernel).expect("open");
        file.write_all_at(b"changed", 1_000_000).expect("write");
        fs::remove_file(mount.join("var/log/first")).expect("remove");
        fs::write(mount.join("var/new"), vec![7; 2_000_000]).expect("write");
        io::Result::Ok(())
    })
    .expect("changes");
    let details = Details::default();
    let measured = measured(&disks);
    let task = common::granted(&ordered.signed(), &measured);
    let (gate, paths) = (common::gate(), disk.paths());
    kaltstart_agent::install::install(&gate, &task, &measured, common::NOW, &files, &paths, &details)
        .expect("installs");
    let fetched = files.take_fetched();
    assert!(fetched < all / 2, "{fetched} of {all}");
    let details = details.0.into_inner().expect("lock");
    let told = |name: &str| details[name].parse::<usize>().expect("a number");
    assert_eq!(told("fetched_bytes"), fetched + files.list.len());
    assert!(told("kept_bytes") > 2_000_000, "{details:?}");
    in_root(&disk, |mount, _| {
        let image = directory.path().join("tree");
        for file in ["boot/vmlinuz-6.1", "var/log/first", "usr/lib/shim/shimx64.efi"] {
            let same = fs::read(mount.join(file)).ok() == fs::read(image.join(file)).ok();
            assert!(same, "{file} is not the image's");
        }
        assert!(!mount.join("var/new").exists());
    });
}
