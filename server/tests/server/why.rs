//! What the doors saw of a machine, and what is concluded from it.

use crate::agent::{Agent, with_disk};
use crate::client::done;
use crate::site::{LIMIT, PROGRAM, Site, free_udp_port, mac};
use kaltstart_protocol::agent_api::{Mode, Task};
use kaltstart_protocol::contents::Area;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

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

#[tokio::test]
async fn ks_why_tells_what_the_last_job_failed_with() {
    let site = Site::start().await;
    site.declare("db-07", mac(1)).await;
    let job = site.order("db-07", "deploy").await;
    let mut agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    let ext4 = Area { kind: "ext4".into(), id: "A".into(), ..Area::default() };
    agent.facts = with_disk(mac(1), vec![ext4]);
    agent.hello().await;
    let Task::Failed { finding } = agent.task().await else { panic!("no refusal") };
    let listed = done(&site, "node list").await.out;
    assert!(listed.contains("available · deploy failed · KS-2107"), "{listed}");
    let said = done(&site, "why db-07").await.out;
    assert!(said.contains("Most likely  KS-2107"), "{said}");
    assert!(said.contains(&format!("its last job, deploy {job}, failed in phase")), "{said}");
    assert!(said.contains(&finding.detail) && said.contains("--erase"), "{said}");
    assert!(said.contains("ks job log db-07") && said.contains("ks explain KS-2107"), "{said}");
    assert_eq!(site.get("/v1/nodes/db-07").await.json["state"], "available", "its agent was there");
    // Another order is another story.
    site.order("db-07", "deploy").await;
    assert_eq!(done(&site, "why db-07 -o name").await.out, "");
}

/// Waits until the diagnosis of a machine begins with `code`; tells its first cause.
async fn cause(site: &Site, node: &str, code: &str) -> Value {
    let began = std::time::Instant::now();
    loop {
        let answer = site.get(&format!("/v1/nodes/{node}/diagnosis")).await;
        let first = &answer.json["causes"][0];
        if first["code"] == code {
            return first.clone();
        }
        assert!(began.elapsed() < LIMIT, "{code} is not shown: {}", answer.text);
    }
}

#[tokio::test]
async fn ks1015_a_transfer_by_http_is_broken_off() {
    let site = Site::start().await;
    site.declare("db-07", mac(1)).await;
    let big = File::create(site.dir.path().join("discovery")).expect("made");
    big.set_len(512 << 20).expect("sparse");
    let address = site.base.trim_start_matches("http://");
    let mut client = TcpStream::connect(address).expect("connected");
    write!(client, "GET /boot/{}/ramdisk HTTP/1.1\r\nHost: x\r\n\r\n", mac(1)).expect("asked");
    let mut taken = vec![0; 1 << 20];
    client.read_exact(&mut taken).expect("a part of it");
    let meanwhile = site.get("/v1/nodes/db-07/diagnosis").await;
    assert_eq!(meanwhile.json["causes"], json!([]), "{meanwhile:?}");
    assert!(meanwhile.text.contains("is being loaded by HTTP"), "{meanwhile:?}");
    drop(client);
    let cause = cause(&site, "db-07", "KS-1015").await;
    assert_eq!(cause["likelihood"], "high", "{cause}");
    let said = done(&site, "why db-07").await.out;
    assert!(said.contains("Most likely  KS-1015") && said.contains("of 536870912"), "{said}");
    assert!(said.contains("ks explain KS-1015"), "{said}");
    assert_eq!(done(&site, "why db-07 -o name").await.out, "KS-1015\n");
}

#[tokio::test]
async fn a_code_is_explained_without_a_server_in_both_languages() {
    let said = |words: &[&str]| {
        let output =
            Command::new(PROGRAM).arg("explain").args(words).env("LC_ALL", "C").output().expect("run");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    assert!(said(&["KS-1012"]).1.starts_with("# KS-1012: large packets do not reach the machine\n"));
    assert!(said(&["1012", "--language", "de"]).1.starts_with("# KS-1012: große Pakete"));
    assert!(said(&["--list"]).1.lines().count() > 80);
    assert_eq!(said(&["KS-9999"]), (Some(5), String::new()));
    assert_eq!(said(&[]).0, Some(64));
}

/// Makes an earlier server's recent past say that the first machine has the address of this host.
fn give_loopback(site: &Site) {
    let sighting = json!({
        "mac": mac(1).to_string(), "at": 1_700_000_000_000_u64, "door": "dhcp", "kind": "request",
        "client": {"architecture": "bios", "stage": "ipxe"}, "secs": 0, "relay": null, "server": null,
        "wish": "127.0.0.1", "answer": {"sent": {"kind": "ack", "address": "127.0.0.1", "file": null}},
    });
    std::fs::write(site.data().join("trace.jsonl"), format!("{sighting}\n")).expect("written");
}

#[tokio::test]
async fn p28_syslog_lines_appear_in_the_job_s_log_and_no_terminal_obeys_them() {
    let mut site = Site::start().await;
    site.declare("db-07", mac(1)).await;
    let job = site.order("db-07", "deploy").await;
    assert!(site.stop().success());
    let port = free_udp_port();
    let mut config =
        OpenOptions::new().append(true).open(site.dir.path().join("server.toml")).expect("there");
    write!(config, "[syslog]\nlisten = \"127.0.0.1:{port}\"\n").expect("written");
    give_loopback(&site);
    site.power_on().await;
    let said = |words: &[&str]| {
        let mut logger = Command::new("logger");
        logger.args(["--udp", "--server", "127.0.0.1", "--port", &port.to_string()]).args(words);
        assert!(logger.status().expect("logger runs").success());
    };
    said(&["--rfc3164", "--priority", "daemon.err", "--tag", "ipxe", "no more network devices"]);
    said(&["--rfc5424", "--priority", "kern.info", "Command line: kaltstart.token=kst_boot_secret"]);
    let raw = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    raw.send_to(b"<14>\x1b[2Jgone", ("127.0.0.1", port)).expect("sent");
    let began = std::time::Instant::now();
    let log = loop {
        let log = done(&site, &format!("job log {job}")).await.out;
        if log.lines().count() == 3 {
            break log;
        }
        assert!(began.elapsed() < LIMIT, "three lines: {log}");
    };
    assert!(log.contains("error ipxe: no more network devices"), "{log}");
    assert!(log.contains("kst_***") && !log.contains("secret"), "{log}");
    assert!(log.contains("gone") && !log.contains('\u{1b}'), "{log}");
    let why = done(&site, "why db-07").await.out;
    assert!(why.contains("gone") && !why.contains('\u{1b}'), "{why}");
}
