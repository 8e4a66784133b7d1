//! A PostgreSQL of Debian for the tests of this process, and databases in it.
//!
//! It is started by the first who wants a database, is reached by a socket in a directory of its own, and
//! ends with the process.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(60);
/// Bytes of what it says that are kept to be shown.
const WORDS_MAX: usize = 64 << 10;

/// Makes a cluster in `$1` with the programs in `$2`, serves it until it is told to end, and removes it.
const SERVE: &str = r#"
set -e
trap 'rm -rf "$1"; exit' TERM
"$2/initdb" --pgdata="$1/data" --no-sync --auth=trust --encoding=UTF8 --locale=C.UTF-8 2>&1
"$2/postgres" -D "$1/data" -k "$1" -p "$3" -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200 \
    -c ssl=on -c ssl_cert_file="$1/certificate" -c ssl_key_file="$1/key" 2>&1 &
trap 'kill -INT $!' TERM
wait $! || true
wait $! || true
rm -rf "$1"
"#;

/// A running one.
struct Cluster {
    /// Where its socket is, and its `certificate`, which vouches for itself.
    dir: PathBuf,
    port: u16,
}

static SERVER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start("all"));

/// Debian keeps them apart by version.
fn programs() -> PathBuf {
    let found = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = found.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found.pop().expect("the Debian package postgresql is installed")
}

impl Cluster {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kaltstart-postgres-{}-{name}", std::process::id()));
        fs::create_dir(&dir).expect("a directory");
        let itself = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(dir.join("certificate"), itself.cert.pem()).expect("written");
        let mut key =
            File::options().write(true).create_new(true).mode(0o600).open(dir.join("key")).expect("made");
        key.write_all(itself.signing_key.serialize_pem().as_bytes()).expect("written");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let programs = programs();
        let mut command = Command::new("setpriv");
        // It refuses to run as root.
        if nix::unistd::geteuid().is_root() {
            let user =
                nix::unistd::User::from_name("postgres").expect("users").expect("the package makes it");
            for path in [&dir, &dir.join("key")] {
                nix::unistd::chown(path, Some(user.uid), Some(user.gid)).expect("given away");
            }
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        }
        command
            .args(["--pdeathsig", "TERM", "sh", "-c", SERVE, "sh"])
            .arg(&dir)
            .arg(programs)
            .arg(port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (tell, told) = mpsc::channel();
        // The signal comes at the end of the thread that started it: one that lasts as long as the process.
        thread::spawn(move || {
            let mut server = command.spawn().expect("setpriv");
            let mut words = String::new();
            for line in BufReader::new(server.stdout.take().expect("piped")).lines().map_while(Result::ok) {
                if line.contains("ready to accept connections") {
                    // Nobody waits any more after the first time.
                    tell.send(Ok(())).ok();
                } else if words.len() < WORDS_MAX {
                    words += &(line + "\n");
                }
            }
            server.wait().expect("reaped");
            tell.send(Err(words)).ok();
        });
        let started = told.recv_timeout(START_MAX).expect("PostgreSQL starts in time");
        started.unwrap_or_else(|words| panic!("PostgreSQL does not start: {words}"));
        Self { dir, port }
    }

    fn url(&self, name: &str) -> String {
        format!("host={} port={} user=postgres dbname={name}", self.dir.display(), self.port)
    }
}

/// Does what administrators do to the server.
#[allow(dead_code, reason = "each who includes this uses what it needs")]
pub(crate) fn execute(sql: &str) {
    let sql = sql.to_owned();
    thread::spawn(move || admin().batch_execute(&sql).expect("done")).join().expect("done");
}

/// A PostgreSQL of a test's own, which can be stopped in the middle of whatever it does, and its database.
#[allow(dead_code, reason = "each who includes this uses what it needs")]
pub(crate) struct Own(Cluster);

#[allow(dead_code, reason = "each who includes this uses what it needs")]
impl Own {
    /// Starts it.
    pub(crate) fn start(name: &str) -> Self {
        Self(Cluster::start(name))
    }

    /// How its database is connected to.
    pub(crate) fn url(&self) -> String {
        self.0.url("postgres")
    }

    /// Stops all its processes (SIGSTOP): connections stay, new ones are accepted by the kernel, and no answer comes.
    pub(crate) fn freeze(&self) -> Frozen {
        let text = fs::read_to_string(self.0.dir.join("data/postmaster.pid")).expect("readable");
        let first = text.lines().next().and_then(|pid| pid.parse().ok()).expect("a number");
        signal(first, Signal::SIGSTOP);
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).expect("readable");
        let children = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
        let all: Vec<i32> = children.chain([first]).collect();
        all.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        Frozen(all)
    }
}

/// Its processes go on when this is dropped.
pub(crate) struct Frozen(Vec<i32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    }
}

fn signal(pid: i32, signal: Signal) {
    // It may have ended.
    kill(Pid::from_raw(pid), signal).ok();
}

fn admin() -> postgres::Client {
    postgres::Client::connect(&SERVER.url("postgres"), postgres::NoTls).expect("connected")
}

/// Makes an empty database; how it is connected to.
pub(crate) fn database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let make = move || {
        admin().batch_execute(&format!("CREATE DATABASE {name}")).expect("a database");
        SERVER.url(&name)
    };
    // On a thread of its own: the client waits in a way that a task of a runtime may not.
    thread::spawn(make).join().expect("a database")
}

/// Makes an empty database; how it is connected to over TCP, and the authority that vouches for the server.
#[allow(dead_code, reason = "each who includes this uses what it needs")]
pub(crate) fn distant_database() -> (String, PathBuf) {
    let near = database();
    let name = near.rsplit('=').next().expect("a name");
    (format!("postgresql://postgres@localhost:{}/{name}", SERVER.port), SERVER.dir.join("certificate"))
}
