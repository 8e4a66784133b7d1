//! What was acknowledged is there after `kill -9` at any moment.

use crate::site::{Answer, Site, mac};
use kaltstart_protocol::ids::JobId;
use kaltstart_server::store::Store;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::{Mutex, mpsc};

/// Kills of one run.
const KILLS: u32 = 12;

/// Clients that change machines at the same time.
const WORKERS: u32 = 4;

/// Most acknowledged changes between two kills.
const CHANGES_MAX: u64 = 40;

/// Steps of a machine's life in this test, each acknowledged by itself.
const STEPS: usize = 4;

/// How far a machine was acknowledged to be, and its job.
#[derive(Debug, Clone, Default)]
struct Known {
    step: usize,
    job: Option<String>,
}

/// Takes one machine through its steps until the server is gone; remembers what was acknowledged.
async fn change(site: &Site, n: u32, known: &Mutex<BTreeMap<u32, Known>>, acknowledged: &mpsc::Sender<()>) {
    for step in 1..=STEPS {
        let job = known.lock().await.get(&n).and_then(|known| known.job.clone()).unwrap_or_default();
        let (path, body) = match step {
            1 => ("/v1/nodes".to_owned(), json!({"name": format!("n{n}"), "mac": mac(n).to_string()})),
            2 => (format!("/v1/nodes/n{n}/jobs"), json!({"kind": "deploy", "profile": "good"})),
            3 => (format!("/v1/nodes/n{n}/power"), json!({"observed": "on"})),
            _ => (format!("/v1/jobs/{job}/cancel"), json!({})),
        };
        let answer: Result<Answer, _> = site.ask(Method::POST, &path, Some(&site.token), Some(&body)).await;
        let Ok(answer) = answer else { return };
        assert!(answer.status.is_success(), "{answer:?}");
        let mut known = known.lock().await;
        let known = known.entry(n).or_default();
        known.step = step;
        if step == 2 {
            known.job = answer.json["id"].as_str().map(str::to_owned);
        }
        // Nobody listens any more once the server is to be killed.
        acknowledged.send(()).await.ok();
    }
}

/// How far the server says that a machine is.
fn step_of(node: &Value, job: &Value) -> usize {
    match (node["job"].is_string(), node["last_job"].is_string()) {
        (false, false) => 1,
        (true, _) if job["state"] == "queued" => 2,
        (true, _) => 3,
        (false, true) => 4,
    }
}

async fn check(site: &Site, known: &BTreeMap<u32, Known>, seed: u64) {
    for (n, known) in known {
        let node = site.get(&format!("/v1/nodes/n{n}")).await;
        assert_eq!(node.status, StatusCode::OK, "seed {seed}: n{n} is lost, {known:?}");
        let job = node.json["job"].as_str().or(node.json["last_job"].as_str()).unwrap_or_default();
        if let Some(acknowledged) = &known.job {
            assert_eq!(job, acknowledged, "seed {seed}: n{n}");
        }
        let job = site.get(&format!("/v1/jobs/{job}")).await.json;
        let found = step_of(&node.json, &job);
        // One step more may have been stored without an answer.
        assert!((known.step..=known.step + 1).contains(&found), "seed {seed}: n{n} {known:?} is at {found}");
        if found == STEPS {
            assert_eq!(job["state"], "cancelled", "seed {seed}: n{n}");
        }
    }
}

#[tokio::test]
async fn p13_kill_at_any_moment_loses_nothing_acknowledged() {
    let seed = std::env::var("KALTSTART_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7_u64);
    let mut random = seed;
    let mut site = Site::start().await;
    let (known, next) = (Mutex::new(BTreeMap::new()), AtomicU32::new(1));
    for _ in 0..KILLS {
        // Knuth's multiplier for 64 bits: enough to vary the moment.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let changes = (random >> 33) % CHANGES_MAX;
        let (acknowledged, mut heard) = mpsc::channel(1);
        let pid = site.pid();
        let workers = futures_util::future::join_all((0..WORKERS).map(|_| {
            let (site, known, next, acknowledged) = (&site, &known, &next, acknowledged.clone());
            async move {
                // A machine whose change failed is left; the server is gone then.
                while !acknowledged.is_closed() {
                    change(site, next.fetch_add(1, Ordering::Relaxed), known, &acknowledged).await;
                }
            }
        }));
        drop(acknowledged);
        let killer = async {
            for _ in 0..changes {
                heard.recv().await;
            }
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
            heard.close();
            while heard.recv().await.is_some() {}
        };
        tokio::join!(workers, killer);
        site.kill();
        site.power_on().await;
        check(&site, &*known.lock().await, seed).await;
    }
    assert!(known.lock().await.len() > 20, "many machines were changed");
}

#[tokio::test]
async fn p36_time_in_which_nobody_listened_does_not_count_against_a_deadline() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job: JobId = site.order("n1", "deploy").await.parse().expect("an identifier");
    site.post("/v1/nodes/n1/power", &json!({"observed": "on"})).await;
    site.kill();
    let deadline = |data: &std::path::Path| {
        let store = Store::open(data).expect("opened");
        store.job(&job).expect("read").expect("there").deadline.expect("a deadline")
    };
    let before = deadline(&site.data());
    site.power_on().await;
    site.kill();
    assert!(deadline(&site.data()) > before, "renewed at the start");
}

#[tokio::test]
async fn p31_a_second_server_on_the_same_data_is_refused() {
    let site = Site::start().await;
    let second = site.second_server();
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("another server uses data_dir"), "{words}");
}
