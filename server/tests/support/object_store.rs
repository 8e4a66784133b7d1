//! A store of objects on loopback: OpenStack Swift of Debian with its S3 interface, and s3cmd that fills it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const SWIFT: &str = include_str!("swift.py");
/// Where the tests' images are.
const BUCKET: &str = "s3://kaltstart";

/// A running one with an empty bucket; it ends on drop.
pub(crate) struct ObjectStore {
    child: Child,
    dir: TempDir,
    /// What stands before the names of the bucket's objects for whoever has no name there.
    pub(crate) base: String,
}

impl ObjectStore {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        // Debian's own, whichever is the first on the path.
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", SWIFT])
            .arg(dir.path().join("swift"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("python3 starts");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut port).expect("it tells its port");
        let host = format!("127.0.0.1:{}", port.trim());
        let store = Self { child, base: format!("http://{host}/v1/AUTH_site/kaltstart"), dir };
        assert!(!port.is_empty(), "Swift does not start: {}", store.log());
        let config = format!(
            "[default]\naccess_key = site:images\nsecret_key = secret\nhost_base = {host}\nhost_bucket = {host}\nuse_https = False\n"
        );
        fs::write(store.dir.path().join("s3cfg"), config).expect("written");
        store.s3(&["mb", BUCKET]);
        store.s3(&["setacl", "--acl-public", BUCKET]);
        store
    }

    /// Puts what lies in `images` of that directory into the bucket, as sites are told to.
    pub(crate) fn put(&self, dir: &Path) {
        let from = format!("{}/images/", dir.display());
        let forever = "--add-header=Cache-Control: public, max-age=31536000, immutable";
        self.s3(&["sync", "--acl-public", forever, &from, &format!("{BUCKET}/images/")]);
    }

    fn s3(&self, words: &[&str]) {
        let mut s3cmd = Command::new("timeout");
        s3cmd.args(["60", "/usr/bin/s3cmd", "--config"]).arg(self.dir.path().join("s3cfg")).args(words);
        let output = s3cmd.output().expect("s3cmd");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{words:?}: {said}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
