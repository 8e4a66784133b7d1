//! A server in this process: the product's own routes, DHCP service and store, polled step by step by the
//! [`Cluster`](crate::cluster::Cluster).

use crate::cluster::Gate;
use crate::database::{Database, Road};
use crate::dhcp::{Door, Handle, Neighbours, Sent, Wire};
use crate::mutants::{self, Mutant};
use crate::site::{Rules, Site, address, admin};
use axum::body::{Body, to_bytes};
use axum::http::Request;
use kaltstart_core::dhcp::lease::{Lease, LeaseTable};
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{JobState, Machine, State};
use kaltstart_protocol::ids::JobId;
use kaltstart_server::app::App;
use kaltstart_server::doors::dhcp_service;
use kaltstart_server::http::listen::Routes;
use kaltstart_server::net::dhcp::{Ping, Service};
use kaltstart_server::store::Store;
use kaltstart_server::tls;
use std::fs;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// The number of what nobody asked for.
const DEADLINES: u64 = u64::MAX;
/// Longest answer that is taken.
const ANSWER_MAX: usize = 1 << 20;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) post: bool,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) bearer: Option<String>,
    pub(crate) from: Ipv4Addr,
    /// The server.
    pub(crate) to: Ipv4Addr,
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

/// What reaches a server.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// A request, by a number that the answer bears.
    Ask(u64, Ask),
    /// A DHCP packet.
    Dhcp(Vec<u8>),
    /// It is time to look at deadlines, as the server does by itself.
    Deadlines,
}

/// What leaves it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) answers: Vec<(u64, Answer)>,
    pub(crate) replies: Vec<Sent>,
    pub(crate) wrote: bool,
    /// Its way to the database was cut.
    pub(crate) cut: bool,
    /// It crashed after that: what else was decided has not left.
    pub(crate) crashed: bool,
    /// What a mutant answered for before it crashed: machines, and their versions.
    pub(crate) answered_for: Vec<(String, i64)>,
}

type Pending = Pin<Box<dyn Future<Output = Answer>>>;

/// A request that is not answered yet.
pub(crate) struct Open {
    pub(crate) id: u64,
    pub(crate) waits: bool,
    pending: Pending,
}

impl Open {
    /// Goes on with it as far as it can; its answer, if there is one now.
    pub(crate) fn poll(&mut self) -> Option<Answer> {
        match self.pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }
}

/// What a server is while it is up.
pub(crate) struct Running {
    pub(crate) app: Arc<App>,
    routes: Routes,
    pub(crate) dhcp: Arc<Service<Handle>>,
    pub(crate) door: Arc<Door>,
    pub(crate) wire: Arc<Wire>,
    /// Requests whose answer is held back.
    pub(crate) held: Vec<Open>,
    /// The newest event when they were looked at.
    looked_at: i64,
    /// As a mutant has it.
    learns_nothing: bool,
}

/// A server, up or down.
pub(crate) struct Server {
    number: usize,
    site: &'static Site,
    rules: Rules,
    pub(crate) runtime: Runtime,
    pub(crate) neighbours: Arc<Neighbours>,
    mutant: Option<Mutant>,
    /// While it decides, it is elsewhere.
    pub(crate) up: Option<Running>,
}

impl Server {
    /// One that was never started.
    pub(crate) fn new(number: usize, site: &'static Site, rules: Rules, mutant: Option<Mutant>) -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { number, site, rules, runtime, neighbours: Arc::default(), mutant, up: None }
    }

    pub(crate) fn app(&self) -> Option<&Arc<App>> {
        self.up.as_ref().map(|up| &up.app)
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// Starts it, as `serve` does; false when its database cannot be reached.
    pub(crate) fn start(&mut self, database: &Database) -> bool {
        let mut rules = self.rules;
        if self.mutant == Some(Mutant::LossesUnlimited) {
            rules.losses = 50;
        }
        let config = self.site.config(&database.directory_of(self.number), self.number, rules);
        let (tls, mutant, number) = (self.site.tls.clone(), self.mutant, self.number);
        let ping = self.neighbours.clone() as Arc<dyn Ping>;
        // In backups too.
        let keys = tls::dir(&config.data_dir);
        fs::create_dir_all(&keys)
            .and_then(|()| fs::write(keys.join("secrets.key"), "simulated"))
            .expect("copied");
        let (eye, road) = (database.eye().cloned(), database.road(number).cloned());
        let Ok(store) = database.open(number) else { return false };
        let running = self.runtime.block_on(async move {
            if mutant == Some(Mutant::OrdersOutliveCopy) {
                mutants::keep_orders(&store).await;
            }
            let app = Arc::new(App::new(config, store, admin(), tls).await.expect("it starts"));
            if mutant == Some(Mutant::AcceptsByItself) {
                mutants::accept(&app.store).await;
            }
            if mutant != Some(Mutant::StartNotTold) {
                app.started().await.expect("jobs hear of it");
            }
            let (door, wire) = (Door::new(app.clone(), road, mutant), Wire::new(&app, eye, address(number)));
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
                learns_nothing: mutant == Some(Mutant::OthersNotHeard),
            }
        });
        self.up = Some(running);
        true
    }

    /// Ends it at once; what is stored stays.
    pub(crate) fn crash(&mut self, database: &Database) {
        let Some(running) = self.up.take() else { return };
        let _entered = self.runtime.enter();
        running.door.close();
        drop(running);
        database.is_left_by(self.number);
    }

    /// Somebody gave up waiting for the answer to that request.
    pub(crate) fn hang_up(&mut self, id: u64) {
        let _entered = self.runtime.enter();
        if let Some(up) = &mut self.up {
            up.held.retain(|request| request.id != id);
        }
    }

    /// Whether something happened since it looked at the questions that it holds back.
    pub(crate) fn has_news(&self) -> bool {
        self.up.as_ref().is_some_and(|up| !up.held.is_empty() && up.looked_at != up.newest_event())
    }

    /// Learns what others have stored; false when it cannot.
    pub(crate) fn learn(&self) -> bool {
        self.up.as_ref().is_none_or(Running::learn)
    }

    /// What it knows of an address.
    pub(crate) fn holder(&self, address: Ipv4Addr) -> Option<Lease> {
        self.up.as_ref()?.dhcp.held(address)
    }

    /// Changes a machine past `lifecycle::step`, if a mutant does.
    pub(crate) fn meddle(&self) {
        let meddles =
            [Mutant::StateSetByHand, Mutant::JobRevived, Mutant::OrderedTwice, Mutant::LockForgotten];
        let Some(up) =
            self.up.as_ref().filter(|_| self.mutant.is_some_and(|mutant| meddles.contains(&mutant)))
        else {
            return;
        };
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
                Some(Mutant::LockForgotten) => match node.lock.take() {
                    Some(_) => Vec::new(),
                    None => continue,
                },
                Some(Mutant::OrderedTwice) => match job {
                    Some(job) if !job.state.ended() => {
                        job.id = JobId::new(crate::time::wall(), kaltstart_server::clock::random_bits());
                        node.job = Some(job.id.clone());
                        vec![Happening::JobQueued]
                    }
                    _ => continue,
                },
                _ => continue,
            };
            let changed = up.app.store.commit(&found.machine, found.version, &told, crate::time::wall());
            self.runtime.block_on(changed).expect("stored");
        }
    }
}

impl Running {
    /// Requests that may have an answer since something happened.
    pub(crate) fn woken(&mut self) -> Vec<Open> {
        let newest = self.newest_event();
        let is_news = std::mem::replace(&mut self.looked_at, newest) != newest;
        if is_news { std::mem::take(&mut self.held) } else { Vec::new() }
    }

    /// The number of the newest event that it knows.
    pub(crate) fn newest_event(&self) -> i64 {
        *self.app.store.newest_event().borrow()
    }

    /// Learns what others have stored, as the thread of the product's `serve` that follows them does; false when it cannot.
    pub(crate) fn learn(&self) -> bool {
        if self.learns_nothing {
            return true;
        }
        match self.app.store.catch_up() {
            Ok(changed) => {
                self.dhcp.learn(changed.leases);
                true
            }
            Err(_) => false,
        }
    }

    /// The server's own look at deadlines, as if somebody had asked for it.
    pub(crate) fn look_at_deadlines(&self) -> Open {
        let app = self.app.clone();
        let pending = async move {
            app.look_at_deadlines().await;
            Answer { status: 0, body: Vec::new() }
        };
        Open { id: DEADLINES, waits: false, pending: Box::pin(pending) }
    }

    pub(crate) fn request(&self, id: u64, ask: Ask) -> Open {
        let Ask { post, path, body, bearer, from, tls, waits, .. } = ask;
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
    pub(crate) fn settle(&self, runtime: &Runtime, neighbours: &Neighbours, road: Option<&Arc<Road>>) {
        wait_for_writes(&self.app.store);
        while runtime.metrics().num_alive_tasks() > 0 {
            runtime.block_on(tokio::task::yield_now());
        }
        // Half a second in which a host may say that it has the address; it is not long enough to matter here.
        while let Some(answers) = neighbours.answers() {
            // The store may refuse what is written of them, and must not do so while others are decided about.
            let gate = road.map(|road| Gate::close(&self.app.store, Some(road)));
            answers.into_iter().for_each(|address| self.dhcp.heard_from(address));
            self.dhcp.release_due(Instant::now() + Duration::from_secs(60));
            drop(gate);
            wait_for_writes(&self.app.store);
        }
    }
}

/// Returns when all that was handed to the store before is durable, and who asked for it knows.
fn wait_for_writes(store: &Store) {
    let (done, durable) = mpsc::channel();
    store.submit(|_| Ok(()), move |_| done.send(()).expect("somebody waits")).expect("the store takes it");
    durable.recv().expect("the store answers");
}
