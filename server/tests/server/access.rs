//! Who may do what, and with whose nodes.

use crate::api::routes;
use crate::site::{Answer, LIMIT, PROGRAM, Site, mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Instant;

impl Site {
    /// A token that the administrator made.
    async fn token_of(&self, name: &str, role: &str, team: Option<&str>) -> String {
        let made = self.post("/v1/tokens", &json!({"name": name, "role": role, "team": team})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        made.json["token"].as_str().expect("a secret").to_owned()
    }

    async fn as_(&self, token: &str, method: Method, path: &str, body: &Value) -> Answer {
        self.ask(method, path, Some(token), Some(body)).await.expect("answered")
    }

    async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.as_(&self.token, Method::PATCH, path, body).await
    }

    fn ks(&self, token: &str, args: &[&str]) -> Output {
        let file = self.data().join("token-of-somebody");
        std::fs::write(&file, token).expect("written");
        let mut ks = Command::new(PROGRAM);
        ks.args(args).env("KS_SERVER", &self.tls_base).env("KS_TOKEN_FILE", file).output().expect("run")
    }
}

/// Somebody with a token.
struct Who {
    role: &'static str,
    team: Option<&'static str>,
    token: String,
}

/// What an answer shall be.
#[derive(Debug, PartialEq, Eq)]
enum Shall {
    BeForbidden,
    BeNoSuchThing,
    Pass,
}

/// The reference: who may do what with whose nodes, told a second time.
fn reference(role: &str, team: Option<&str>, needs: &str, owner: Option<Option<&str>>) -> Shall {
    let roles: &[&str] = match needs {
        "SeeNodes" => &["viewer", "hands", "member", "operator", "admin"],
        "SeeSite" => &["viewer", "operator", "admin"],
        "Touch" => &["hands", "member", "operator", "admin"],
        "Order" => &["member", "operator", "admin"],
        "Operate" => &["operator", "admin"],
        "Administer" => &["admin"],
        other => panic!("nobody has thought about {other}"),
    };
    if !roles.contains(&role) || (needs == "SeeSite" && team.is_some()) {
        return Shall::BeForbidden;
    }
    match (team, owner) {
        (None, _) | (_, None) => Shall::Pass,
        (Some(mine), Some(owner)) if owner == Some(mine) => Shall::Pass,
        (Some(_), Some(_)) => Shall::BeNoSuchThing,
    }
}

const TEAMS: [Option<&str>; 3] = [None, Some("checkout"), Some("payments")];

#[tokio::test]
async fn p23_p24_every_route_answers_every_role_and_team_as_the_reference_says() {
    let site = Site::start().await;
    let mut everybody = Vec::new();
    for (role, team) in [
        ("viewer", None),
        ("viewer", Some("payments")),
        ("hands", None),
        ("member", Some("checkout")),
        ("member", Some("payments")),
        ("operator", None),
        ("admin", None),
    ] {
        let token = site.token_of(&format!("{role}-{}", team.unwrap_or("all")), role, team).await;
        everybody.push(Who { role, team, token });
    }
    // Owners in no order; each has a job from before and one from after it was given away.
    let mut nodes = Vec::new();
    for n in 0..9_u32 {
        let (name, owner) = (format!("n{n}"), TEAMS[(n * 7 + n / 3) as usize % 3]);
        site.declare(&name, mac(n)).await;
        let before = site.order(&name, "deploy").await;
        site.post(&format!("/v1/jobs/{before}/cancel"), &json!({})).await;
        let given = site.patch(&format!("/v1/nodes/{name}"), &json!({ "team": owner })).await;
        assert_eq!((given.status, given.json["team"].as_str()), (StatusCode::OK, owner), "{given:?}");
        let job = site.order(&name, "deploy").await;
        nodes.push((name, owner, before, job));
    }
    let mut asked = 0;
    for route in routes() {
        let Some(needs) = &route.needs else { continue };
        // Of a kind that changes nothing where it is let in.
        let path =
            route.path.replace("{move}", "explode").replace("{layout}", "x").replace("{server}", "kea");
        let path = path.replace("{name}", "nobody");
        let about_nodes = path.contains("{node}") || path.contains("{job}");
        let streams = path.ends_with("/events");
        for Who { role, team, token } in &everybody {
            for (node, owner, before, job) in &nodes {
                let ours = path.replace("{node}", node).replace("{job}", job);
                let answer = ask(&site, token, &route.method, &ours).await;
                let owner = about_nodes.then_some(*owner);
                let shall = reference(role, *team, needs, owner);
                let told = format!("{} {ours} of {owner:?} as {role} of {team:?}: {answer:?}", route.method);
                match shall {
                    Shall::BeForbidden => answer.problem(StatusCode::FORBIDDEN, "forbidden"),
                    // As if it were not there: not a byte tells it from one that is not.
                    Shall::BeNoSuchThing => {
                        let other = "job_00000000000000000000000000";
                        let nothing = path.replace("{node}", "nothing").replace("{job}", other);
                        let nothing = ask(&site, token, &route.method, &nothing).await;
                        let text = nothing.text.replace("nothing", node).replace(other, job);
                        assert_eq!((answer.status, &answer.text), (nothing.status, &text), "{told}");
                        answer.problem(StatusCode::NOT_FOUND, "not-found");
                    }
                    Shall::Pass if streams => assert_eq!(answer.status, StatusCode::OK, "{told}"),
                    Shall::Pass => {
                        assert!(!matches!(answer.status.as_u16(), 401 | 403 | 500..), "{told}");
                        let missing = answer.status == StatusCode::NOT_FOUND;
                        let thing =
                            ["no catalog", "explode", "nobody", "no layout", "no rescue", "recorded", "kea"];
                        assert!(!missing || thing.iter().any(|word| answer.text.contains(word)), "{told}");
                    }
                }
                asked += 1;
                if !about_nodes {
                    break;
                }
                // What it did for somebody else is nobody's business.
                if path.contains("{job}") && team.is_some() && shall == Shall::Pass {
                    let theirs = ask(&site, token, &route.method, &path.replace("{job}", before)).await;
                    theirs.problem(StatusCode::NOT_FOUND, "not-found");
                }
            }
        }
    }
    assert!(asked > 1_000, "only {asked}");

    for Who { role, team, token } in &everybody {
        let list =
            async |path: &str| site.ask(Method::GET, path, Some(token), None::<&()>).await.expect("answered");
        let names = |answer: &Answer, key: &str| -> Vec<String> {
            let rows = answer.json.as_array().expect("a list").iter();
            let mut names: Vec<String> =
                rows.map(|row| row[key].as_str().expect("text").to_owned()).collect();
            names.sort();
            names
        };
        let mine = || nodes.iter().filter(|(_, owner, ..)| team.is_none() || owner == team);
        let expected: Vec<&String> = mine().map(|(name, ..)| name).collect();
        assert_eq!(
            names(&list("/v1/nodes").await, "name").iter().collect::<Vec<_>>(),
            expected,
            "{role} {team:?}"
        );
        let mut jobs: Vec<&String> = mine().map(|(_, _, _, job)| job).collect();
        if team.is_none() {
            jobs.extend(nodes.iter().map(|(_, _, before, _)| before));
        }
        jobs.sort();
        assert_eq!(names(&list("/v1/jobs").await, "id").iter().collect::<Vec<_>>(), jobs, "{role} {team:?}");
        for query in ["team=payments", "team=checkout", "state=expected", "state=allocated", "label=x"] {
            let found = names(&list(&format!("/v1/nodes?{query}")).await, "name");
            assert!(found.iter().all(|name| expected.contains(&name)), "{role} {team:?} {query}: {found:?}");
        }
    }
}

/// Asks with a body that no route takes for good.
async fn ask(site: &Site, token: &str, method: &Method, path: &str) -> Answer {
    if path.ends_with("/events") {
        let request = site.http.get(format!("{}{path}", site.base)).bearer_auth(token);
        let response = request.send().await.expect("answered");
        if response.status() == StatusCode::OK {
            return Answer {
                status: StatusCode::OK,
                headers: response.headers().clone(),
                text: String::new(),
                json: Value::Null,
            };
        }
    }
    site.as_(token, method.clone(), path, &json!({"no such field": 1})).await
}

#[tokio::test]
async fn p23_events_of_other_teams_are_not_told_and_a_revoked_token_is_told_nothing() {
    let site = Site::start().await;
    let token = site.token_of("portal", "member", Some("payments")).await;
    for (name, n, team) in [("mine", 1, json!("payments")), ("theirs", 2, json!("checkout"))] {
        site.declare(name, mac(n)).await;
        site.patch(&format!("/v1/nodes/{name}"), &json!({ "team": team })).await;
        site.order(name, "deploy").await;
    }
    let mut stream = site.events_as(&token, "/v1/events?after=0", None).await;
    // What was before it was theirs is not told either.
    for expected in ["node.edited", "job.queued", "node.allocated"] {
        let (_, kind, event) = stream.next().await;
        assert_eq!((kind.as_str(), event["data"]["node"].as_str()), (expected, Some("mine")), "{event}");
    }
    let revoked = site.ask(Method::DELETE, "/v1/tokens/portal", Some(&site.token), None::<&()>).await;
    assert_eq!(revoked.expect("answered").status, StatusCode::NO_CONTENT);
    site.as_(&token, Method::GET, "/v1/nodes", &json!({}))
        .await
        .problem(StatusCode::UNAUTHORIZED, "unauthorized");
    // Something goes on happening until the stream is looked at again.
    let begun = Instant::now();
    for n in 0.. {
        site.patch("/v1/nodes/mine", &json!({"labels": {"n": n.to_string()}})).await;
        if stream.is_over().await {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "it goes on");
    }
}

#[tokio::test]
async fn p24_tokens_are_made_by_admins_end_and_are_never_shown_again() {
    let site = Site::start().await;
    let operator = site.token_of("oncall", "operator", None).await;
    let member = json!({"name": "x", "role": "admin"});
    site.as_(&operator, Method::POST, "/v1/tokens", &member)
        .await
        .problem(StatusCode::FORBIDDEN, "forbidden");
    for refused in [
        json!({"name": "x", "role": "member"}),
        json!({"name": "x", "role": "operator", "team": "a"}),
        json!({"name": "administrator", "role": "viewer"}),
        json!({"name": "a b", "role": "viewer"}),
        json!({"name": "x", "role": "root"}),
        json!({"name": "x", "role": "viewer", "by": "somebody"}),
    ] {
        site.post("/v1/tokens", &refused).await.problem(StatusCode::BAD_REQUEST, "bad-request");
    }
    let again = json!({"name": "oncall", "role": "viewer"});
    site.post("/v1/tokens", &again).await.problem(StatusCode::CONFLICT, "refused");
    let listed = site.get("/v1/tokens").await;
    assert_eq!(listed.json[0]["name"], "oncall");
    assert_eq!(listed.json[0]["by"], "administrator");
    assert!(!listed.text.contains(&operator) && !listed.text.contains("kst_"), "{listed:?}");
    assert!(!site.log().contains(&operator), "p22: the secret is not logged");
    let stored = std::fs::read(site.data().join("kaltstart.db-wal")).unwrap_or_default();
    let stored = [stored, std::fs::read(site.data().join("kaltstart.db")).expect("read")].concat();
    assert!(!stored.windows(operator.len()).any(|bytes| bytes == operator.as_bytes()), "p22: nor stored");

    site.declare("db-07", mac(1)).await;
    let order = json!({"kind": "deploy", "profile": "good"});
    let ordered = site.as_(&operator, Method::POST, "/v1/nodes/db-07/jobs", &order).await;
    assert_eq!(ordered.json["approver"], "oncall", "{ordered:?}");
    let rotate = site.as_(&operator, Method::POST, "/v1/grant-key/rotate", &json!({})).await;
    rotate.problem(StatusCode::FORBIDDEN, "forbidden");
    assert!(rotate.text.contains("admin") && rotate.text.contains("operator"), "{rotate:?}");

    let who = site.ks(&operator, &["whoami"]);
    assert!(String::from_utf8_lossy(&who.stdout).contains("operator"), "{who:?}");
    let refused = site.ks(&operator, &["token", "list"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let made = site.ks(&site.token, &["token", "create", "portal", "--role", "member", "--team", "payments"]);
    let portal = String::from_utf8(made.stdout).expect("text");
    let nodes = site.ks(portal.trim(), &["node", "list", "-o", "name"]);
    assert_eq!((nodes.status.code(), nodes.stdout.as_slice()), (Some(0), &b""[..]), "{nodes:?}");
    assert!(site.ks(&site.token, &["token", "revoke", "portal"]).status.success());
    let refused = site.ks(portal.trim(), &["node", "list"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    for no_token in ["", "kst_1 kst_2", "kst_1\nkept well\n", "kst_\u{e4}"] {
        let refused = site.ks(no_token, &["node", "list"]);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("alone on its line"), "{refused:?}");
    }
}

#[tokio::test]
async fn p23_members_order_on_their_nodes_alone_and_rescue_none() {
    let site = Site::start().await;
    let member = site.token_of("portal", "member", Some("payments")).await;
    site.declare("mine", mac(1)).await;
    site.patch("/v1/nodes/mine", &json!({"team": "payments"})).await;
    let order = json!({"kind": "deploy", "profile": "good"});
    let ordered = site.as_(&member, Method::POST, "/v1/nodes/mine/jobs", &order).await;
    assert_eq!(ordered.status, StatusCode::ACCEPTED, "{ordered:?}");
    assert_eq!(ordered.json["approver"], "portal");
    let job = ordered.json["id"].as_str().expect("text").to_owned();
    let cancelled = site.as_(&member, Method::POST, &format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(cancelled.json["state"], "cancelled", "{cancelled:?}");
    for kind in ["rescue", "burn_in"] {
        let refused = site.as_(&member, Method::POST, "/v1/nodes/mine/jobs", &json!({ "kind": kind })).await;
        refused.problem(StatusCode::FORBIDDEN, "forbidden");
    }
    let away = json!({"team": "checkout"});
    site.as_(&member, Method::PATCH, "/v1/nodes/mine", &away)
        .await
        .problem(StatusCode::FORBIDDEN, "forbidden");
}

#[tokio::test]
async fn p06_a_locked_node_refuses_through_every_door_and_says_who_locked_it() {
    let site = Site::start().await;
    let member = site.token_of("portal", "member", Some("payments")).await;
    site.declare("db-07", mac(1)).await;
    site.patch("/v1/nodes/db-07", &json!({"team": "payments"})).await;
    let lock = json!({"reason": "forensics"});
    let job = site.order("db-07", "deploy").await;
    site.post("/v1/nodes/db-07/lock", &lock).await.problem(StatusCode::CONFLICT, "refused");
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    site.post("/v1/nodes/db-07/lock", &json!({"reason": " "})).await.problem(StatusCode::CONFLICT, "refused");
    let locked = site.post("/v1/nodes/db-07/lock", &lock).await;
    assert_eq!(locked.json["lock"]["by"], "administrator", "{locked:?}");
    assert!(locked.json["headline"].as_str().expect("text").ends_with("locked"), "{locked:?}");
    let before = site.get("/v1/nodes/db-07").await;

    let orders = ["deploy", "rebuild", "release", "rescue", "burn_in"].map(|kind| {
        let profile = matches!(kind, "deploy" | "rebuild").then_some("good");
        ("jobs", json!({"kind": kind, "profile": profile}))
    });
    let moves = ["accept", "reject", "break", "repair", "retire"].map(|word| (word, json!({})));
    let more = [("lock", lock.clone()), ("board", json!({"uuid": "v"}))];
    for (door, body) in orders.into_iter().chain(moves).chain(more) {
        for token in [&site.token, &member] {
            let refused = site.as_(token, Method::POST, &format!("/v1/nodes/db-07/{door}"), &body).await;
            if token == &member && refused.status == StatusCode::FORBIDDEN {
                continue;
            }
            refused.problem(StatusCode::CONFLICT, "locked");
            assert!(
                refused.text.contains("forensics") && refused.text.contains("administrator"),
                "{refused:?}"
            );
        }
    }
    for edit in [json!({"team": "checkout"}), json!({"labels": {"a": "b"}})] {
        site.patch("/v1/nodes/db-07", &edit).await.problem(StatusCode::CONFLICT, "locked");
    }
    let declared = json!({"name": "db-07", "mac": mac(1), "uefi_loader": "signed"});
    site.post("/v1/nodes", &declared).await.problem(StatusCode::CONFLICT, "locked");
    let unlock = site.as_(&member, Method::POST, "/v1/nodes/db-07/unlock", &json!({})).await;
    unlock.problem(StatusCode::CONFLICT, "locked");
    assert_eq!(site.get("/v1/nodes/db-07").await.json, before.json, "nothing has changed");

    let refused = site.ks(&site.token, &["deploy", "db-07", "--profile", "good"]);
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ks node unlock db-07"), "{refused:?}");
    assert!(site.ks(&site.token, &["node", "unlock", "db-07"]).status.success());
    // A team opens what it has locked itself.
    let locked = site.as_(&member, Method::POST, "/v1/nodes/db-07/lock", &lock).await;
    assert_eq!(locked.json["lock"]["by"], "portal", "{locked:?}");
    let open = site.as_(&member, Method::POST, "/v1/nodes/db-07/unlock", &json!({})).await;
    assert_eq!((open.status, &open.json["lock"]), (StatusCode::OK, &Value::Null), "{open:?}");
    site.order("db-07", "deploy").await;
}

#[tokio::test]
async fn what_is_said_of_a_node_is_edited_found_and_not_lost() {
    let site = Site::start().await;
    site.declare("db-07", mac(1)).await;
    site.declare("db-08", mac(2)).await;
    let edit = ["node", "edit", "db-07", "--site", "fra1", "--rack", "A12", "--position", "14"];
    let said = ["--role", "db", "--label", "env=prod", "--label", "spare"];
    let edited = site.ks(&site.token, &[&edit[..], &said[..]].concat());
    assert!(edited.status.success(), "{edited:?}");
    assert!(String::from_utf8_lossy(&edited.stdout).contains("fra1/A12/U14"), "{edited:?}");
    for (query, found) in [
        (vec!["--site", "fra1"], true),
        (vec!["-l", "env=prod,spare"], true),
        (vec!["-l", "env=test"], false),
        (vec!["--rack", "A12", "--role", "web"], false),
        (vec!["--state", "expected", "--role", "db"], true),
    ] {
        let listed = site.ks(&site.token, &[&["node", "list", "-o", "name"], &query[..]].concat());
        let expected = if found { "db-07\n" } else { "" };
        assert_eq!(String::from_utf8_lossy(&listed.stdout), expected, "{query:?}: {listed:?}");
    }
    let seen = site.get("/v1/nodes/db-07").await;
    let tag = seen.headers["etag"].to_str().expect("text").to_owned();
    let patch = async |tag: &str, edit: Value| {
        let request = site.http.patch(format!("{}/v1/nodes/db-07", site.base)).bearer_auth(&site.token);
        request.header("If-Match", tag).json(&edit).send().await.expect("answered").status()
    };
    assert_eq!(patch(&tag, json!({"labels": {"spare": null}})).await, StatusCode::OK);
    assert_eq!(patch(&tag, json!({"rack": "A13"})).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(patch("*", json!({"rack": null})).await, StatusCode::OK);
    let seen = site.get("/v1/nodes/db-07").await.json;
    assert_eq!((seen["rack"].as_str(), &seen["labels"]), (None, &json!({"env": "prod"})), "{seen}");
    for refused in
        [json!({"state": "available"}), json!({"id": "x"}), json!({"team_since": 1}), json!({"lock": null})]
    {
        site.patch("/v1/nodes/db-07", &refused).await.problem(StatusCode::BAD_REQUEST, "bad-request");
    }
    let nothing = site.ks(&site.token, &["node", "edit", "db-07"]);
    assert_eq!(nothing.status.code(), Some(64), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p07_an_order_that_is_sent_again_is_carried_out_once() {
    let site = Arc::new(Site::start().await);
    site.declare("db-07", mac(1)).await;
    site.declare("db-08", mac(2)).await;
    let order = async |site: &Site, token: &str, node: &str, key: &str, body: Value| {
        let request = site.http.post(format!("{}/v1/nodes/{node}/jobs", site.base)).bearer_auth(token);
        let answer = request.header("Idempotency-Key", key).json(&body).send().await.expect("answered");
        let status = answer.status();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let deploy = || json!({"kind": "deploy", "profile": "good"});
    let mut sent = tokio::task::JoinSet::new();
    for n in 0..40 {
        let site = site.clone();
        // With and without quotes it is the same key.
        let key = if n % 2 == 0 { "3f1c" } else { "\"3f1c\"" };
        sent.spawn(async move { order(&site, &site.token, "db-07", key, deploy()).await });
    }
    let answers = sent.join_all().await;
    let first = answers[0].1["id"].clone();
    for (status, job) in &answers {
        assert_eq!((*status, &job["id"]), (StatusCode::ACCEPTED, &first), "{job}");
    }
    assert_eq!(site.get("/v1/jobs").await.json.as_array().map(Vec::len), Some(1));

    let other = json!({"kind": "deploy", "profile": "good", "restart": "kexec"});
    let (status, problem) = order(&site, &site.token, "db-07", "3f1c", other).await;
    assert_eq!(
        (status.as_u16(), problem["code"].as_str()),
        (422, Some("idempotency-key-reused")),
        "{problem}"
    );
    let operator = site.token_of("oncall", "operator", None).await;
    let (status, problem) = order(&site, &operator, "db-07", "3f1c", deploy()).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::CONFLICT, Some("refused")),
        "their key: {problem}"
    );

    let path = format!("/v1/jobs/{}/cancel", first.as_str().expect("text"));
    assert_eq!(site.post(&path, &json!({})).await.json["state"], "cancelled");
    site.order("db-07", "deploy").await;
    let (status, job) = order(&site, &site.token, "db-07", "3f1c", deploy()).await;
    assert_eq!(
        (status, &job["id"], &job["state"]),
        (StatusCode::ACCEPTED, &first, &json!("cancelled")),
        "{job}"
    );
    let (status, job) = order(&site, &site.token, "db-08", "3f1c", deploy()).await;
    assert_eq!(status, StatusCode::ACCEPTED, "another node: {job}");
    for key in ["", "\"\"", &"x".repeat(300)] {
        let (status, _) = order(&site, &site.token, "db-08", key, deploy()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key:?}");
    }
}

#[tokio::test]
async fn p09_a_critical_node_is_rebuilt_by_two_people_and_never_by_one() {
    let site = Site::start().await;
    let [one, two] =
        [site.token_of("one", "operator", None).await, site.token_of("two", "operator", None).await];
    site.declare("db-07", mac(1)).await;
    let critical = json!({"labels": {"critical": ""}});
    assert_eq!(site.as_(&one, Method::PATCH, "/v1/nodes/db-07", &critical).await.status, StatusCode::OK);
    let deploy = json!({"kind": "deploy", "profile": "good"});
    let order = async |token: &str| site.as_(token, Method::POST, "/v1/nodes/db-07/jobs", &deploy).await;
    let approve = async |token: &str, body: &Value| {
        site.as_(token, Method::POST, "/v1/nodes/db-07/approval", body).await
    };
    let alone = order(&one).await;
    alone.problem(StatusCode::CONFLICT, "refused");
    assert!(alone.text.contains("ks approve"), "{alone:?}");
    // Who has to ask somebody does not edit that away.
    let away = json!({"labels": {"critical": null}});
    site.as_(&one, Method::PATCH, "/v1/nodes/db-07", &away).await.problem(StatusCode::FORBIDDEN, "forbidden");
    // Nor frees the hardware for another node.
    let retired = site.as_(&one, Method::POST, "/v1/nodes/db-07/retire", &json!({})).await;
    retired.problem(StatusCode::FORBIDDEN, "forbidden");

    assert_eq!(approve(&one, &deploy).await.json["approval"]["by"], "one");
    order(&one).await.problem(StatusCode::CONFLICT, "refused");
    approve(&one, &json!({"kind": "deploy", "profile": "other"})).await;
    order(&two).await.problem(StatusCode::CONFLICT, "refused");
    let confirmed = ["approve", "db-07", "--kind", "deploy", "--profile", "good", "--confirm", "db-07"];
    let approved = site.ks(&one, &confirmed);
    assert!(approved.status.success(), "{approved:?}");
    assert_eq!(site.ks(&one, &[&confirmed[..7], &["db-08"]].concat()).status.code(), Some(64));
    let ordered = order(&two).await;
    assert_eq!(ordered.status, StatusCode::ACCEPTED, "{ordered:?}");
    assert_eq!((&ordered.json["approver"], &ordered.json["approved_by"]), (&json!("two"), &json!("one")));
    let job = ordered.json["id"].as_str().expect("text").to_owned();
    let shown = site.ks(&one, &["job", "show", &job]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("approved by two and one"), "{shown:?}");
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    order(&two).await.problem(StatusCode::CONFLICT, "refused");
}
