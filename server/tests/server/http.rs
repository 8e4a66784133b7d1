//! HTTP as clients speak it: curl for what is right, bare sockets for what is not.

use crate::site::{LIMIT, Site, mac};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What curl was given.
struct Curl {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Curl {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
    }
}

fn curl(site: &Site, path: &str, args: &[&str]) -> Curl {
    let url = format!("{}{path}", site.base);
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--max-time", "20"])
        .args(args)
        .arg(&url)
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let end = output.stdout.windows(4).position(|w| w == b"\r\n\r\n").expect("an end of the headers");
    let headers = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Curl { status, headers, body: output.stdout[end + 4..].to_vec() }
}

const LOADER: &str = "/boot/files/snponly.efi";

fn loader(site: &Site) -> PathBuf {
    site.dir.path().join("loaders/snponly.efi")
}

/// Both ways a file can be sent: by the kernel, and by the HTTP library, which gets HTTP/1.0.
const WAYS: [&str; 2] = ["--http1.1", "--http1.0"];

#[tokio::test]
async fn files_come_whole_in_parts_and_only_when_they_changed() {
    let mut site = Site::start().await;
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(loader(&site), &content).expect("written");
    let tag = curl(&site, LOADER, &[]).header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2, "strong: {tag}");
    for way in WAYS {
        let whole = curl(&site, LOADER, &[way]);
        assert_eq!((whole.status, whole.body == content), (200, true), "{way}");
        assert_eq!(whole.header("content-type"), "application/efi");
        assert_eq!(whole.header("accept-ranges"), "bytes");
        assert_eq!(whole.header("etag"), tag, "{way}");
        let modified = whole.header("last-modified");
        assert!(!modified.is_empty() && !whole.header("date").is_empty());

        let head = curl(&site, LOADER, &[way, "--head"]);
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "4000000", 0));

        for (range, from, to) in
            [("0-0", 0, 1), ("3999990-", 3_999_990, 4_000_000), ("-3", 3_999_997, 4_000_000)]
        {
            let part = curl(&site, LOADER, &[way, "--range", range]);
            assert_eq!((part.status, part.body.as_slice()), (206, &content[from..to]), "{way} {range}");
            let expect = format!("bytes {from}-{}/4000000", to - 1);
            assert_eq!(part.header("content-range"), expect, "{way} {range}");
        }
        let several = curl(&site, LOADER, &[way, "--range", "0-1,4-5"]);
        assert_eq!((several.status, several.body.len()), (200, content.len()), "several ranges: everything");
        let beyond = curl(&site, LOADER, &[way, "--range", "4000000-"]);
        assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */4000000"));

        let condition = |name: &str, value: &str, more: &[&str]| {
            let header = format!("{name}: {value}");
            let args = [&[way, "--header", &header], more].concat();
            let answer = curl(&site, LOADER, &args);
            (answer.status, answer.body.len())
        };
        assert_eq!(condition("If-None-Match", &tag, &[]), (304, 0), "{way}");
        assert_eq!(condition("If-None-Match", "\"other\"", &[]).0, 200);
        assert_eq!(condition("If-Modified-Since", modified, &[]), (304, 0));
        assert_eq!(condition("If-Match", "\"other\"", &[]).0, 412);
        assert_eq!(condition("If-Range", &tag, &["--range", "0-4"]), (206, 5));
        assert_eq!(condition("If-Range", "\"other\"", &["--range", "0-4"]), (200, content.len()));
        assert_eq!(condition("If-Range", modified, &["--range", "0-4"]), (206, 5));
    }
    site.stop();
    site.power_on().await;
    assert_eq!(curl(&site, LOADER, &[]).header("etag"), tag, "a restart changes no tag");
    std::fs::write(loader(&site), vec![0; content.len()]).expect("written");
    assert_ne!(curl(&site, LOADER, &[]).header("etag"), tag, "other bytes, another tag");
    let images = site.get("/v1/images").await;
    let digest = images.json[0]["digest"].as_str().expect("a digest");
    let image = curl(&site, &format!("/images/{digest}"), &[]);
    assert_eq!(image.header("etag"), format!("\"{digest}\""), "the digest is the tag");
}

/// A bare connection.
struct Wire {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Wire {
    fn open(site: &Site) -> Self {
        let address = site.base.strip_prefix("http://").expect("plain");
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        Self { stream, got: Vec::new() }
    }

    fn say(&mut self, text: &str) -> &mut Self {
        self.stream.write_all(text.as_bytes()).expect("sent");
        self
    }

    /// Everything until the server closes.
    fn rest(&mut self) -> String {
        // A server that closes with our bytes unread resets the connection.
        match self.stream.read_to_end(&mut self.got) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("not closed: {error}; got {:?}", String::from_utf8_lossy(&self.got)),
        }
        String::from_utf8_lossy(&self.got).into_owned()
    }
}

#[tokio::test]
async fn one_connection_serves_files_and_api_in_any_order() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let (file, script, api) = (
        format!("GET {LOADER} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /boot/{}/script.ipxe HTTP/1.1\r\nHost: a\r\n\r\n", mac(1)),
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    );
    // All at once: the second half of it is read before the first is answered.
    let last = format!("GET {LOADER} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let got = Wire::open(&site).say(&[&*file, &file, &script, &api, &file, &last].concat()).rest();
    assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 6, "{got}");
    assert_eq!(got.matches("\r\n\r\nloader").count(), 4, "{got}");
    assert!(got.contains("#!ipxe") && got.contains("\"status\":\"ok\""), "{got}");
    // A line that ends without CR ends a head for the library: what follows is a request of its own.
    let bare = format!("GET {LOADER} HTTP/1.1\r\nHost: a\n\r\n{last}");
    let got = Wire::open(&site).say(&bare).rest();
    assert_eq!(got.matches("\r\n\r\nloader").count(), 2, "{got}");
    let lost = format!("GET /boot/nonsense HTTP/1.1\r\nHost: a\r\n\r\n{last}");
    let got = Wire::open(&site).say(&lost).rest();
    assert!(got.contains("404 Not Found") && got.contains("not-found"), "{got}");
    assert!(got.ends_with("\r\n\r\nloader"), "the connection goes on after a problem: {got}");
}

#[tokio::test]
async fn p29_requests_whose_end_is_in_doubt_are_refused() {
    let site = Site::start().await;
    let inner = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    for path in [LOADER, "/healthz"] {
        for line in [
            "Content-Length: 3\r\nContent-Length: 4".to_owned(),
            "Content-Length: 3, 4".to_owned(),
            "Content-Length: +3".to_owned(),
            "Transfer-Encoding: chunked, identity".to_owned(),
            "Transfer-Encoding: xchunked".to_owned(),
            "Content-Length : 3".to_owned(),
            "Host: a\r\n b: folded".to_owned(),
            "a\0b: c".to_owned(),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n{inner}");
            let got = Wire::open(&site).say(&request).rest();
            assert!(got.starts_with("HTTP/1.1 400"), "{path} {line:?}: {got}");
            assert!(!got.contains("\"status\":\"ok\""), "the inner request was answered: {got}");
        }
    }
    let many = "a: b\r\n".repeat(100);
    let long = format!("a: {}\r\n", "b".repeat(64 << 10));
    for lines in [many, long] {
        let request = format!("GET {LOADER} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let got = Wire::open(&site).say(&request).rest();
        assert!(got.starts_with("HTTP/1.1 431"), "{got}");
    }
    assert_eq!(site.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn p29_clients_that_keep_the_server_waiting_are_closed() {
    let site = Site::start_with("timeout_seconds = 1").await;
    std::fs::File::create(loader(&site)).and_then(|file| file.set_len(256 << 20)).expect("a large file");
    assert!(std::fs::metadata(loader(&site)).expect("there").blocks() < 1000, "sparse");
    let drip = |begin: &str, drop: &str| {
        let mut wire = Wire::open(&site);
        wire.say(begin);
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            // Closed when a write fails, or the answer says so.
            if wire.stream.write_all(drop.as_bytes()).is_err() {
                return began.elapsed();
            }
            wire.stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
            match wire.stream.read(&mut [0; 1024]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                _ => return began.elapsed(),
            }
        }
        panic!("{begin:?} is still open after {LIMIT:?}");
    };
    let line = "X: y\r\n";
    for begin in [format!("GET {LOADER} HTTP/1.1\r\n"), "GET /healthz HTTP/1.1\r\n".into()] {
        assert!(drip(&begin, line) < LIMIT / 2, "a head by and by");
    }
    let body = format!(
        "POST /v1/nodes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 9999\r\n\r\n",
        site.token
    );
    assert!(drip(&body, " ") < LIMIT / 2, "a body by and by");
    for version in ["1.1", "1.0"] {
        let mut wire = Wire::open(&site);
        wire.say(&format!("GET {LOADER} HTTP/{version}\r\nHost: a\r\n\r\n"));
        // The server's view of a client that stopped reading: the kernel ends the connection.
        let port = wire.stream.local_addr().expect("bound").port();
        let began = Instant::now();
        while established(port) {
            assert!(began.elapsed() < LIMIT, "HTTP/{version}: still open");
            std::thread::yield_now();
        }
        assert!(wire.rest().len() < 256 << 20, "it was cut off");
    }
}

/// Whether the server's end of our connection from `port` is established (proc_net_tcp(5)).
fn established(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("read");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let (remote, state) = (fields.next().unwrap_or_default(), fields.next());
        remote.ends_with(&format!(":{port:04X}")) && state == Some("01")
    })
}
