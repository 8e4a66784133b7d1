//! The audit log: everything that people order and the server grants, whole or found not to be.

use crate::agent::{Agent, installed, system_report, tell};
use crate::client::{DONE, FAILED, command, done};
use crate::postgres_server;
use crate::site::{LIMIT, PROGRAM, Site, mac};
use kaltstart_protocol::agent_api::{Mode, Task};
use kaltstart_protocol::unlock::UnlockQuestion;
use kaltstart_protocol::wipe::HostIdentity;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Lets somebody who has a site's database alone do something.
fn meddle(site: &Site, sql: &str) {
    let database = rusqlite::Connection::open(site.data().join("kaltstart.db")).expect("opened");
    database.busy_timeout(LIMIT).expect("set");
    database.execute_batch(sql).expect("done");
}

async fn records(site: &Site) -> Vec<Value> {
    let answer = site.get("/v1/audit").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json.as_array().expect("a list").clone()
}

fn actions(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["action"].as_str().expect("a word")).collect()
}

async fn verify(site: &Site) -> Value {
    let answer = site.get("/v1/audit/verify").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json
}

/// Whether the log is whole by the command that needs no server, and what it says.
fn verify_alone(site: &Site) -> (bool, String) {
    let config = site.dir.path().join("server.toml");
    let said =
        Command::new(PROGRAM).args(["audit-verify", "--config"]).arg(config).output().expect("it runs");
    let text = [said.stdout, said.stderr].concat();
    (said.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Waits until the server has noted that so many records are written.
async fn noted(site: &Site, number: u64) {
    let (file, began) = (site.data().join("audit.head"), Instant::now());
    let is_noted = |text: String| serde_json::from_str::<Value>(&text).is_ok_and(|it| it["number"] == number);
    while !std::fs::read_to_string(&file).is_ok_and(is_noted) {
        assert!(began.elapsed() < LIMIT, "the end of the log is not noted\n{}", site.log());
        tokio::task::yield_now().await;
    }
}

/// Runs `ks` with a reason; how it ended, and what it said.
fn because(site: &Site, reason: &str, words: &str) -> (Option<i32>, String) {
    let mut ks = command(Path::new(PROGRAM), words);
    ks.env("KS_SERVER", &site.base).env("KS_TOKEN_FILE", site.token_file());
    let said = ks.args(["--reason", reason]).output().expect("it runs");
    (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned())
}

#[tokio::test]
async fn p25_who_when_why_grant_and_result_are_recorded_and_no_secret_is() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let (code, said) = because(&site, "Ticket 7, für Ada", "deploy n1 --profile sealed");
    assert_eq!(code, Some(DONE), "{said}");
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.hello().await;
    assert!(matches!(agent.task().await, Task::Install(_)));
    // Asked once more it is granted the same again, with other tokens.
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    agent.twice("installed", &installed(&task.job, 1)).await;
    let encryption = task.encryption.as_ref().expect("an encrypted layout");
    let host = HostIdentity { macs: vec![mac(1)], ..HostIdentity::default() };
    let question = UnlockQuestion { token: encryption.unlock.token.clone(), job: None, host, useless: None };
    for _ in 0..2 {
        let given = site.ask(Method::POST, "/node/v1/unlock", None, Some(&question)).await.expect("answered");
        assert_eq!(given.status, StatusCode::OK, "{given:?}");
    }
    let report = system_report(&task.identity.report.token, &task.uuids.root);
    assert_eq!(tell(&site, &report).await, StatusCode::NO_CONTENT);
    let rescue = site.post("/v1/nodes/n1/jobs", &json!({"kind": "rescue"})).await;
    let rescue = rescue.json["id"].as_str().expect("a job").to_owned();
    let code = site.post(&format!("/v1/jobs/{rescue}/code"), &json!({})).await;
    let code = code.json["code"].as_str().expect("a code").to_owned();
    done(&site, &format!("job cancel {rescue}")).await;
    site.post("/v1/grant-key/rotate", &json!({})).await;
    assert_eq!(site.post("/v1/nodes/n1/break", &json!({})).await.status, StatusCode::OK);

    let all = records(&site).await;
    assert_eq!(
        actions(&all),
        [
            "node.declared",
            "job.ordered",
            "wipe.granted",
            "disk_key.released",
            "job.succeeded",
            "job.ordered",
            "rescue.code_issued",
            "job.cancelled",
            "grant_key.rotating",
            "grant_key.rotated",
            "node.broken",
        ]
    );
    let [ordered, granted, released, succeeded] = [1, 2, 3, 4].map(|at| &all[at]);
    assert_eq!(ordered["by"], "administrator");
    assert_eq!((&ordered["reason"], &ordered["from"]), (&json!("Ticket 7, für Ada"), &json!("127.0.0.1")));
    assert_eq!((&ordered["node_name"], &ordered["job"]), (&json!("n1"), &json!(task.job)));
    assert_eq!(ordered["detail"]["profile"], "sealed");
    assert_eq!((&granted["by"], &granted["job"]), (&json!("server"), &json!(task.job)));
    assert_eq!(granted["detail"]["approver"], "administrator");
    assert!(granted["detail"]["disk S1"].is_string(), "{granted}");
    assert_eq!(released["detail"]["address"], "127.0.0.1");
    assert_eq!(succeeded["job"], json!(task.job));
    assert!(all.iter().all(|record| record["at"].as_u64().is_some_and(|at| at > 0)), "{all:?}");

    // Whatever was secret in all this is in no record, nor where the log is kept.
    let text = site.get("/v1/audit").await.text;
    let database = rusqlite::Connection::open(site.data().join("kaltstart.db")).expect("opened");
    let stored: String = database
        .query_row("SELECT group_concat(doc || hex(hash) || hex(seal)) FROM audit", [], |row| row.get(0))
        .expect("read");
    let key = std::fs::read_to_string(site.data().join("tls/secrets.key")).expect("read");
    let grants = std::fs::read_to_string(site.data().join("tls/grants.pem")).expect("read");
    let tokens = [&task.identity.report.token, &encryption.unlock.token, &encryption.key];
    let canaries = tokens.map(|token| token.expose().to_owned());
    for canary in canaries
        .iter()
        .chain([&site.token, &code])
        .map(String::as_str)
        .chain([key.trim(), grants.lines().nth(1).expect("a line")])
    {
        assert!(canary.len() >= 6, "{canary:?} is no canary");
        for place in [&text, &stored] {
            assert!(!place.contains(canary) && !place.contains("kst_"), "{canary} is recorded");
        }
    }

    // People and scripts are told the same.
    let listed = done(&site, "audit list").await.out;
    assert!(listed.contains("Ticket 7, für Ada") && listed.contains("wipe.granted"), "{listed}");
    let newest = done(&site, "audit list --node n1 --after 10 -o json").await.out;
    let newest: Vec<Value> = serde_json::from_str(&newest).expect("JSON");
    assert_eq!((newest.len(), &newest[0]["number"]), (1, &json!(11)));
    assert!(done(&site, "audit verify").await.out.contains("is whole: 11 records"));
    site.ask(Method::GET, "/v1/audit", None, None::<&()>)
        .await
        .expect("answered")
        .problem(StatusCode::UNAUTHORIZED, "unauthorized");
    let (code, said) = because(&site, &"x".repeat(501), "node repair n1");
    assert!(code == Some(crate::client::USAGE) && said.contains("500"), "{said}");
    assert_eq!(records(&site).await.len(), 11, "what is refused is no act");
}

#[tokio::test]
async fn p25_without_a_record_nothing_is_done() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    meddle(&site, "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END");
    let key = site.get("/v1/grant-key").await.json;
    for (path, body) in [
        ("/v1/nodes/n1/jobs", json!({"kind": "deploy", "profile": "good"})),
        ("/v1/nodes", json!({"name": "n2", "mac": mac(2).to_string()})),
        ("/v1/nodes/n1/retire", json!({})),
        ("/v1/grant-key/rotate", json!({})),
    ] {
        let refused = site.post(path, &body).await;
        refused.problem(StatusCode::SERVICE_UNAVAILABLE, "store");
        assert!(refused.text.contains("audit log takes no record"), "{refused:?}");
    }
    assert_eq!(site.get("/v1/grant-key").await.json, key);
    let node = site.get("/v1/nodes/n1").await.json;
    assert_eq!((&node["state"], &node["job"]), (&json!("expected"), &Value::Null));
    assert_eq!(site.get("/v1/nodes").await.json.as_array().map(Vec::len), Some(1));
    meddle(&site, "DROP TRIGGER full");
    site.order("n1", "deploy").await;
    // A grant is no less an act.
    meddle(&site, "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END");
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.hello().await;
    let refused = agent.post("task", &json!({"wait_seconds": 0})).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    meddle(&site, "DROP TRIGGER full");
    assert!(matches!(agent.task().await, Task::Install(_)));
}

#[tokio::test]
async fn p25_what_is_done_to_the_database_is_found_by_verify_and_without_a_server() {
    let mut site = Site::start().await;
    for n in 1..=4 {
        site.declare(&format!("n{n}"), mac(n)).await;
    }
    noted(&site, 4).await;
    assert!(verify_alone(&site).0);
    meddle(&site, "UPDATE audit SET doc = replace(doc, '\"n2\"', '\"n9\"') WHERE number = 2");
    let found = verify(&site).await;
    assert_eq!((&found["whole"], &found["fault"]["number"]), (&json!(false), &json!(2)));
    let said = crate::client::ks(&site, "audit verify").await;
    assert!(said.code == FAILED && said.out.contains("record 2 was changed"), "{}", said.out);
    meddle(&site, "UPDATE audit SET doc = replace(doc, '\"n9\"', '\"n2\"') WHERE number = 2");
    assert_eq!(verify(&site).await["whole"], true);

    // The newest go, while no server looks.
    site.kill();
    meddle(&site, "DELETE FROM audit WHERE number > 3");
    let (is_whole, said) = verify_alone(&site);
    assert!(!is_whole && said.contains("ends before record 4"), "{said}");
    site.power_on().await;
    assert_eq!(verify(&site).await["fault"]["number"], 4);
    // It goes on, and tells of it for ever, also to who has nothing but the database.
    site.declare("n5", mac(5)).await;
    assert_eq!(actions(&records(&site).await)[3..], ["log.cut", "node.declared"]);
    assert!(site.log().contains("ks audit verify"), "{}", site.log());
    noted(&site, 5).await;
    site.stop();
    std::fs::remove_file(site.data().join("audit.head")).expect("removed");
    let (is_whole, said) = verify_alone(&site);
    assert!(!is_whole && said.contains("record 4 tells"), "{said}");
}

#[tokio::test]
async fn p25_a_restored_backup_goes_on_with_its_log_and_tells_of_it() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.declare("n2", mac(2)).await;
    noted(&site, 2).await;
    let backup = site.dir.path().join("backup");
    crate::backup::done(&site, "backup", &backup);
    site.declare("late", mac(3)).await;
    noted(&site, 3).await;
    site.kill();
    std::fs::rename(site.data(), site.dir.path().join("lost")).expect("moved away");
    crate::backup::done(&site, "restore", &backup);
    assert!(verify_alone(&site).0, "{:?}", verify_alone(&site));
    site.power_on().await;
    let differences = site.get("/v1/restored").await.json["differences"].as_array().map_or(0, Vec::len);
    let accepted = site.post("/v1/restored/accept", &json!({"differences": differences})).await;
    assert_eq!(accepted.status, StatusCode::OK, "{accepted:?}");
    assert_eq!(actions(&records(&site).await)[2..], ["restored.found", "restored.accepted"]);
    let found = verify(&site).await;
    assert_eq!((&found["whole"], &found["restored"]), (&json!(true), &json!([3])));
    noted(&site, 4).await;
    // Where the server's own memory is newer than the copy of the database alone, that is told as well.
    site.kill();
    let (from, to) = (backup.join("kaltstart.db"), site.data().join("kaltstart.db"));
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(to.with_file_name(format!("kaltstart.db{end}"))).ok();
    }
    std::fs::copy(from, &to).expect("copied");
    site.power_on().await;
    let all = records(&site).await;
    assert_eq!(actions(&all), ["node.declared", "node.declared", "restored.found"]);
    assert!(
        all[2]["detail"]["log_seen_before"].as_str().is_some_and(|seen| seen.contains("record 4")),
        "{all:?}"
    );
    assert_eq!(verify(&site).await["whole"], true);
}

#[tokio::test]
async fn p25_a_lost_key_is_told_by_the_first_record_of_the_next() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    noted(&site, 1).await;
    site.stop();
    std::fs::remove_file(site.data().join("tls/secrets.key")).expect("lost");
    let (is_whole, said) = verify_alone(&site);
    assert!(!is_whole && said.contains("is missing"), "{said}");
    let config = site.dir.path().join("server.toml");
    let mut forget = Command::new(PROGRAM);
    let said =
        forget.args(["forget-secrets", "--confirm", "0", "--config"]).arg(config).output().expect("it runs");
    assert!(said.status.success(), "{said:?}");
    site.power_on().await;
    site.declare("n2", mac(2)).await;
    let all = records(&site).await;
    assert_eq!(actions(&all), ["node.declared", "secrets.forgotten", "node.declared"]);
    assert!(all[1]["by"].as_str().is_some_and(|by| by.starts_with("uid ")), "{all:?}");
    let found = verify(&site).await;
    assert_eq!((&found["whole"], &found["forgotten"]), (&json!(true), &json!(2)));
    meddle(&site, "UPDATE audit SET doc = replace(doc, '\"n1\"', '\"n9\"') WHERE number = 1");
    assert_eq!(verify(&site).await["fault"]["number"], 1);
}

#[tokio::test]
async fn p25_two_servers_of_one_database_keep_one_log() {
    let url = postgres_server::database();
    let one = Site::start_sharing(&url, "", None).await;
    let two = Site::start_sharing(&url, "", Some(&one)).await;
    for n in 1..=3 {
        one.declare(&format!("a{n}"), mac(n)).await;
        two.declare(&format!("b{n}"), mac(10 + n)).await;
    }
    assert_eq!(records(&one).await, records(&two).await);
    for site in [&one, &two] {
        let found = verify(site).await;
        assert_eq!((&found["whole"], &found["records"]), (&json!(true), &json!(6)), "{found}");
        // Each has seen what the other wrote.
        noted(site, 6).await;
    }
    assert!(verify_alone(&two).0);
}
