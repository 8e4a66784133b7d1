//! `ks image import oci://…`, from a registry as Debian has it.

use crate::images::{Place, manifest, run};
use crate::site::{LIMIT, free_tcp_port};
use kaltstart_protocol::ids::Digest;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What a registry shows whoever gave the right name and password.
const TOKEN: &str = "a-token-that-only-the-registry-gets";
/// `reader:a-password` in base64.
const BASIC: &str = "cmVhZGVyOmEtcGFzc3dvcmQ=";

/// A registry that runs.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    /// On the storage of `place`, with further lines of its configuration.
    fn start(place: &Place, scheme: &str, lines: &str) -> Self {
        let port = free_tcp_port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{lines}",
            place.at("storage")
        );
        place.put("registry.yml", &config);
        let child = Command::new("docker-registry")
            .args(["serve", &place.at("registry.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let registry = Self { child, host: format!("127.0.0.1:{port}") };
        let (url, began) = (format!("{scheme}://{}/v2/", registry.host), Instant::now());
        while !Command::new("curl").args(["-sk", "-o", "/dev/null", &url]).status().expect("curl").success() {
            assert!(began.elapsed() < LIMIT, "the registry does not answer");
            std::thread::yield_now();
        }
        registry
    }

    fn source(&self, version: &str) -> String {
        format!("oci://{}/os/tiny{version}", self.host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A layout with one image of two layers, as `layout:1`.
fn layout(place: &Place) {
    let (layout, bundle) = (place.at("layout"), place.at("bundle"));
    let image = format!("{layout}:1");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["unpack", "--image", &image, &bundle]);
    for file in ["k", "i", "shim", "gone"] {
        place.put(&format!("bundle/rootfs/{file}"), file);
    }
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, &bundle]);
    fs::remove_file(place.at("bundle/rootfs/gone")).expect("removed");
    place.put("bundle/rootfs/i", "another");
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, &bundle]);
}

fn push(place: &Place, registry: &Registry, words: &[&str], tag: &str) {
    let (from, to) =
        (format!("oci:{}:1", place.at("layout")), format!("docker://{}/os/tiny:{tag}", registry.host));
    let fixed = ["copy", "--insecure-policy", "--dest-tls-verify=false"];
    run("skopeo", &[&fixed[..], words, &[from.as_str(), to.as_str()]].concat());
}

/// Imports, and compares the image with what was pushed.
fn imported(place: &Place, source: &str, more: &[&str]) {
    let (code, words, image) = place.import_with(source, more);
    assert_eq!(code, Some(0), "{source}: {words}");
    let about = manifest(&image);
    let stored = image.join(&about.file);
    assert_eq!(Digest::of(&fs::read(&stored).expect("read")), about.digest);
    assert!(!image.join("work").exists(), "what was fetched is not kept twice");
    fs::remove_dir_all(place.at("got")).ok();
    fs::create_dir(place.at("got")).expect("made");
    run("tar", &["--zstd", "-xpf", stored.to_str().expect("a path"), "-C", &place.at("got")]);
    run("diff", &["-r", &place.at("got"), &place.at("bundle/rootfs")]);
}

fn refused(place: &Place, source: &str, more: &[&str], words: &str) {
    let (code, said, image) = place.import_with(source, more);
    assert!(code == Some(1) && said.contains(words), "{source}: {code:?} {said}, not {words:?}");
    assert!(!image.exists(), "{source}: something is left behind");
    for secret in [TOKEN, BASIC, "a-password"] {
        assert!(!said.contains(secret), "p22: {said}");
    }
}

/// The manifest of a tag as the registry has it.
fn stored(registry: &Registry, version: &str) -> Value {
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let text = run(
        "curl",
        &["-sf", "-H", accept, &format!("http://{}/v2/os/tiny/manifests/{version}", registry.host)],
    );
    serde_json::from_str(&text).expect("JSON")
}

/// Where the registry keeps a blob.
fn kept(place: &Place, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    Path::new(&place.at("storage/docker/registry/v2/blobs/sha256")).join(&hex[..2]).join(hex).join("data")
}

#[test]
fn an_image_is_fetched_from_a_registry_by_tag_by_digest_and_out_of_an_index() {
    let place = Place::new();
    layout(&place);
    let registry = Registry::start(&place, "http", "");
    push(&place, &registry, &[], "7");
    push(&place, &registry, &["--format", "v2s2"], "docker");
    imported(&place, &registry.source(":7"), &[]);
    imported(&place, &registry.source(":docker"), &[]);

    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let url = format!("http://{}/v2/os/tiny/manifests", registry.host);
    let text = run("curl", &["-sf", "-H", accept, &format!("{url}/7")]);
    let digest = Digest::of(text.as_bytes());
    imported(&place, &registry.source(&format!("@{digest}")), &[]);
    refused(&place, &registry.source(&format!("@{}", Digest::of(b"other"))), &[], "is not there");
    refused(&place, &registry.source(":8"), &[], "is not there");

    let put_index = |tag: &str, architectures: &[&str]| {
        let entry = |architecture: &&str| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": text.len(),
                "platform": {"architecture": architecture, "os": "linux"},
            })
        };
        let kind = "application/vnd.oci.image.index.v1+json";
        let entries: Vec<Value> = architectures.iter().map(entry).collect();
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string();
        let header = format!("Content-Type: {kind}");
        run("curl", &["-sf", "-X", "PUT", "-H", &header, "-d", &index, &format!("{url}/{tag}")]);
    };
    put_index("many", &["arm64", "amd64", "riscv64"]);
    imported(&place, &registry.source(":many"), &[]);
    put_index("other", &["arm64"]);
    refused(&place, &registry.source(":other"), &[], "it holds 0 images");
    for bad in ["oci://127.0.0.1", "oci://127.0.0.1/os/tiny", "oci://127.0.0.1/../tiny:7"] {
        refused(&place, bad, &[], "is expected");
    }
}

#[test]
fn p11_what_a_registry_sends_is_what_its_digest_says_or_nothing_is_kept() {
    let place = Place::new();
    layout(&place);
    let registry = Registry::start(&place, "http", "");
    push(&place, &registry, &[], "7");
    let layer = stored(&registry, "7")["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let file = kept(&place, &layer);
    let good = fs::read(&file).expect("read");
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let long = [good.clone(), vec![0; 100]].concat();
    for (bytes, words) in [
        (flipped.as_slice(), "is not what its digest"),
        (&good[..good.len() - 1], "is shorter than its description says"),
        (&long, "is longer than its description says"),
    ] {
        fs::write(&file, bytes).expect("written");
        refused(&place, &registry.source(":7"), &[], words);
    }
    fs::write(&file, &good).expect("written");
    imported(&place, &registry.source(":7"), &[]);
}

/// Gives [`TOKEN`] to whoever sends [`BASIC`], and notes each question.
fn token_server(asked: Arc<Mutex<Vec<String>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that breaks off is its own affair.
            answer(client, &asked).ok();
        }
    });
    format!("http://{address}/token")
}

fn answer(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    client.set_read_timeout(Some(LIMIT))?;
    let mut head = String::new();
    let mut reader = BufReader::new(client.try_clone()?);
    while reader.read_line(&mut head)? > 2 {}
    let good = head.contains(&format!("Basic {BASIC}\r\n"));
    let (status, body) =
        if good { ("200 OK", json!({"token": TOKEN}).to_string()) } else { ("401 No", String::new()) };
    asked.lock().expect("not poisoned").push(head);
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn credentials_come_from_a_file_and_go_to_who_gives_tokens_alone() {
    let place = Place::new();
    layout(&place);
    push(&place, &Registry::start(&place, "http", ""), &[], "7");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let realm = token_server(asked.clone());
    let auth = format!("auth:\n  silly:\n    realm: {realm}\n    service: tests\n");
    let registry = Registry::start(&place, "http", &auth);
    let (source, file) = (registry.source(":7"), place.at("auth.json"));
    let with_file = ["--auth-file", file.as_str()];
    refused(&place, &source, &[], "gives no token");

    let auths = |host: &str, auth: &str| {
        place.put("auth.json", &json!({"auths": {host: {"auth": auth}}, "credHelpers": {}}).to_string());
    };
    auths(&registry.host, BASIC);
    imported(&place, &source, &with_file);
    {
        let asked = asked.lock().expect("not poisoned");
        let last = asked.last().expect("it was asked");
        assert!(last.starts_with("GET /token?service=tests&scope=repository%3Aos%2Ftiny%3Apull "), "{last}");
    }
    auths(&registry.host, "d3Jvbmc6d3Jvbmc=");
    refused(&place, &source, &with_file, "gives no token: 401");
    auths("registry.example", BASIC);
    refused(&place, &source, &with_file, "has no credentials for 127.0.0.1");
    auths(&registry.host, "a\nb");
    refused(&place, &source, &with_file, "characters that no header can have");
    place.put("auth.json", BASIC);
    refused(&place, &source, &with_file, "has no `auths`");
    refused(&place, &source, &["--auth-file", "/nothing"], "/nothing");
}

#[test]
fn p20_a_registry_is_believed_if_an_authority_vouches_for_it() {
    let place = Place::new();
    layout(&place);
    push(&place, &Registry::start(&place, "http", ""), &[], "7");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    place.put("cert.pem", &made.cert.pem());
    place.put("key.pem", &made.signing_key.serialize_pem());
    let tls =
        format!("  tls:\n    certificate: {}\n    key: {}\n", place.at("cert.pem"), place.at("key.pem"));
    let registry = Registry::start(&place, "https", &tls);
    let (source, authority) = (registry.source(":7"), place.at("cert.pem"));
    imported(&place, &source, &["--registry-ca", &authority]);
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    place.put("other.pem", &other.cert.pem());
    refused(&place, &source, &["--registry-ca", &place.at("other.pem")], "cannot fetch https://127.0.0.1");
    refused(&place, &source, &["--registry-ca", &place.at("key.pem")], "cannot use the authorities");
}
