//! Promises 13 and 37 with a shared database: the connection to it is lost after messages of the protocol, in either
//! direction, while the tables are made and while a server makes calls of every kind.
//!
//! A server of ours that is killed is the same to the database, and the one that starts next is the witness here.

use super::chained::{on_record, sealed};
use super::relay::{Loss, Relay};
use super::tests::server;
use super::*;
use kaltstart_core::audit::{Act, Action, Actor};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_core::machine::{BurnInOrder, JobKind, Node, Order, Session, State};
use kaltstart_core::observing::{Difference, Kind};
use kaltstart_protocol::agent_api::{LogLine, Mode};
use kaltstart_protocol::syslog::Line;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Messages from one loss that is tried to the next. A run has some 900, and takes a tenth of a second: all of them are to
/// be tried, with 1 here, when the store speaks in another way.
const CUT_EVERY: usize = 2;
const TERMINATED_EVERY: usize = 7;
const COPY_CUT_EVERY: usize = 5;
/// Longest time of a run, in which nothing waits.
const RUN_MAX: Duration = Duration::from_secs(20);
/// How often a call may fail for one loss.
const FAILURES_MAX: usize = 2;

/// Takes away what a run has stored: the next one has as many messages.
const EMPTY: &str = "TRUNCATE nodes, node_keys, jobs, leases, leases6, events, log_lines, audit; \
                     DELETE FROM meta WHERE key LIKE 'difference %'";

/// Calls that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Restored,
    Declare,
    Order,
    Leases,
    Leases6,
    Log,
    Syslog,
    Note,
    /// Two calls that share a commit.
    Together,
}

/// In this order.
const CALLS: [Call; 9] = [
    Call::Restored,
    Call::Declare,
    Call::Order,
    Call::Leases,
    Call::Leases6,
    Call::Log,
    Call::Syslog,
    Call::Note,
    Call::Together,
];

/// What is stored in run `n`.
pub(super) struct Matter {
    n: u16,
    now: Millis,
}

impl Matter {
    pub(super) fn new(n: usize) -> Self {
        Self { n: u16::try_from(n).expect("few runs"), now: Millis(1_000_000) }
    }

    fn machine(&self, part: u8) -> Machine {
        let id = NodeId::new(self.now, u128::from(self.n) << 8 | u128::from(part));
        let node = Node::new(id, format!("n{}-{part}", self.n), self.mac(part), true);
        Machine { node, job: None }
    }

    fn mac(&self, part: u8) -> Mac {
        let [high, low] = self.n.to_be_bytes();
        Mac([2, 0, 0, part, high, low])
    }

    pub(super) fn ordered(&self) -> Machine {
        let mut machine = self.machine(1);
        let (node, order) = (&machine.node, Order::BurnIn(BurnInOrder { minutes: 1 }));
        machine.job =
            Some(Job::queued(self.job(), node.id.clone(), node.state, JobKind::BurnIn, order, self.now));
        machine.node.job = Some(self.job());
        machine
    }

    fn job(&self) -> JobId {
        JobId::new(self.now, u128::from(self.n))
    }

    fn lease(&self, part: u8) -> LeaseWrite {
        let [high, low] = self.n.to_be_bytes();
        let (key, mac) = (ClientKey::from(vec![1, part, high, low]), Some(self.mac(part)));
        let expires = self.now.plus(3_600_000);
        let lease = Lease { key, mac, state: LeaseState::Bound, since: self.now, expires };
        LeaseWrite { address: [10, part, high, low].into(), lease }
    }

    fn lease6(&self, part: u8) -> LeaseWrite<Ipv6Addr> {
        let key = ClientKey::of_identity(&[0, 4, part], u32::from(self.n));
        let lease = Lease { key, ..self.lease(part).lease };
        LeaseWrite { address: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, part.into(), self.n), lease }
    }

    fn act(&self) -> Act {
        let node = self.machine(1).node;
        Act { node: Some((node.id, node.name)), ..Act::new(Actor::named("me"), Action::JobOrdered) }
    }

    fn session(&self) -> Session {
        let secret = Digest::of(&self.n.to_be_bytes());
        let (mode, job) = (Mode::Rescue, Some(self.job()));
        Session { secret, mode, job, boot_id: "b".into(), booted_at: self.now, trust: None }
    }

    fn difference(&self) -> Difference {
        Difference {
            kind: Kind::Agent,
            node: Some(self.machine(1).node.id),
            mac: None,
            address: None,
            job: None,
            detail: "a job".into(),
            at: self.now,
        }
    }

    async fn make(&self, call: Call, store: &Store) -> Result<(), StoreError> {
        let told = [Happening::NodeMoved(State::Expected)];
        match call {
            Call::Restored => store.restored(self.now).await.map(drop),
            // Whoever finds that it is decided already reads what was.
            Call::Declare => store.commit(&self.machine(1), 0, &told, self.now).await.map(drop),
            Call::Order => {
                let (machine, act) = (self.ordered(), self.act());
                let told = [Happening::JobQueued];
                store.commit_on(&machine, 1, &told, self.now, on_record(act)).await.map(drop)
            }
            Call::Leases => store.put_leases(vec![self.lease(1), self.lease(2)]).await,
            Call::Leases6 => store.put_leases6(vec![self.lease6(1), self.lease6(2)]).await,
            Call::Log => {
                let line = |text: &str| LogLine { uptime_ms: 1, level: "info".into(), text: text.into() };
                let node = self.machine(1).node.id;
                store.put_log(node, self.session(), 0, vec![line("a"), line("b")]).await
            }
            Call::Syslog => {
                let lines = ["c", "d"].map(|text| Line { level: "info", text: text.into() });
                store.put_syslog(self.machine(1).node.id, self.job(), lines.into(), self.now).await
            }
            Call::Note => store.note(self.difference()).await.map(drop),
            Call::Together => {
                let machine = self.machine(3);
                let (one, two) = tokio::join!(
                    store.commit(&machine, 0, &told, self.now),
                    store.put_leases(vec![self.lease(3)])
                );
                one.and(two)
            }
        }
    }

    /// Whether what `call` stores is there; none of it by half, and nothing twice.
    fn is_there(&self, call: Call, witness: &Store, events: &[StoredEvent]) -> bool {
        let parts: Vec<usize> = match call {
            Call::Restored => return true,
            Call::Declare => vec![self.found(1, witness), count(events, &self.machine(1), "node.expected")],
            Call::Order => {
                let found = witness.machine(Key::Name(&format!("n{}-1", self.n))).expect("read");
                let ordered = found.filter(|found| found.version == 2);
                let job = ordered.and_then(|found| found.machine.job);
                assert!(job.is_none() || job == self.ordered().job);
                vec![
                    usize::from(job.is_some()),
                    usize::from(witness.job(&self.job()).expect("read").is_some()),
                    count(events, &self.machine(1), "job.queued"),
                    witness.records(0, Some(&self.machine(1).node.id), 9).expect("read").len(),
                ]
            }
            Call::Leases => vec![self.lent(1, witness), self.lent(2, witness)],
            Call::Leases6 => [1, 2].map(|part| self.lent6(part, witness)).into(),
            Call::Log => ["a", "b"].map(|text| self.said(text, witness)).into(),
            Call::Syslog => ["c", "d"].map(|text| self.said(text, witness)).into(),
            Call::Note => {
                let (differences, _) = witness.differences().expect("read");
                vec![differences.iter().filter(|found| **found == self.difference()).count()]
            }
            Call::Together => {
                let node = [self.found(3, witness), count(events, &self.machine(3), "node.expected")];
                assert_eq!(node[0], node[1], "{node:?}");
                // Each is whole; both are there once both were acknowledged.
                return node[0] + self.lent(3, witness) == 2;
            }
        };
        assert!(parts.iter().all(|part| *part == parts[0] && *part < 2), "{call:?} by half: {parts:?}");
        parts[0] == 1
    }

    fn found(&self, part: u8, witness: &Store) -> usize {
        let machine = self.machine(part);
        let by_name = witness.machine(Key::Name(&machine.node.name)).expect("read");
        let by_mac = witness.machine(Key::Mac(self.mac(part))).expect("read");
        assert_eq!(by_name.is_some(), by_mac.is_some(), "n{} is found by half", self.n);
        usize::from(by_name.is_some())
    }

    fn lent(&self, part: u8, witness: &Store) -> usize {
        let lease = self.lease(part);
        let found = witness.find_leases(Wanted::Address(lease.address.into()), 9).expect("read");
        found.iter().filter(|found| found.lease == lease.lease).count()
    }

    fn lent6(&self, part: u8, witness: &Store) -> usize {
        let lease = self.lease6(part);
        let found = witness.find_leases(Wanted::Address(lease.address.into()), 9).expect("read");
        found.iter().filter(|found| found.lease == lease.lease).count()
    }

    fn said(&self, text: &str, witness: &Store) -> usize {
        let lines = witness.job_log(&self.job(), 0, 99).expect("read");
        lines.iter().filter(|line| line.text == text).count()
    }
}

fn count(events: &[StoredEvent], machine: &Machine, kind: &str) -> usize {
    let of = |event: &&StoredEvent| event.node == machine.node.id.as_str() && event.kind == kind;
    events.iter().filter(of).count()
}

/// Whatever reads, once.
fn read_everything(store: &Store, matter: &Matter) -> Result<(), StoreError> {
    let (now, job) = (matter.now, matter.job());
    let found = store.machine(Key::Mac(matter.mac(1)))?;
    assert!(found.is_some(), "what was acknowledged is not read");
    store.job(&job)?;
    store.jobs(3)?;
    store.good_jobs("none", 3)?;
    store.events(0, Some(&job), 3)?;
    store.job_log(&job, 0, 3)?;
    store.find_leases(Wanted::Mac(matter.mac(1)), 3)?;
    store.in_use(now)?;
    store.due(Some(now))?;
    store.losing(&matter.machine(1).node.id, now)?;
    store.of_other_epochs(7)?;
    store.differences()?;
    store.duid()?;
    assert!(store.look_at_log()? && store.verify_log()?.fault.is_none(), "the log is not whole");
    store.records(0, None, 9)?;
    // All that a failed commit makes it read besides.
    store.shared.as_ref().expect("it is shared").uncertain().store(true, Ordering::Relaxed);
    store.catch_up().map(drop)
}

/// Does `work` until it succeeds, after as many failures as one loss may cause.
fn again<T>(what: &str, mut work: impl FnMut() -> Result<T, StoreError>) -> T {
    for _ in 0..FAILURES_MAX {
        if let Ok(done) = work() {
            return done;
        }
    }
    work().unwrap_or_else(|error| panic!("{what} does not go on: {error}"))
}

/// One run: all calls through the relay, while a witness looks on that nothing happens to.
async fn run(url: &str, witness: &Store, n: usize) {
    let matter = Matter::new(n);
    let server = Server::parse(url).expect("parameters");
    let store = again("opening", || tokio::task::block_in_place(|| Store::connect(&server, "one")));
    let store = sealed(store);
    for call in CALLS {
        let mut failures = 0;
        let before = matter.is_there(call, witness, &witness.events(0, None, 99).expect("read"));
        loop {
            let outcome = matter.make(call, &store).await;
            // Whatever a lost connection has still said is decided when nobody writes any more.
            witness.transact(|_| Ok(())).await.expect("the witness writes");
            let events = witness.events(0, None, 99).expect("read");
            let is_there = matter.is_there(call, witness, &events);
            match outcome {
                Ok(()) => assert!(is_there, "{call:?} was acknowledged and is not there"),
                // What a loader says nobody repeats.
                Err(_) if call == Call::Syslog => {}
                Err(error) => {
                    let unknown = matches!(error, StoreError::Write(WriteError::Unknown(_)));
                    assert!(
                        failures > 0 || before || !is_there || unknown,
                        "{call:?} was done, and refused: {error}"
                    );
                    failures += 1;
                    assert!(failures <= FAILURES_MAX, "{call:?} does not go on: {error}");
                    continue;
                }
            }
            break;
        }
    }
    again("reading", || tokio::task::block_in_place(|| read_everything(&store, &matter)));
    // What was stored though its caller heard of a failure is known too.
    for part in [1, 3] {
        assert!(store.index().get(matter.mac(part)).is_some(), "part {part} is not known");
    }
}

/// A relay to an empty database, and how that is reached without it.
fn relay() -> (Relay, Server) {
    let database = server::database();
    let part = |key: &str| database.split(' ').find_map(|pair| pair.strip_prefix(key)).expect("a part");
    (
        Relay::start(part("host="), part("port="), part("dbname=")),
        Server::parse(&database).expect("parameters"),
    )
}

/// Runs with a loss after each `stride`th message, until a run ends before it.
async fn lose(loss: Loss, stride: usize) {
    let (relay, direct) = tokio::task::block_in_place(relay);
    let witness = tokio::task::block_in_place(|| Store::connect(&direct, "witness"));
    let witness = Arc::new(witness.expect("the database"));
    for last in (1..).step_by(stride) {
        tokio::task::block_in_place(|| relay.execute(EMPTY));
        relay.lose_after(last, loss);
        let (url, looking) = (relay.url().to_owned(), witness.clone());
        let run = tokio::spawn(async move { run(&url, &looking, last).await });
        match tokio::time::timeout(RUN_MAX, run).await {
            Ok(done) => done.unwrap_or_else(|error| panic!("lost after message {last}: {error}")),
            Err(_) => panic!("lost after message {last}: something waits"),
        }
        if relay.passed() < last {
            assert!(last > 500, "{last} messages are a whole run");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p13_no_lost_connection_takes_away_what_was_acknowledged_nor_does_anything_twice() {
    lose(Loss::Cut, CUT_EVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p13_connections_that_the_database_ends_take_nothing_away() {
    lose(Loss::Terminated, TERMINATED_EVERY).await;
}

#[test]
fn p37_tables_that_were_not_made_to_the_end_are_made_by_the_next() {
    let (relay, direct) = relay();
    let through = Server::parse(relay.url()).expect("parameters");
    for last in 1.. {
        relay.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
        relay.lose_after(last, Loss::Cut);
        let first = Store::connect(&through, "one").and_then(|store| store.duid());
        let passed = relay.passed();
        let second = Store::connect(&direct, "two");
        let second = second.unwrap_or_else(|error| panic!("lost after message {last}: {error}"));
        goes_on(&second, last);
        if let Ok(duid) = &first {
            assert_eq!(*duid, second.duid().expect("read"), "what was acknowledged was made anew");
        }
        if passed < last {
            assert!(last > 50, "{last} messages make the tables");
            assert!(first.is_ok(), "nothing was lost, and yet: {first:?}");
            return;
        }
    }
}

#[test]
fn p37_servers_that_start_at_once_on_an_empty_database_all_come_up() {
    for _ in 0..5 {
        let database = server::database();
        let together = std::sync::Barrier::new(4);
        let start = |n: usize| {
            together.wait();
            let server = Server::parse(&database).expect("parameters");
            let store = Store::connect(&server, &format!("server {n}")).expect("the database");
            goes_on(&store, n);
            store.duid().expect("read")
        };
        let duids: Vec<_> = std::thread::scope(|scope| {
            let started = [1, 2, 3, 4].map(|n| {
                scope.spawn({
                    let start = &start;
                    move || start(n)
                })
            });
            started.into_iter().map(|one| one.join().expect("started")).collect()
        });
        assert!(duids.iter().all(|duid| *duid == duids[0]), "{duids:?}");
    }
}

#[test]
fn p08_a_copy_that_is_cut_off_is_whole_or_not_there() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path()).expect("a new database");
    (1..=3).for_each(|n| goes_on(&store, n));
    let (file, back) = (dir.path().join(FILE), dir.path().join("back"));
    let (relay, direct) = relay();
    let through = Server::parse(relay.url()).expect("parameters");
    let nodes = |store: &Store| store.machines().expect("read").len();
    for last in (1..).step_by(COPY_CUT_EVERY) {
        relay.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
        relay.lose_after(last, Loss::Cut);
        let imported = import(&file, &through);
        let passed = relay.passed();
        let found = nodes(&Store::connect(&direct, "two").expect("the database"));
        assert!(found == 3 || found == 0 && imported.is_err(), "lost after message {last}: {found} nodes");
        assert_eq!(import(&file, &direct).is_ok(), found == 0, "what is not there is restored once more");
        relay.lose_after(last, Loss::Cut);
        let exported = export(&through, &back);
        if exported.is_ok() {
            let copy = rusqlite::Connection::open(&back).expect("opened");
            let count = copy.query_row("SELECT count(*) FROM nodes", [], |row| row.get::<_, i64>(0));
            assert_eq!(count, Ok(3), "what is said to be copied is not there");
        }
        // It is there only if the database was reached.
        std::fs::remove_file(&back).ok();
        if passed < last {
            assert!(imported.is_ok() && exported.is_ok(), "{imported:?}, {exported:?}");
            return;
        }
    }
}

/// It stores and reads.
fn goes_on(store: &Store, n: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let machine = Matter::new(n).machine(1);
    let stored = runtime.block_on(store.commit(&machine, 0, &[], Millis(7)));
    assert_eq!(stored.expect("it goes on"), Commit::Done);
    assert!(store.machine(Key::Id(&machine.node.id)).expect("read").is_some());
}
