//! A scripted agent over real HTTP; each answer is taken to be lost once, and asked for again.

use crate::client::{self, done};
use crate::site::{Answer, IMAGE, LIMIT, Site, mac, put_image};
use kaltstart_protocol::agent_api::{
    ARG_BOOT_MAC, ARG_EPOCH, ARG_KEY, ARG_TOKEN, Directive, EraseTask, Erased, Hello, Installed, LogBatch,
    LogLine, Mode, Report, ReportState, Task, TaskRequest,
};
use kaltstart_protocol::contents::{Area, Contents};
use kaltstart_protocol::erasure::{EraseMethod, Erasure, Reach, Unused};
use kaltstart_protocol::facts::{Disk, Facts, Nic};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::{Digest, JobId, Mac, PublicKey};
use kaltstart_protocol::node_api::{BootOrder, NodeReport};
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{DiskIdentity, GrantTrust, HostIdentity, Reality};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;

/// What a machine gets that asks for its boot script.
pub(crate) async fn script(site: &Site, n: u32) -> String {
    let path = format!("/boot/{}/script.ipxe", mac(n));
    let answer = site.ask(Method::GET, &path, None, None::<&()>).await.expect("answered");
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.text
}

/// The boot token of a script; none when it says: your own disk.
pub(crate) fn token(script: &str) -> Option<String> {
    argument(script, ARG_TOKEN)
}

/// An agent on its machine.
pub(crate) struct Agent<'a> {
    site: &'a Site,
    token: String,
    /// Whose wipe grants it takes.
    pub(crate) trust: GrantTrust,
    session: String,
    mode: Mode,
    pub(crate) facts: Facts,
}

/// A machine with that address and one disk, on which these things lie.
pub(crate) fn with_disk(mac: Mac, areas: Vec<Area>) -> Facts {
    let disk = Disk {
        serial: "S1".into(),
        size: 1 << 40,
        sector_size: 512,
        holds: Some(Contents::new(areas)),
        ..Disk::default()
    };
    Facts { disks: vec![disk], nics: vec![Nic { mac, ..Nic::default() }], ..Facts::default() }
}

/// A kernel argument of a script.
pub(crate) fn argument<T: FromStr<Err: Debug>>(script: &str, name: &str) -> Option<T> {
    let value = |word: &'_ str| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    Some(script.split_whitespace().find_map(value)?.parse().expect(name))
}

/// Whose wipe grants an agent takes that is started by that script.
pub(crate) fn trust(script: &str) -> GrantTrust {
    let epoch = argument(script, ARG_EPOCH).expect("an epoch");
    GrantTrust { key: argument(script, ARG_KEY).expect("a key"), epoch }
}

impl<'a> Agent<'a> {
    /// Starts over the network: fetches script and ramdisk.
    pub(crate) async fn boot(site: &'a Site, n: u32, session: u32, mode: Mode) -> Agent<'a> {
        let arguments = script(site, n).await;
        let path = format!("/boot/{}/ramdisk", mac(n));
        site.ask(Method::GET, &path, None, None::<&()>).await.expect("answered");
        Agent { mode, ..Agent::started(site, &arguments, session) }
    }

    /// Was started for a job with those kernel arguments.
    pub(crate) fn started(site: &'a Site, arguments: &str, session: u32) -> Agent<'a> {
        let token = token(arguments).expect("it may start");
        let (session, mac) = (format!("kst_session_{session:064}"), argument(arguments, ARG_BOOT_MAC));
        let facts = with_disk(mac.expect("an address"), Vec::new());
        let trust = trust(arguments);
        Agent { site, token, trust, session, mode: Mode::Install, facts }
    }

    /// Runs already, and goes on asking.
    pub(crate) fn running(site: &'a Site, session: u32) -> Agent<'a> {
        let (token, session) = (String::new(), format!("kst_session_{session:064}"));
        let trust = GrantTrust { key: PublicKey([0; 32]), epoch: 0 };
        Agent { site, token, trust, session, mode: Mode::Install, facts: Facts::default() }
    }

    pub(crate) async fn hello(&self) -> Answer {
        let hello = Hello {
            token: Secret::new(self.token.clone()),
            session: Secret::new(self.session.clone()),
            mode: self.mode,
            boot_id: "boot".into(),
            agent_version: "0".into(),
            started_uptime_ms: 5,
            uptime_ms: 10,
            facts: self.facts.clone(),
        };
        self.site.ask(Method::POST, "/agent/v1/hello", None, Some(&hello)).await.expect("answered")
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        let path = format!("/agent/v1/{path}");
        self.site.ask(Method::POST, &path, Some(&self.session), Some(body)).await.expect("answered")
    }

    pub(crate) async fn task(&self) -> Task {
        let answer = self.post("task", &TaskRequest { wait_seconds: 0 }).await;
        serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// Sends a report twice; tells the directive, which must not differ.
    pub(crate) async fn report(
        &self,
        job: &JobId,
        attempt: u32,
        phase: Phase,
        state: ReportState,
    ) -> Directive {
        let report = Report {
            job: job.clone(),
            attempt,
            phase,
            state,
            progress: Some(Progress { done: 1, total: 2, unit: Unit::Bytes }),
            detail: BTreeMap::from([("disk".into(), "vda".into())]),
        };
        self.twice("report", &report).await
    }

    pub(crate) async fn twice(&self, path: &str, body: &impl Serialize) -> Directive {
        let first: Directive = self.post(path, body).await.directive();
        assert_eq!(self.post(path, body).await.directive(), first, "the answer was lost");
        first
    }
}

impl Answer {
    fn directive(&self) -> Directive {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) fn stopped(directive: &Directive) -> bool {
    matches!(directive, Directive::Stop { .. })
}

pub(crate) fn installed(job: &JobId, attempt: u32) -> Installed {
    Installed {
        job: job.clone(),
        attempt,
        disk: "d".into(),
        ssh_host_keys: Vec::new(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        boot_entry: false,
        restart: Restart::default(),
    }
}

/// A disk that was overwritten.
fn erasure(disk: DiskIdentity) -> Erasure {
    Erasure {
        disk,
        method: EraseMethod::Overwrite,
        reach: Reach::Sectors,
        duration_ms: 5,
        samples: 66,
        changed: 0,
        instead_of: vec![Unused { method: EraseMethod::SecureErase, why: "frozen".into() }],
    }
}

/// All disks of `task` are.
pub(crate) fn erased(task: &EraseTask) -> Erased {
    let disks = task.disks.iter().map(|one| erasure(one.disk.clone())).collect();
    Erased { job: task.job.clone(), attempt: task.attempt, disks }
}

pub(crate) fn system_report(token: &Secret, root: &str) -> NodeReport {
    NodeReport {
        token: token.clone(),
        job: None,
        hostname: "n1".into(),
        kernel: "6".into(),
        root_device: "/dev/vda3".into(),
        root_uuid: root.into(),
        os: "os".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        boot_id: "b".into(),
        uptime_ms: 1,
        ssh_host_keys: Vec::new(),
        boot_order: BootOrder::None,
    }
}

pub(crate) async fn tell(site: &Site, report: &NodeReport) -> StatusCode {
    site.ask(Method::POST, "/node/v1/report", None, Some(report)).await.expect("answered").status
}

#[tokio::test]
async fn p21_a_machine_is_deployed_though_every_answer_is_lost_once_and_its_secrets_die_with_the_job() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job: JobId = site.order("n1", "deploy").await.parse().expect("an identifier");
    let unused = token(&script(&site, 1).await).expect("granted");
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    assert_ne!(unused, agent.token, "each script has its own token");
    let head = format!("/boot/{}/script.ipxe", mac(1));
    site.ask(Method::HEAD, &head, None, None::<&()>).await.expect("answered");
    for _ in 0..2 {
        let welcome = agent.hello().await.json;
        assert_eq!(
            (&welcome["name"], &welcome["usual"]["image"]),
            (&json!("n1"), &json!(30_000)),
            "{welcome}"
        );
        let page = welcome["page"].as_str().unwrap_or_default();
        assert!(page.starts_with("https://") && page.ends_with("/v1/nodes/n1"), "{welcome}");
    }
    let lines = vec![LogLine { uptime_ms: 1, level: "info".into(), text: "hello".into() }];
    for _ in 0..2 {
        let answer = agent.post("log", &LogBatch { first: 0, lines: lines.clone() }).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
    }
    let Task::Install(lost) = agent.task().await else { panic!("no task") };
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    assert_eq!((&task.job, task.attempt, &task.uuids), (&job, 1, &lost.uuids), "the same job, the same disk");
    assert!(task.image.manifest.contains(&Digest::of(IMAGE).to_string()));
    for phase in [Phase::Inventory, Phase::Disk, Phase::Image, Phase::Configure] {
        for state in [ReportState::Running, ReportState::Done] {
            assert_eq!(agent.report(&job, 1, phase, state).await, Directive::Continue);
        }
    }
    assert!(stopped(&agent.report(&job, 2, Phase::Image, ReportState::Running).await), "another attempt");
    let other = JobId::new(kaltstart_protocol::time::Millis(1), 1);
    assert!(stopped(&agent.report(&other, 1, Phase::Image, ReportState::Running).await), "another job");
    assert_eq!(
        tell(&site, &system_report(&task.identity.report.token, &task.uuids.root)).await,
        StatusCode::GONE,
        "nothing is installed yet"
    );
    assert_eq!(agent.twice("installed", &installed(&job, 1)).await, Directive::Continue);
    assert_eq!(token(&script(&site, 1).await), None, "its disk is complete");
    assert!(matches!(agent.task().await, Task::Wait));

    let session = agent.session.clone();
    site.kill();
    site.power_on().await;
    let report = system_report(&task.identity.report.token, &task.uuids.root);
    let stale = system_report(&lost.identity.report.token, &lost.uuids.root);
    assert_eq!(tell(&site, &stale).await, StatusCode::GONE, "the lost task's token was replaced");
    for _ in 0..2 {
        assert_eq!(tell(&site, &report).await, StatusCode::NO_CONTENT);
    }
    let node = site.get("/v1/nodes/n1").await.json;
    assert_eq!((&node["state"], &node["report"]["os"]), (&json!("deployed"), &json!("os")), "{node}");
    assert_eq!(node["changed_since"]["by"], "installed", "{node}");
    let shown = client::done(&site, "node show n1").await.out;
    let looked = shown.lines().find(|line| line.starts_with("LOOKED AT")).expect("told");
    assert!(looked.contains("as of before its system was installed"), "{looked}");
    let done = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!((&done["state"], &done["attempt"]), (&json!("succeeded"), &json!(1)), "{done}");
    assert!(done["phases"].as_array().expect("phases").iter().all(|phase| phase["usual"]["sample"] == 0));
    assert_eq!(site.get(&format!("/v1/jobs/{job}/log")).await.json.as_array().map(Vec::len), Some(1));

    assert_eq!(token(&script(&site, 1).await), None, "a deployed machine starts from its disk");
    for path in ["task", "report", "installed", "log"] {
        let path = format!("/agent/v1/{path}");
        let answer = site.ask(Method::POST, &path, Some(&session), Some(&json!({}))).await.expect("answered");
        answer.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let rebuilt = site.order("n1", "rebuild").await;
    assert_eq!(tell(&site, &report).await, StatusCode::GONE, "the old job's token");
    assert_eq!(site.get(&format!("/v1/jobs/{rebuilt}")).await.json["state"], "queued");
    let log = site.log();
    for secret in [&unused, &session, task.identity.report.token.expose()] {
        assert!(!log.contains(secret), "p22: a secret stands in the log");
    }
    let database = std::fs::read(site.data().join("kaltstart.db-wal")).expect("read");
    let holds = |secret: &str| database.windows(secret.len()).any(|found| found == secret.as_bytes());
    assert!(!holds(&session) && !holds(&unused), "p22: a secret stands in the database");
}

#[tokio::test]
async fn p20_script_and_task_name_the_authority_and_the_way_to_it() {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.order("n1", "deploy").await;
    let ca = CertificateDer::from_pem_file(site.data().join("tls/ca.pem")).expect("a certificate");
    let (authority, began) = (Digest::of(&ca), jiff::Timestamp::now().as_second());
    let script = script(&site, 1).await;
    for word in [format!("kaltstart.server={}", site.tls_base), format!("kaltstart.pin={authority}")] {
        assert!(script.split_whitespace().any(|other| other == word), "{word} in {script}");
    }
    let time = script.split_whitespace().find_map(|word| word.strip_prefix("kaltstart.time="));
    let time: i64 = time.expect("a time").parse().expect("a number");
    assert!((0..30).contains(&(time - began)), "{time} {began}");
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.hello().await;
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    let report = &task.identity.report;
    assert_eq!(report.urls, [format!("{}/node/v1/report", site.tls_base)]);
    assert_eq!(report.authority, authority);
    assert!(report.not_before.abs_diff(time.unsigned_abs()) < 30, "{report:?}");
    assert!(task.image_url.starts_with(&site.base), "an image is no secret: {}", task.image_url);
}

#[tokio::test]
async fn p17_a_hundred_presentations_of_a_token_at_once_start_one_agent() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.order("n1", "deploy").await;
    let one = Agent::boot(&site, 1, 0, Mode::Install).await;
    let agents: Vec<Agent<'_>> = (1..=100)
        .map(|n| Agent {
            site: &site,
            token: one.token.clone(),
            trust: one.trust,
            session: format!("kst_session_{n:064}"),
            mode: Mode::Install,
            facts: Facts::default(),
        })
        .collect();
    let hellos = futures_util::future::join_all(agents.iter().map(Agent::hello)).await;
    let good: Vec<usize> = (0..100).filter(|n| hellos[*n].status == StatusCode::OK).collect();
    assert_eq!(good.len(), 1, "{:?}", hellos.iter().map(|answer| answer.status).collect::<Vec<_>>());
    for (n, agent) in agents.iter().enumerate() {
        let wanted = if n == good[0] { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(agent.post("task", &TaskRequest { wait_seconds: 0 }).await.status, wanted);
    }
}

#[tokio::test]
async fn p17_one_agent_that_says_hello_many_times_at_once_is_never_turned_away() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.order("n1", "deploy").await;
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    let hellos = futures_util::future::join_all((0..10).map(|_| agent.hello())).await;
    for answer in hellos {
        assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    }
}

#[tokio::test]
async fn p17_a_token_is_refused_in_another_mode_and_a_short_session_secret_always() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.order("n1", "deploy").await;
    let mut agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.mode = Mode::Discover;
    agent.hello().await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    agent.mode = Mode::Install;
    let long = std::mem::take(&mut agent.session);
    agent.hello().await.problem(StatusCode::BAD_REQUEST, "bad-request");
    agent.session = long;
    assert_eq!(agent.hello().await.status, StatusCode::OK, "the token was not used up");
}

#[tokio::test]
async fn p01_an_agent_that_only_looks_gets_no_task_and_cannot_end_a_job() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let looking = Agent::boot(&site, 1, 1, Mode::Discover).await;
    assert_eq!(looking.hello().await.json["usual"], json!({}), "there is no job");
    assert!(matches!(looking.task().await, Task::Wait));
    assert_eq!(site.get("/v1/nodes/n1").await.json["state"], "available", "declared and seen");
    assert_eq!(token(&script(&site, 1).await), None, "looked at once");
    // Asked before the order, answered by it.
    let wait = TaskRequest { wait_seconds: 60 };
    let (answer, job) = tokio::join!(looking.post("task", &wait), site.order("n1", "deploy"));
    assert_eq!(answer.json["kind"], "reboot", "{answer:?}");
    let job: JobId = job.parse().expect("an identifier");
    assert!(stopped(&looking.report(&job, 1, Phase::Image, ReportState::Running).await));
    assert!(stopped(&looking.twice("installed", &installed(&job, 1)).await));
    assert_eq!(site.get(&format!("/v1/jobs/{job}")).await.json["state"], "queued");
    let installing = Agent::boot(&site, 1, 2, Mode::Install).await;
    assert_eq!(installing.hello().await.status, StatusCode::OK);
    assert!(matches!(installing.task().await, Task::Install(_)));
    assert_eq!(
        looking.post("task", &TaskRequest { wait_seconds: 0 }).await.status,
        StatusCode::UNAUTHORIZED,
        "the new agent's session replaces the old one's"
    );
}

#[tokio::test]
async fn p05_foreign_data_stops_the_job_until_an_order_gives_it_up_and_the_grant_is_signed() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job = site.order("n1", "deploy").await;
    let ext4 = Area { kind: "ext4".into(), id: "A".into(), ..Area::default() };
    let foreign = with_disk(mac(1), vec![ext4]);
    let holds = foreign.disks[0].holds.clone().expect("known");
    let fingerprint = holds.fingerprint();
    let agent = Agent { facts: foreign.clone(), ..Agent::boot(&site, 1, 1, Mode::Install).await };
    agent.hello().await;
    let Task::Failed { finding } = agent.task().await else { panic!("no refusal") };
    assert_eq!(finding.code, Code::ForeignData);
    assert!(finding.detail.ends_with(&format!("--erase 'S1={fingerprint}'")), "{finding}");
    assert!(matches!(agent.task().await, Task::Wait), "the job has ended");
    let ended = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!(ended["findings"][0]["code"], "KS-2107", "{ended}");
    let node = site.get("/v1/nodes/n1").await.json;
    assert_eq!(node["fingerprints"]["S1"], fingerprint.to_string(), "{node}");

    // The wrong fingerprint gives up nothing; the right one what it names.
    for (erase, given_up) in [("0000000000000000".to_string(), false), (fingerprint.to_string(), true)] {
        let body = json!({"kind": "deploy", "profile": "good", "erase": {"S1": erase}});
        let answer = site.post("/v1/nodes/n1/jobs", &body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        let session = 2 + u32::from(given_up);
        let agent = Agent { facts: foreign.clone(), ..Agent::boot(&site, 1, session, Mode::Install).await };
        agent.hello().await;
        match agent.task().await {
            Task::Failed { finding } if !given_up => assert_eq!(finding.code, Code::ForeignData),
            Task::Install(task) if given_up => {
                let now = Millis(jiff::Timestamp::now().as_millisecond().unsigned_abs());
                let (host, disk) = (HostIdentity::of(&foreign), &foreign.disks[0]);
                let reality = Reality { host: &host, disk, job: &task.job, attempt: 1, now };
                assert_eq!(task.grants.len(), 1);
                assert_eq!(
                    task.grants[0].grant.verify(&agent.trust, &reality).map(|grant| grant.contents),
                    Ok(holds.clone())
                );
            }
            other => panic!("{given_up}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_failed_job_says_why_and_its_agent_stops() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job: JobId = site.order("n1", "deploy").await.parse().expect("an identifier");
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.hello().await;
    assert!(matches!(agent.task().await, Task::Install(_)));
    let failed = ReportState::Failed { finding: Finding::new(Code::NoDisk, "none of 0") };
    let report = |state| Report {
        job: job.clone(),
        attempt: 1,
        phase: Phase::Disk,
        state,
        progress: None,
        detail: BTreeMap::new(),
    };
    assert_eq!(agent.post("report", &report(failed.clone())).await.directive(), Directive::Continue);
    assert!(stopped(&agent.post("report", &report(failed)).await.directive()), "it has ended");
    assert!(stopped(&agent.twice("installed", &installed(&job, 1)).await));
    let ended = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!(ended["findings"][0]["code"], Code::NoDisk.number(), "{ended}");
    assert!(ended["findings"][0]["next"].as_str().is_some_and(|next| next.ends_with('.')), "{ended}");
    let shown = done(&site, "job show n1").await.out;
    assert!(shown.contains("KS-2101") && shown.contains("none of 0\n  next: "), "{shown}");
    let node = site.get("/v1/nodes/n1").await.json;
    assert_eq!((&node["state"], &node["job"]), (&json!("allocated"), &json!(null)), "{node}");
    assert_eq!(token(&script(&site, 1).await), None, "a failed job grants nothing");
}

#[tokio::test]
async fn an_image_that_was_replaced_since_the_order_fails_the_job_with_a_named_finding() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job = site.order("n1", "deploy").await;
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.hello().await;
    put_image(site.dir.path(), b"another image");
    assert!(matches!(agent.task().await, Task::Failed { finding } if finding.code == Code::ImageMissing));
    let ended = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!(ended["findings"][0]["code"], Code::ImageMissing.number(), "{ended}");
    assert!(tokio::time::timeout(LIMIT, agent.task()).await.is_ok_and(|task| matches!(task, Task::Wait)));
}

#[tokio::test]
async fn p10_a_released_node_is_free_when_all_its_disks_are_told_erased_and_not_before() {
    let mut site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let job: JobId = site.order("n1", "deploy").await.parse().expect("an identifier");
    let agent = Agent::boot(&site, 1, 1, Mode::Install).await;
    agent.hello().await;
    let Task::Install(task) = agent.task().await else { panic!("no task") };
    assert_eq!(agent.twice("installed", &installed(&job, 1)).await, Directive::Continue);
    let report = system_report(&task.identity.report.token, &task.uuids.root);
    assert_eq!(tell(&site, &report).await, StatusCode::NO_CONTENT);

    let ordered = site.post("/v1/nodes/n1/jobs", &json!({"kind": "release"})).await;
    assert_eq!(ordered.status, StatusCode::ACCEPTED, "{ordered:?}");
    assert_eq!((&ordered.json["kind"], &ordered.json["profile"]), (&json!("release"), &json!(null)));
    let job: JobId = ordered.json["id"].as_str().expect("text").parse().expect("an identifier");
    assert_eq!(site.get("/v1/nodes/n1").await.json["state"], "releasing");
    let agent = Agent::boot(&site, 1, 2, Mode::Install).await;
    agent.hello().await;
    let Task::Erase(lost) = agent.task().await else { panic!("no task") };
    let Task::Erase(task) = agent.task().await else { panic!("no task") };
    let disk = |task: &EraseTask| task.disks.iter().map(|one| one.disk.clone()).collect::<Vec<_>>();
    assert_eq!((&task.job, task.attempt, disk(&task).len()), (&job, 1, 1));
    assert_eq!(disk(&lost), disk(&task), "the answer was lost");
    assert!(stopped(&agent.twice("installed", &installed(&job, 1)).await), "nothing is installed");

    let all: Vec<Erasure> = disk(&task).into_iter().map(erasure).collect();
    let other = erasure(DiskIdentity { serial: "other".into(), ..DiskIdentity::default() });
    let told = |attempt, disks| Erased { job: job.clone(), attempt, disks };
    for wrong in [
        told(2, all.clone()),
        told(1, vec![]),
        told(1, vec![other.clone()]),
        told(1, [all.clone(), vec![other]].concat()),
    ] {
        assert!(stopped(&agent.twice("erased", &wrong).await), "{wrong:?}");
    }
    assert_eq!(site.get("/v1/nodes/n1").await.json["state"], "releasing");
    assert_eq!(agent.twice("erased", &told(1, all.clone())).await, Directive::Continue);
    site.kill();
    site.power_on().await;
    let node = site.get("/v1/nodes/n1").await.json;
    assert_eq!((&node["state"], &node["report"]), (&json!("available"), &json!(null)), "{node}");
    assert_eq!(node["erasure"]["disks"], serde_json::to_value(&all).expect("JSON"), "{node}");
    assert_eq!(site.get(&format!("/v1/jobs/{job}")).await.json["state"], "succeeded");
    site.order("n1", "deploy").await;
}
