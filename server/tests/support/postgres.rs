//! A PostgreSQL of Debian for the tests of this process, and databases in it.
//!
//! It is started by the first who wants a database, is reached by a socket in a directory of its own, and
//! ends with the process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(60);

/// Makes a cluster in `$1` with the programs in `$2`, serves it until it is told to end, and removes it.
const SERVE: &str = r#"
set -e
trap 'rm -rf "$1"; exit' TERM
"$2/initdb" --pgdata="$1/data" --no-sync --auth=trust --encoding=UTF8 --locale=C.UTF-8 > "$1/log" 2>&1
"$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c max_connections=200 >> "$1/log" 2>&1 &
trap 'kill -INT $!' TERM
wait $! || true
wait $! || true
rm -rf "$1"
"#;

/// Where its socket is.
static SERVER: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("kaltstart-postgres-{}", std::process::id()));
    fs::create_dir(&dir).expect("a directory");
    let programs = programs();
    let mut command = Command::new("setpriv");
    // It refuses to run as root.
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres").expect("users").expect("the package makes it");
        nix::unistd::chown(&dir, Some(user.uid), Some(user.gid)).expect("given away");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "TERM", "sh", "-c", SERVE, "sh"]).arg(&dir).arg(programs);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // The signal comes at the end of the thread that started it: one that lasts as long as the process.
    thread::spawn(move || command.spawn().expect("setpriv").wait());
    let began = Instant::now();
    while postgres::Client::connect(&url(&dir, "postgres"), postgres::NoTls).is_err() {
        let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(began.elapsed() < START_MAX, "PostgreSQL does not start: {log}");
        thread::sleep(Duration::from_millis(50));
    }
    dir
});

/// Debian keeps them apart by version.
fn programs() -> PathBuf {
    let found = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = found.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found.pop().expect("the Debian package postgresql is installed")
}

fn url(dir: &Path, name: &str) -> String {
    format!("host={} user=postgres dbname={name}", dir.display())
}

/// Does what administrators do to the server.
#[allow(dead_code, reason = "each who includes this uses what it needs")]
pub(crate) fn execute(sql: &str) {
    let sql = sql.to_owned();
    thread::spawn(move || admin().batch_execute(&sql).expect("done")).join().expect("done");
}

fn admin() -> postgres::Client {
    postgres::Client::connect(&url(&SERVER, "postgres"), postgres::NoTls).expect("connected")
}

/// Makes an empty database; how it is connected to.
pub(crate) fn database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let make = move || {
        admin().batch_execute(&format!("CREATE DATABASE {name}")).expect("a database");
        url(&SERVER, &name)
    };
    // On a thread of its own: the client waits in a way that a task of a runtime may not.
    thread::spawn(make).join().expect("a database")
}
