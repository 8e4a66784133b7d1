//! Several servers with one database, and none.

use crate::agent::{self, Agent, installed, stopped, system_report, tell};
use crate::backup::done;
use crate::client::{DONE, FAILED, Said, command, ks};
use crate::postgres_server::{self, Own, execute};
use crate::recall::deployed;
use crate::site::{LIMIT, PROGRAM, Site, mac};
use crate::wipe::order_to_erase;
use futures_util::future::join_all;
use kaltstart_protocol::agent_api::{ImagePlace, ReportState, Task};
use kaltstart_protocol::phase::Phase;
use reqwest::StatusCode;
use serde_json::json;
use std::path::Path;
use std::time::Instant;

#[tokio::test]
async fn p13_what_one_server_acknowledged_another_goes_on_with() {
    let url = postgres_server::database();
    let mut one = Site::start_sharing(&url, "", None).await;
    let two = Site::start_sharing(&url, "", Some(&one)).await;
    assert_eq!(one.token, two.token);
    let mut heard = two.events("/v1/events", None).await;
    assert_eq!(one.declare("n1", mac(1)).await.status, StatusCode::CREATED);
    let (_, kind, event) = heard.next().await;
    assert!(kind == "node.expected" && event.to_string().contains("\"n1\""), "{kind}: {event}");
    let job = one.order("n1", "deploy").await;
    one.kill();
    let path = format!("/v1/jobs/{job}");
    assert_eq!(two.get(&path).await.json["state"], "queued");
    // A second order is refused by whoever is asked; the job is ended by who did not take its order.
    let body = json!({"kind": "deploy", "profile": "good"});
    assert_eq!(two.post("/v1/nodes/n1/jobs", &body).await.status, StatusCode::CONFLICT);
    assert!(two.post(&format!("{path}/cancel"), &json!({})).await.status.is_success());
    one.power_on().await;
    assert_eq!(one.get(&path).await.json["state"], "cancelled");
}

#[tokio::test]
async fn p36_an_agent_goes_on_at_the_server_that_is_left() {
    let url = postgres_server::database();
    let two = Site::start_sharing(&url, "", None).await;
    let named = |base: &str| base.split("://").nth(1).expect("an address").to_owned();
    let (listen, tls_listen) = (named(&two.base), named(&two.tls_base));
    let lines = format!("[[database.server]]\nlisten = {listen:?}\ntls_listen = {tls_listen:?}");
    let mut one = Site::start_sharing(&url, &lines, Some(&two)).await;
    assert_eq!(one.declare("n1", mac(1)).await.status, StatusCode::CREATED);
    one.order("n1", "deploy").await;
    let both = format!("kaltstart.server={},{}", one.tls_base, two.tls_base);
    let script = agent::script(&one, 1).await;
    assert!(script.split_whitespace().any(|word| word == both), "{script}");
    let agent = Agent::started(&one, &script, 1);
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    one.kill();

    let agent = Agent::running(&two, 1);
    for (state, phase) in [(ReportState::Running, Phase::Image), (ReportState::Done, Phase::Image)] {
        assert!(!stopped(&agent.report(&task.job, 1, phase, state).await));
    }
    let elsewhere = task.image_url.replace(&one.base, &two.base);
    assert_eq!(task.others, [ImagePlace { image_url: elsewhere, chunks_url: None }]);
    assert!(!stopped(&agent.twice("installed", &installed(&task.job, 1)).await));
    let report = &task.identity.report;
    assert_eq!(report.urls, [&one.tls_base, &two.tls_base].map(|base| format!("{base}/node/v1/report")));
    let told = tell(&two, &system_report(&report.token, &task.uuids.root)).await;
    assert_eq!(told, StatusCode::NO_CONTENT);
    assert_eq!(two.get("/v1/nodes/n1").await.json["state"], "deployed");
}

#[tokio::test]
async fn p36_ks_asks_the_server_that_is_left() {
    let url = postgres_server::database();
    let mut one = Site::start_sharing(&url, "", None).await;
    let mut two = Site::start_sharing(&url, "", Some(&one)).await;
    assert_eq!(one.declare("n1", mac(1)).await.status, StatusCode::CREATED);
    let both = format!("{},{}", one.tls_base, two.tls_base);
    let token = one.token_file();
    let asked = |words: &str| {
        let mut command = command(Path::new(PROGRAM), words);
        command.env("KS_SERVER", &both).env("KS_TOKEN_FILE", &token);
        Said::from(command.output().expect("it runs"))
    };
    let said = asked("node list -o name");
    assert!(said.out.contains("n1") && said.err.is_empty(), "{}", said.err);
    one.kill();
    // What is only asked for, and what is to be done.
    for words in ["node list -o name", "node add n2 --mac 52:54:00:00:00:02", "deploy n1 --profile good"] {
        let said = asked(words);
        let told = format!("{} does not answer; {} is asked", one.tls_base, two.tls_base);
        assert!(said.code == DONE && said.err.contains(&told), "{words}: {}", said.err);
    }
    assert_eq!(two.get("/v1/nodes/n1").await.json["state"], "allocated");
    two.kill();
    let said = asked("node list");
    assert!(said.code == FAILED && said.err.contains("cannot reach"), "{}", said.err);
}

#[tokio::test]
async fn p13_a_server_that_is_cut_off_from_the_database_says_so_and_goes_on_when_it_is_back() {
    let url = postgres_server::database();
    let site = Site::start_sharing(&url, "", None).await;
    assert_eq!(site.declare("n1", mac(1)).await.status, StatusCode::CREATED);
    let name = url.rsplit('=').next().expect("a name").to_owned();
    execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    execute(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"));
    // The connections end a moment later.
    let began = Instant::now();
    while !site.get("/v1/nodes/n1").await.status.is_server_error() {
        assert!(began.elapsed() < LIMIT, "{}", site.log());
    }
    while !site.log().contains("the shared database is lost") {
        assert!(began.elapsed() < LIMIT, "{}", site.log());
        tokio::task::yield_now().await;
    }
    let mut n = 2;
    while !site.declare(&format!("n{n}"), mac(n)).await.status.is_server_error() {
        assert!(began.elapsed() < LIMIT, "{}", site.log());
        n += 1;
    }
    execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    let began = Instant::now();
    // It does not look for a lost database at every question.
    while site.declare(&format!("n{n}"), mac(n)).await.status != StatusCode::CREATED {
        assert!(began.elapsed() < LIMIT, "{}", site.log());
        tokio::task::yield_now().await;
    }
    assert_eq!(site.get("/v1/nodes/n1").await.json["name"], "n1");
    while !site.log().contains("the shared database is back") {
        assert!(began.elapsed() < LIMIT, "{}", site.log());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn p13_a_database_that_falls_silent_stops_no_server() {
    let database = Own::start("silent");
    let mut site = Site::start_sharing(&database.url(), "", None).await;
    deployed(&site, "n1", 1).await;
    assert_eq!(site.declare("n2", mac(2)).await.status, StatusCode::CREATED);
    let frozen = database.freeze();
    // More of each kind than the runtime has threads.
    let reads = (0..20).map(|_| site.get("/v1/nodes/n1"));
    let names: Vec<String> = (10..30).map(|n| format!("n{n}")).collect();
    let writes = (10..30).zip(&names).map(|(n, name)| site.declare(name, mac(n)));
    let starts = (0..20).map(|_| agent::script(&site, 1));
    let health = async {
        let began = Instant::now();
        let mut health = site.get("/healthz").await;
        while health.status != StatusCode::SERVICE_UNAVAILABLE {
            assert!(began.elapsed() < LIMIT, "{health:?}");
            health = site.get("/healthz").await;
        }
        health.json["status"].as_str().expect("a text").to_owned()
    };
    let (reads, writes, starts, health) =
        tokio::join!(join_all(reads), join_all(writes), join_all(starts), health);
    for answer in reads.iter().chain(&writes) {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    }
    assert_eq!(health, "the shared database is lost");
    for script in starts {
        assert_eq!(agent::token(&script), None, "it starts from its disk");
    }
    assert_eq!(site.get("/v1/nodes").await.json.as_array().map(Vec::len), Some(2), "lists are in memory");
    let listed = ks(&site, "node list -o name").await;
    assert!(listed.out.contains("n2") && listed.err.contains("this may be old"), "{}", listed.err);
    drop(frozen);
    let began = Instant::now();
    while site.get("/healthz").await.status != StatusCode::OK {
        assert!(began.elapsed() < LIMIT, "{}", site.log());
    }
    assert_eq!(site.get("/v1/nodes/n1").await.json["state"], "deployed");
    // What was not acknowledged may be there or not, but not in part; and it can be said again.
    for (n, name) in (10..30).zip(&names) {
        let answer = site.declare(name, mac(n)).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let listed = site.get("/v1/nodes").await.json;
    site.kill();
    site.power_on().await;
    assert_eq!(site.get("/v1/nodes").await.json, listed);

    // And a start is refused in time.
    let _frozen = database.freeze();
    let refused = Site::refused(&database.url());
    assert!(refused.contains("has not answered for"), "{refused}");
}

#[tokio::test]
async fn p08_a_backup_of_a_shared_database_is_restored_into_another() {
    let site = Site::start_sharing(&postgres_server::database(), "", None).await;
    assert_eq!(site.declare("n1", mac(1)).await.status, StatusCode::CREATED);
    let job = site.order("n1", "deploy").await;
    let backup = site.dir.path().join("backup");
    let said = done(&site, "backup", &backup);
    assert!(said.contains("nodes: 1, jobs: 1"), "{said}");
    let mut restored = Site::start_sharing(&postgres_server::database(), "", None).await;
    restored.kill();
    std::fs::remove_dir_all(restored.data()).expect("moved away");
    // Its database has been used: what is restored goes into an empty one alone.
    let url = postgres_server::database();
    let config = restored.dir.path().join("server.toml");
    let text = std::fs::read_to_string(&config).expect("readable");
    let used = text.lines().find(|line| line.starts_with("url = ")).expect("a line").to_owned();
    std::fs::write(&config, text.replace(&used, &format!("url = {url:?}"))).expect("written");
    let said = done(&restored, "restore", &backup);
    assert!(said.contains("nodes: 1, jobs: 1"), "{said}");
    restored.power_on().await;
    assert_eq!(restored.token, site.token);
    // What was ordered before is not carried out once more.
    let job = restored.get(&format!("/v1/jobs/{job}")).await;
    assert_eq!(job.json["findings"][0]["code"], "KS-2110", "{job:?}");
}

#[tokio::test]
async fn p09_no_more_machines_lose_data_than_may_whichever_server_is_asked() {
    let url = postgres_server::database();
    let limit = "[wipe]\nmachines_per_hour = 3";
    let one = Site::start_sharing(&url, limit, None).await;
    let two = Site::start_sharing(&url, limit, Some(&one)).await;
    for n in 1..=10 {
        assert_eq!(one.declare(&format!("n{n}"), mac(n)).await.status, StatusCode::CREATED);
    }
    let sites = [&one, &two];
    let orders = (1..=10).map(|n| order_to_erase(sites[n as usize % 2], n));
    let orders = join_all(orders).await;
    let (good, bad): (Vec<_>, Vec<_>) =
        orders.iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert_eq!((good.len(), bad.len()), (3, 7));
    assert!(bad.iter().all(|answer| answer.text.contains("KS-2112")), "{bad:?}");
}

#[tokio::test]
async fn p37_a_configuration_names_no_password_and_no_unprotected_database() {
    for (url, words) in [
        ("postgresql://kaltstart:secret@localhost/kaltstart", "password_file"),
        ("host=10.0.0.1 user=kaltstart", "database.authority"),
    ] {
        let refused = Site::refused(url);
        assert!(refused.contains(words) && !refused.contains("secret@"), "{refused}");
    }
}
