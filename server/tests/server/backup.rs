//! A backup is taken while the server runs, and a server goes on from it as from an older copy.

use crate::agent::Agent;
use crate::site::{PROGRAM, Site, mac};
use crate::unlock::exported;
use kaltstart_protocol::agent_api::{Mode, Task};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Begins a command about the whole of the site's data.
fn begin(site: &Site, command: &str, dir: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "umask 0; exec \"$0\" \"$@\"", PROGRAM, command, "--config"])
        .arg(site.dir.path().join("server.toml"))
        .arg(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

/// Whether a command was done, and what it said.
fn end(command: Child) -> (bool, String) {
    let output = command.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn refused(site: &Site, command: &str, dir: &Path, words: &str) {
    let (done, said) = end(begin(site, command, dir));
    assert!(!done && said.contains(words), "{words:?} is not in {said:?}");
}

/// Carries out a command; what it said.
pub(crate) fn done(site: &Site, command: &str, dir: &Path) -> String {
    let (done, said) = end(begin(site, command, dir));
    assert!(done, "{said}");
    said
}

/// Files and directories in `dir` and beneath it.
fn all_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("read").path();
        if path.is_dir() {
            found.extend(all_in(&path));
        }
        found.push(path);
    }
    found
}

fn ensure_owners_alone(dir: &Path) {
    for path in all_in(dir).into_iter().chain([dir.to_owned()]) {
        let mode = path.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}

#[tokio::test]
async fn p08_p13_a_backup_of_a_running_server_holds_what_was_acknowledged_and_begins_a_new_epoch() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.declare("n2", mac(2)).await;
    let order = json!({"kind": "deploy", "profile": "sealed"});
    let granted = site.post("/v1/nodes/n1/jobs", &order).await.json["id"].as_str().expect("a job").to_owned();
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.hello().await;
    assert!(matches!(agent.task().await, Task::Install(_)), "the key of its disks is drawn");
    let keys = exported(&site, "n1").expect("kept");
    let queued = site.order("n2", "deploy").await;
    let (fingerprint, token) = (site.get("/v1/grant-key").await.json["key"].clone(), site.token.clone());

    // Others go on ordering meanwhile.
    let backup = site.dir.path().join("backup");
    let copying = begin(&site, "backup", &backup);
    for n in 10..30 {
        site.declare(&format!("n{n}"), mac(n)).await;
    }
    let (whole, said) = end(copying);
    assert!(whole && said.contains("jobs: 2) and"), "{said}");
    ensure_owners_alone(&backup);
    refused(&site, "backup", &backup, "is there already");
    refused(&site, "backup", &site.data().join("backup"), "lies in data_dir");
    refused(&site, "restore", &backup, "another server uses data_dir");
    refused(&site, "restore", &site.dir.path().join("images"), "holds no backup");

    // What comes after it is lost with the server.
    site.declare("late", mac(99)).await;
    site.kill();
    refused(&site, "restore", &backup, "is in use");
    std::fs::rename(site.data(), site.dir.path().join("lost")).expect("moved away");
    done(&site, "restore", &backup);
    ensure_owners_alone(&site.data());
    site.power_on().await;
    assert_eq!(site.token, token, "the administrator's token is the one of before");
    let grants = site.get("/v1/grant-key").await.json;
    assert_eq!(grants["key"], fingerprint);
    assert!(grants["epoch"].as_u64().is_some_and(|epoch| epoch > 0), "{grants}");
    for job in [granted, queued] {
        let ended = site.get(&format!("/v1/jobs/{job}")).await.json;
        assert_eq!((&ended["state"], &ended["findings"][0]["code"]), (&"failed".into(), &"KS-2110".into()));
    }
    assert_eq!(site.get("/v1/nodes/n1").await.status, StatusCode::OK);
    assert_eq!(site.get("/v1/nodes/late").await.status, StatusCode::NOT_FOUND);
    assert_eq!(exported(&site, "n1").expect("kept"), keys);

    // The same database goes on, and is no other copy.
    site.kill();
    site.power_on().await;
    assert_eq!(site.get("/v1/grant-key").await.json["epoch"], grants["epoch"]);
    assert_eq!(
        site.ask(Method::GET, "/healthz", None, None::<&()>).await.expect("answered").status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_damaged_or_newer_backup_is_refused_and_leaves_nothing() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let backup = site.dir.path().join("backup");
    done(&site, "backup", &backup);
    site.kill();
    std::fs::remove_dir_all(site.data()).expect("lost");
    let database = backup.join("kaltstart.db");
    let good = std::fs::read(&database).expect("read");
    // As earlier versions made them.
    let sums = backup.join("SHA256SUMS");
    let listed = std::fs::read(&sums).expect("read");
    std::fs::remove_file(&sums).expect("removed");
    for (bytes, words) in [
        (good[..good.len() / 2].to_vec(), "damaged"),
        (b"no database".to_vec(), "damaged"),
        // The version stands at byte 60 (sqlite.org/fileformat.html, 1.3).
        ([&good[..60], &[0, 0, 0, 99], &good[64..]].concat(), "has version 99"),
    ] {
        std::fs::write(&database, bytes).expect("written");
        refused(&site, "restore", &backup, words);
        let left: Vec<_> = all_in(&site.data()).into_iter().filter(|path| !path.ends_with("lock")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    std::fs::write(&database, good).expect("written");
    // Every file is as it was, and the key is the database's.
    let key = backup.join("tls/secrets.key");
    let good = std::fs::read(&key).expect("read");
    std::fs::write(&key, "another").expect("written");
    std::fs::write(&sums, listed).expect("written");
    refused(&site, "restore", &backup, "is damaged");
    std::fs::remove_file(&sums).expect("removed");
    refused(&site, "restore", &backup, "is another key");
    std::fs::remove_file(&key).expect("removed");
    refused(&site, "restore", &backup, "is missing");
    assert!(!site.data().join("kaltstart.db").exists(), "{:?}", all_in(&site.data()));
    std::fs::write(&key, good).expect("written");
    done(&site, "restore", &backup);
    site.power_on().await;
    assert_eq!(site.get("/v1/nodes/n1").await.status, StatusCode::OK);
}

#[tokio::test]
async fn p08_what_root_restores_belongs_to_the_owner_of_the_data_directory() {
    use std::os::unix::fs::MetadataExt as _;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut site = Site::start().await;
    assert_eq!(site.declare("n1", mac(1)).await.status, StatusCode::CREATED);
    let backup = site.dir.path().join("backup");
    done(&site, "backup", &backup);
    site.kill();
    std::fs::remove_dir_all(site.data()).expect("moved away");
    std::fs::create_dir(site.data()).expect("made");
    let nobody = nix::unistd::User::from_name("nobody").expect("readable").expect("it exists");
    nix::unistd::chown(&site.data(), Some(nobody.uid), Some(nobody.gid)).expect("given away");
    done(&site, "restore", &backup);
    for path in all_in(&site.data()) {
        assert_eq!(path.metadata().expect("there").uid(), nobody.uid.as_raw(), "{}", path.display());
    }
}
