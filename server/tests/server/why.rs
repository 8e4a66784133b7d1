//! What the doors saw of a machine, and what is concluded from it.

use crate::client::done;
use crate::site::{Site, mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn doors(site: &Site, node: &str) -> Vec<String> {
    let answer = site.get(&format!("/v1/nodes/{node}/trace")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let list: Vec<Value> = serde_json::from_str(&answer.text).expect("a list");
    list.iter().map(|seen| seen["door"].as_str().expect("a door").to_owned()).collect()
}

#[tokio::test]
async fn a_machine_s_recent_past_outlives_a_restart() {
    let mut site = Site::start().await;
    site.declare("db-07", mac(1)).await;
    site.post("/v1/nodes/db-07/power", &json!({"observed": "on"})).await;
    for n in [1, 2] {
        let path = format!("/boot/{}/script.ipxe", mac(n));
        site.ask(Method::GET, &path, None, None::<&()>).await.expect("answered");
    }
    assert_eq!(doors(&site, "db-07").await, ["power", "script"]);
    assert!(site.stop().success());
    site.power_on().await;
    assert_eq!(doors(&site, "db-07").await, ["power", "script"]);
    // Nobody declared this one, but it was seen.
    assert_eq!(doors(&site, &mac(2).to_string()).await, ["script"]);
    site.get(&format!("/v1/nodes/{}/trace", mac(3))).await.problem(StatusCode::NOT_FOUND, "not-found");
}

#[tokio::test]
async fn ks_why_says_what_is_going_on_when_nothing_is_wrong() {
    let site = Site::start().await;
    site.declare("db-07", mac(1)).await;
    site.post("/v1/nodes/db-07/power", &json!({"observed": "on"})).await;
    let diagnosis = site.get("/v1/nodes/db-07/diagnosis").await;
    assert_eq!((diagnosis.status, &diagnosis.json["causes"]), (StatusCode::OK, &json!([])), "{diagnosis:?}");
    let said = done(&site, "why db-07").await.out;
    assert!(said.contains("Nothing shows a fault") && said.contains("it was switched on"), "{said}");
    assert_eq!(done(&site, "why db-07 -o name").await.out, "");
    site.get(&format!("/v1/nodes/{}/diagnosis", mac(3))).await.problem(StatusCode::NOT_FOUND, "not-found");
}
