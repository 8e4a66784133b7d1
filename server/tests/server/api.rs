use crate::site::{DISCOVERY, IMAGE, LIMIT, Site, mac};
use kaltstart_protocol::ids::Digest;
use nix::sys::signal::{Signal, kill};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::Instant;

/// Routes that need no administrator's token: firmware, agents and monitors have none.
const OPEN: [&str; 18] = [
    "/boot/{mac}/script.ipxe",
    "/boot/{mac}/vmlinuz",
    "/boot/{mac}/ramdisk",
    "/boot/files/{name}",
    "/images/{digest}",
    "/agent/v1/hello",
    "/agent/v1/task",
    "/agent/v1/report",
    "/agent/v1/installed",
    "/agent/v1/log",
    "/agent/v1/shell/input",
    "/agent/v1/shell/output",
    "/agent/v1/rescued",
    "/node/v1/report",
    "/node/v1/recall",
    "/node/v1/unlock",
    "/healthz",
    "/metrics",
];

/// A route, as it stands on the page of all routes.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// The permission that it needs; none of those that people do not use.
    pub(crate) needs: Option<String>,
}

/// Every route of the server.
pub(crate) fn routes() -> Vec<Route> {
    let mut all = Vec::new();
    for line in include_str!("../../src/http/mod.rs").lines() {
        let Some((made, rest)) = line.trim().strip_prefix('.').and_then(|line| line.split_once("(\"/"))
        else {
            continue;
        };
        let (path, to) = rest.split_once("\", ").expect("a path and what it leads to");
        let (word, needs) = match made {
            "route" => (to.split_once('(').expect("a method").0, None),
            word => (word, Some(to.split_once(',').expect("a permission").0.to_owned())),
        };
        let known = [
            ("get", Method::GET),
            ("post", Method::POST),
            ("patch", Method::PATCH),
            ("delete", Method::DELETE),
        ];
        let (_, method) = known.into_iter().find(|(known, _)| *known == word).expect(line);
        all.push(Route { method, path: format!("/{path}"), needs });
    }
    all
}

#[tokio::test]
async fn p24_every_route_but_the_open_ones_refuses_without_the_right_token() {
    let site = Site::start().await;
    let routes = routes();
    assert!(routes.len() >= OPEN.len() + 13, "{routes:?}");
    for Route { method, path, needs } in routes.iter().filter(|route| !OPEN.contains(&route.path.as_str())) {
        let path = path.replace("{node}", "n1").replace("{job}", "job_1").replace("{move}", "retire");
        assert_eq!(needs.is_some(), path.starts_with("/v1/"), "{path}");
        let short = &site.token[..site.token.len() - 1];
        for bearer in [None, Some("kst_wrong"), Some(""), Some(short)] {
            let body = json!({"name": "n1", "mac": "52:54:00:00:00:01"});
            let answer = site.ask(method.clone(), &path, bearer, Some(&body)).await.expect("answered");
            answer.problem(StatusCode::UNAUTHORIZED, "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    assert_eq!(site.get("/v1/nodes").await.text, "[]", "nothing was changed");
    assert!(!site.log().contains(&site.token), "p22: the token is not logged");
}

#[tokio::test]
async fn p18_agent_routes_know_no_agent_without_a_session() {
    let site = Site::start().await;
    for path in ["task", "report", "installed", "log", "shell/input", "shell/output", "rescued"] {
        for bearer in [None, Some("kst_wrong"), Some(site.token.as_str())] {
            let answer = site
                .ask(Method::POST, &format!("/agent/v1/{path}"), bearer, Some(&json!({})))
                .await
                .expect("answered");
            answer.problem(StatusCode::UNAUTHORIZED, "unauthorized");
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_is_a_problem_that_tells_why() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job = site.order("n1", "deploy").await;
    let bad = (StatusCode::BAD_REQUEST, "bad-request");
    for (path, status, code) in [
        ("/v1/nodes?state=gone".to_owned(), bad.0, bad.1),
        (format!("/v1/jobs/{job}?wait=soon"), bad.0, bad.1),
        (format!("/v1/jobs/{job}/log?after=x"), bad.0, bad.1),
        ("/v1/events?after=x".to_owned(), bad.0, bad.1),
        ("/v1/nodes/%ff".to_owned(), bad.0, bad.1),
        ("/boot/nobody/script.ipxe".to_owned(), bad.0, bad.1),
        ("/images/sha256:1".to_owned(), bad.0, bad.1),
        (format!("/images/{}", Digest::of(b"other")), StatusCode::NOT_FOUND, "not-found"),
        ("/boot/files/..%2fserver.toml".to_owned(), StatusCode::NOT_FOUND, "not-found"),
        ("/v1/nodes/n2".to_owned(), StatusCode::NOT_FOUND, "not-found"),
        ("/v1/jobs/job_1".to_owned(), StatusCode::NOT_FOUND, "not-found"),
        ("/nothing".to_owned(), StatusCode::NOT_FOUND, "not-found"),
    ] {
        site.get(&path).await.problem(status, code);
    }
    for body in [json!({"name": "N 1", "mac": "52:54:00:00:00:02"}), json!({"name": "n2"}), json!([])] {
        site.post("/v1/nodes", &body).await.problem(bad.0, bad.1);
    }
    for order in [
        json!({"kind": "deploy", "profile": "good", "owner": "me"}),
        json!({"kind": "deploy"}),
        json!({"kind": "release", "profile": "good"}),
    ] {
        site.post("/v1/nodes/n1/jobs", &order).await.problem(bad.0, bad.1);
    }
    for path in ["/agent/v1/hello", "/node/v1/report"] {
        site.post(path, &json!({"token": 1})).await.problem(bad.0, bad.1);
        let huge = json!({"token": "x".repeat(2 << 20)});
        site.post(path, &huge).await.problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large");
        let answer = site.ask(Method::POST, path, None, None::<&()>).await.expect("answered");
        answer.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json");
    }
    let answer =
        site.ask(Method::DELETE, "/v1/nodes", Some(&site.token), None::<&()>).await.expect("answered");
    answer.problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed");
    assert!(answer.headers["allow"].to_str().expect("text").contains("POST"), "{answer:?}");
}

#[tokio::test]
async fn a_node_is_declared_ordered_cancelled_and_moved() {
    let site = Site::start().await;
    let made = site.declare("n1", mac(1)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!(site.get(made.headers["location"].to_str().expect("text")).await.json["name"], "n1");
    assert_eq!(site.declare("n1", mac(1)).await.json["id"], made.json["id"], "a repeated answer");
    site.declare("n1", mac(2)).await.problem(StatusCode::CONFLICT, "refused");

    let hollow = json!({"kind": "deploy", "profile": "hollow"});
    site.post("/v1/nodes/n1/jobs", &hollow).await.problem(StatusCode::CONFLICT, "image-unusable");
    let unknown = json!({"kind": "deploy", "profile": "x"});
    site.post("/v1/nodes/n1/jobs", &unknown).await.problem(StatusCode::NOT_FOUND, "not-found");
    let rebuild = json!({"kind": "rebuild", "profile": "good"});
    site.post("/v1/nodes/n1/jobs", &rebuild).await.problem(StatusCode::CONFLICT, "refused");
    let job = site.order("n1", "deploy").await;
    let again = json!({"kind": "deploy", "profile": "good"});
    site.post("/v1/nodes/n1/jobs", &again).await.problem(StatusCode::CONFLICT, "refused");
    site.post("/v1/nodes/n1/retire", &json!({})).await.problem(StatusCode::CONFLICT, "refused");
    site.declare("n9", mac(1)).await.problem(StatusCode::CONFLICT, "refused");
    site.post("/v1/nodes/n1/explode", &json!({})).await.problem(StatusCode::NOT_FOUND, "not-found");
    for key in [mac(1).to_string(), made.json["id"].as_str().expect("text").to_owned()] {
        assert_eq!(site.get(&format!("/v1/nodes/{key}")).await.json["job"], job.as_str());
    }

    let powered = site.post("/v1/nodes/n1/power", &json!({"observed": "on"})).await;
    assert_eq!(powered.json["headline"], "deploying · firmware", "{powered:?}");
    let cancelled = site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(cancelled.json["state"], "cancelled", "{cancelled:?}");
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.problem(StatusCode::CONFLICT, "refused");
    assert_eq!(site.get("/v1/nodes/n1").await.json["state"], "expected", "nobody touched it");
    let release = json!({"kind": "release"});
    site.post("/v1/nodes/n1/jobs", &release).await.problem(StatusCode::CONFLICT, "refused");
    for (wanted, state) in [("break", "broken"), ("repair", "discovered")] {
        let moved = site.post(&format!("/v1/nodes/n1/{wanted}"), &json!({})).await;
        assert_eq!(moved.json["state"], state, "{moved:?}");
    }
    assert_eq!(site.get("/v1/nodes?state=discovered").await.json[0]["name"], "n1");
    assert_eq!(site.get("/v1/nodes?state=deployed").await.text, "[]");

    // What has retired gives its name and hardware free, and stays for the record.
    let retired = site.post("/v1/nodes/n1/retire", &json!({})).await;
    assert_eq!(retired.json["state"], "retired", "{retired:?}");
    let heir = site.declare("n1", mac(1)).await;
    assert_eq!(heir.json["state"], "expected", "{heir:?}");
    assert_ne!(heir.json["id"], made.json["id"]);
    let id = made.json["id"].as_str().expect("text");
    assert_eq!(site.get(&format!("/v1/nodes/{id}")).await.json["state"], "retired");
}

#[tokio::test]
async fn a_held_back_answer_comes_when_the_job_ends() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job = site.order("n1", "deploy").await;
    let began = Instant::now();
    let answer = site.get(&format!("/v1/jobs/{job}?wait=1s")).await;
    assert_eq!(answer.json["state"], "queued");
    assert!(began.elapsed().as_millis() >= 900, "it was held back");
    let (waiting, cancelling) = (format!("/v1/jobs/{job}?wait=60s"), format!("/v1/jobs/{job}/cancel"));
    let nothing = json!({});
    let began = Instant::now();
    let (waited, _) = tokio::join!(site.get(&waiting), site.post(&cancelling, &nothing));
    assert_eq!(waited.json["state"], "cancelled");
    assert!(began.elapsed() < LIMIT);
}

#[tokio::test]
async fn events_come_in_order_and_resume_without_gap_or_repetition() {
    let mut site = Site::start().await;
    let mut live = site.events("/v1/events", None).await;
    for n in 1..=3 {
        site.declare(&format!("n{n}"), mac(n)).await;
    }
    let job = site.order("n1", "deploy").await;
    site.post("/v1/nodes/n1/power", &json!({"observed": "on"})).await;
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, kind, _)| kind != "job.cancelled") {
        seen.push(live.next().await);
    }
    let kinds: Vec<&str> = seen.iter().map(|(_, kind, _)| kind.as_str()).collect();
    let expected = ["node.expected", "node.expected", "node.expected", "job.queued", "node.allocated"];
    assert_eq!(kinds[..5], expected);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "ascending: {seen:?}");
    for (id, _, data) in &seen {
        assert_eq!((&data["id"], &data["specversion"]), (&json!(id.to_string()), &json!("1.0")));
    }

    site.kill();
    site.power_on().await;
    for cut in 0..seen.len() {
        let last = if cut == 0 { 0 } else { seen[cut - 1].0 };
        let mut resumed = site.events("/v1/events", Some(last)).await;
        for event in &seen[cut..] {
            assert_eq!(&resumed.next().await, event, "after number {last}");
        }
    }
    let of_job: Vec<_> = seen.iter().filter(|(_, _, data)| data["subject"] == job.as_str()).collect();
    let mut stream = site.events(&format!("/v1/jobs/{job}/events"), None).await;
    for event in of_job {
        assert_eq!(&stream.next().await, event);
    }
}

#[tokio::test]
async fn boot_files_and_images_know_head_and_range() {
    let site = Site::start().await;
    let image = format!("/images/{}", Digest::of(IMAGE));
    let ramdisk = format!("/boot/{}/ramdisk", mac(1));
    site.declare("n1", mac(1)).await;
    for (path, bytes) in
        [(image.as_str(), IMAGE), (&ramdisk, DISCOVERY), ("/boot/files/snponly.efi", b"loader")]
    {
        let head = site.ask(Method::HEAD, path, None, None::<&()>).await.expect("answered");
        assert_eq!(head.headers["content-length"], bytes.len().to_string(), "{head:?}");
        assert_eq!(head.text, "");
        assert_eq!(site.get(path).await.text.as_bytes(), bytes);
        let part = site.http.get(format!("{}{path}", site.base)).header("range", "bytes=2-4");
        let part = part.send().await.expect("answered");
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.bytes().await.expect("read"), &bytes[2..5]);
    }
}

#[tokio::test]
async fn health_and_metrics_are_open_and_a_stop_is_clean() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let health = site.ask(Method::GET, "/healthz", None, None::<&()>).await.expect("answered");
    assert_eq!((&health.json["status"], &health.json["nodes"]), (&json!("ok"), &json!(1)));
    let job = site.order("n1", "deploy").await;
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    let metrics = site.ask(Method::GET, "/metrics", None, None::<&()>).await.expect("answered");
    assert!(metrics.text.contains("\nkaltstart_dhcp_lease_store_ok 1\n"), "{}", metrics.text);
    assert!(
        metrics.text.contains("kaltstart_jobs_total{kind=\"deploy\",outcome=\"cancelled\"} 1"),
        "{metrics:?}"
    );
    assert!(metrics.text.ends_with("# EOF\n") && !metrics.text.contains("n1"), "{metrics:?}");
    assert_eq!(site.stop().code(), Some(0), "{}", site.log());
}

#[tokio::test]
async fn a_hangup_is_answered_in_the_log_and_ends_nothing() {
    let mut site = Site::start().await;
    kill(site.pid(), Signal::SIGHUP).expect("told");
    let began = Instant::now();
    while !site.log().contains("restart the server") {
        assert!(began.elapsed() < LIMIT, "{}", site.log());
        assert_eq!(site.get("/v1/nodes").await.status, StatusCode::OK);
    }
    assert!(site.stop().success(), "{}", site.log());
}

#[tokio::test]
async fn of_a_nodes_jobs_the_newest_fifty_are_kept() {
    let site = Site::start().await;
    for n in 1..=2 {
        site.declare(&format!("n{n}"), mac(n)).await;
    }
    let other = site.order("n2", "deploy").await;
    let mut jobs = Vec::new();
    for _ in 0..52 {
        let job = site.order("n1", "deploy").await;
        site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
        jobs.push(job);
    }
    for (index, job) in jobs.iter().enumerate() {
        let kept = if index < 2 { StatusCode::NOT_FOUND } else { StatusCode::OK };
        assert_eq!(site.get(&format!("/v1/jobs/{job}")).await.status, kept, "job {index}");
    }
    assert_eq!(site.get(&format!("/v1/jobs/{other}")).await.json["state"], "queued");
}
