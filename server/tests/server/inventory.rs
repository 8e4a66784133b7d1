//! Nodes for other programs, as those programs read them: Ansible, Prometheus, Puppet, and a table.

use crate::client::{NOT_FOUND, done, refused};
use crate::recall::deployed;
use crate::site::{LIMIT, PROGRAM, Site, free_tcp_port, mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

/// A network for reserved addresses, which the server does not serve.
const NETWORK: &str =
    "[[dhcp]]\ninterface = \"lo\"\nsubnet = \"127.0.0.0/8\"\naddress = \"127.0.0.1\"\nmode = \"off\"\n";

impl Site {
    /// Says that of a node.
    async fn say(&self, node: &str, about: &Value) {
        let path = format!("/v1/nodes/{node}");
        let said = self.ask(Method::PATCH, &path, Some(&self.token), Some(about)).await.expect("answered");
        assert_eq!(said.status, StatusCode::OK, "{said:?}");
    }

    /// A token of a viewer, of that team or of all, in a file.
    async fn viewer(&self, name: &str, team: Option<&str>) -> (String, PathBuf) {
        let made = self.post("/v1/tokens", &json!({"name": name, "role": "viewer", "team": team})).await;
        let token = made.json["token"].as_str().expect("a secret").to_owned();
        let file = self.dir.path().join(format!("{name}.token"));
        fs::write(&file, &token).expect("written");
        (token, file)
    }

    /// A script of two lines, as people write it.
    fn script(&self, name: &str, line: &str, token: &Path) -> PathBuf {
        let file = self.dir.path().join(name);
        let ks = format!("KS_SERVER={} KS_TOKEN_FILE={} exec {PROGRAM}", self.base, token.display());
        fs::write(&file, format!("#!/bin/sh\n{ks} {line}\n")).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("made executable");
        file
    }
}

/// Declares a node with an address of its own.
async fn reserve(site: &Site, n: u32, name: &str) {
    let body = json!({"name": name, "mac": mac(n), "address": format!("127.0.1.{n}")});
    assert_eq!(site.post("/v1/nodes", &body).await.status, StatusCode::CREATED);
}

/// Runs a program of others to its end.
fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask packages` installs it"))
}

fn ansible(site: &Site, words: &[&str]) -> Value {
    let home = site.dir.path().join("ansible");
    let mut command = Command::new("ansible-inventory");
    command.args(words).env("HOME", &home).env("ANSIBLE_LOCAL_TEMP", home.join("tmp"));
    let output = run(&mut command);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert!(!words.contains("WARNING"), "{words}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn hosts(group: &Value) -> Vec<&str> {
    group["hosts"].as_array().map_or_else(Vec::new, |hosts| hosts.iter().filter_map(Value::as_str).collect())
}

#[tokio::test]
async fn p23_ansible_reads_the_inventory_and_of_a_team_its_nodes_alone() {
    let site = Site::start_on(NETWORK).await;
    for (n, name, about) in [
        (
            1,
            "web-1",
            json!({"team": "payments", "site": "fra-1", "role": "web", "labels": {"env": "prod", "spare": ""}}),
        ),
        (2, "web-2", json!({"team": "checkout", "site": "fra.1", "rack": "A12"})),
        (3, "gone", json!({"team": "payments"})),
    ] {
        reserve(&site, n, name).await;
        site.say(name, &about).await;
    }
    site.post("/v1/nodes/gone/retire", &json!({})).await;
    let reason = json!({"reason": "{{ lookup('pipe', 'touch /tmp/no') }}"});
    site.post("/v1/nodes/web-1/lock", &reason).await;

    let (_, all) = site.viewer("ansible", None).await;
    let script = site.script("inventory", "inventory ansible \"$@\"", &all).display().to_string();
    let found = ansible(&site, &["-i", &script, "--list"]);
    for (group, expected) in [
        ("site_fra_x2d_1", vec!["web-1"]),
        ("site_fra_x2e_1", vec!["web-2"]),
        ("label_env_prod", vec!["web-1"]),
        ("label_spare", vec!["web-1"]),
        ("team_checkout", vec!["web-2"]),
        ("rack_A12", vec!["web-2"]),
        ("role_web", vec!["web-1"]),
        ("state_expected", vec!["web-1", "web-2"]),
    ] {
        assert_eq!(hosts(&found[group]), expected, "{group}: {found}");
    }
    let web = &found["_meta"]["hostvars"]["web-1"];
    assert_eq!(
        (&web["ansible_host"], &web["kaltstart_locked"]),
        (&json!("127.0.1.1"), &json!(true)),
        "{web}"
    );
    assert!(!found.to_string().contains("gone") && !found.to_string().contains("lookup"), "{found}");
    assert_eq!(&ansible(&site, &["-i", &script, "--host", "web-1"]), web);

    let part = done(&site, "inventory ansible --list -l env=prod").await.out;
    let part: Value = serde_json::from_str(&part).expect("JSON");
    assert_eq!(part["_meta"]["hostvars"].as_object().expect("hosts").len(), 1, "{part}");
    assert_eq!(hosts(&part["site_fra_x2d_1"]), ["web-1"], "as in the whole");
    let host: Value =
        serde_json::from_str(&done(&site, "inventory ansible --host web-2").await.out).expect("JSON");
    assert_eq!(host["kaltstart_site"], "fra.1");
    refused(&site, "inventory ansible --host gone", NOT_FOUND).await;

    let (_, mine) = site.viewer("of-payments", Some("payments")).await;
    let script = site.script("mine", "inventory ansible \"$@\"", &mine).display().to_string();
    let found = ansible(&site, &["-i", &script, "--list"]);
    assert!(!found.to_string().contains("web-2") && !found.to_string().contains("checkout"), "{found}");
    assert_eq!(hosts(&found["site_fra_1"]), ["web-1"], "nor does a name tell that others are there");
}

/// A program that runs until the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn p23_prometheus_discovers_deployed_nodes_and_of_a_team_its_own_alone() {
    let site = Site::start_on(NETWORK).await;
    reserve(&site, 3, "idle").await;
    let (token, file) = site.viewer("prometheus", Some("payments")).await;
    let targets = async |token: &str, query: &str| {
        site.ask(Method::GET, &format!("/v1/sd/prometheus{query}"), Some(token), None::<&()>)
            .await
            .expect("answered")
    };
    let none = targets(&token, "").await;
    assert_eq!((none.status, none.text.as_str()), (StatusCode::OK, "[]"));
    assert_eq!(none.headers["content-type"], "application/json");
    for (n, name, team) in [(1, "web-1", "payments"), (2, "web-2", "checkout")] {
        deployed(&site, name, n).await;
        reserve(&site, n, name).await;
        site.say(name, &json!({"team": team, "site": "fra1", "labels": {"env": "prod"}})).await;
    }
    let count = async |query: &str| {
        let answer = targets(&site.token, query).await;
        answer.json.as_array().unwrap_or_else(|| panic!("{answer:?}")).len()
    };
    assert_eq!(
        [count("").await, count("?label=env=test").await, count("?team=checkout&port=9").await],
        [2, 0, 1]
    );
    for query in ["?port=0", "?port=x", "?port=65536", "?lable=env", "?label=a%20b"] {
        targets(&token, query).await.problem(StatusCode::BAD_REQUEST, "bad-request");
    }
    let printed: Value =
        serde_json::from_str(&done(&site, "inventory prometheus --port 9273").await.out).expect("JSON");
    assert_eq!(printed[0]["targets"], json!(["127.0.1.1:9273"]));

    let port = free_tcp_port();
    let config = format!(
        "scrape_configs:\n- job_name: nodes\n  http_sd_configs:\n  - url: {}/v1/sd/prometheus?port=9101\n    \
         authorization: {{type: Bearer, credentials_file: {}}}\n  relabel_configs:\n  - regex: __meta_kaltstart_(.+)\n    \
         action: labelmap\n",
        site.base,
        file.display()
    );
    let path = site.dir.path().join("prometheus.yml");
    fs::write(&path, config).expect("written");
    let log = site.dir.path().join("prometheus.log");
    let mut prometheus = Command::new("prometheus");
    prometheus
        .arg(format!("--config.file={}", path.display()))
        .arg(format!("--storage.tsdb.path={}", site.dir.path().join("prometheus").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("made"));
    let _running = Running(prometheus.spawn().expect("prometheus is installed"));
    let (url, began) = (format!("http://127.0.0.1:{port}/api/v1/targets"), Instant::now());
    let target = loop {
        let answer = match site.http.get(&url).send().await {
            Ok(answer) => answer.json::<Value>().await.unwrap_or_default(),
            Err(_) => Value::Null,
        };
        match answer["data"]["activeTargets"].as_array().map(Vec::as_slice) {
            Some([target]) => break target.clone(),
            Some([_, _, ..]) => panic!("more than its own: {answer}"),
            _ => assert!(
                began.elapsed() < LIMIT,
                "no target: {answer}\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            ),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(target["scrapeUrl"], "http://127.0.1.1:9101/metrics", "{target}");
    for (label, value) in [
        ("name", "web-1"),
        ("state", "deployed"),
        ("team", "payments"),
        ("site", "fra1"),
        ("label_env", "prod"),
    ] {
        assert_eq!(target["labels"][label], value, "{label}: {target}");
    }
}

#[tokio::test]
async fn p23_p28_the_table_is_read_by_others_and_has_no_formulas_and_no_foreign_nodes() {
    let site = Site::start().await;
    for (n, name, team) in [(1, "web-1", "payments"), (2, "web-2", "checkout")] {
        site.declare(name, mac(n)).await;
        site.say(name, &json!({"team": team})).await;
    }
    site.post("/v1/nodes/web-1/lock", &json!({"reason": "=HYPERLINK(\"http://x\",\"y\"),;=1"})).await;
    let (token, _) = site.viewer("lead", Some("payments")).await;
    let table = site.ask(Method::GET, "/v1/export/csv", Some(&token), None::<&()>).await.expect("answered");
    assert_eq!(table.headers["content-type"], "text/csv; charset=utf-8; header=present");
    let read = "import csv, json, sys; print(json.dumps(list(csv.DictReader(sys.stdin, strict=True))))";
    let file = site.dir.path().join("nodes.csv");
    fs::write(&file, &table.text).expect("written");
    let mut python = Command::new("python3");
    let output = run(python.args(["-c", read]).stdin(fs::File::open(&file).expect("there")));
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    assert_eq!((&rows[0]["name"], &rows[0]["team"]), (&json!("web-1"), &json!("payments")));
    assert_eq!(rows[0]["locked"], "administrator: =HYPERLINK(\"http://x\",\"y\"),;'=1", "it begins no cell");
    let printed = done(&site, "inventory csv --team payments").await.out;
    assert_eq!(printed, table.text);
    assert!(done(&site, "inventory telegraf web-2").await.out.contains("team = \"checkout\""));
    refused(&site, "inventory telegraf web-3", NOT_FOUND).await;
}

fn puppet(site: &Site, enc: &Path, certname: &str) -> Output {
    let dir = site.dir.path().join("puppet");
    let at = |name: &str| dir.join(name).display().to_string();
    fs::create_dir_all(dir.join("modules/role/manifests")).expect("made");
    fs::create_dir_all(dir.join("environments/production")).expect("made");
    let class = "class role::web_server { notice(\"class with ${kaltstart_labels} ${kaltstart_rack}\") }";
    fs::write(dir.join("modules/role/manifests/web_server.pp"), class).expect("written");
    let mut puppet = Command::new("puppet");
    puppet.args(["apply", "--node_terminus", "exec", "--external_nodes"]).arg(enc);
    puppet.args(["--confdir", &at("conf"), "--vardir", &at("var"), "--environmentpath", &at("environments")]);
    puppet.args(["--basemodulepath", &at("modules"), "--certname", certname, "--color", "false"]);
    run(puppet.args([
        "--strict_variables",
        "-e",
        "notice(\"environment ${environment} of ${kaltstart_team}\")",
    ]))
}

#[tokio::test]
async fn p36_puppet_compiles_what_the_server_says_and_while_it_is_away_what_it_said_last() {
    let mut site = Site::start().await;
    site.declare("web-1", mac(1)).await;
    let about = json!({
        "team": "payments", "role": "web-server", "rack": "no",
        "labels": {"environment": "production", "release": "1e3"},
    });
    site.say("web-1", &about).await;
    site.order("web-1", "deploy").await;
    let (_, file) = site.viewer("puppet", None).await;
    let cache = site.dir.path().join("answers");
    let line = format!("enc \"$1\" --domain fra1.example --cache {}", cache.display());
    let script = site.script("enc", &line, &file);
    let good = |output: &Output| {
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        for part in [
            "environment production of payments",
            "class with {environment => production, release => 1e3} no",
        ] {
            assert!(words.contains(part), "{part:?} in {words}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    };
    good(&puppet(&site, &script, "web-1.fra1.example"));
    site.kill();
    good(&puppet(&site, &script, "web-1.fra1.example"));
    let ask = |certname: &str| run(Command::new(&script).arg(certname));
    let again = ask("web-1.fra1.example");
    let words = String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && words.contains("given again") && words.contains("cannot reach"),
        "{words}"
    );
    assert!(!ask("web-2.fra1.example").status.success(), "of which nothing is known");
    assert!(!ask("web-1.muc1.example").status.success(), "which is somebody else's");
    site.power_on().await;
    assert!(ask("web-1").status.success(), "by its name alone too");
    let code = |output: &Output| (output.status.code(), output.stdout.is_empty());
    assert_eq!(code(&ask("web-1.muc1.example")), (Some(5), true));
    assert_eq!(code(&ask("../web-1")), (Some(64), true));

    // The server says no: nothing of before is given.
    site.say("web-1", &json!({"role": "V2.0"})).await;
    let refused = ask("web-1.fra1.example");
    assert_eq!(code(&refused), (Some(6), true), "{refused:?}");
    fs::write(&file, "kst_wrong").expect("written");
    assert_eq!(code(&ask("web-1.fra1.example")), (Some(4), true));
    fs::write(&file, &site.token).expect("written");
    site.say("web-1", &json!({"role": null})).await;
    let job = site.get("/v1/nodes/web-1").await.json["job"].as_str().expect("a job").to_owned();
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    site.post("/v1/nodes/web-1/retire", &json!({})).await;
    assert_eq!(code(&ask("web-1.fra1.example")), (Some(5), true), "it was taken away");
    site.kill();
    assert_eq!(code(&ask("web-1.fra1.example")), (Some(1), true), "and stays so while the server is away");
}

#[tokio::test]
async fn p23_of_another_teams_node_puppet_is_told_what_it_is_told_of_none() {
    let site = Site::start().await;
    site.declare("web-1", mac(1)).await;
    site.say("web-1", &json!({"team": "payments"})).await;
    site.order("web-1", "deploy").await;
    for (name, team, status) in [("a", "payments", StatusCode::OK), ("b", "checkout", StatusCode::NOT_FOUND)]
    {
        let (token, _) = site.viewer(name, Some(team)).await;
        let ask = async |name: &str| {
            site.ask(Method::GET, &format!("/v1/enc/{name}"), Some(&token), None::<&()>)
                .await
                .expect("answered")
        };
        let (told, none) = (ask("web-1").await, ask("nothing").await);
        assert_eq!(told.status, status, "{told:?}");
        assert!(
            status == StatusCode::OK || told.text == none.text.replace("nothing", "web-1"),
            "{told:?} {none:?}"
        );
    }
    let id = site.get("/v1/nodes/web-1").await.json["id"].as_str().expect("text").to_owned();
    for other in [id, mac(1).to_string()] {
        site.get(&format!("/v1/enc/{other}")).await.problem(StatusCode::NOT_FOUND, "not-found");
    }
}
