//! A server in this process: the product's own routes, DHCP service and store, polled step by step.
//!
//! What is asked at the same time is decided at the same time: each request goes on to its next write before any of
//! these writes is made, so that decisions rest on what others change. Between a write and what follows from it the
//! server may crash.

use crate::dhcp::{Door, Handle, Neighbours, Sent, Wire};
use crate::invariants::label;
use crate::mutants::Mutant;
use crate::site::{LOSSES, Site, admin, directory};
use axum::body::{Body, to_bytes};
use axum::http::Request;
use kaltstart_core::dhcp::lease::LeaseTable;
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{JobState, Machine, State};
use kaltstart_protocol::dhcp::Message;
use kaltstart_server::app::App;
use kaltstart_server::doors::dhcp_service;
use kaltstart_server::http::listen::Routes;
use kaltstart_server::net::dhcp::{Link, Packet, Ping, Service};
use kaltstart_server::store::{self, Store};
use kaltstart_server::tls::{self, Tls};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Longest answer that is taken.
const ANSWER_MAX: usize = 1 << 20;
/// More rounds than any request needs: one that goes on hangs.
const ROUNDS_MAX: u32 = 200;
/// Port of DHCP clients.
const CLIENT_PORT: u16 = 68;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) post: bool,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) bearer: Option<String>,
    pub(crate) from: Ipv4Addr,
    pub(crate) tls: bool,
    /// Whether the answer may be held back.
    pub(crate) waits: bool,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// What reaches the server.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// A request, by a number that the answer bears.
    Ask(u64, Ask),
    /// A DHCP packet.
    Dhcp(Vec<u8>),
}

/// What leaves it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) answers: Vec<(u64, Answer)>,
    pub(crate) replies: Vec<Sent>,
    /// It crashed after that: what else was decided has not left.
    pub(crate) crashed: bool,
    /// What a mutant answered for before it crashed: machines, and their versions.
    pub(crate) answered_for: Vec<(String, i64)>,
}

type Pending = Pin<Box<dyn Future<Output = Answer>>>;

struct Open {
    id: u64,
    waits: bool,
    pending: Pending,
}

struct Running {
    app: Arc<App>,
    routes: Routes,
    dhcp: Arc<Service<Handle>>,
    door: Arc<Door>,
    wire: Arc<Wire>,
    /// Requests whose answer is held back.
    held: Vec<Open>,
    /// The newest event when they were looked at.
    looked_at: i64,
}

/// The server, up or down.
pub(crate) struct Server {
    runtime: Runtime,
    dir: TempDir,
    /// Where its data lies; another place after each restored copy.
    data: PathBuf,
    copies: u32,
    tls: Arc<Tls>,
    pub(crate) neighbours: Arc<Neighbours>,
    mutant: Option<Mutant>,
    up: Option<Running>,
}

impl Server {
    /// A new server that was never started.
    pub(crate) fn new(mutant: Option<Mutant>) -> Self {
        let dir = directory();
        let data = dir.path().join("data-0");
        fs::create_dir(&data).expect("made");
        let names = Site::get().config(&data, LOSSES).names();
        let tls = Tls::open(tls::dir(dir.path()), names, crate::time::wall()).expect("keys");
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (tls, neighbours) = (Arc::new(tls), Arc::default());
        Self { runtime, dir, data, copies: 0, tls, neighbours, mutant, up: None }
    }

    pub(crate) fn app(&self) -> Option<&Arc<App>> {
        self.up.as_ref().map(|up| &up.app)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// Starts it, as `serve` does.
    pub(crate) fn start(&mut self) {
        let losses = if self.mutant == Some(Mutant::LossesUnlimited) { 50 } else { LOSSES };
        let config = Site::get().config(&self.data, losses);
        let (tls, mutant, data) = (self.tls.clone(), self.mutant, self.data.clone());
        let ping = self.neighbours.clone() as Arc<dyn Ping>;
        let running = self.runtime.block_on(async move {
            let store = Store::open(&data).expect("a database");
            let app = Arc::new(App::new(config, store, admin(), tls).await.expect("it starts"));
            if mutant != Some(Mutant::StartNotTold) {
                app.started().await.expect("jobs hear of it");
            }
            let (door, wire) = (Door::new(app.clone(), mutant), Wire::new(&app));
            let handle = Handle(door.clone());
            let dhcp = if mutant == Some(Mutant::LeasesForgotten) {
                let (subnets, watches) = (app.config.subnets(), app.watches.clone());
                Service::new(handle, subnets, watches, LeaseTable::default(), crate::time::wall(), None, None)
            } else {
                dhcp_service(&app, handle, Some(ping)).await.expect("leases")
            };
            Running {
                routes: Routes::new(app.clone()),
                app,
                dhcp,
                door,
                wire,
                held: Vec::new(),
                looked_at: 0,
            }
        });
        self.up = Some(running);
    }

    /// Ends it at once; what is stored stays.
    pub(crate) fn crash(&mut self) {
        let Some(running) = self.up.take() else { return };
        let _entered = self.runtime.enter();
        running.door.close();
        drop(running);
        // The last to close the database removes its log, and that is the store's own thread.
        let (log, began) = (self.data.join("kaltstart.db-wal"), Instant::now());
        while log.exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "the database is still open");
            std::thread::yield_now();
        }
    }

    /// Somebody gave up waiting for the answer to that request.
    pub(crate) fn hang_up(&mut self, id: u64) {
        let _entered = self.runtime.enter();
        if let Some(up) = &mut self.up {
            up.held.retain(|request| request.id != id);
        }
    }

    /// Looks at deadlines, as the server does by itself.
    pub(crate) fn look_at_deadlines(&self) {
        if let Some(up) = self.up.as_ref().filter(|_| self.mutant != Some(Mutant::DeadlinesIgnored)) {
            self.runtime.block_on(up.app.look_at_deadlines());
        }
    }

    /// Lets `inputs` come at once. With `crash_in` it crashes when it has written so many times: that is durable, and
    /// nothing that rests on it has left.
    pub(crate) fn turn(&mut self, inputs: Vec<Input>, crash_in: &mut Option<u32>) -> Output {
        let Some(mut up) = self.up.take() else { return Output::default() };
        let entered = self.runtime.enter();
        let before = (self.mutant == Some(Mutant::AnswerBeforeCommit) && crash_in.is_some())
            .then(|| read_database(&self.data));
        let mut output = Output::default();
        let mut packets = Vec::new();
        let mut open = up.woken();
        for input in inputs {
            match input {
                Input::Ask(id, ask) => open.push(up.request(id, ask)),
                Input::Dhcp(bytes) => {
                    packets
                        .extend(Message::decode(&bytes).map(|message| Packet { message, port: CLIENT_PORT }));
                }
            }
        }
        let (mut round, mut idle) = (0, 0);
        while !(open.is_empty() && packets.is_empty()) && idle < 2 {
            round += 1;
            assert!(round < ROUNDS_MAX, "a request is never answered");
            let newest = *up.app.store.newest_event().borrow();
            let crowd = open.len() + packets.len() > 1 || self.mutant == Some(Mutant::AckBeforeCommit);
            let gate = crowd.then(|| Gate::close(&up.app.store));
            if !packets.is_empty() {
                let link = up.wire.clone() as Arc<dyn Link>;
                up.dhcp.process(std::mem::take(&mut packets), &link);
                up.door.tell_early();
            }
            let mut answered = answers(&mut open);
            drop(gate);
            up.settle(&self.runtime, &self.neighbours);
            let writes = newest != *up.app.store.newest_event().borrow() || up.wire.promises();
            if let Some(left) = crash_in.as_mut().filter(|_| writes) {
                *left = left.saturating_sub(1);
            }
            if writes && *crash_in == Some(0) {
                *crash_in = None;
                output.crashed = true;
                if self.mutant == Some(Mutant::AnswerBeforeCommit) {
                    answered.append(&mut answers(&mut open));
                    output.answers.append(&mut answered);
                    let machines = up.app.store.machines().expect("readable");
                    output.answered_for =
                        machines.iter().map(|found| (label(&found.machine), found.version)).collect();
                }
                break;
            }
            output.answers.append(&mut answered);
            output.replies.append(&mut up.wire.take());
            idle = if open.iter().all(|request| request.waits) { idle + 1 } else { 0 };
        }
        up.held.append(&mut open);
        drop(entered);
        self.up = Some(up);
        if output.crashed {
            self.crash();
            if let Some(before) = before {
                write_database(&self.data, &before);
            }
        }
        output
    }

    /// Changes a machine past `lifecycle::step`, if a mutant does.
    pub(crate) fn meddle(&self) {
        let Some(up) = &self.up else { return };
        for mut found in up.app.store.machines().expect("readable") {
            let Machine { node, job } = &mut found.machine;
            let told = match self.mutant {
                Some(Mutant::StateSetByHand) if node.state == State::Available => {
                    node.state = State::Deployed;
                    vec![Happening::NodeMoved(State::Deployed)]
                }
                Some(Mutant::JobRevived) => match job {
                    Some(job) if matches!(job.state, JobState::Failed | JobState::Cancelled) => {
                        job.state = JobState::Running;
                        vec![Happening::JobStarted]
                    }
                    _ => continue,
                },
                _ => continue,
            };
            let changed = up.app.store.commit(&found.machine, found.version, &told, crate::time::wall());
            self.runtime.block_on(changed).expect("stored");
        }
    }

    /// Copies the database while the server is up, as `kaltstart backup` does; `plain`ly, file by file, as somebody may
    /// who makes a copy of a whole machine.
    pub(crate) fn back_up(&mut self, plain: bool) -> Copy {
        if plain {
            return Copy::Files(read_database(&self.data));
        }
        self.copies += 1;
        let to = self.dir.path().join(format!("copy-{}.db", self.copies));
        store::copy(&self.data.join(store::FILE), &to).expect("copied");
        Copy::Made(to)
    }

    /// Puts a copy in the database's place; the server is down.
    pub(crate) fn restore(&mut self, copy: &Copy) {
        assert!(self.up.is_none(), "a running server's database is left alone");
        let before = self.data.clone();
        self.copies += 1;
        self.data = self.dir.path().join(format!("data-{}", self.copies));
        fs::create_dir(&self.data).expect("made");
        match copy {
            Copy::Files(files) => write_database(&self.data, files),
            Copy::Made(made) => {
                store::copy(made, &self.data.join(store::FILE)).expect("copied");
            }
        }
        if self.mutant == Some(Mutant::RestoreUnnoticed) {
            // Into the same file, as a file system is that was set back.
            let files = read_database(&self.data);
            self.data = before;
            write_database(&self.data, &files);
        }
    }
}

/// A copy of the database.
#[derive(Debug, Clone)]
pub(crate) enum Copy {
    /// Its files.
    Files(Vec<(String, Vec<u8>)>),
    /// Where the product has put it.
    Made(PathBuf),
}

impl Drop for Server {
    /// Its parts know each other, and would stay for ever.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.crash();
        }
    }
}

impl Running {
    /// Requests that may have an answer since something happened.
    fn woken(&mut self) -> Vec<Open> {
        let newest = *self.app.store.newest_event().borrow();
        let is_news = std::mem::replace(&mut self.looked_at, newest) != newest;
        if is_news { std::mem::take(&mut self.held) } else { Vec::new() }
    }

    fn request(&self, id: u64, ask: Ask) -> Open {
        let Ask { post, path, body, bearer, from, tls, waits } = ask;
        let mut request = Request::builder().method(if post { "POST" } else { "GET" }).uri(path);
        if post {
            request = request.header("content-type", "application/json");
        }
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let request = request.body(Body::from(body)).expect("a request");
        let routes = self.routes.clone();
        let pending = async move {
            let answer = routes.ask(request, from.into(), tls).await;
            let status = answer.status().as_u16();
            let body = to_bytes(answer.into_body(), ANSWER_MAX).await.expect("a whole body");
            Answer { status, body: body.into() }
        };
        Open { id, waits, pending: Box::pin(pending) }
    }

    /// Waits until all writes are durable and what they set off is done.
    fn settle(&self, runtime: &Runtime, neighbours: &Neighbours) {
        wait_for_writes(&self.app.store);
        while runtime.metrics().num_alive_tasks() > 0 {
            runtime.block_on(tokio::task::yield_now());
        }
        // Half a second in which a host may say that it has the address; it is not long enough to matter here.
        while let Some(answers) = neighbours.answers() {
            answers.into_iter().for_each(|address| self.dhcp.heard_from(address));
            self.dhcp.release_due(Instant::now() + Duration::from_secs(60));
            wait_for_writes(&self.app.store);
        }
    }
}

fn poll(pending: &mut Pending) -> Option<Answer> {
    match pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(answer) => Some(answer),
        std::task::Poll::Pending => None,
    }
}

/// The answers that are there now; their requests are open no more.
fn answers(open: &mut Vec<Open>) -> Vec<(u64, Answer)> {
    let mut answered = Vec::new();
    open.retain_mut(|request| {
        let answer = poll(&mut request.pending);
        let is_open = answer.is_none();
        answered.extend(answer.map(|answer| (request.id, answer)));
        is_open
    });
    answered
}

/// Returns when all that was handed to the store before is durable, and who asked for it knows.
fn wait_for_writes(store: &Store) {
    let (done, durable) = mpsc::channel();
    store.submit(|_| Ok(()), move |_| done.send(()).expect("somebody waits")).expect("the store takes it");
    durable.recv().expect("the store answers");
}

/// Holds up the store: what is handed to it waits.
struct Gate(mpsc::Sender<()>);

impl Gate {
    fn close(store: &Store) -> Self {
        let (open, opened) = mpsc::channel::<()>();
        // Ends when the gate is dropped.
        store.submit(move |_| Ok(opened.recv().ok()), |_| ()).expect("the store takes it");
        Self(open)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.send(()).ok();
    }
}

/// The files of a database that nobody writes to now.
fn read_database(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable"));
    let named = files.map(|file| (file.file_name().into_string().expect("a name"), file.path()));
    // The index beside the log is made anew from it.
    let wanted = named.filter(|(name, _)| name == "kaltstart.db" || name == "kaltstart.db-wal");
    wanted.map(|(name, path)| (name, fs::read(path).expect("readable"))).collect()
}

/// Writes them into the files that are there, or new ones.
fn write_database(dir: &Path, copy: &[(String, Vec<u8>)]) {
    for beside in ["kaltstart.db-wal", "kaltstart.db-shm"] {
        fs::remove_file(dir.join(beside)).ok();
    }
    for (name, bytes) in copy {
        fs::write(dir.join(name), bytes).expect("written");
    }
}
