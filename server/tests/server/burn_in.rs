//! A burn-in: who takes it, what the agent is told, and how it ends.

use crate::agent::Agent;
use crate::site::{Site, mac};
use kaltstart_protocol::agent_api::{Directive, Mode, ReportState, Task};
use kaltstart_protocol::phase::Phase;
use reqwest::StatusCode;
use serde_json::json;

const JOBS: &str = "/v1/nodes/n1/jobs";

#[tokio::test]
async fn a_burn_in_is_for_free_machines_and_has_limits() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let refused = site.post(JOBS, &json!({"kind": "burn_in"})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "nobody has looked at it: {refused:?}");
    Agent::boot(&site, 1, 1, Mode::Discover).await.hello().await;
    for body in [
        json!({"kind": "burn_in", "minutes": 0}),
        json!({"kind": "burn_in", "minutes": 10081}),
        json!({"kind": "burn_in", "profile": "x"}),
        json!({"kind": "burn_in", "via": "kexec"}),
        json!({"kind": "release", "minutes": 5}),
    ] {
        assert_eq!(site.post(JOBS, &body).await.status, StatusCode::BAD_REQUEST, "{body}");
    }
    let ordered = site.post(JOBS, &json!({"kind": "burn_in", "minutes": 3})).await;
    assert_eq!(ordered.status, StatusCode::ACCEPTED, "{ordered:?}");

    let agent = Agent::boot(&site, 1, 2, Mode::Rescue).await;
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    let Task::BurnIn(task) = agent.task().await else { panic!("no task") };
    assert_eq!((task.attempt, task.minutes), (1, 3));
    for state in [ReportState::Running, ReportState::Done] {
        let told = agent.report(&task.job, task.attempt, Phase::Inventory, state).await;
        assert_eq!(told, Directive::Continue);
    }
    let job = site.get(&format!("/v1/jobs/{}", task.job)).await;
    assert_eq!((&job.json["state"], &job.json["findings"]), (&json!("succeeded"), &json!([])));
    assert_eq!(site.get("/v1/nodes/n1").await.json["state"], json!("available"));
}
