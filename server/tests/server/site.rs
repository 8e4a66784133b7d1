//! A server process with its own directory, and words to speak to it.

use kaltstart_protocol::ids::{Digest, Mac};
use kaltstart_protocol::image::{Boot, Compression, Format, Manifest};
use kaltstart_trust::authority::{Pin, client_config};
use minisign::KeyPair;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Cursor;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest anything may take that is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kaltstart");

/// What stands in the image's file.
pub(crate) const IMAGE: &[u8] = b"not an archive, but nobody unpacks it here";

/// What stands in the ramdisk's file.
pub(crate) const RAMDISK: &[u8] = b"a ramdisk of a few bytes";
/// What stands in the file of the ramdisk that only looks.
pub(crate) const DISCOVERY: &[u8] = b"a ramdisk that only looks";

/// A server and its directory.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) base: String,
    /// The same over TLS.
    pub(crate) tls_base: String,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    server: Option<Child>,
}

impl Site {
    /// A server with the profiles `good` and `hollow` (whose image is missing), and no machine.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same, with more lines in `[http]`.
    pub(crate) async fn start_with(http_lines: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), "", http_lines).await
    }

    /// The same, with the configuration's further sections.
    pub(crate) async fn start_on(sections: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), sections, "").await
    }

    /// The same, with the shared database at `url` and further lines, and the authority and token of `other` if there is
    /// one.
    pub(crate) async fn start_sharing(url: &str, lines: &str, other: Option<&Self>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if let Some(other) = other {
            std::fs::create_dir(dir.path().join("data")).expect("made");
            let mut copy = Command::new("cp");
            copy.arg("-a").args([other.data().join("tls"), other.token_file(), dir.path().join("data")]);
            assert!(copy.status().expect("cp").success());
        }
        Self::start_in(dir, &format!("[database]\nurl = {url:?}\n{lines}\n"), "").await
    }

    async fn start_in(dir: TempDir, database: &str, http_lines: &str) -> Self {
        for (name, bytes) in
            [("vmlinuz", b"kernel".as_slice()), ("ramdisk", RAMDISK), ("discovery", DISCOVERY)]
        {
            std::fs::write(dir.path().join(name), bytes).expect("written");
        }
        std::fs::create_dir(dir.path().join("loaders")).expect("made");
        std::fs::write(dir.path().join("loaders/snponly.efi"), b"loader").expect("written");
        put_image(dir.path(), IMAGE);
        let (http, tls, udp) = (free_tcp_port(), free_tcp_port(), free_udp_port());
        let config = format!(
            "data_dir = {data:?}\n{database}[http]\nlisten = \"127.0.0.1:{http}\"\ntls_listen = \"127.0.0.1:{tls}\"\n{http_lines}\n[tftp]\nlisten = \"127.0.0.1:{udp}\"\n\
             [boot]\nkernel = {kernel:?}\nramdisk = {ramdisk:?}\ndiscovery = {discovery:?}\nloaders = {loaders:?}\n[images]\ndir = {images:?}\nkeys = [{key:?}]\n\
             [log]\nlevel = \"debug\"\n\
             [[profile]]\nname = \"good\"\nimage = \"tiny\"\n[[profile]]\nname = \"hollow\"\nimage = \"none\"\n\
             [[profile]]\nname = \"asking\"\nimage = \"tiny\"\nrecall = true\n\
             [[profile]]\nname = \"sealed\"\nimage = \"tiny\"\nlayout = \"encrypted\"\n",
            data = dir.path().join("data"),
            kernel = dir.path().join("vmlinuz"),
            ramdisk = dir.path().join("ramdisk"),
            discovery = dir.path().join("discovery"),
            loaders = dir.path().join("loaders"),
            images = dir.path().join("images"),
            key = signer().pk.to_base64(),
        );
        std::fs::write(dir.path().join("server.toml"), config).expect("written");
        let base = format!("http://127.0.0.1:{http}");
        let nobody = client_config(&Pin::Certificates(Vec::new()), 0).expect("a configuration");
        let http = reqwest::Client::builder()
            .timeout(LIMIT)
            .tls_backend_preconfigured(nobody)
            .build()
            .expect("a client");
        let tls_base = format!("https://127.0.0.1:{tls}");
        let mut site = Self { dir, base, tls_base, token: String::new(), http, server: None };
        site.power_on().await;
        site
    }

    /// What a server says that shall use the database at `url` and does not start.
    pub(crate) fn refused(url: &str) -> String {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("server.toml");
        let text = format!(
            "data_dir = {:?}\n[database]\nurl = {url:?}\n[http]\nlisten = \"127.0.0.1:{}\"\ntls_listen = \"127.0.0.1:{}\"\n\
             [tftp]\nlisten = \"127.0.0.1:{}\"\n[boot]\nkernel = \"/k\"\nramdisk = \"/r\"\ndiscovery = \"/d\"\nloaders = \"/\"\n[images]\ndir = \"/\"\nkeys = [{:?}]\n",
            dir.path().join("data"),
            free_tcp_port(),
            free_tcp_port(),
            free_udp_port(),
            signer().pk.to_base64(),
        );
        std::fs::write(&config, text).expect("written");
        let output =
            Command::new(PROGRAM).args(["server", "--config"]).arg(&config).output().expect("started");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts a second server with the same configuration and waits for its end.
    pub(crate) fn second_server(&self) -> std::process::Output {
        let config = self.dir.path().join("server.toml");
        Command::new(PROGRAM).args(["server", "--config"]).arg(config).output().expect("the server starts")
    }

    /// Starts the server and waits until it answers.
    pub(crate) async fn power_on(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log");
        // Under the loosest mask, so that what it makes is its owner's alone by itself.
        let server = Command::new("sh")
            .args(["-c", "umask 0; exec \"$0\" \"$@\"", PROGRAM, "server", "--config"])
            .arg(self.dir.path().join("server.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.server = Some(server);
        let began = Instant::now();
        while self.http.get(format!("{}/healthz", self.base)).send().await.is_err() {
            let ended = self.server.as_mut().expect("started").try_wait().expect("asked");
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
            assert!(began.elapsed() < LIMIT, "the server does not answer\n{}", self.log());
            tokio::task::yield_now().await;
        }
        let token = std::fs::read_to_string(self.token_file()).expect("the token is made");
        self.token = token.trim().to_owned();
    }

    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        let server = self.server.as_ref().expect("it runs");
        nix::unistd::Pid::from_raw(i32::try_from(server.id()).expect("a process id"))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It may have been killed already.
            server.kill().ok();
            server.wait().expect("reaped");
        }
    }

    /// SIGTERM; waits for the end.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM).expect("told");
        self.server.take().expect("it runs").wait().expect("reaped")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.data().join("admin.token")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// What the server has said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A request with that bearer token, or none.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        bearer: Option<&str>,
        body: Option<&(impl Serialize + ?Sized)>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Answer::read(request.send().await?).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, Some(&self.token), None::<&()>).await.expect("answered")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, Some(&self.token), Some(body)).await.expect("answered")
    }

    /// Declares a machine with a hardware address of its own.
    pub(crate) async fn declare(&self, name: &str, mac: Mac) -> Answer {
        self.post("/v1/nodes", &json!({"name": name, "mac": mac.to_string()})).await
    }

    /// Orders `good` for a machine; tells the job.
    pub(crate) async fn order(&self, name: &str, kind: &str) -> String {
        let body = json!({"kind": kind, "profile": "good"});
        let answer = self.post(&format!("/v1/nodes/{name}/jobs"), &body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json["id"].as_str().expect("a job").to_owned()
    }

    /// An open event stream.
    pub(crate) async fn events(&self, path: &str, last: Option<i64>) -> Events {
        self.events_as(&self.token, path, last).await
    }

    /// The same with another token.
    pub(crate) async fn events_as(&self, token: &str, path: &str, last: Option<i64>) -> Events {
        let mut request = self.http.get(format!("{}{path}", self.base)).bearer_auth(token);
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        Events { response, text: String::new() }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- server ---\n{}", self.log());
        }
    }
}

/// An answer as a whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
    /// Null when the body is no JSON.
    pub(crate) json: Value,
}

impl Answer {
    async fn read(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or_default();
        Ok(Self { status, headers, text, json })
    }

    /// Checks that it is a complete problem (RFC 9457) with that status and code.
    pub(crate) fn problem(&self, status: StatusCode, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.json["status"], status.as_u16(), "{self:?}");
        assert_eq!(self.json["code"], code, "{self:?}");
        assert!(self.json["title"].is_string() && self.json["detail"].is_string(), "{self:?}");
    }
}

/// An event stream, read event by event.
pub(crate) struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    /// Whether the server has ended it; what comes in a moment is passed over.
    pub(crate) async fn is_over(&mut self) -> bool {
        let chunk = tokio::time::timeout(Duration::from_millis(200), self.response.chunk()).await;
        matches!(chunk, Ok(Ok(None) | Err(_)))
    }

    /// The next event: number, type, data.
    pub(crate) async fn next(&mut self) -> (i64, String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim_start().to_owned())
                };
                let found = (field("id:"), field("event:"), field("data:"));
                self.text = rest.to_owned();
                if let (Some(id), Some(kind), Some(data)) = found {
                    let data = serde_json::from_str(&data).expect("JSON");
                    return (id.parse().expect("a number"), kind, data);
                }
                continue;
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk()).await.expect("in time");
            let chunk = chunk.expect("read").expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }
}

/// Writes the image `tiny`, or replaces it.
pub(crate) fn put_image(dir: &Path, bytes: &[u8]) {
    let dir = dir.join("images/tiny");
    std::fs::create_dir_all(&dir).expect("made");
    let manifest = Manifest {
        schema: 1,
        name: "tiny".into(),
        version: "1".into(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        unpacked_size: bytes.len() as u64,
        format: Format::Tar,
        compression: Compression::None,
        file: "tiny.tar".into(),
        min_disk: 1,
        boot: Boot {
            kernel: "/boot/k".into(),
            initrd: "/boot/i".into(),
            cmdline: String::new(),
            efi: Vec::new(),
            bios: None,
        },
        packages: Vec::new(),
        places: std::collections::BTreeMap::new(),
    };
    std::fs::write(dir.join("tiny.tar"), bytes).expect("written");
    let text = serde_json::to_string(&manifest).expect("it serialises");
    std::fs::write(dir.join("manifest.json"), text).expect("written");
    sign_image(&dir);
}

/// Signs the manifest of the image in `dir`.
pub(crate) fn sign_image(dir: &Path) {
    let text = std::fs::read_to_string(dir.join("manifest.json")).expect("read");
    let signature = minisign::sign(None, &signer().sk, Cursor::new(&text), None, None).expect("signed");
    std::fs::write(dir.join("manifest.json.minisig"), signature.into_string()).expect("written");
}

/// Who signs the tests' images.
fn signer() -> &'static KeyPair {
    static SIGNER: OnceLock<KeyPair> = OnceLock::new();
    SIGNER.get_or_init(|| KeyPair::generate_unencrypted_keypair().expect("a pair"))
}

/// The hardware address of the `n`th machine.
pub(crate) fn mac(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([0x52, 0x54, a, b, c, d])
}

pub(crate) fn free_tcp_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port()
}

pub(crate) fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.local_addr().expect("an address").port()
}
