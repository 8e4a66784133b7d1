//! How a machine goes from the agent to its system: ordered, carried out, told.

use crate::agent::{Agent, installed};
use crate::site::{Site, mac};
use kaltstart_protocol::agent_api::{Directive, Installed, Mode, Task};
use kaltstart_protocol::restart::Restart;
use reqwest::StatusCode;
use serde_json::json;

#[tokio::test]
async fn the_order_says_how_the_system_is_started_and_the_agent_what_it_does() {
    let site = Site::start().await;
    for (n, word, done) in [(1, "kexec", Restart::Kexec), (2, "kexec", Restart::Firmware)] {
        let name = format!("n{n}");
        site.declare(&name, mac(n)).await;
        let order = json!({"kind": "deploy", "profile": "good", "restart": word});
        let path = format!("/v1/nodes/{name}/jobs");
        let ordered = site.post(&path, &order).await;
        assert_eq!(ordered.status, StatusCode::ACCEPTED, "{ordered:?}");
        let agent = Agent::boot(&site, n, n, Mode::Install).await;
        agent.hello().await;
        let Task::Install(task) = agent.task().await else { panic!("no task") };
        assert_eq!(task.restart, Restart::Kexec);
        let told = Installed { restart: done, ..installed(&task.job, 1) };
        assert_eq!(agent.twice("installed", &told).await, Directive::Continue);
        let job = site.get(&format!("/v1/jobs/{}", task.job)).await.json;
        let restart = &job["phases"][10];
        assert_eq!((&restart["name"], &restart["detail"]["by"]), (&json!("restart"), &json!(done.name())));
    }
    let order = json!({"kind": "release", "restart": "kexec"});
    let refused = site.post("/v1/nodes/n1/jobs", &order).await;
    refused.problem(StatusCode::BAD_REQUEST, "bad-request");
    let order = json!({"kind": "deploy", "profile": "good", "restart": "warm"});
    let refused = site.post("/v1/nodes/n2/jobs", &order).await;
    assert!(refused.status.is_client_error() && refused.text.contains("firmware"), "{refused:?}");
}
