//! Whom wipe grants are given to, how many, and by which key.

use crate::agent::{Agent, argument, script, with_disk};
use crate::client::done;
use crate::site::{Answer, Site, mac};
use kaltstart_protocol::agent_api::{ARG_KEY, InstallTask, Mode, ReportState, Task};
use kaltstart_protocol::contents::{Area, Contents};
use kaltstart_protocol::facts::Nic;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::{Fingerprint, PublicKey};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{HostIdentity, Reality, WipeGrant};
use reqwest::{Method, StatusCode};
use serde_json::json;

/// What an agent with its own trust makes of its task's grant.
fn verified(agent: &Agent<'_>, task: &InstallTask) -> Result<WipeGrant, Finding> {
    let (host, disk) = (HostIdentity::of(&agent.facts), &agent.facts.disks[0]);
    let now = Millis(jiff::Timestamp::now().as_millisecond().unsigned_abs());
    let reality = Reality { host: &host, disk, job: &task.job, attempt: task.attempt, now };
    task.grants[0].grant.verify(&agent.trust, &reality)
}

async fn metric(site: &Site, labels: &str) -> Option<u64> {
    let text = site.ask(Method::GET, "/metrics", None, None::<&()>).await.expect("answered").text;
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("kaltstart_wipe_grants_total{{{labels}}} ")));
    line.map(|count| count.parse().expect("a number"))
}

/// Something that lies on a disk.
fn area(kind: &str, id: &str) -> Area {
    Area { kind: kind.into(), id: id.into(), ..Area::default() }
}

/// The fingerprint of a disk with a file system.
fn foreign() -> Fingerprint {
    Contents::new(vec![area("ext4", "A")]).fingerprint()
}

pub(crate) async fn order_to_erase(site: &Site, n: u32) -> Answer {
    let body = json!({"kind": "deploy", "profile": "good", "erase": {"S1": foreign().to_string()}});
    site.post(&format!("/v1/nodes/n{n}/jobs"), &body).await
}

/// An agent for the node's job, on a disk with these things.
async fn heard(site: &Site, n: u32, session: u32, areas: Vec<Area>) -> Agent<'_> {
    let mut agent = Agent::boot(site, n, session, Mode::Install).await;
    agent.facts = with_disk(mac(n), areas);
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    agent
}

#[tokio::test]
async fn p03_an_agent_without_the_nodes_address_is_granted_nothing() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job = site.order("n1", "deploy").await;
    let mut agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.facts.nics = vec![Nic { mac: mac(9), ..Nic::default() }];
    agent.hello().await;
    let Task::Failed { finding } = agent.task().await else { panic!("no refusal") };
    assert_eq!(finding.code, Code::OtherMachine);
    assert!(
        finding.detail.contains(&mac(1).to_string()) && finding.detail.contains(&mac(9).to_string()),
        "{finding}"
    );
    let ended = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!((&ended["state"], &ended["wipe"]), (&json!("failed"), &json!([])), "{ended}");
    assert_eq!(metric(&site, "type=\"deploy\",result=\"KS-2111\"").await, Some(1));
}

#[tokio::test]
async fn p09_one_machine_more_than_may_lose_data_in_an_hour_is_refused() {
    let site = Site::start_with("[wipe]\nmachines_per_hour = 2").await;
    for n in 1..=12 {
        site.declare(&format!("n{n}"), mac(n)).await;
    }
    // A blank disk loses nothing; what is on it afterwards is the node's own.
    site.order("n1", "deploy").await;
    let agent = heard(&site, 1, 1, vec![]).await;
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    site.post(&format!("/v1/jobs/{}/cancel", task.job), &json!({})).await;
    let own = vec![area("gpt", &task.uuids.disk)];

    // However many orders come at once.
    let orders = futures_util::future::join_all((2..=12).map(|n| order_to_erase(&site, n))).await;
    let (good, bad): (Vec<_>, Vec<_>) =
        orders.iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert_eq!((good.len(), bad.len()), (2, 9));
    for answer in bad {
        answer.problem(StatusCode::CONFLICT, "refused");
        let detail = answer.json["detail"].as_str().expect("text");
        assert!(detail.contains("KS-2112") && detail.contains("machines_per_hour"), "{detail}");
    }
    // An order that did not say so is refused when the disk is seen, and nothing happens later by itself.
    let late = site.order("n1", "deploy").await;
    let agent = heard(&site, 1, 2, own).await;
    let Task::Failed { finding } = agent.task().await else { panic!("no refusal") };
    assert_eq!(finding.code, Code::TooManyLosses);
    assert!(matches!(agent.task().await, Task::Wait));
    assert_eq!(site.get(&format!("/v1/jobs/{late}")).await.json["state"], "failed");
    for (labels, count) in [("result=\"KS-2112\"", 10), ("result=\"given\"", 1)] {
        assert_eq!(metric(&site, &format!("type=\"deploy\",{labels}")).await, Some(count), "{labels}");
    }
    // One that is taken back before it was granted gives its place to another.
    let job = good[0].json["id"].as_str().expect("a job");
    let node = good[0].json["node_name"].as_str().expect("a name");
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(
        order_to_erase(&site, node[1..].parse().expect("a number")).await.status,
        StatusCode::ACCEPTED
    );
    let again = site.get("/v1/jobs").await.json;
    let refused = again.as_array().expect("jobs").iter().filter(|job| job["state"] == "queued").count();
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn p03_a_job_tells_who_approved_what() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let ordered = order_to_erase(&site, 1).await.json;
    assert_eq!((&ordered["approver"], &ordered["wipe"]), (&json!("administrator"), &json!([])), "{ordered}");
    let agent = heard(&site, 1, 1, vec![area("ext4", "A")]).await;
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    let grant = verified(&agent, &task).expect("it takes it");
    assert_eq!((grant.approver.as_str(), grant.epoch), ("administrator", agent.trust.epoch));
    let job = site.get(&format!("/v1/jobs/{}", task.job)).await.json;
    assert_eq!(job["wipe"], json!([grant]), "{job}");
    let said = done(&site, "job show n1").await.out;
    assert!(said.contains("\napproved by administrator\nmay wipe S1: ext4 A\n"), "{said}");
}

#[tokio::test]
async fn p03_a_replaced_key_is_kept_and_machines_that_believe_the_old_one_start_again() {
    let mut site = Site::start().await;
    for n in [1, 2] {
        site.declare(&format!("n{n}"), mac(n)).await;
        site.order(&format!("n{n}"), "deploy").await;
    }
    let granted = heard(&site, 1, 1, vec![]).await;
    let Task::Install(old) = granted.task().await else { panic!("no task") };
    let waiting = heard(&site, 2, 2, vec![]).await;
    let key: PublicKey = done(&site, "grant-key show -o name").await.out.trim().parse().expect("a key");
    assert_eq!(key, granted.trust.key);

    let rotated = done(&site, "grant-key rotate -o json").await.out;
    let secret = std::fs::read_to_string(site.data().join("tls/grants.pem")).expect("there");
    let rotated: serde_json::Value = serde_json::from_str(&rotated).expect("JSON");
    assert_eq!(rotated["replaced"], key.to_string(), "{rotated}");
    let new: PublicKey = rotated["key"].as_str().expect("a key").parse().expect("a public key");
    assert_ne!(new, key);
    for line in secret.lines().filter(|line| !line.starts_with('-')) {
        assert!(!rotated.to_string().contains(line) && !site.log().contains(line), "p22: a secret is shown");
    }

    // What was granted goes on; what was not starts again, and is granted by the new key alone.
    assert!(verified(&granted, &old).is_ok());
    granted.report(&old.job, 1, Phase::Image, ReportState::Running).await;
    for agent in [&granted, &waiting] {
        assert!(matches!(agent.task().await, Task::Reboot { .. }));
    }
    assert_eq!(site.get(&format!("/v1/jobs/{}", old.job)).await.json["state"], "running");
    site.kill();
    site.power_on().await;
    assert_eq!(argument::<PublicKey>(&script(&site, 2).await, ARG_KEY), Some(new));
    let again = heard(&site, 2, 3, vec![]).await;
    let Task::Install(task) = again.task().await else { panic!("no task") };
    assert!(verified(&again, &task).is_ok());
    let stale = InstallTask { job: old.job.clone(), ..(*old).clone() };
    let finding = verified(&again, &stale).expect_err("of the old key");
    assert!(finding.detail.contains("signature"), "{finding}");
}
