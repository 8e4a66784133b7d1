//! A system with encrypted disks asks for their key when it starts.

use crate::agent::{Agent, erased, installed, system_report, tell};
use crate::client::done;
use crate::postgres_server;
use crate::site::{Answer, PROGRAM, Site, mac};
use kaltstart_protocol::agent_api::{Directive, Encryption, InstallTask, Mode, Task};
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::unlock::UnlockQuestion;
use kaltstart_protocol::wipe::HostIdentity;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// Types of events.
const KEY: &str = "node.key_";
const AVAILABLE: &str = "node.available";

/// An agent that has the task to lay down an encrypted system on `name`, and that task.
async fn begun<'a>(site: &'a Site, name: &str, n: u32, kind: &str) -> (Agent<'a>, InstallTask) {
    let answer =
        site.post(&format!("/v1/nodes/{name}/jobs"), &json!({"kind": kind, "profile": "sealed"})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let agent = Agent::boot(site, n, n, Mode::Install).await;
    agent.hello().await;
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    (agent, *task)
}

fn encryption(task: &InstallTask) -> &Encryption {
    task.encryption.as_ref().expect("an encrypted layout")
}

async fn ask(site: &Site, token: &Secret, host: HostIdentity) -> Answer {
    ask_again(site, token, host, None).await
}

/// The same after the key before has opened nothing.
async fn ask_again(site: &Site, token: &Secret, host: HostIdentity, useless: Option<&Secret>) -> Answer {
    let question =
        UnlockQuestion { token: token.clone(), job: None, host, useless: useless.map(Secret::fingerprint) };
    site.ask(Method::POST, "/node/v1/unlock", None, Some(&question)).await.expect("answered")
}

/// The `n`th machine, as its agent told.
fn machine(n: u32) -> HostIdentity {
    HostIdentity { macs: vec![mac(n)], ..HostIdentity::default() }
}

/// The key that a system is given on its own machine, the `n`th.
async fn given(site: &Site, n: u32, token: &Secret) -> Option<String> {
    let answer = ask(site, token, machine(n)).await;
    (answer.status == StatusCode::OK).then(|| answer.json["key"].as_str().expect("a key").to_owned())
}

/// Says that the system of `task` is up.
async fn up(site: &Site, task: &InstallTask) {
    let mut report = system_report(&task.identity.report.token, &task.uuids.root);
    report.hostname.clone_from(&task.identity.hostname);
    assert_eq!(tell(site, &report).await, StatusCode::NO_CONTENT);
}

/// All that was told, up to the event number `count` of those that `last` begin.
async fn told(site: &Site, last: &str, count: usize) -> Vec<String> {
    let mut events = site.events("/v1/events", Some(0)).await;
    let mut all: Vec<String> = Vec::new();
    while all.iter().filter(|event| event.starts_with(last)).count() < count {
        let (_, kind, data) = events.next().await;
        all.push(format!("{kind} {data}"));
    }
    all
}

/// Installations and keys of a node, as `kaltstart disk-keys` writes them.
pub(crate) fn exported(site: &Site, node: &str) -> Result<Vec<(String, String)>, String> {
    let (dir, config) = (tempfile::tempdir().expect("a directory"), site.dir.path().join("server.toml"));
    let to = dir.path().join("keys");
    let mut command = Command::new(PROGRAM);
    let said = command.args(["disk-keys", "--config"]).arg(config).arg(node).arg(&to).output();
    let said = said.expect("it runs");
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into_owned());
    }
    let mut keys = Vec::new();
    for file in std::fs::read_dir(&to).expect("made") {
        let path = file.expect("read").path();
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let key = std::fs::read_to_string(&path).expect("read");
        assert!(!String::from_utf8_lossy(&said.stdout).contains(&key));
        keys.push((path.file_name().expect("a name").to_string_lossy().into_owned(), key));
    }
    Ok(keys)
}

#[tokio::test]
async fn p19_keys_that_an_earlier_version_left_in_files_are_taken_over() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let (_, task) = begun(&site, "n1", 1, "deploy").await;
    let node = site.get("/v1/nodes/n1").await.json["id"].as_str().expect("an identifier").to_owned();
    site.kill();
    let database = site.data().join("kaltstart.db");
    let forgotten = rusqlite::Connection::open(&database).expect("opened").execute("DELETE FROM secrets", []);
    assert_eq!(forgotten.expect("done"), 1);
    let earlier = site.data().join("disk-keys").join(node);
    std::fs::create_dir_all(&earlier).expect("made");
    std::fs::write(earlier.join(&task.uuids.disk), "kst_disk_earlier").expect("written");
    std::fs::write(earlier.join(&task.uuids.disk).with_extension("new"), "").expect("written");
    site.power_on().await;
    assert!(!site.data().join("disk-keys").exists());
    let kept = [(task.uuids.disk, "kst_disk_earlier".to_owned())];
    assert_eq!(exported(&site, "n1").expect("kept"), kept);
    // One that differs is no copy, and is left where it is.
    site.kill();
    std::fs::create_dir_all(&earlier).expect("made");
    let another = earlier.join(&kept[0].0);
    std::fs::write(&another, "kst_disk_another").expect("written");
    let refused = site.second_server();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("the database has another one"), "{said}");
    assert_eq!(std::fs::read_to_string(&another).expect("left"), "kst_disk_another");
    std::fs::remove_dir_all(site.data().join("disk-keys")).expect("moved away");
    site.power_on().await;
    assert_eq!(exported(&site, "n1").expect("kept"), kept);
}

#[tokio::test]
async fn p19_every_server_of_a_site_releases_the_keys_of_all_and_none_without_their_key() {
    let url = postgres_server::database();
    let mut one = Site::start_sharing(&url, "", None).await;
    let mut two = Site::start_sharing(&url, "", Some(&one)).await;
    one.declare("n1", mac(1)).await;
    let (agent, task) = begun(&one, "n1", 1, "deploy").await;
    assert_eq!(agent.twice("installed", &installed(&task.job, task.attempt)).await, Directive::Continue);
    up(&one, &task).await;
    one.kill();
    let Encryption { key, unlock } = encryption(&task);
    assert_eq!(given(&two, 1, &unlock.token).await.as_deref(), Some(key.expose()));

    two.kill();
    let file = two.data().join("tls/secrets.key");
    for (bytes, words) in [(None, "is missing"), (Some("another"), "is another key")] {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).expect("written"),
            None => std::fs::remove_file(&file).expect("removed"),
        }
        let refused = two.second_server();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(words) && said.contains("copy"), "{said}");
        assert!(exported(&two, "n1").expect_err("refused").contains(words));
    }

    // One that has nothing of the site makes nothing of its own.
    std::fs::remove_dir_all(two.data()).expect("removed");
    let refused = two.second_server();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("tls/authority.pem") && said.contains("admin.token"),
        "{said}"
    );
    assert!(!two.token_file().exists() && !two.data().join("tls/authority.pem").exists());

    // What is lost for good is given up by its number.
    let forget = |more: &[&str]| {
        let config = one.dir.path().join("server.toml");
        let mut command = Command::new(PROGRAM);
        command.args(["forget-secrets", "--config"]).arg(config).args(more).output().expect("it runs")
    };
    std::fs::remove_file(one.data().join("tls/secrets.key")).expect("removed");
    assert!(!one.second_server().status.success());
    let refused = forget(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--confirm 1"), "{said}");
    assert!(forget(&["--confirm", "1"]).status.success());
    one.power_on().await;
    assert!(exported(&one, "n1").expect_err("forgotten").contains("no encrypted disks"));
}

#[tokio::test]
async fn p19_a_key_is_released_to_its_own_system_on_its_own_machine_and_destroyed_with_the_data() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.declare("n2", mac(2)).await;
    let (agent, task) = begun(&site, "n1", 1, "deploy").await;
    let (other, theirs) = begun(&site, "n2", 2, "deploy").await;
    let Encryption { key, unlock } = encryption(&task);
    assert!(unlock.urls[0].ends_with("/node/v1/unlock"), "{unlock:?}");
    assert_ne!(key.expose(), encryption(&theirs).key.expose());
    let kept = exported(&site, "n1").expect("kept");
    assert_eq!(kept, [(task.uuids.disk.clone(), key.expose().to_owned())]);

    assert_eq!(given(&site, 1, &unlock.token).await, None, "nothing is installed yet");
    let Task::Install(again) = agent.task().await else { panic!("no task") };
    assert_eq!(encryption(&again).key.expose(), key.expose(), "the same installation");
    let (task, unlock) = (again.clone(), encryption(&again).unlock.clone());
    assert_eq!(agent.twice("installed", &installed(&task.job, task.attempt)).await, Directive::Continue);
    assert_eq!(given(&site, 1, &unlock.token).await.as_deref(), Some(key.expose()), "the first start");
    up(&site, &task).await;
    assert_eq!(given(&site, 1, &unlock.token).await.as_deref(), Some(key.expose()), "each later start");
    assert_eq!(other.twice("installed", &installed(&theirs.job, theirs.attempt)).await, Directive::Continue);
    up(&site, &theirs).await;

    // Another machine, another system, nobody at all.
    let moved = HostIdentity { uuid: "another".into(), ..machine(1) };
    let refused = ask(&site, &unlock.token, moved).await;
    refused.problem(StatusCode::FORBIDDEN, "key-refused");
    assert!(refused.text.contains("the disk is not in the machine of n1"), "{refused:?}");
    for stranger in [&Secret::new("kst_unlock_0".into()), &task.identity.report.token] {
        ask(&site, stranger, machine(1)).await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let theirs_given = given(&site, 2, &encryption(&theirs).unlock.token).await;
    assert_eq!(theirs_given.as_deref(), Some(encryption(&theirs).key.expose()), "each has its own");
    for path in ["/v1/nodes", "/agent/v1/task", "/node/v1/recall"] {
        let answer =
            site.ask(Method::GET, path, Some(unlock.token.expose()), None::<&()>).await.expect("answered");
        assert!(answer.status.is_client_error(), "the token is good for one question alone: {answer:?}");
    }
    let mut keys = told(&site, KEY, 5).await;
    keys.retain(|event| event.starts_with(KEY));
    let of = |kind: &str| keys.iter().filter(|event| event.contains(kind)).count();
    assert_eq!((of("key_released"), of("key_refused")), (3, 2), "{keys:?}");
    assert!(keys.iter().all(|event| event.contains("127.0.0.1")), "{keys:?}");

    // A rebuild that has begun takes the old system its key, and brings a key of its own.
    let (agent, new) = begun(&site, "n1", 1, "rebuild").await;
    assert_ne!(encryption(&new).key.expose(), key.expose());
    assert_eq!(given(&site, 1, &unlock.token).await, None);
    assert_eq!(agent.twice("installed", &installed(&new.job, new.attempt)).await, Directive::Continue);
    up(&site, &new).await;
    assert_eq!(given(&site, 1, &unlock.token).await, None, "p21: the token dies with its system");
    let token = &encryption(&new).unlock.token;
    assert_eq!(given(&site, 1, token).await.as_deref(), Some(encryption(&new).key.expose()));

    // Its data is gone, and so is what opens copies of it.
    let released = site.post("/v1/nodes/n1/jobs", &json!({"kind": "release"})).await;
    assert_eq!(released.status, StatusCode::ACCEPTED, "{released:?}");
    assert_eq!(given(&site, 1, token).await, None);
    let agent = Agent::boot(&site, 1, 3, Mode::Install).await;
    agent.hello().await;
    let Task::Erase(task) = agent.task().await else { panic!("no task") };
    assert_eq!(exported(&site, "n1").expect("kept").len(), 2, "of both installations");
    assert_eq!(agent.twice("erased", &erased(&task)).await, Directive::Continue);
    assert!(exported(&site, "n1").expect_err("destroyed").contains("n1 has no encrypted disks"));
    assert_eq!(exported(&site, "n2").expect("kept").len(), 1, "the other node's");
    assert_eq!(given(&site, 1, token).await, None);

    let (log, database) = (site.log(), std::fs::read(site.data().join("kaltstart.db-wal")).expect("read"));
    let (nodes, events) = (site.get("/v1/nodes").await.text, told(&site, AVAILABLE, 1).await.concat());
    for secret in [key, &encryption(&new).key, token, &unlock.token] {
        let bytes = secret.expose().as_bytes();
        assert!(!database.windows(bytes.len()).any(|found| found == bytes), "p22: a secret in the database");
        for (place, text) in [("log", &log), ("API", &nodes), ("events", &events)] {
            assert!(!text.contains(secret.expose()), "p22: a secret stands in the {place}");
        }
    }
}

/// What the node's findings say.
async fn findings(site: &Site) -> Vec<String> {
    let node = site.get("/v1/nodes/n1").await.json;
    let findings = node["findings"].as_array().expect("findings");
    findings.iter().map(|finding| format!("{} {}", finding["code"], finding["detail"])).collect()
}

#[tokio::test]
async fn p19_another_board_is_accepted_by_name_and_what_stays_is_noted_once() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let (agent, task) = begun(&site, "n1", 1, "deploy").await;
    let Encryption { key, unlock } = encryption(&task);
    assert_eq!(agent.twice("installed", &installed(&task.job, task.attempt)).await, Directive::Continue);
    up(&site, &task).await;
    let moved = || HostIdentity { uuid: "ad-1".into(), serial: "T".into(), macs: vec![mac(7)] };
    for _ in 0..3 {
        ask(&site, &unlock.token, moved()).await.problem(StatusCode::FORBIDDEN, "key-refused");
    }
    let told_of = findings(&site).await;
    assert!(told_of.len() == 1 && told_of[0].contains("KS-5004") && told_of[0].contains("--board ad-1"));

    for uuid in ["other", ""] {
        let answer = site.post("/v1/nodes/n1/board", &json!({"uuid": uuid})).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    }
    ask(&site, &unlock.token, moved()).await.problem(StatusCode::FORBIDDEN, "key-refused");
    done(&site, "node accept n1 --board ad-1").await;
    let given = ask(&site, &unlock.token, moved()).await;
    assert_eq!((given.status, given.json["key"].as_str()), (StatusCode::OK, Some(key.expose())));
    ask(&site, &unlock.token, machine(1)).await.problem(StatusCode::FORBIDDEN, "key-refused");
    assert_eq!(ask(&site, &unlock.token, moved()).await.status, StatusCode::OK);
    assert!(findings(&site).await.is_empty());

    // The disk is another's: the key goes on being given, and is noted once.
    for _ in 0..3 {
        let again = ask_again(&site, &unlock.token, moved(), Some(key)).await;
        assert_eq!(again.json["key"].as_str(), Some(key.expose()));
    }
    assert!(findings(&site).await[0].contains("does not open the disks"));
    // Somebody has put the right one in its place.
    let other = Secret::new("kst_disk_other".into());
    assert_eq!(ask_again(&site, &unlock.token, moved(), Some(&other)).await.status, StatusCode::OK);
    assert!(findings(&site).await.is_empty());

    let all = told(&site, "node.key_released", 3).await;
    let all: Vec<&str> = all
        .iter()
        .filter(|event| event.starts_with("node.key") || event.starts_with("node.board"))
        .map(String::as_str)
        .collect();
    let kinds: Vec<&str> =
        all.iter().filter_map(|event| event.split_once(' ')).map(|(kind, _)| kind).collect();
    assert_eq!(
        kinds,
        [
            "node.key_refused",
            "node.board_accepted",
            "node.key_released",
            "node.key_refused",
            "node.key_released",
            "node.key_useless",
            "node.key_released",
        ]
    );
    assert!(
        all[1].contains("\"approver\":\"administrator\"") && all[1].contains("\"uuid\":\"ad-1\""),
        "{}",
        all[1]
    );
}
