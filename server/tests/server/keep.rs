//! Orders that keep the data of a partition.

use crate::agent::{Agent, installed, system_report, tell, with_disk};
use crate::client::{CONFLICT, done, refused};
use crate::site::{Site, mac};
use kaltstart_protocol::agent_api::{Directive, InstallTask, Mode, Task};
use kaltstart_protocol::contents::{Area, Entry};
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::keep::DATA_TYPE;
use reqwest::StatusCode;
use serde_json::json;

/// A profile `data` whose layout has a partition of that name behind its root.
const PROFILE: &str = r#"
[[layout]]
name = "data"
partitions = [
    { label = "root", role = "root", min_mib = 1024 },
    { label = "data", role = "data", min_mib = 1024, mount = "/srv" },
]

[[profile]]
name = "data"
image = "tiny"
layout = "data"
"#;

/// The partition as that layout has it, but for its first sector.
fn data(first: u64, id: &str, file_system: &str) -> Vec<Area> {
    let place = Entry {
        number: 2,
        id,
        kind: DATA_TYPE,
        first,
        last: first + 2048 * 1024 - 1,
        sector: None,
        name: "data",
    };
    let file_system =
        Area { partition: Some(2), kind: "ext4".into(), id: file_system.into(), ..Area::default() };
    vec![place.into(), file_system]
}

/// Where that layout has it.
const FIRST: u64 = 2048 * 1025;

/// What the agent of the node's job is told on a disk with these things.
async fn told(site: &Site, session: u32, areas: Vec<Area>) -> (Agent<'_>, Task) {
    let mut agent = Agent::boot(site, 1, session, Mode::Install).await;
    agent.facts = with_disk(mac(1), areas);
    agent.facts.disks[0].sector_size = 512;
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    let task = agent.task().await;
    (agent, task)
}

fn install(task: Task) -> InstallTask {
    match task {
        Task::Install(task) => *task,
        other => panic!("no installation: {other:?}"),
    }
}

#[tokio::test]
async fn p05_an_order_that_cannot_keep_what_it_names_is_refused_at_once() {
    let site = Site::start_with(PROFILE).await;
    site.declare("n1", mac(1)).await;
    for (label, why) in [
        ("root", "the system starts from it"),
        ("date", "no partition \"date\"; of those it has can be kept: \"data\""),
    ] {
        let said =
            refused(&site, &format!("deploy n1 --profile data --keep data --keep {label}"), CONFLICT).await;
        assert!(said.contains(why), "{said}");
    }
    let said = refused(&site, "deploy n1 --profile good --keep root", CONFLICT).await;
    assert!(said.contains("layout \"single\""), "{said}");
    for kind in ["release", "rescue"] {
        let answer = site.post("/v1/nodes/n1/jobs", &json!({"kind": kind, "keep": ["data"]})).await;
        answer.problem(StatusCode::BAD_REQUEST, "bad-request");
    }
    assert_eq!(site.get("/v1/nodes/n1").await.json["job"], json!(null), "nothing was ordered");
}

#[tokio::test]
async fn p05_what_is_kept_is_granted_told_shown_and_the_nodes_own_in_the_end() {
    let site = Site::start_with(PROFILE).await;
    site.declare("n1", mac(1)).await;
    let order = "deploy n1 --profile data --keep data -o name";
    done(&site, order).await;
    assert!(done(&site, "job show n1").await.out.contains("\napproved by administrator, to keep data\n"));
    let (_, task) = told(&site, 1, data(FIRST + 2048, "old-p", "old-f")).await;
    let Task::Failed { finding } = task else { panic!("no refusal: {task:?}") };
    assert_eq!(finding.code, Code::CannotKeep);
    assert!(finding.detail.contains("partition 2"), "{finding}");

    let job = done(&site, order).await.out.trim().to_owned();
    let gpt = Area { kind: "gpt".into(), id: "G".into(), ..Area::default() };
    let foreign = [data(FIRST, "old-p", "old-f"), vec![gpt]].concat();
    let (_, task) = told(&site, 2, foreign).await;
    assert!(
        matches!(&task, Task::Failed { finding } if finding.code == Code::ForeignData),
        "the rest counts"
    );

    done(&site, order).await;
    let (agent, task) = told(&site, 3, data(FIRST, "old-p", "old-f")).await;
    let task = install(task);
    assert_ne!(task.job.to_string(), job);
    let ids = |task: &InstallTask| (task.uuids.partitions[1].clone(), task.uuids.further[1].clone());
    assert_eq!(ids(&task), ("old-p".into(), "old-f".into()));
    let shown = site.get(&format!("/v1/jobs/{}", task.job)).await.json;
    assert_eq!(shown["keep"], json!(["data"]), "{shown}");
    let grant = &shown["wipe"][0];
    assert_eq!((&grant["contents"], &grant["keep"][0]["label"]), (&json!([]), &json!("data")), "{grant}");
    let said = done(&site, "job show n1").await.out;
    assert!(said.contains("may wipe S1: nothing, keeps data: ext4 in partition 2 old-f"), "{said}");

    assert_eq!(agent.twice("installed", &installed(&task.job, 1)).await, Directive::Continue);
    let report = system_report(&task.identity.report.token, &task.uuids.root);
    assert_eq!(tell(&site, &report).await, StatusCode::NO_CONTENT);
    // A rebuild without the word loses it as any other part of the node's own system.
    done(&site, "rebuild n1 --profile data --confirm n1").await;
    let (_, task) = told(&site, 4, data(FIRST, "old-p", "old-f")).await;
    let task = install(task);
    assert_ne!(ids(&task), ("old-p".into(), "old-f".into()));
}
