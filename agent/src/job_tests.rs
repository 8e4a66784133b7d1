use super::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kaltstart_protocol::agent_api::{DiskUuids, Identity, Task};
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::SignedManifest;
use kaltstart_protocol::node_api::ReportConfig;
use kaltstart_protocol::phase::{Progress, Unit};
use kaltstart_protocol::secret::Secret;

use crate::test_server::{Server, json};
use crate::work::{Jobs, work};

/// What the tests' installer does.
enum Act {
    Succeed,
    Fail,
    /// Finds a defect of its own.
    Panic,
    /// Goes on until it is told to stop.
    UntilStopped,
}

struct Fake {
    act: Act,
    calls: AtomicUsize,
    stopped: Mutex<Option<String>>,
}

impl Fake {
    fn new(act: Act) -> Self {
        Self { act, calls: AtomicUsize::new(0), stopped: Mutex::new(None) }
    }
}

impl Installer for Fake {
    fn disks(&self) -> Vec<Disk> {
        Vec::new()
    }

    fn install(&self, task: &InstallTask, _: &[Disk], reporter: &Reporter) -> Result<Installed, NotDone> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let progress = Some(Progress { done: 1, total: 2, unit: Unit::Bytes });
        reporter.phase(Phase::Image, ReportState::Running, progress, BTreeMap::new());
        match self.act {
            Act::Succeed => {
                reporter.phase(Phase::Image, ReportState::Done, None, BTreeMap::new());
                Ok(Installed {
                    job: task.job.clone(),
                    attempt: task.attempt,
                    disk: "disk-1".into(),
                    ssh_host_keys: Vec::new(),
                    machine_id: "0".repeat(32),
                    boot_entry: false,
                    restart: task.restart,
                })
            }
            Act::Fail => Err(NotDone::Failed(Finding::new(Code::ImageMismatch, "one bit"))),
            Act::Panic => panic!("index {} of {}", 3, 2),
            Act::UntilStopped => loop {
                if let Some(stop) = reporter.stop() {
                    *self.stopped.lock().expect("not poisoned") = Some(stop.reason().into());
                    return Err(NotDone::Cancelled);
                }
                std::thread::yield_now();
            },
        }
    }

    fn erase(&self, task: &EraseTask, _: &[Disk], reporter: &Reporter) -> Result<Erased, NotDone> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        reporter.phase(Phase::Disk, ReportState::Done, None, BTreeMap::new());
        Ok(Erased { job: task.job.clone(), attempt: task.attempt, disks: Vec::new() })
    }
}

fn task(restart: Restart) -> String {
    let task = InstallTask {
        job: "job_00000000000000000000000001".parse().expect("a job"),
        attempt: 1,
        disk: Default::default(),
        grants: Vec::new(),
        layout: serde_json::from_str(LAYOUT).expect("a layout"),
        image: SignedManifest { manifest: String::new(), signature: String::new() },
        image_url: "http://127.0.0.1:1/image".into(),
        chunks_url: None,
        others: Vec::new(),
        caches: Vec::new(),
        uuids: DiskUuids {
            disk: String::new(),
            partitions: Vec::new(),
            root: String::new(),
            further: Vec::new(),
            esp: 0,
        },
        identity: Identity {
            hostname: "n1".into(),
            domain: String::new(),
            mac: kaltstart_protocol::ids::Mac([0; 6]),
            authorized_keys: Vec::new(),
            report: ReportConfig {
                urls: Vec::new(),
                token: Secret::new("r".into()),
                job: None,
                authority: Digest([0; 32]),
                not_before: 0,
            },
            recall: None,
        },
        restart,
        encryption: None,
    };
    json("200 OK", &serde_json::to_string(&Task::Install(Box::new(task))).expect("serialises"))
}

const LAYOUT: &str = r#"{"name":"l","partitions":[]}"#;

fn path(request: &str) -> &str {
    request.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default()
}

/// A server that gives one task, then "reboot", and answers everything else with `other`.
fn server(other: impl Fn(&str, &str) -> String + Send + 'static) -> Server {
    server_for(Restart::Firmware, other)
}

fn server_for(restart: Restart, other: impl Fn(&str, &str) -> String + Send + 'static) -> Server {
    let tasks = AtomicUsize::new(0);
    Server::with(move |_, request| match path(request) {
        "task" if tasks.fetch_add(1, Ordering::Relaxed) == 0 => task(restart),
        "task" => json("200 OK", r#"{"kind":"reboot","reason":"enough"}"#),
        path => other(path, request),
    })
}

/// A start that may carry out jobs, unless it `looks` only.
fn run(server: &Server, looks: bool, installer: &Fake) -> End {
    let link = Link::new(&[server.url("")], server.client(), Secret::new("s".into())).with_pause(|_| {});
    let jobs = |task: &JobTask| carry_out(&link, task, installer);
    work(&link, (!looks).then_some(&jobs as &Jobs<'_>), |_| {})
}

const GO_ON: &str = r#"{"directive":"continue"}"#;

#[test]
fn p02_a_task_is_refused_when_this_start_may_only_look() {
    let server = server(|_, _| json("200 OK", GO_ON));
    let installer = Fake::new(Act::Succeed);
    assert_eq!(run(&server, true, &installer), End::Restart("enough".into()));
    assert_eq!(installer.calls.load(Ordering::Relaxed), 0);
}

#[test]
fn a_job_that_cannot_be_carried_out_is_shown_and_work_is_asked_for_again() {
    let tasks = AtomicUsize::new(0);
    let server = Server::with(move |_, _| match tasks.fetch_add(1, Ordering::Relaxed) {
        0 => json("200 OK", r#"{"kind":"failed","finding":{"code":"KS-2107","detail":"sda holds ext4"}}"#),
        _ => json("200 OK", r#"{"kind":"reboot","reason":"enough"}"#),
    });
    let installer = Fake::new(Act::Succeed);
    assert_eq!(run(&server, false, &installer), End::Restart("enough".into()));
    assert_eq!(installer.calls.load(Ordering::Relaxed), 0);
}

#[test]
fn changes_arrive_in_order_and_the_last_word_is_installed() {
    let lost = AtomicUsize::new(0);
    let server = server(move |_, _| {
        // Every second answer is lost on the way.
        let index = lost.fetch_add(1, Ordering::Relaxed);
        if index.is_multiple_of(2) { json("503 Service Unavailable", "{}") } else { json("200 OK", GO_ON) }
    });
    let end = run(&server, false, &Fake::new(Act::Succeed));
    assert_eq!(end, End::Restart("the system is installed".into()));
    let told: Vec<String> = server
        .requests()
        .iter()
        .map(|request| {
            let state =
                ["running", "done", "failed"].iter().find(|s| request.contains(&format!("\"is\":\"{s}\"")));
            format!("{} {}", path(request), state.unwrap_or(&"-"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "task -",
            "report running",
            "report running",
            "report done",
            "report done",
            "installed -",
            "installed -"
        ]
    );
}

#[test]
fn the_loaded_kernel_is_started_when_the_installation_is_noted_and_not_before() {
    let lost = AtomicUsize::new(0);
    let server = server_for(Restart::Kexec, move |path, _| {
        let again = path == "installed" && lost.fetch_add(1, Ordering::Relaxed) == 0;
        if again { json("503 Service Unavailable", "{}") } else { json("200 OK", GO_ON) }
    });
    assert_eq!(run(&server, false, &Fake::new(Act::Succeed)), End::Kexec);
    let told = server.requests();
    assert_eq!(told.iter().filter(|request| path(request) == "installed").count(), 2);
    assert!(told.last().expect("requests").contains(r#""restart":"kexec""#), "{told:?}");
}

#[test]
fn a_failure_is_told_with_its_finding_and_the_machine_stays() {
    let server = server(|_, _| json("200 OK", GO_ON));
    let end = run(&server, false, &Fake::new(Act::Fail));
    assert_eq!(end, End::Restart("enough".into()), "asked for work again");
    let requests = server.requests();
    assert!(
        requests.iter().any(|r| r.contains("KS-3001") && r.contains(r#""phase":"image""#)),
        "{requests:?}"
    );
    assert!(!requests.iter().any(|r| path(r) == "installed"));
}

#[test]
fn a_defect_fails_the_job_and_the_agent_goes_on() {
    let server = server(|_, _| json("200 OK", GO_ON));
    let end = run(&server, false, &Fake::new(Act::Panic));
    assert_eq!(end, End::Restart("enough".into()), "asked for work again");
    let requests = server.requests();
    let told =
        |r: &String| r.contains("KS-4006") && r.contains("index 3 of 2") && r.contains(r#""phase":"image""#);
    assert!(requests.iter().any(told), "{requests:?}");
    assert!(!requests.iter().any(|r| path(r) == "installed"));
}

#[test]
fn a_stop_reaches_the_installation() {
    let server = server(|_, _| json("200 OK", r#"{"directive":"stop","reason":"cancelled by anna"}"#));
    let installer = Fake::new(Act::UntilStopped);
    assert_eq!(run(&server, false, &installer), End::Restart("enough".into()));
    assert_eq!(installer.stopped.lock().expect("not poisoned").as_deref(), Some("cancelled by anna"));
}

#[test]
fn p21_a_session_that_is_not_known_any_more_ends_the_work() {
    let server = server(|_, _| json("401 Unauthorized", r#"{"title":"superseded"}"#));
    let installer = Fake::new(Act::UntilStopped);
    assert_eq!(run(&server, false, &installer), End::Unknown("superseded".into()));
}

#[test]
fn p07_the_same_attempt_is_never_run_twice_in_one_start() {
    let tasks = AtomicUsize::new(0);
    let server = Server::with(move |_, request| match path(request) {
        "task" if tasks.fetch_add(1, Ordering::Relaxed) < 3 => task(Restart::Firmware),
        "task" => json("200 OK", r#"{"kind":"reboot","reason":"enough"}"#),
        _ => json("200 OK", GO_ON),
    });
    let installer = Fake::new(Act::Fail);
    assert_eq!(run(&server, false, &installer), End::Restart("enough".into()));
    assert_eq!(installer.calls.load(Ordering::Relaxed), 1);
}

#[test]
fn p10_an_erasure_is_told_until_it_is_noted_and_the_machine_stays() {
    let (tasks, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let erase = EraseTask {
        job: "job_00000000000000000000000001".parse().expect("a job"),
        attempt: 1,
        disks: Vec::new(),
    };
    let erase = json("200 OK", &serde_json::to_string(&Task::Erase(Box::new(erase))).expect("serialises"));
    let server = Server::with(move |_, request| match path(request) {
        "task" if tasks.fetch_add(1, Ordering::Relaxed) == 0 => erase.clone(),
        "task" => json("200 OK", r#"{"kind":"reboot","reason":"enough"}"#),
        "erased" if lost.fetch_add(1, Ordering::Relaxed) == 0 => json("503 Service Unavailable", "{}"),
        _ => json("200 OK", GO_ON),
    });
    let installer = Fake::new(Act::Succeed);
    assert_eq!(run(&server, false, &installer), End::Restart("enough".into()), "asked for work again");
    assert_eq!(installer.calls.load(Ordering::Relaxed), 1);
    let told: Vec<String> = server.requests().iter().map(|request| path(request).to_owned()).collect();
    assert_eq!(told, ["task", "report", "erased", "erased", "task"]);
}
