//! A machine in the hands of a person: codes, the shell's two ends, and its recording.

use crate::agent::Agent;
use crate::client::{done, refused};
use crate::site::{Answer, LIMIT, PROGRAM, Site, mac};
use kaltstart_protocol::agent_api::{Directive, Mode, Task};
use kaltstart_protocol::rescue::{Input, InputQuestion, Octets, Output, RescueTask, Rescued, Size};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

const SIZE: Size = Size { columns: 100, rows: 30 };

/// Declares and accepts machine `n`, and orders its rescue; the job.
async fn ordered(site: &Site, n: u32) -> String {
    let name = format!("n{n}");
    site.declare(&name, mac(n)).await;
    Agent::boot(site, n, n, Mode::Discover).await.hello().await;
    let answer = site.post(&format!("/v1/nodes/{name}/jobs"), &json!({"kind": "rescue"})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    answer.json["id"].as_str().expect("a job").to_owned()
}

/// The machine `n` comes for its rescue.
async fn held(site: &Site, n: u32, session: u32) -> (Agent<'_>, RescueTask) {
    let agent = Agent::boot(site, n, session, Mode::Rescue).await;
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    let Task::Rescue(task) = agent.task().await else { panic!("no task") };
    (agent, *task)
}

async fn code(site: &Site, job: &str) -> String {
    let answer = site.post(&format!("/v1/jobs/{job}/code"), &json!({})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json["code"].as_str().expect("a code").to_owned()
}

async fn enter(site: &Site, job: &str, code: &str) -> Answer {
    let body = json!({"code": code, "who": "alice@laptop", "size": SIZE});
    site.post(&format!("/v1/jobs/{job}/shell"), &body).await
}

fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json["shell"].as_str().expect("a token").to_owned()
}

async fn type_in(site: &Site, job: &str, shell: &str, text: &str) -> Answer {
    let body = json!({"shell": shell, "bytes": Octets(text.into()), "size": SIZE});
    site.post(&format!("/v1/jobs/{job}/shell/input"), &body).await
}

async fn watch(site: &Site, job: &str, shell: &str, after: u64) -> Answer {
    let body = json!({"shell": shell, "after": after, "wait_seconds": 5});
    site.post(&format!("/v1/jobs/{job}/shell/output"), &body).await
}

fn shown(answer: &Answer) -> String {
    let bytes: Octets = serde_json::from_value(answer.json["bytes"].clone()).expect("bytes");
    String::from_utf8(bytes.0).expect("text")
}

impl Agent<'_> {
    async fn input(&self, task: &RescueTask, after: u64, shell: Option<Size>) -> Input {
        let (job, attempt) = (task.job.clone(), task.attempt);
        let question = InputQuestion { job, attempt, after, shell, wait_seconds: 1 };
        let answer = self.post("shell/input", &question).await;
        serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    async fn show(&self, task: &RescueTask, first: u64, text: &str) -> Answer {
        let (job, attempt) = (task.job.clone(), task.attempt);
        let output = Output { job, attempt, first, bytes: Octets(text.into()) };
        self.post("shell/output", &output).await
    }
}

#[tokio::test]
async fn p17_a_shell_is_opened_by_its_own_code_once() {
    let site = Site::start().await;
    let (job, other) = (ordered(&site, 1).await, ordered(&site, 2).await);
    let early = code(&site, &job).await;
    enter(&site, &job, &early).await.problem(StatusCode::CONFLICT, "refused");
    let (agent, task) = held(&site, 1, 11).await;
    let (_, _) = held(&site, 2, 12).await;
    assert!(!agent.input(&task, 0, None).await.open, "nobody came yet");

    let (right, foreign) = (code(&site, &job).await, code(&site, &other).await);
    for (wrong, left) in [(&early, 4), (&foreign, 3)] {
        let answer = enter(&site, &job, wrong).await;
        answer.problem(StatusCode::FORBIDDEN, "wrong-code");
        assert!(answer.text.contains(&format!("{left} tries")), "{answer:?}");
    }
    let body = json!({"code": right});
    let path = format!("/v1/jobs/{job}/shell");
    let without = site.ask(Method::POST, &path, None, Some(&body)).await.expect("answered");
    without.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    // As somebody types it who reads it to another.
    let shell = token(&enter(&site, &job, &right.to_lowercase().replace('-', " ")).await);
    let again = enter(&site, &job, &right).await;
    again.problem(StatusCode::FORBIDDEN, "wrong-code");
    assert!(again.text.contains("ks rescue"), "{again:?}");
    assert!(agent.input(&task, 0, None).await.open);
    assert_eq!(type_in(&site, &job, &shell, "x").await.status, StatusCode::NO_CONTENT);
    type_in(&site, &job, "kst_shell_0", "x").await.problem(StatusCode::CONFLICT, "not-in-shell");
    watch(&site, &other, &shell, 0).await.problem(StatusCode::CONFLICT, "not-in-shell");

    // Tried too often, the right one opens nothing either.
    let right = code(&site, &job).await;
    for _ in 0..5 {
        enter(&site, &job, "0000-0000-0000").await.problem(StatusCode::FORBIDDEN, "wrong-code");
    }
    enter(&site, &job, &right).await.problem(StatusCode::FORBIDDEN, "wrong-code");
    // The next one lets somebody in, and the other one out.
    let second = token(&enter(&site, &job, &code(&site, &job).await).await);
    assert_eq!(type_in(&site, &job, &second, "y").await.status, StatusCode::NO_CONTENT);
    type_in(&site, &job, &shell, "z").await.problem(StatusCode::CONFLICT, "not-in-shell");

    let mut kinds = Vec::new();
    let mut events = site.events(&format!("/v1/jobs/{job}/events"), Some(0)).await;
    while kinds.iter().filter(|kind| *kind == "job.shell_opened").count() < 2 {
        kinds.push(events.next().await.1);
    }
    let count = |kind: &str| kinds.iter().filter(|one| one.ends_with(kind)).count();
    assert_eq!((count("code_issued"), count("shell_refused")), (4, 9));
    let database = std::fs::read(site.data().join("kaltstart.db-wal")).expect("read");
    for secret in [&right, &shell, &second] {
        assert!(!site.log().contains(secret.as_str()), "p22: a secret stands in the log");
        let bytes = secret.as_bytes();
        assert!(!database.windows(bytes.len()).any(|window| window == bytes), "p22: it is stored");
    }
}

#[tokio::test]
async fn what_is_typed_and_shown_goes_through_once_and_is_recorded() {
    let site = Site::start().await;
    let job = ordered(&site, 1).await;
    site.get(&format!("/v1/jobs/{job}/recording")).await.problem(StatusCode::NOT_FOUND, "not-found");
    let (agent, task) = held(&site, 1, 11).await;
    let shell = token(&enter(&site, &job, &code(&site, &job).await).await);
    type_in(&site, &job, &shell, "ls\r").await;
    let input = agent.input(&task, 0, None).await;
    assert_eq!((input.open, input.first, input.size), (true, 0, SIZE));
    assert_eq!(input.bytes, Octets(b"ls\r".to_vec()));
    assert_eq!(agent.input(&task, 0, Some(SIZE)).await.bytes, input.bytes, "the answer was lost");
    for (first, text) in [(0, "one\r\n"), (0, "one\r\n"), (3, "\r\ntwo"), (8, "\r\n")] {
        assert_eq!(agent.show(&task, first, text).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(shown(&watch(&site, &job, &shell, 0).await), "one\r\ntwo\r\n");
    assert_eq!(shown(&watch(&site, &job, &shell, 5).await), "two\r\n");
    let (waited, told) = tokio::join!(watch(&site, &job, &shell, 10), agent.show(&task, 10, "later"));
    assert_eq!((shown(&waited).as_str(), told.status), ("later", StatusCode::NO_CONTENT));
    // Somebody else's agent shows nothing here.
    let (foreign, _) = {
        ordered(&site, 2).await;
        held(&site, 2, 12).await
    };
    foreign.show(&task, 15, "forged").await.problem(StatusCode::CONFLICT, "refused");
    assert!(foreign.input(&task, 0, None).await.over.is_some());

    let rescued = Rescued { job: task.job.clone(), attempt: task.attempt };
    assert_eq!(agent.twice("rescued", &rescued).await, Directive::Continue);
    let view = site.get(&format!("/v1/jobs/{job}")).await.json;
    assert_eq!((&view["state"], &view["writable"]), (&json!("succeeded"), &json!([])));
    assert_eq!(site.get("/v1/nodes/n1").await.json["state"], "available");
    assert_eq!(watch(&site, &job, &shell, 15).await.json["over"], "the shell was left");
    assert!(agent.input(&task, 3, Some(SIZE)).await.over.is_some(), "the machine shall restart");
    agent.show(&task, 15, "more").await.problem(StatusCode::CONFLICT, "refused");

    let cast = site.get(&format!("/v1/jobs/{job}/recording")).await;
    assert_eq!(cast.headers["content-type"], "application/x-asciicast");
    let lines: Vec<Value> = cast.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (&lines[0]["version"], lines[0]["title"].as_str()),
        (&json!(2), Some(format!("n1 {job}").as_str()))
    );
    let of = |code: &str| -> Vec<&str> {
        lines[1..].iter().filter(|line| line[1] == code).filter_map(|line| line[2].as_str()).collect()
    };
    assert_eq!(of("i"), ["ls\r"]);
    assert_eq!(of("o").concat(), "one\r\ntwo\r\nlater");
    assert_eq!(of("r"), ["100x30"]);
    assert!(
        of("m").iter().any(|mark| mark.contains("alice@laptop") && mark.contains("127.0.0.1")),
        "{lines:?}"
    );
    let said = done(&site, &format!("job recording {job}")).await;
    assert_eq!(said.out, cast.text);
}

#[tokio::test]
async fn p13_a_restarted_server_keeps_used_codes_used_and_goes_on_with_the_shell() {
    let mut site = Site::start().await;
    let job = ordered(&site, 1).await;
    let (used, task) = {
        let (agent, task) = held(&site, 1, 11).await;
        let used = code(&site, &job).await;
        let shell = token(&enter(&site, &job, &used).await);
        type_in(&site, &job, &shell, "abc").await;
        assert_eq!(agent.input(&task, 0, None).await.bytes.0.len(), 3);
        agent.show(&task, 0, "before").await;
        (used, task)
    };
    site.kill();
    site.power_on().await;
    enter(&site, &job, &used).await.problem(StatusCode::FORBIDDEN, "wrong-code");
    let agent = Agent::running(&site, 11);
    assert_eq!(agent.show(&task, 6, " after").await.status, StatusCode::NO_CONTENT);
    let shell = token(&enter(&site, &job, &code(&site, &job).await).await);
    type_in(&site, &job, &shell, "def").await;
    let input = agent.input(&task, 3, Some(SIZE)).await;
    assert_eq!((input.first, input.bytes), (3, Octets(b"def".to_vec())));
    assert_eq!(shown(&watch(&site, &job, &shell, 0).await), " after");
    let cast = site.get(&format!("/v1/jobs/{job}/recording")).await.text;
    assert!(cast.contains("\"before\"") && cast.contains("\" after\""), "{cast}");

    // Its time is over, or somebody ends it: the machine hears that it shall restart.
    site.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert!(agent.input(&task, 6, Some(SIZE)).await.over.is_some());
    site.post(&format!("/v1/jobs/{job}/code"), &json!({})).await.problem(StatusCode::CONFLICT, "refused");
}

#[tokio::test]
async fn p05_only_disks_that_an_order_names_may_be_written_to() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    let refused = site.post("/v1/nodes/n1/jobs", &json!({"kind": "rescue"})).await;
    refused.problem(StatusCode::CONFLICT, "refused");
    Agent::boot(&site, 1, 1, Mode::Discover).await.hello().await;
    for order in [
        json!({"kind": "rescue", "profile": "good"}),
        json!({"kind": "rescue", "erase": {"S1": "0123456789abcdef"}}),
        json!({"kind": "rescue", "writable": ["S2"]}),
        json!({"kind": "deploy", "profile": "good", "writable": ["S1"]}),
    ] {
        let answer = site.post("/v1/nodes/n1/jobs", &order).await;
        answer.problem(StatusCode::BAD_REQUEST, "bad-request");
    }
    let order = json!({"kind": "rescue", "writable": ["S1"]});
    let answer = site.post("/v1/nodes/n1/jobs", &order).await;
    assert_eq!((answer.status, &answer.json["writable"]), (StatusCode::ACCEPTED, &json!(["S1"])));
    // Started to install, it is not given the rescue; and the other way round.
    let wrong = Agent::boot(&site, 1, 2, Mode::Install).await;
    wrong.hello().await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    let (_, task) = held(&site, 1, 3).await;
    assert_eq!(task.writable, ["S1"]);
}

#[tokio::test]
async fn ks_holds_a_machine_and_works_on_it() {
    let site = Site::start().await;
    done(&site, "node add n1 --mac 52:54:00:00:00:01").await;
    Agent::boot(&site, 1, 1, Mode::Discover).await.hello().await;
    refused(&site, "shell n1", crate::client::NOT_FOUND).await;
    refused(&site, "rescue n1 --writable S1", crate::client::USAGE).await;
    refused(&site, "rescue n1 --writable S1 --confirm n2", crate::client::USAGE).await;
    let said = done(&site, "rescue n1").await;
    assert!(said.out.contains("CODE") && said.err.contains("read-only;"), "{} {}", said.out, said.err);
    refused(&site, "rescue n1 --writable S1 --confirm n1", crate::client::USAGE).await;
    let made: Value = serde_json::from_str(&done(&site, "rescue n1 -o json").await.out).expect("JSON");
    let (job, code) = (made["job"]["id"].as_str().expect("a job"), made["code"].as_str().expect("a code"));
    assert!(said.out.contains(job), "the same job");
    let (agent, task) = held(&site, 1, 2).await;

    let mut ks = Command::new(PROGRAM);
    ks.args(["shell", "n1"]).env("KS_SERVER", &site.base).env("KS_TOKEN_FILE", site.token_file());
    let ks = ks.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut ks = ks.expect("it runs");
    let mut stdin = ks.stdin.take().expect("piped");
    write!(stdin, "{code}\necho hi\n").expect("written");
    drop(stdin);
    let began = Instant::now();
    let mut input = agent.input(&task, 0, None).await;
    while input.bytes.0.is_empty() {
        assert!(began.elapsed() < LIMIT, "nothing was typed");
        input = agent.input(&task, 0, None).await;
    }
    assert_eq!(input.bytes, Octets(b"echo hi\n".to_vec()), "the code is not typed into the shell");
    agent.show(&task, 0, "hi\r\n").await;
    let rescued = Rescued { job: task.job.clone(), attempt: task.attempt };
    assert_eq!(agent.twice("rescued", &rescued).await, Directive::Continue);
    let ended =
        tokio::task::spawn_blocking(move || ks.wait_with_output().expect("ended")).await.expect("joined");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stdout, b"hi\r\n");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("the shell was left"), "{ended:?}");
    refused(&site, "shell n1", crate::client::NOT_FOUND).await;
}
