//! An installed system asks whether a job calls it back, and is given the agent to start.

use crate::agent::{Agent, installed, system_report, tell};
use crate::site::{Answer, RAMDISK, Site, mac};
use kaltstart_protocol::agent_api::{Directive, InstallTask, Mode, Task};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::recall::{Recall, RecallQuestion, RecallStart};
use kaltstart_protocol::secret::Secret;
use reqwest::{Method, StatusCode};
use serde_json::json;

/// Orders a job for `name` whose profile says `recall = true`; the job.
async fn order(site: &Site, name: &str, kind: &str, via: &str) -> String {
    let order = json!({"kind": kind, "profile": "asking", "via": via});
    let answer = site.post(&format!("/v1/nodes/{name}/jobs"), &order).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    answer.json["id"].as_str().expect("a job").to_owned()
}

/// Says that the system of `task` is complete and up; the token with which it asks.
async fn up(site: &Site, agent: &Agent<'_>, task: &InstallTask) -> Secret {
    let recall = task.identity.recall.clone().expect("it shall ask");
    assert!(recall.urls[0].ends_with("/node/v1/recall"), "{recall:?}");
    assert_eq!(ask(site, &recall.token, None).await.status, StatusCode::UNAUTHORIZED, "not yet verified");
    let told = installed(&task.job, task.attempt);
    assert_eq!(agent.twice("installed", &told).await, Directive::Continue);
    let mut report = system_report(&task.identity.report.token, &task.uuids.root);
    report.hostname.clone_from(&task.identity.hostname);
    assert_eq!(tell(site, &report).await, StatusCode::NO_CONTENT);
    recall.token
}

/// Deploys `name`; the token with which its system asks.
pub(crate) async fn deployed(site: &Site, name: &str, n: u32) -> Secret {
    site.declare(name, mac(n)).await;
    order(site, name, "deploy", "network").await;
    let agent = Agent::boot(site, n, n, Mode::Install).await;
    agent.hello().await;
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    up(site, &agent, &task).await
}

async fn ask(site: &Site, token: &Secret, refused: Option<&str>) -> Answer {
    let question = RecallQuestion { token: token.clone(), job: None, refused: refused.map(Into::into) };
    site.ask(Method::POST, "/node/v1/recall", None, Some(&question)).await.expect("answered")
}

/// What a system that asks is given to start; none when it shall stay.
async fn given(site: &Site, token: &Secret) -> Option<RecallStart> {
    started_by(&ask(site, token, None).await)
}

fn started_by(answer: &Answer) -> Option<RecallStart> {
    match serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {answer:?}")) {
        Recall::Stay { seconds, .. } => {
            assert_eq!(seconds, 20);
            None
        }
        Recall::Start(start) => Some(*start),
    }
}

#[tokio::test]
async fn p01_a_system_is_given_the_agent_of_its_own_job_that_calls_it_back_and_nothing_else() {
    let site = Site::start().await;
    let (token, other) = (deployed(&site, "n1", 1).await, deployed(&site, "n2", 2).await);
    assert!(given(&site, &token).await.is_none(), "there is no job");
    let unknown = ask(&site, &Secret::new("kst_recall_0".into()), None).await;
    unknown.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    for path in ["/v1/nodes", "/agent/v1/task"] {
        let answer = site.ask(Method::GET, path, Some(token.expose()), None::<&()>).await.expect("answered");
        assert!(answer.status.is_client_error(), "the token is good for one question alone: {answer:?}");
    }
    let plain = order(&site, "n1", "rebuild", "network").await;
    assert!(given(&site, &token).await.is_none(), "the job is for a start over the network");
    site.post(&format!("/v1/jobs/{plain}/cancel"), &json!({})).await;

    let job = order(&site, "n1", "rebuild", "kexec").await;
    let node = site.get("/v1/nodes/n1").await.json;
    assert_eq!((&node["recall"], &node["headline"]), (&json!(true), &json!("waiting for its system to ask")));
    assert!(given(&site, &other).await.is_none(), "the job is another's");
    let lost = given(&site, &token).await.expect("called back");
    let start = given(&site, &token).await.expect("the answer was lost");
    assert_eq!((&lost.kernel, &lost.ramdisk), (&start.kernel, &start.ramdisk));
    assert_eq!((start.ramdisk.digest, start.ramdisk.size), (Digest::of(RAMDISK), RAMDISK.len() as u64));
    assert!(start.ramdisk.url.ends_with(&format!("/boot/{}/ramdisk", mac(1))), "{}", start.ramdisk.url);
    let seen = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!((&seen["phase"], &seen["attempt"]), (&json!("loader"), &json!(1)), "{seen}");
    let late = Agent::started(&site, lost.arguments.expose(), 3);
    late.hello().await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    assert!(start.arguments.expose().contains("kaltstart.mode=install"), "it may carry out the job");
    let agent = Agent::started(&site, start.arguments.expose(), 4);
    assert_eq!(agent.hello().await.json["name"], "n1");
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    assert_eq!(task.job.to_string(), job);

    // Its agent was cut off before anything was written: the system is back, and the job begins again.
    let again = given(&site, &token).await.expect("called back again");
    assert_eq!(site.get(&format!("/v1/jobs/{job}")).await.json["attempt"], 2);
    let agent = Agent::started(&site, again.arguments.expose(), 5);
    agent.hello().await;
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    let new = up(&site, &agent, &task).await;
    // p21: the token dies with the system it was given to.
    ask(&site, &token, None).await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    assert!(given(&site, &new).await.is_none());
    let log = site.log();
    for secret in [&token, &new, &other] {
        assert!(!log.contains(secret.expose()), "p22: a secret stands in the log");
    }
}

#[tokio::test]
async fn a_start_that_is_refused_fails_the_job_with_the_systems_words() {
    let site = Site::start().await;
    let token = deployed(&site, "n1", 1).await;
    assert!(started_by(&ask(&site, &token, Some("late words")).await).is_none(), "no job is concerned");
    let job = order(&site, "n1", "rebuild", "kexec").await;
    assert!(given(&site, &token).await.is_some());
    assert!(started_by(&ask(&site, &token, Some("the kernel is locked down")).await).is_none());
    let failed = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!((&failed["state"], &failed["findings"][0]["code"]), (&json!("failed"), &json!("KS-4008")));
    assert!(failed["findings"][0]["detail"].as_str().expect("text").contains("locked down"), "{failed}");
    // The system is still there and may be called again.
    order(&site, "n1", "rebuild", "kexec").await;
    assert!(given(&site, &token).await.is_some());
}

#[tokio::test]
async fn a_system_that_does_not_ask_is_not_called_back() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let order = json!({"kind": "deploy", "profile": "good", "via": "kexec"});
    assert_eq!(site.get("/v1/nodes/n1").await.json["recall"], false);
    let refused = site.post("/v1/nodes/n1/jobs", &order).await;
    refused.problem(StatusCode::CONFLICT, "refused");
    assert!(
        refused.text.contains("does not ask") && refused.text.contains("over the network"),
        "{refused:?}"
    );
    let order = json!({"kind": "release", "via": "kexec"});
    site.post("/v1/nodes/n1/jobs", &order).await.problem(StatusCode::BAD_REQUEST, "bad-request");
}
