//! Images through caches, laid down on loop devices: nginx as Debian has it, two deep, a store of objects, and caches as
//! nobody wants them.

mod common;

#[path = "../../server/tests/support/nginx.rs"]
mod nginx;

#[path = "../../server/tests/support/object_store.rs"]
mod object_store;

use common::{Loop, Ordered, Watch, archive, install, order, root, run};
use kaltstart_agent::http_source::HttpSource;
use kaltstart_agent::install::Stop;
use kaltstart_protocol::agent_api::{ImagePlace, Installed};
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::image::Compression;
use kaltstart_protocol::layout::{Partition, Role};
use nginx::Nginx;
use object_store::ObjectStore;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What is ordered, and an nginx that has it.
struct Origin {
    ordered: Ordered,
    packed: Vec<u8>,
    path: String,
    nginx: Nginx,
    files: tempfile::TempDir,
}

impl Origin {
    /// A layout with a file system within another.
    fn new() -> Self {
        let files = tempfile::tempdir().expect("directory");
        let packed = archive(files.path());
        let mut ordered = order(&packed, packed.len() as u64, Compression::None);
        let root = &ordered.task.layout.partitions[2];
        let mount = Some("/var".into());
        let var = Partition {
            label: "var".into(),
            role: Role::Data,
            mount,
            min_mib: 24,
            weight: 0,
            ..root.clone()
        };
        ordered.task.layout.partitions.push(var);
        let uuid = |n: u8| format!("0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1{n:02x}");
        ordered.task.uuids.partitions = (1..5).map(uuid).collect();
        ordered.task.uuids.further = (10..14).map(uuid).collect();
        let path = format!("/images/{}", ordered.image.digest);
        fs::create_dir(files.path().join("images")).expect("made");
        fs::write(files.path().join(&path[1..]), &packed).expect("written");
        let root = files.path().to_str().expect("a path").to_owned();
        // As the server answers, see server/tests/server/caches.rs.
        let control = "add_header Cache-Control \"public, max-age=31536000, immutable\"";
        let nginx =
            Nginx::start(|_, port| format!("server {{ listen 127.0.0.1:{port}; root {root}; {control}; }}"));
        ordered.task.image_url = format!("{}{path}", nginx.base);
        Self { ordered, packed, path, nginx, files }
    }

    /// Installs through the caches at those places, on a disk of its own, and looks at what is there then.
    fn install(&self, caches: &[&str]) -> Result<Installed, Stop> {
        let disk = Loop::new(512);
        let mut ordered = self.ordered.clone();
        let cache = |base: &&str| ImagePlace { image_url: format!("{base}{}", self.path), chunks_url: None };
        ordered.task.caches = caches.iter().map(cache).collect();
        let source = HttpSource::of(&ordered.task);
        let installed =
            install(&ordered, std::slice::from_ref(&disk.disk), &source, &disk.paths(), &Watch::default());
        assert!(disk.is_tidy());
        if installed.is_ok() {
            look(&disk, self.files.path());
        }
        installed
    }

    /// The requests that came here since the last time this was asked, for the rest from which byte each.
    fn asked(&self, before: &mut usize) -> Vec<String> {
        let seen = self.nginx.seen();
        let new = seen[*before..].to_vec();
        *before = seen.len();
        new
    }
}

/// The files of the archive lie there, and only those.
fn look(disk: &Loop, files: &Path) {
    let mount = disk.directory.path().join("look");
    fs::create_dir(&mount).expect("mkdir");
    for (number, at, there) in [
        ("3", "tree", &["boot/vmlinuz-6.1", "usr/lib/shim/shimx64.efi", "usr/lib/grub/core.img"][..]),
        ("4", "tree/var", &["lib/state", "log/first"]),
    ] {
        run("partx", &["-a", "--nr", number, &disk.node]);
        let node = format!("{}p{number}", disk.node);
        run("e2fsck", &["-fn", &node]);
        run("mount", &["-o", "ro", &node, mount.to_str().expect("path")]);
        for file in there {
            let [found, wanted] =
                [mount.join(file), files.join(at).join(file)].map(|path| fs::read(path).expect(file));
            assert!(found == wanted, "{file} is another");
        }
        run("umount", &[mount.to_str().expect("path")]);
        run("partx", &["-d", "--nr", number, &disk.node]);
    }
}

#[test]
fn p11_an_image_comes_through_two_caches_and_from_the_server_once() {
    if !root() {
        return;
    }
    let origin = Origin::new();
    let hall = Nginx::cache_of(&origin.nginx.base);
    let row = Nginx::cache_of(&hall.base);
    for _ in 0..2 {
        origin.install(&[&row.base]).expect("installs");
    }
    let pieces = origin.packed.len().div_ceil(1 << 20);
    let at_origin = origin.nginx.seen();
    assert_eq!(at_origin.len(), pieces, "{at_origin:#?}");
    assert_eq!(row.seen().len(), 2);
    for line in [at_origin, hall.seen(), row.seen()].concat() {
        assert!(line.ends_with("auth=\"-\" cookie=\"-\""), "{line}");
    }
}

#[test]
fn p11_an_image_comes_out_of_a_store_of_objects_or_from_the_server() {
    if !root() {
        return;
    }
    let origin = Origin::new();
    let store = ObjectStore::start();
    store.put(origin.files.path());
    let row = Nginx::cache_of(&format!("{}/images/", store.base));
    let mut before = 0;
    for base in [&store.base, &row.base] {
        origin.install(&[base]).expect("installs");
        assert_eq!(origin.asked(&mut before), Vec::<String>::new(), "{base}");
    }
    for line in row.seen() {
        assert!(line.ends_with("auth=\"-\" cookie=\"-\""), "{line}");
    }
    // Who can write to the bucket can put anything under that name.
    let wrong = tempfile::tempdir().expect("directory");
    fs::create_dir(wrong.path().join("images")).expect("made");
    fs::write(wrong.path().join(&origin.path[1..]), flipped(&origin.packed)).expect("written");
    store.put(wrong.path());
    let base = store.base.clone();
    let mut from_the_server = |what: &str| {
        origin.install(&[&base]).unwrap_or_else(|stop| panic!("{what}: {stop:?}"));
        let asked = origin.asked(&mut before);
        let [one] = &asked[..] else { panic!("{what}: {asked:#?}") };
        assert!(one.contains("range=\"-\""), "{what}: {one}");
    };
    from_the_server("another object under that name");
    drop(store);
    from_the_server("no store");
}

/// What an odd cache does with a request.
enum Odd {
    /// Sends that and hangs up.
    Says(Vec<u8>),
    /// Sends that, then nothing more.
    Stalls(Vec<u8>),
}

/// A cache that answers as `answer` makes of the image and the request; where it is, and the heads of what it was
/// asked.
fn odd(image: &[u8], answer: impl Fn(&[u8]) -> Odd + Send + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (noted, image) = (heads.clone(), image.to_vec());
    std::thread::spawn(move || {
        let mut stalled: Vec<TcpStream> = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
            noted.lock().expect("lock").push(head);
            // Whoever has enough of it hangs up.
            match answer(&image) {
                Odd::Says(bytes) => drop(reader.get_mut().write_all(&bytes)),
                Odd::Stalls(bytes) => {
                    reader.get_mut().write_all(&bytes).ok();
                    stalled.push(reader.into_inner());
                }
            }
        }
    });
    (base, heads)
}

/// What an odd cache makes of the image.
type Answer = fn(&[u8]) -> Odd;

fn whole(body: &[u8], length: usize) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), body].concat()
}

fn half(image: &[u8]) -> &[u8] {
    &image[..image.len() / 2]
}

fn flipped(image: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    let middle = image.len() / 2;
    image[middle] ^= 0x10;
    image
}

#[test]
fn p36_where_a_cache_is_of_no_use_the_server_gives_the_rest() {
    if !root() {
        return;
    }
    let origin = Origin::new();
    let mut before = 0;
    let size = origin.packed.len();
    // Where the server's part begins: at the first byte, or where the cache ended.
    let mut goes_on = |what: &str, base: &str, from: usize| {
        origin.install(&[base]).unwrap_or_else(|stop| panic!("{what}: {stop:?}"));
        let asked = origin.asked(&mut before);
        let [one] = &asked[..] else { panic!("{what}: {asked:#?}") };
        let range = if from == 0 { "range=\"-\"".to_owned() } else { format!("range=\"bytes={from}-\"") };
        assert!(one.contains(&range), "{what}: {one}, not {range}");
    };
    goes_on("nobody is there", "http://127.0.0.1:1", 0);
    let orphan = Nginx::cache_of("http://127.0.0.1:1");
    goes_on("nobody is behind it", &orphan.base, 0);
    let answers: [(&str, Answer, usize); 7] = [
        ("404", |_| Odd::Says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into()), 0),
        ("no HTTP", |_| Odd::Says(b"220 ready\r\n".into()), 0),
        ("no bytes", |_| Odd::Says(whole(b"", 0)), 0),
        (
            "another answer",
            |_| {
                Odd::Says(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-6/9\r\nContent-Length: 2\r\n\r\nxx".into())
            },
            0,
        ),
        ("broken off", |image| Odd::Says(whole(half(image), image.len())), size / 2),
        ("too short", |image| Odd::Says(whole(half(image), image.len() / 2)), size / 2),
        ("stalled", |image| Odd::Stalls(whole(half(image), image.len())), size / 2),
    ];
    for (what, answer, from) in answers {
        let (base, heads) = odd(&origin.packed, answer);
        goes_on(what, &base, from);
        let heads = heads.lock().expect("lock");
        for head in heads.iter() {
            let head = head.to_lowercase();
            assert!(!head.contains("authorization") && !head.contains("cookie"), "{what}: {head}");
        }
        assert!(!heads.is_empty(), "{what}: it was not asked");
    }
    // Where it sends to, nobody is asked.
    let (other, there) = odd(&origin.packed, |image| Odd::Says(whole(image, image.len())));
    let (base, _) = odd(&origin.packed, move |_| {
        let head = format!("HTTP/1.1 302 Found\r\nLocation: {other}/\r\nContent-Length: 0\r\n\r\n");
        Odd::Says(head.into_bytes())
    });
    goes_on("it sends elsewhere", &base, 0);
    assert_eq!(*there.lock().expect("lock"), Vec::<String>::new());
}

#[test]
fn p11_a_cache_that_lies_damages_nothing_and_stops_nothing() {
    if !root() {
        return;
    }
    let origin = Origin::new();
    let mut before = 0;
    let answers: [(&str, Answer); 4] = [
        ("a flipped bit", |image| Odd::Says(whole(&flipped(image), image.len()))),
        ("another image", |image| Odd::Says(whole(&vec![7; image.len()], image.len()))),
        ("a longer one", |image| Odd::Says(whole(&[&flipped(image)[..], b"more"].concat(), image.len() + 4))),
        // The rest comes from the server, and fits to nothing.
        ("a flipped bit, then nothing", |image| {
            let flipped = flipped(image);
            Odd::Says(whole(&flipped[..image.len() / 2 + 9], image.len()))
        }),
    ];
    for (what, answer) in answers {
        let (base, heads) = odd(&origin.packed, answer);
        origin.install(&[&base]).unwrap_or_else(|stop| panic!("{what}: {stop:?}"));
        let asked = origin.asked(&mut before);
        assert!(asked.iter().any(|line| line.contains("range=\"-\"")), "{what}: {asked:#?}");
        assert_eq!(heads.lock().expect("lock").len(), 1, "{what}: it is not asked twice");
    }
    // A server that has something else is no matter of caches: the finding is what it always was.
    let mut wrong = origin;
    wrong.ordered.task.image_url =
        odd(&wrong.packed, |image| Odd::Says(whole(&flipped(image), image.len()))).0;
    let (base, _) = odd(&wrong.packed, |image| Odd::Says(whole(&flipped(image), image.len())));
    for caches in [&[][..], &[base.as_str()]] {
        match wrong.install(caches) {
            Err(Stop::Failed(finding)) => assert_eq!(finding.code, Code::ImageMismatch, "{finding}"),
            other => panic!("{other:?}"),
        }
    }
}
