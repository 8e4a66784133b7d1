//! An nginx of Debian, on loopback, in a directory of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What sites are told to write.
const SAMPLE: &str = include_str!("../../nginx/images.conf");

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(20);

/// A running one; it ends on drop.
pub(crate) struct Nginx {
    child: Child,
    dir: TempDir,
    /// `http://ADDRESS:PORT`
    pub(crate) base: String,
}

impl Nginx {
    /// A cache as sites have it, of what is at `base`.
    pub(crate) fn cache_of(base: &str) -> Self {
        Self::start(|dir, port| {
            let mut text = SAMPLE.to_owned();
            for (from, to) in [
                ("/var/cache/nginx/kaltstart", dir.join("cache").to_str().expect("a path")),
                ("listen 8080;", &format!("listen 127.0.0.1:{port};")),
                ("http://10.77.0.1:8080;", &format!("{base};")),
                ("slice 4m;", "slice 1m;"),
            ] {
                assert_eq!(text.matches(from).count(), 1, "{from}");
                text = text.replace(from, to);
            }
            text
        })
    }

    /// One with that configuration, which may keep files in the directory and listens at the port.
    pub(crate) fn start(servers: impl Fn(&Path, u16) -> String) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
        let at = dir.path().display();
        let text = format!(
            "daemon off; user root; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ }}\n\
             http {{\n\
             log_format seen '$request $status $upstream_cache_status range=\"$http_range\" auth=\"$http_authorization\" cookie=\"$http_cookie\"';\n\
             access_log {at}/access.log seen;\n\
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n\
             uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n{}\n}}\n",
            servers(dir.path(), free.port())
        );
        fs::write(dir.path().join("nginx.conf"), text).expect("written");
        let child = Command::new("nginx")
            .arg("-c")
            .arg(dir.path().join("nginx.conf"))
            .arg("-e")
            .arg(dir.path().join("error.log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let nginx = Self { child, base: format!("http://{free}"), dir };
        let began = Instant::now();
        while TcpStream::connect(free).is_err() {
            let log = fs::read_to_string(nginx.dir.path().join("error.log")).unwrap_or_default();
            assert!(began.elapsed() < START_MAX, "nginx does not start: {log}");
            std::thread::yield_now();
        }
        nginx
    }

    /// A line for each request that was answered: the request, the status, how the cache stood, the range, credentials.
    pub(crate) fn seen(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it when it is told; killed, it would leave them behind.
        Command::new("kill").arg(self.child.id().to_string()).status().ok();
        self.child.wait().ok();
    }
}
