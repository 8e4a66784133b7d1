//! What the running process may still do: as its systemd unit says, and without one.

use crate::site::{LIMIT, PROGRAM, Site, mac};
use nix::unistd::{User, geteuid};
use reqwest::StatusCode;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// A user every system has, besides root.
const OTHER_USER: &str = "nobody";

/// The values of the named lines of each thread's `/proc` status.
fn of_threads(site: &Site, names: &[&str]) -> Vec<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", site.pid())).expect("it runs");
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
    let values = |text: String| {
        let value = |name: &&str| text.lines().find_map(|line| Some(line.strip_prefix(*name)?.trim().into()));
        names.iter().filter_map(value).collect::<Vec<String>>()
    };
    // A thread that has ended meanwhile has no status.
    tasks.flatten().map(status).filter(|text| !text.is_empty()).map(values).collect()
}

fn unconfined(site: &Site) -> Vec<Vec<String>> {
    const NAMES: [&str; 6] = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "NoNewPrivs:", "Seccomp:"];
    const NONE: &str = "0000000000000000";
    // NET_BIND_SERVICE is bit 10, NET_ADMIN bit 12; who is not root has nothing to keep.
    let kept = if geteuid().is_root() { "0000000000001400" } else { NONE };
    let mut threads = of_threads(site, &NAMES);
    assert!(threads.len() > 2, "{threads:?}");
    threads.retain(|thread| *thread != [NONE, kept, kept, NONE, "1", "2"]);
    threads
}

/// Appends a line before all sections of the configuration.
fn configure(site: &Site, line: &str) {
    let file = site.dir.path().join("server.toml");
    let text = fs::read_to_string(&file).expect("readable");
    fs::write(file, format!("{line}\n{text}")).expect("written");
}

#[tokio::test]
async fn p35_every_thread_is_confined_and_stays_so_under_load() {
    let site = Site::start().await;
    // A thread that has had no processor time yet has not confined itself, and done nothing else.
    let began = Instant::now();
    while !unconfined(&site).is_empty() && began.elapsed() < LIMIT {
        tokio::task::yield_now().await;
    }
    assert_eq!(unconfined(&site), Vec::<Vec<String>>::new(), "\n{}", site.log());
    for n in 0..8 {
        assert_eq!(site.declare(&format!("n{n}"), mac(n)).await.status, StatusCode::CREATED);
    }
    assert_eq!(unconfined(&site), Vec::<Vec<String>>::new(), "\n{}", site.log());
}

#[tokio::test]
async fn p35_started_as_root_it_becomes_its_own_user_and_keeps_what_it_stored() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::start().await;
    assert_eq!(site.declare("db-07", mac(7)).await.status, StatusCode::CREATED);
    site.stop();
    // Another user must reach the directory that the test made for itself.
    fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).expect("its own");
    configure(&site, &format!("user = {OTHER_USER:?}"));
    site.power_on().await;
    let user = User::from_name(OTHER_USER).expect("readable").expect("it exists");
    let expected: Vec<String> = [user.uid.as_raw(); 4].iter().map(u32::to_string).collect();
    for thread in of_threads(&site, &["Uid:"]) {
        assert_eq!(thread[0].split_whitespace().collect::<Vec<_>>(), expected);
    }
    assert_eq!(unconfined(&site), Vec::<Vec<String>>::new(), "\n{}", site.log());
    assert_eq!(site.get("/v1/nodes/db-07").await.status, StatusCode::OK);
    assert_eq!(site.declare("db-08", mac(8)).await.status, StatusCode::CREATED);
    // Root changes keys that the server, another user, must be able to read.
    let config = site.dir.path().join("server.toml");
    let rotated = Command::new(PROGRAM).args(["tls", "rotate", "--config"]).arg(config).output();
    let rotated = rotated.expect("the program starts");
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    let inside = |dir| fs::read_dir(dir).expect("readable");
    for entry in inside(site.data()).chain(inside(site.data().join("tls"))) {
        let entry = entry.expect("readable");
        assert_eq!(entry.metadata().expect("there").uid(), user.uid.as_raw(), "{entry:?}");
    }
    assert_eq!(site.get("/v1/nodes/db-08").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_file_that_its_user_cannot_read_is_named_with_its_key() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::start().await;
    site.stop();
    fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).expect("its own");
    fs::set_permissions(site.dir.path().join("vmlinuz"), fs::Permissions::from_mode(0o600)).expect("its own");
    configure(&site, &format!("user = {OTHER_USER:?}"));
    let config = site.dir.path().join("server.toml");
    let checked = Command::new(PROGRAM).args(["check-config", "--config"]).arg(config).output();
    let said = String::from_utf8(checked.expect("the program starts").stderr).expect("text");
    let told: Vec<&str> = said.lines().filter(|line| line.contains("the user \"nobody\"")).collect();
    assert!(matches!(told[..], [kernel] if kernel.starts_with("warning: boot.kernel: ")), "{said}");
    site.power_on().await;
    assert!(site.log().contains("boot.kernel: "), "{}", site.log());
    let tried = site.get(&format!("/v1/boot/{}", mac(7))).await;
    let problems: Vec<&str> = tried.json["doors"]
        .as_array()
        .expect("doors")
        .iter()
        .filter(|door| door["door"].as_str().is_some_and(|door| door.ends_with("/vmlinuz")))
        .filter_map(|door| door["problem"].as_str())
        .collect();
    assert!(!problems.is_empty(), "{tried:?}");
    for problem in problems {
        assert!(problem.starts_with("boot.kernel: ") && problem.contains("Permission denied"), "{problem}");
    }
    assert!(!tried.text.contains("dhcp6"), "no [[dhcp6]] is configured: {}", tried.text);
}

#[tokio::test]
async fn what_the_server_writes_is_its_owners_alone_whatever_the_umask() {
    let mut site = Site::start().await;
    assert_eq!(site.declare("db-07", mac(7)).await.status, StatusCode::CREATED);
    assert_eq!(site.post("/v1/nodes/db-07/power", &json!({"observed": "on"})).await.status, StatusCode::OK);
    let check = |site: &Site, wanted: &[&str]| {
        let modes = modes(&site.data());
        for name in wanted {
            assert!(modes.contains_key(&site.data().join(name)), "{name} in {modes:?}");
        }
        assert!(modes.values().all(|mode| *mode == 0o040_700 || *mode == 0o100_600), "{modes:?}");
    };
    check(&site, &["", "kaltstart.db", "kaltstart.db-wal", "kaltstart.db-shm", "tls/server.pem"]);
    site.stop();
    check(&site, &["kaltstart.db", "trace.jsonl"]);
}

/// Types and permissions of a directory and all below it.
fn modes(path: &Path) -> BTreeMap<PathBuf, u32> {
    let metadata = fs::symlink_metadata(path).expect("there");
    let mut modes = BTreeMap::from([(path.to_owned(), metadata.mode())]);
    if metadata.is_dir() {
        for entry in fs::read_dir(path).expect("readable") {
            modes.extend(self::modes(&entry.expect("readable").path()));
        }
    }
    modes
}

#[tokio::test]
async fn a_user_that_does_not_exist_is_a_clear_refusal_and_an_end() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::start().await;
    site.stop();
    configure(&site, "user = \"no-such-user\"");
    let began = Instant::now();
    let output = site.second_server();
    assert!(!output.status.success() && began.elapsed() < LIMIT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no-such-user") && said.contains("useradd"), "{said}");
}

#[tokio::test]
async fn a_capability_that_is_missing_is_named_with_its_remedy() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::start().await;
    site.stop();
    let file = site.dir.path().join("server.toml");
    let text = fs::read_to_string(&file).expect("readable");
    let dhcp = "[[dhcp]]\ninterface = \"lo\"\nsubnet = \"127.0.0.0/8\"\naddress = \"127.0.0.1\"\n";
    fs::write(&file, format!("{text}{dhcp}")).expect("written");
    let mut start = Command::new("setpriv");
    start.args(["--bounding-set", "-net_raw", PROGRAM, "server", "--config"]).arg(&file);
    let output = start.output().expect("setpriv is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in
        ["cannot look for other DHCP servers on lo", "lacks CAP_NET_RAW;", "AmbientCapabilities", "setcap"]
    {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn p35_the_systemd_unit_is_valid_and_as_strict_as_the_server_is_with_itself() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/kaltstart.service");
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
        let output = output.expect("systemd-analyze is installed");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    // Exposure in tenths: 0 is the least, 100 the most.
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=25"]);
    assert!(good, "{said}");
    let text = fs::read_to_string(unit).expect("readable");
    for line in ["User=kaltstart", "NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectory=kaltstart"]
    {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}
