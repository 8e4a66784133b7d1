//! A restored copy of the database: what was ordered and granted before counts no more, and nothing is ordered before
//! somebody has compared the copy with the fleet.

use crate::agent::{Agent, installed, script, stopped, system_report, tell, token, with_disk};
use crate::client::{CONFLICT, done, ks, refused};
use crate::postgres_server;
use crate::site::{LIMIT, Site, mac};
use kaltstart_protocol::agent_api::{Directive, InstallTask, Mode, ReportState, Task};
use kaltstart_protocol::contents::Area;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::node_api::NodeReport;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{GrantTrust, HostIdentity, Reality};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

/// Files of the database.
fn database(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).expect("read").map(|entry| entry.expect("read").path());
    files.filter(|path| path.to_string_lossy().contains("kaltstart.db")).collect()
}

/// Puts copies of the files of `from` in place of those of `to`.
fn copy(from: &Path, to: &Path) {
    for old in database(to) {
        std::fs::remove_file(old).expect("removed");
    }
    for file in database(from) {
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

/// The task of an agent that is granted to install.
async fn task(agent: &Agent<'_>) -> Box<InstallTask> {
    match agent.task().await {
        Task::Install(task) => task,
        other => panic!("{other:?}"),
    }
}

/// Why an agent with that `trust` refuses the grant of `task`; none when it takes it.
fn refusal(agent: &Agent<'_>, task: &InstallTask, trust: &GrantTrust) -> Option<String> {
    let (host, disk) = (HostIdentity::of(&agent.facts), &agent.facts.disks[0]);
    let now = Millis(jiff::Timestamp::now().as_millisecond().unsigned_abs());
    let reality = Reality { host: &host, disk, job: &task.job, attempt: task.attempt, now };
    task.grants[0].grant.verify(trust, &reality).err().map(|finding| {
        assert_eq!(finding.code, Code::GrantRefused);
        finding.detail
    })
}

/// A copy of what a site remembers.
enum Copy {
    /// The files of its database, while the server was down.
    Files(TempDir),
    /// What `kaltstart backup` made.
    Backup(TempDir),
}

impl Copy {
    /// Puts it in the place of what the site, whose server is down, remembers.
    fn put_back(&self, site: &Site) {
        match self {
            Self::Files(kept) => copy(kept.path(), &site.data()),
            Self::Backup(kept) => {
                std::fs::remove_dir_all(site.data()).expect("moved away");
                use_another_database(site);
                crate::backup::done(site, "restore", &kept.path().join("backup"));
            }
        }
    }
}

/// A backup goes into an empty database alone.
fn use_another_database(site: &Site) {
    let config = site.dir.path().join("server.toml");
    let text = std::fs::read_to_string(&config).expect("readable");
    let used = text.lines().find(|line| line.starts_with("url = ")).expect("a line").to_owned();
    let another = format!("url = {:?}", postgres_server::database());
    std::fs::write(&config, text.replace(&used, &another)).expect("written");
}

/// What the site says that does not need a token.
async fn open(site: &Site, path: &str) -> crate::site::Answer {
    site.ask(Method::GET, path, None, None::<&()>).await.expect("answered")
}

/// Every order that loses data or takes a machine out of service is refused by a server that only observes; the others
/// are not.
async fn only_observes(site: &Site) {
    let health = open(site, "/healthz").await;
    assert_eq!((health.status, &health.json["observing"]), (StatusCode::OK, &json!(true)), "{health:?}");
    assert!(
        health.json["status"].as_str().is_some_and(|status| status.contains("ks restored")),
        "{health:?}"
    );
    assert!(open(site, "/metrics").await.text.contains("\nkaltstart_observing 1\n"));
    assert!(site.log().contains("the server only observes"));
    let told = done(site, "node list").await;
    assert!(told.out.contains("n1") && told.err.contains("ks restored"), "{}", told.err);
    for (node, order) in [
        ("n1", json!({"kind": "deploy", "profile": "good"})),
        ("n4", json!({"kind": "deploy", "profile": "good", "erase": {"S1": "0123456789abcdef"}})),
        ("n6", json!({"kind": "rebuild", "profile": "good"})),
        ("n6", json!({"kind": "rebuild", "profile": "asking", "via": "kexec"})),
        ("n6", json!({"kind": "release"})),
        ("n4", json!({"kind": "burn_in"})),
        ("n6", json!({"kind": "rescue", "writable": ["S1"]})),
    ] {
        let answer = site.post(&format!("/v1/nodes/{node}/jobs"), &order).await;
        answer.problem(StatusCode::CONFLICT, "observing");
        assert!(answer.text.contains("KS-2117") && answer.text.contains("ks restored accept"), "{answer:?}");
    }
    for words in ["rebuild n6 --profile good --confirm n6", "release n6 --confirm n6", "burn-in n4"] {
        assert!(refused(site, words, CONFLICT).await.contains("ks restored"), "{words}");
    }
    // What only looks, and what writes to no disk.
    let look = site.post("/v1/nodes/n6/jobs", &json!({"kind": "rescue"})).await;
    assert_eq!(look.status, StatusCode::ACCEPTED, "{look:?}");
    let agent = Agent::boot(site, 6, 66, Mode::Rescue).await;
    agent.hello().await;
    assert!(matches!(agent.task().await, Task::Rescue(_)));
    let job = look.json["id"].as_str().expect("a job");
    assert_eq!(site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.status, StatusCode::OK);
    let declared = site.declare("late", mac(40)).await.status;
    assert!([StatusCode::CREATED, StatusCode::OK].contains(&declared), "{declared}");
}

/// The comparison, once it has `wanted` differences.
async fn compared(site: &Site, wanted: usize) -> Value {
    let began = Instant::now();
    loop {
        let view = site.get("/v1/restored").await.json;
        if view["differences"].as_array().is_some_and(|all| all.len() >= wanted) {
            return view;
        }
        assert!(began.elapsed() < LIMIT, "{view:#}");
    }
}

/// What an installation that the copy does not know leaves on a disk.
fn table_of_later() -> Area {
    Area { partition: None, kind: "gpt".into(), id: "of-later".into(), label: String::new() }
}

/// What is said of a node, as kind, job and words; of whom nobody knows where none is named.
fn said<'a>(view: &'a Value, node: Option<&str>) -> Vec<(&'a str, Option<&'a str>, &'a str)> {
    let all = view["differences"].as_array().expect("a list").iter();
    let text = |one: &'a Value, name| one[name].as_str();
    all.filter(|one| one["node_name"].as_str() == node)
        .map(|one| {
            (text(one, "kind").expect("a kind"), text(one, "job"), text(one, "detail").expect("words"))
        })
        .collect()
}

/// Takes the copy as it is; who knows of fewer or more differences than there are is refused.
async fn accept(site: &Site) {
    let view = site.get("/v1/restored").await.json;
    let known = view["differences"].as_array().expect("a list").len();
    for wrong in [known - 1, known + 1] {
        let said = refused(site, &format!("restored accept --confirm {wrong}"), CONFLICT).await;
        assert!(said.contains(&format!("there are {known} differences")), "{said}");
    }
    let shown = done(site, "restored").await;
    let command = shown.err.trim().rsplit_once("ks ").expect("it says how").1.to_owned();
    assert_eq!(command, format!("restored accept --confirm {known}"));
    for words in ["KIND", "n4", "agent", "NOT YET", "late"] {
        assert!(shown.out.contains(words), "{words} is not in {}", shown.out);
    }
    let mut events = site.events("/v1/events", None).await;
    done(site, &command).await;
    let (_, kind, event) = events.next().await;
    assert_eq!((kind.as_str(), &event["subject"]), ("restored.accepted", &json!("restored")));
    assert_eq!(
        (&event["data"]["approver"], &event["data"]["differences"]),
        (&json!("administrator"), &json!(known))
    );
    let after = site.get("/v1/restored").await.json;
    assert_eq!((&after["observing"], &after["accepted"]["by"]), (&json!(false), &json!("administrator")));
    assert_eq!(after["differences"].as_array().map(Vec::len), Some(known), "they stay to be worked off");
    refused(site, &command, CONFLICT).await;
    assert!(open(site, "/metrics").await.text.contains("\nkaltstart_observing 0\n"));
    assert_eq!(open(site, "/healthz").await.json["status"], "ok");
}

#[tokio::test]
async fn p08_orders_and_grants_of_before_a_restored_copy_count_no_more() {
    restored_after_the_fleet_moved_on(Site::start().await, |site| {
        let kept = tempfile::tempdir().expect("a directory");
        site.kill();
        copy(&site.data(), kept.path());
        Copy::Files(kept)
    })
    .await;
}

#[tokio::test]
async fn p08_nor_do_they_in_a_shared_database() {
    let site = Site::start_sharing(&postgres_server::database(), "", None).await;
    restored_after_the_fleet_moved_on(site, |site| {
        let kept = tempfile::tempdir().expect("a directory");
        crate::backup::done(site, "backup", &kept.path().join("backup"));
        site.kill();
        Copy::Backup(kept)
    })
    .await;
}

/// Lets the machine of a granted agent come to its end.
async fn complete(site: &Site, agent: &Agent<'_>, task: &InstallTask, node: &str) {
    assert_eq!(agent.twice("installed", &installed(&task.job, 1)).await, Directive::Continue);
    assert_eq!(tell(site, &report_of(task, node)).await, StatusCode::NO_CONTENT);
}

fn report_of(task: &InstallTask, node: &str) -> NodeReport {
    let report = system_report(&task.identity.report.token, &task.uuids.root);
    NodeReport { hostname: node.into(), ..report }
}

async fn restored_after_the_fleet_moved_on(mut site: Site, keep: impl FnOnce(&mut Site) -> Copy) {
    let mut jobs = Vec::new();
    for n in 1..=6 {
        site.declare(&format!("n{n}"), mac(n)).await;
        jobs.push(site.order(&format!("n{n}"), "deploy").await);
    }
    // Ordered, started, heard, granted, complete, deployed: a copy is made of all of them.
    script(&site, 2).await;
    let [heard, granted, last, deployed] = [3, 4, 5, 6].map(|n| Agent::boot(&site, n, n, Mode::Install));
    let (heard, granted, last, deployed) = tokio::join!(heard, granted, last, deployed);
    for agent in [&heard, &granted, &last, &deployed] {
        assert_eq!(agent.hello().await.status, StatusCode::OK);
    }
    let (old, kept_on) = (task(&granted).await, task(&last).await);
    assert_eq!(last.twice("installed", &installed(&kept_on.job, 1)).await, Directive::Continue);
    assert_eq!(refusal(&granted, &old, &granted.trust), None);
    complete(&site, &deployed, &*task(&deployed).await, "n6").await;
    let before = granted.trust;
    let kept = keep(&mut site);

    // The fleet moves on.
    site.power_on().await;
    let going = Agent::running(&site, 4);
    complete(&site, &going, &old, "n4").await;
    site.post(&format!("/v1/jobs/{}/cancel", jobs[0]), &json!({})).await;
    let started = script(&site, 2).await;
    site.declare("n7", mac(7)).await;
    let new = site.order("n7", "deploy").await;
    let unknown = Agent::boot(&site, 7, 7, Mode::Install).await;
    unknown.hello().await;
    let laid_down = task(&unknown).await;

    let mut epochs = vec![before.epoch];
    for _ in 0..2 {
        site.kill();
        kept.put_back(&site);
        site.power_on().await;
        for (n, job) in (1..).zip(&jobs[..4]) {
            let ended = site.get(&format!("/v1/jobs/{job}")).await.json;
            assert_eq!(
                (&ended["state"], &ended["findings"][0]["code"]),
                (&"failed".into(), &"KS-2110".into()),
                "{ended}"
            );
            let given = script(&site, n).await;
            // One of which nothing is known yet is looked at.
            let looks = n <= 2 && given.contains("kaltstart.mode=discover");
            assert!(looks || token(&given).is_none(), "n{n} starts from its own disk: {given}");
        }
        for session in [3, 4] {
            let agent = Agent::running(&site, session);
            assert!(matches!(agent.task().await, Task::Wait));
            let job = jobs[session as usize - 1].parse().expect("an identifier");
            assert!(stopped(&agent.report(&job, 1, Phase::Image, ReportState::Running).await));
        }
        let going = Agent::running(&site, 4);
        assert!(stopped(&going.twice("installed", &installed(&old.job, 1)).await));
        // What the fleet says that the copy does not know.
        assert_eq!(tell(&site, &report_of(&old, "n4")).await, StatusCode::GONE);
        let mut agent = Agent::started(&site, &started, 2);
        agent.facts.nics[0].mac = mac(2);
        assert_eq!(agent.hello().await.status, StatusCode::UNAUTHORIZED);
        let agent = Agent::running(&site, 7);
        let does = agent.post("installed", &installed(&laid_down.job, 1)).await;
        assert_eq!(does.status, StatusCode::UNAUTHORIZED);
        for path in ["/node/v1/recall", "/node/v1/unlock"] {
            let body = json!({"token": "kst_of_later", "job": laid_down.job, "host": {"uuid": "", "serial": "", "macs": [mac(9)]}});
            let answer = site.ask(Method::POST, path, None, Some(&body)).await.expect("answered");
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
        }
        // What is looked at goes on with what is on its disk.
        let mut looks = Agent::boot(&site, 1, 61, Mode::Discover).await;
        looks.facts = with_disk(mac(1), vec![table_of_later()]);
        looks.hello().await;
        assert!(matches!(looks.task().await, Task::Reboot { .. }));
        assert!(token(&script(&site, 1).await).is_none(), "it was looked at");
        let looks = Agent::boot(&site, 2, 62, Mode::Discover).await;
        looks.hello().await;
        assert!(matches!(looks.task().await, Task::Wait), "there is nothing on it");
        only_observes(&site).await;
        let view = compared(&site, 8).await;
        assert!(view["since"].as_u64() > view["copied"].as_u64(), "{view}");
        let by_the_copy = "the copy has that job as failed (KS-2110)";
        let has = |node, kind: &str, job: Option<&str>, words: &str| {
            let all = said(&view, node);
            let is =
                |one: &&(&str, Option<&str>, &str)| (one.0, one.1) == (kind, job) && one.2.contains(words);
            assert!(all.iter().any(|one| is(&one)), "{node:?} {kind} {job:?} {words:?}: {view:#}");
        };
        has(Some("n3"), "agent", Some(&jobs[2]), by_the_copy);
        has(Some("n4"), "agent", Some(&jobs[3]), "its agent has laid down");
        has(Some("n4"), "agent", Some(&jobs[3]), by_the_copy);
        has(Some("n4"), "system", Some(&jobs[3]), "reports itself as \"n4\"");
        has(Some("n2"), "agent", None, "started to install");
        has(None, "agent", Some(&new), "the copy does not know that job");
        has(None, "system", Some(&new), "whether a job calls it back; the copy does not know that job");
        has(None, "system", Some(&new), "the key of its disks");
        has(Some("n1"), "disks", None, "holds gpt of-later");
        assert_eq!(said(&view, Some("n5")), []);
        let silent: Vec<&str> =
            view["not_heard"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!((silent, &view["nodes"]), (vec!["late", "n3", "n4", "n5"], &json!(7)));
        // It goes on observing after a restart.
        site.kill();
        site.power_on().await;
        assert_eq!(compared(&site, 8).await["observing"], true);
        let order = json!({"kind": "deploy", "profile": "good"});
        site.post("/v1/nodes/n4/jobs", &order).await.problem(StatusCode::CONFLICT, "observing");
        accept(&site).await;
        // What is ordered now is granted, by grants that are not those of before.
        site.order("n4", "deploy").await;
        let agent = Agent::boot(&site, 4, 9, Mode::Install).await;
        agent.hello().await;
        let new = task(&agent).await;
        assert_eq!(refusal(&agent, &new, &agent.trust), None);
        let moved_on = InstallTask { job: old.job.clone(), ..(*old).clone() };
        assert!(refusal(&agent, &moved_on, &agent.trust).is_some_and(|why| why.contains("epoch")));
        assert!(refusal(&agent, &new, &before).is_some_and(|why| why.contains("epoch")));
        epochs.push(agent.trust.epoch);
        // The same database goes on.
        site.kill();
        site.power_on().await;
        assert_eq!(site.get(&format!("/v1/jobs/{}", new.job)).await.json["state"], "running");
        assert_eq!(site.get("/v1/restored").await.json["observing"], false);
    }
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
    // Nothing more is lost on a disk that is complete.
    assert_eq!(tell(&site, &report_of(&kept_on, "n5")).await, StatusCode::NO_CONTENT);
    assert_eq!(site.get("/v1/nodes/n5").await.json["state"], "deployed");
}

#[tokio::test]
async fn p08_one_who_accepts_lets_all_servers_of_a_database_order_again() {
    let site = Site::start_sharing(&postgres_server::database(), "", None).await;
    site.declare("n1", mac(1)).await;
    assert_eq!(ks(&site, "restored").await.out, "the database is no restored copy\n");
    refused(&site, "restored accept --confirm 0", CONFLICT).await;
    let (mut one, kept) = (site, tempfile::tempdir().expect("a directory"));
    crate::backup::done(&one, "backup", &kept.path().join("backup"));
    one.kill();
    let copy = Copy::Backup(kept);
    copy.put_back(&one);
    one.power_on().await;
    let text = std::fs::read_to_string(one.dir.path().join("server.toml")).expect("readable");
    let url = text
        .lines()
        .find_map(|line| line.strip_prefix("url = "))
        .expect("a line")
        .trim_matches('"')
        .to_owned();
    let two = Site::start_sharing(&url, "", Some(&one)).await;
    let order = json!({"kind": "deploy", "profile": "good"});
    for site in [&one, &two] {
        site.post("/v1/nodes/n1/jobs", &order).await.problem(StatusCode::CONFLICT, "observing");
    }
    done(&two, "restored accept --confirm 0").await;
    let began = Instant::now();
    loop {
        let answer = one.post("/v1/nodes/n1/jobs", &order).await;
        if answer.status == StatusCode::ACCEPTED {
            break;
        }
        answer.problem(StatusCode::CONFLICT, "observing");
        assert!(began.elapsed() < LIMIT, "{answer:?}");
    }
}
