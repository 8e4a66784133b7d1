//! What every store keeps to, shown with both databases; and what only one of them has.

#[path = "../../tests/support/postgres.rs"]
pub(super) mod server;

use super::chained::{
    p25_an_act_and_its_record_are_stored_together_or_not_at_all,
    p25_records_that_are_missing_when_the_next_is_written_are_told_for_ever,
    p25_whatever_is_done_to_the_stored_log_is_found, sealed,
    what_the_server_does_again_and_again_is_recorded_once_a_minute,
};
use super::limits::{
    p08_what_is_noted_of_a_copy_has_limits_whoever_makes_it_up, the_newest_events_jobs_and_lines_are_kept,
};
use super::torn::closed;
use super::*;
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_core::losses::WINDOW_MS;
use kaltstart_core::machine::{BurnInOrder, JobKind, Node, Order, Session, State};
use kaltstart_protocol::agent_api::LogLine;
use kaltstart_protocol::syslog::Line;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub(super) const NOW: Millis = Millis(7);

/// Where a database lies.
pub(super) enum Place {
    Directory(tempfile::TempDir),
    Server(String),
}

impl Place {
    pub(super) fn directory() -> Self {
        Self::Directory(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(super) fn server() -> Self {
        Self::Server(server::database())
    }

    /// Opens it, perhaps for the second time.
    pub(super) fn open(&self) -> Store {
        self.open_as("one")
    }

    /// Opens it as the server of that name.
    pub(super) fn open_as(&self, me: &str) -> Store {
        match self {
            Self::Directory(dir) => Store::open(dir.path()).expect("the database"),
            Self::Server(url) => connect(url, me).expect("the database"),
        }
    }
}

fn connect(url: &str, me: &str) -> Result<Store, StoreError> {
    Store::connect(&Server::parse(url).expect("parameters"), me)
}

/// Lets each contract be kept by both databases.
macro_rules! contracts {
    ($($contract:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $contract() {
                super::$contract(super::Place::directory()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $contract() {
                super::$contract(super::Place::server()).await;
            })*
        }
    };
}

contracts! {
    what_was_committed_is_there_after_reopening
    a_decision_on_an_older_version_is_a_conflict_and_changes_nothing
    p09_who_was_let_lose_data_since_it_was_counted_is_counted_again
    two_nodes_cannot_share_a_name_and_the_refused_one_leaves_nothing
    subscribers_hear_of_a_change_whose_caller_has_gone
    a_repeated_log_batch_is_stored_once
    p31_dhcpv6_leases_and_the_servers_duid_outlive_it
    addresses_that_hosts_unknown_here_answered_for_are_counted_while_they_are_held
    p31_leases_are_found_by_address_and_hardware_and_outlive_the_server
    p31_an_address_that_somebody_holds_is_not_promised_to_another
    what_a_loader_says_is_numbered_and_events_are_read_on
    a_refused_change_takes_nothing_else_with_it
    a_secret_is_stored_once_and_goes_with_its_owner
    p08_what_is_noted_of_a_copy_has_limits_whoever_makes_it_up
    the_newest_events_jobs_and_lines_are_kept
    p25_an_act_and_its_record_are_stored_together_or_not_at_all
    p25_whatever_is_done_to_the_stored_log_is_found
    p25_records_that_are_missing_when_the_next_is_written_are_told_for_ever
    what_the_server_does_again_and_again_is_recorded_once_a_minute
}

pub(super) fn machine(n: u8) -> Machine {
    let id = NodeId::new(NOW, u128::from(n));
    Machine { node: Node::new(id, format!("n{n}"), Mac([2, 0, 0, 0, 0, n]), true), job: None }
}

async fn a_secret_is_stored_once_and_goes_with_its_owner(place: Place) {
    let store = place.open();
    assert_eq!(store.sealed_by().expect("read"), None);
    for id in ["one", "two"] {
        assert_eq!(store.seal_by(id.into()).await.expect("stored"), "one", "whoever was first");
    }
    let keep = |owner: &str, name: &str, sealed: u8| {
        store.keep_secret(owner.into(), name.into(), vec![sealed, 0, 255])
    };
    assert_eq!(keep("a", "x", 1).await.expect("stored"), [1, 0, 255]);
    assert_eq!(keep("a", "x", 2).await.expect("stored"), [1, 0, 255], "it is not replaced");
    keep("a", "y", 3).await.expect("stored");
    keep("ab", "x", 4).await.expect("stored");
    assert_eq!(store.secrets_of("a").expect("read"), ["x", "y"]);
    store.remove_secrets("a".into()).await.expect("removed");
    drop(store);
    let store = place.open();
    assert_eq!(store.sealed_by().expect("read").as_deref(), Some("one"));
    assert_eq!(store.secret("a", "x").expect("read"), None);
    assert_eq!(store.secret("ab", "x").expect("read"), Some(vec![4, 0, 255]));
}

async fn what_was_committed_is_there_after_reopening(place: Place) {
    let store = place.open();
    let told = [Happening::NodeMoved(State::Expected)];
    assert_eq!(store.commit(&machine(1), 0, &told, NOW).await.expect("stored"), Commit::Done);
    drop(store);
    let store = place.open();
    let found = store.machine(Key::Mac(Mac([2, 0, 0, 0, 0, 1]))).expect("read").expect("found by MAC");
    assert_eq!(found.machine, machine(1));
    assert_eq!(store.machine(Key::Name("n1")).expect("read").map(|found| found.version), Some(1));
    let events = store.events(0, None, 10).expect("read");
    assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["node.expected"]);
    assert_eq!(*store.newest_event().borrow(), events[0].id);
}

async fn a_decision_on_an_older_version_is_a_conflict_and_changes_nothing(place: Place) {
    let store = place.open();
    store.commit(&machine(1), 0, &[], NOW).await.expect("stored");
    let mut newer = machine(1);
    newer.node.last_seen = Some(NOW);
    assert_eq!(store.commit(&newer, 1, &[], NOW).await.expect("stored"), Commit::Done);
    let told = [Happening::NodeMoved(State::Broken)];
    assert_eq!(store.commit(&machine(1), 1, &told, NOW).await.expect("decided"), Commit::Conflict);
    let found = store.machine(Key::Name("n1")).expect("read").expect("found");
    assert_eq!((found.machine, found.version), (newer, 2));
    assert!(store.events(0, None, 10).expect("read").is_empty());
}

async fn p09_who_was_let_lose_data_since_it_was_counted_is_counted_again(place: Place) {
    let store = place.open();
    let loses = |n: u8, at: Millis| {
        let mut machine = machine(n);
        let (node, order) = (&machine.node, Order::BurnIn(BurnInOrder { minutes: 1 }));
        let job = JobId::new(NOW, n.into());
        let job = Job::queued(job, node.id.clone(), node.state, JobKind::BurnIn, order, at);
        machine.job = Some(Job { loses_at: Some(at), ..job });
        machine
    };
    let (two, late) = (machine(2).node.id, NOW.plus(WINDOW_MS));
    let commit = async |n, expected, at| {
        let told = [Happening::JobQueued];
        let terms = Terms { losses_max: Some(1), act: None };
        store.commit_on(&loses(n, at), expected, &told, at, terms).await.expect("decided")
    };
    // Both were counted before the first is stored.
    assert_eq!(store.losing(&two, NOW).expect("read"), 0);
    assert_eq!((commit(1, 0, NOW).await, commit(2, 0, NOW).await), (Commit::Done, Commit::Conflict));
    assert_eq!(store.losing(&two, NOW).expect("read"), 1);
    assert!(store.machine(Key::Id(&two)).expect("read").is_none(), "nothing is left of it");
    assert_eq!(store.events(0, None, 10).expect("read").len(), 1);
    // A machine does not stand in its own way, nor in that of others for ever.
    assert_eq!((commit(1, 1, NOW).await, commit(2, 0, late).await), (Commit::Done, Commit::Done));
    assert_eq!(commit(1, 1, late).await, Commit::Conflict);
}

async fn two_nodes_cannot_share_a_name_and_the_refused_one_leaves_nothing(place: Place) {
    let store = place.open();
    store.commit(&machine(1), 0, &[], NOW).await.expect("stored");
    let mut second = machine(2);
    second.node.name = "n1".into();
    assert!(store.commit(&second, 0, &[], NOW).await.is_err());
    assert!(store.machine(Key::Id(&second.node.id)).expect("read").is_none());
}

async fn subscribers_hear_of_a_change_whose_caller_has_gone(place: Place) {
    let store = place.open();
    let mut newest = store.newest_event();
    {
        let machine = machine(1);
        let told = [Happening::NodeMoved(State::Expected)];
        let mut commit = std::pin::pin!(store.commit(&machine, 0, &told, NOW));
        // Handed to the writer, and then no longer waited for.
        std::future::poll_fn(|context| {
            let _ = commit.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
    }
    let heard = tokio::time::timeout(std::time::Duration::from_secs(10), newest.changed()).await;
    heard.expect("in time").expect("the store lives");
    assert_eq!(store.index().machines(), 1);
}

async fn a_repeated_log_batch_is_stored_once(place: Place) {
    let store = place.open();
    let (node, job) = (NodeId::new(NOW, 1), JobId::new(NOW, 1));
    let line = |text: &str| LogLine { uptime_ms: 1, level: "info".into(), text: text.into() };
    let (secret, mode) = (Digest::of(b"session"), kaltstart_protocol::agent_api::Mode::Install);
    let session =
        Session { secret, mode, job: Some(job.clone()), boot_id: "b".into(), booted_at: NOW, trust: None };
    for lines in [vec![line("a"), line("b")], vec![line("a"), line("b"), line("c")]] {
        store.put_log(node.clone(), session.clone(), 0, lines).await.expect("stored");
    }
    let stored = store.job_log(&job, 0, 10).expect("read");
    assert_eq!(stored.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(stored[0].time, NOW.plus(1), "uptimes become times");
}

#[test]
fn p37_a_newer_database_is_refused_clearly() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path()).expect("a new database");
    drop(store);
    let connection = rusqlite::Connection::open(dir.path().join("kaltstart.db")).expect("opened");
    connection.pragma_update(None, "user_version", 99).expect("written");
    drop(connection);
    closed(dir.path(), "a newer one");
    let file = dir.path().join(FILE);
    let (before, copied) = (std::fs::read(&file).expect("read"), dir.path().join("copied"));
    let url = server::database();
    let shared = Server::parse(&url).expect("parameters");
    for refused in [Store::open(dir.path()).err(), copy(&file, &copied).err(), import(&file, &shared).err()] {
        let error = refused.expect("refused").to_string();
        assert!(error.contains("99") && error.contains("newer"), "{error}");
    }
    assert!(std::fs::read(&file).expect("read") == before, "something was changed");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("read").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let mut client = ::postgres::Client::connect(&url, ::postgres::NoTls).expect("connected");
    let tables = client.query("SELECT FROM pg_tables WHERE schemaname = 'public'", &[]).expect("read");
    assert!(tables.is_empty(), "what was refused was begun");
}

async fn p31_dhcpv6_leases_and_the_servers_duid_outlive_it(place: Place) {
    let store = place.open();
    let lease = |n: u16, mac| {
        let key = ClientKey::of_identity(&[0, 4, 1, 2], u32::from(n));
        let lease = Lease { key, mac, state: LeaseState::Bound, since: NOW, expires: Millis(9) };
        LeaseWrite { address: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n), lease }
    };
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let leases = vec![lease(1, Some(mac)), lease(2, None)];
    store.put_leases6(leases.clone()).await.expect("stored");
    let duid = store.duid().expect("read");
    assert!(kaltstart_protocol::dhcp6::duid::uuid(&duid).is_some(), "{duid:?}");
    drop(store);
    let store = place.open();
    assert_eq!(store.leases6().expect("read"), leases);
    assert_eq!(store.lessee(leases[0].address.into()).expect("read"), Some(mac));
    assert_eq!(store.lessee(leases[1].address.into()).expect("read"), None);
    assert_eq!(store.duid().expect("read"), duid);
}

#[tokio::test]
async fn p31_a_database_knows_that_it_is_a_copy() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path()).expect("a new database");
    assert_eq!(store.restored(Millis(1)).await.expect("read"), None, "new");
    drop(store);
    let reopened = Store::open(dir.path()).expect("the same database");
    assert_eq!(reopened.restored(Millis(2)).await.expect("read"), None, "the same");
    drop(reopened);
    closed(dir.path(), "the first");
    let (file, copy) = (dir.path().join("kaltstart.db"), dir.path().join("copy"));
    std::fs::copy(&file, &copy).expect("copied");
    std::fs::rename(&copy, &file).expect("restored");
    for now in [Millis(3), Millis(4)] {
        let store = sealed(Store::open(dir.path()).expect("the copy"));
        assert_eq!(store.restored(now).await.expect("read"), Some(Millis(3)), "and goes on knowing it");
    }
}

async fn addresses_that_hosts_unknown_here_answered_for_are_counted_while_they_are_held(place: Place) {
    let store = place.open();
    let lease = |n: u8, state, expires| {
        let key = ClientKey::from(vec![1, n]);
        let lease = Lease { key, mac: None, state, since: Millis(1), expires: Millis(expires) };
        LeaseWrite { address: [10, 77, 0, n].into(), lease }
    };
    let leases = vec![
        lease(1, LeaseState::InUse, 9),
        lease(2, LeaseState::InUse, 9),
        lease(3, LeaseState::InUse, 5),
        lease(4, LeaseState::Bound, 9),
    ];
    store.put_leases(leases).await.expect("stored");
    assert_eq!(store.in_use(Millis(5)).expect("read"), 2);
    assert_eq!(store.in_use(Millis(9)).expect("read"), 0);
}

/// A lease of IPv4 that `client` is given at `since` for an hour.
pub(super) fn bound(address: u8, client: u8, since: Millis) -> LeaseWrite {
    let (key, mac) = (ClientKey::from(vec![1, client]), Some(Mac([2, 0, 0, 0, 0, client])));
    let expires = since.plus(3_600_000);
    let lease = Lease { key, mac, state: LeaseState::Bound, since, expires };
    LeaseWrite { address: [10, 77, 0, address].into(), lease }
}

async fn p31_leases_are_found_by_address_and_hardware_and_outlive_the_server(place: Place) {
    let store = place.open();
    store.put_leases(vec![bound(2, 2, NOW), bound(1, 1, NOW), bound(3, 1, NOW)]).await.expect("stored");
    drop(store);
    let store = place.open();
    assert_eq!(store.leases().expect("read"), [bound(1, 1, NOW), bound(2, 2, NOW), bound(3, 1, NOW)]);
    let found = |wanted, limit| {
        let found = store.find_leases(wanted, limit).expect("read");
        found.into_iter().map(|write| write.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(found(Wanted::Mac(Mac([2, 0, 0, 0, 0, 1])), 9), ["10.77.0.1", "10.77.0.3"]);
    assert_eq!(found(Wanted::Address([10, 77, 0, 2].into()), 9), ["10.77.0.2"]);
    assert_eq!(found(Wanted::Address(Ipv6Addr::LOCALHOST.into()), 9), Vec::<String>::new());
    assert_eq!(found(Wanted::All, 2), ["10.77.0.1", "10.77.0.2"]);
}

async fn p31_an_address_that_somebody_holds_is_not_promised_to_another(place: Place) {
    let store = place.open();
    store.put_leases(vec![bound(1, 1, NOW)]).await.expect("stored");
    let refused = store.put_leases(vec![bound(2, 3, NOW), bound(1, 2, NOW.plus(1))]).await;
    assert!(matches!(refused, Err(StoreError::Write(WriteError::Refused(_)))), "{refused:?}");
    assert_eq!(store.leases().expect("read"), [bound(1, 1, NOW)], "all or none");
    // Its holder may renew it, also with another identifier; and once it has ended it is free.
    let mut renewed = bound(1, 1, NOW.plus(2));
    renewed.lease.key = ClientKey::from(vec![9, 9]);
    store.put_leases(vec![renewed.clone()]).await.expect("renewed");
    let later = renewed.lease.expires;
    store.put_leases(vec![bound(1, 2, later)]).await.expect("free again");
    // Whoever answers there is its holder, as long as there is one.
    let in_use = |since| {
        let mut write = bound(1, 2, since);
        write.lease = Lease { key: ClientKey::nobody(), mac: None, state: LeaseState::InUse, ..write.lease };
        write
    };
    let refused = store.put_leases(vec![in_use(later.plus(1))]).await;
    assert!(matches!(refused, Err(StoreError::Write(WriteError::Refused(_)))), "{refused:?}");
    assert_eq!(store.leases().expect("read"), [bound(1, 2, later)]);
    let later = bound(1, 2, later).lease.expires;
    store.put_leases(vec![in_use(later)]).await.expect("noted");
    assert_eq!(store.leases().expect("read"), [in_use(later)]);
    // Who that is shows when it is renewed.
    let renewed = bound(1, 3, later.plus(1));
    store.put_leases(vec![renewed.clone()]).await.expect("renewed");
    assert_eq!(store.leases().expect("read"), [renewed]);
}

async fn what_a_loader_says_is_numbered_and_events_are_read_on(place: Place) {
    let store = place.open();
    let (node, job) = (NodeId::new(NOW, 1), JobId::new(NOW, 1));
    for text in ["a", "b"] {
        let lines = vec![Line { level: "info", text: text.into() }];
        store.put_syslog(node.clone(), job.clone(), lines, NOW).await.expect("stored");
    }
    let lines = store.job_log(&job, 0, 10).expect("read");
    assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(store.job_log(&job, lines[0].id, 10).expect("read").len(), 1);
    let told = [Happening::NodeMoved(State::Expected), Happening::NodeMoved(State::Broken)];
    store.commit(&machine(1), 0, &told, NOW).await.expect("stored");
    let all = store.events(0, None, 10).expect("read");
    let rest = store.events(all[0].id, None, 10).expect("read");
    assert_eq!(rest.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["node.broken"]);
    assert!(store.events(0, Some(&job), 10).expect("read").is_empty());
}

async fn a_refused_change_takes_nothing_else_with_it(place: Place) {
    let store = place.open();
    store.commit(&machine(1), 0, &[], NOW).await.expect("stored");
    let outcome = store
        .transact(|transaction| {
            let mut twin = machine(2);
            twin.node.name = "n1".into();
            let refused = transaction.attempt(|transaction| transaction.put(twin, 0, &[], NOW))?;
            transaction.put(machine(3), 0, &[], NOW)?;
            Ok(refused)
        })
        .await;
    let refused = outcome.expect("the transaction itself is stored");
    assert!(matches!(refused, Err(DatabaseError::Refused(_))), "{refused:?}");
    let names: Vec<_> =
        store.machines().expect("read").into_iter().map(|found| found.machine.node.name).collect();
    assert_eq!(names, ["n1", "n3"]);
    assert_eq!(store.index().machines(), 2);
}

#[test]
fn an_older_version_of_a_machine_takes_no_newer_ones_place() {
    let mut index = Index::default();
    let mut newer = machine(1);
    newer.node.declared = false;
    index.put(&newer, 2);
    index.put(&machine(1), 1);
    let known = index.get(Mac([2, 0, 0, 0, 0, 1])).expect("known");
    assert!(!known.declared && index.undeclared() == 1);
}

/// Waits until `there` is.
async fn until(what: &str, there: impl Fn() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} did not come");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p31_two_servers_decide_about_one_pool_and_none_promises_an_address_twice() {
    let place = Place::server();
    let stores = ["one", "two"].map(|me| place.open_as(me));
    let mut held = std::collections::BTreeMap::new();
    for address in 1..=60u8 {
        // Each gives the same address to a client of its own.
        let [one, two] = [0, 1].map(|i| (i, bound(address, address * 2 + i, NOW)));
        let (first, second) = tokio::join!(
            stores[0].put_leases(vec![one.1.clone()]),
            stores[1].put_leases(vec![two.1.clone()])
        );
        assert!(first.is_ok() != second.is_ok(), "{address}: {first:?}, {second:?}");
        held.insert(address, if first.is_ok() { one.1 } else { two.1 });
    }
    let stored = stores[0].leases().expect("read");
    assert_eq!(stored, held.into_values().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_stores_others_learn() {
    let place = Place::server();
    let [one, two] = ["one", "two"].map(|me| place.open_as(me));
    let stop = CancellationToken::new();
    let learnt = Mutex::new(Vec::new());
    let mut newest = two.newest_event();
    std::thread::scope(|scope| {
        scope.spawn(|| two.follow(|changed| learnt.lock().expect("lock").extend(changed.leases), &stop));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                one.commit(&machine(1), 0, &[Happening::NodeMoved(State::Expected)], NOW)
                    .await
                    .expect("stored");
                one.put_leases(vec![bound(1, 1, NOW)]).await.expect("stored");
                // What it stores itself it is not told.
                two.put_leases(vec![bound(2, 2, NOW)]).await.expect("stored");
                until("the node", || two.index().get(Mac([2, 0, 0, 0, 0, 1])).is_some()).await;
                until("the lease", || !learnt.lock().expect("lock").is_empty()).await;
                newest.wait_for(|id| *id > 0).await.expect("the event");
                // A decision upon what the other has changed meanwhile is a conflict.
                assert_eq!(two.commit(&machine(1), 0, &[], NOW).await.expect("decided"), Commit::Conflict);
                one.put_leases(vec![bound(3, 3, NOW)]).await.expect("stored");
                until("the next lease", || learnt.lock().expect("lock").len() > 1).await;
                // What it believed wrongly it is told once more, also of its own.
                two.doubt([[10, 77, 0, 2].into(), [10, 77, 0, 99].into()]);
                until("the lease in doubt", || learnt.lock().expect("lock").len() > 2).await;
            });
        });
        stop.cancel();
    });
    let learnt = learnt.into_inner().expect("lock");
    assert_eq!(learnt, [bound(1, 1, NOW), bound(3, 3, NOW), bound(2, 2, NOW)]);
}

#[test]
fn p37_a_shared_database_of_another_version_is_refused_clearly() {
    let url = server::database();
    drop(connect(&url, "one").expect("a new database"));
    let mut client = ::postgres::Client::connect(&url, ::postgres::NoTls).expect("connected");
    // Each row with the transaction that wrote it, and everything that has a name.
    let mut look = || {
        let sql = "SELECT coalesce(string_agg(xmin || key || value, ' ' ORDER BY key), '') || (SELECT \
                   string_agg(oid || relname || xmin, ' ' ORDER BY oid) FROM pg_class) FROM meta";
        client.query_one(sql, &[]).expect("read").get::<_, String>(0)
    };
    let (dir, server) = (tempfile::tempdir().expect("a directory"), Server::parse(&url).expect("parameters"));
    let made = Store::open(dir.path()).expect("a new database");
    drop(made);
    let mut admin = ::postgres::Client::connect(&url, ::postgres::NoTls).expect("connected");
    for (version, words) in [("99", "newer"), ("1", "version 1")] {
        admin.execute("UPDATE meta SET value = $1 WHERE key = 'version'", &[&version]).expect("written");
        let (before, to) = (look(), dir.path().join("to"));
        for refused in [
            connect(&url, "one").err(),
            export(&server, &to).err(),
            import(&dir.path().join(FILE), &server).err(),
        ] {
            let error = refused.expect("refused").to_string();
            assert!(error.contains(version) && error.contains(words), "{error}");
        }
        assert_eq!(look(), before, "something was changed");
        assert!(!to.exists(), "what was refused was begun");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p37_an_older_shared_database_is_brought_up_to_date() {
    let url = server::database();
    let one = connect(&url, "one").expect("a new database");
    one.commit(&machine(1), 0, &[], NOW).await.expect("stored");
    drop(one);
    // As version 5 was, the first that it had.
    let sql = "DROP TABLE secrets, tokens, audit; UPDATE meta SET value = '5' WHERE key = 'version'";
    let admin = || ::postgres::Client::connect(&url, ::postgres::NoTls).expect("connected");
    tokio::task::block_in_place(|| admin().batch_execute(sql).expect("done"));
    let one = connect(&url, "one").expect("brought up to date");
    assert_eq!(one.machines().expect("read").len(), 1);
    one.keep_secret("a".into(), "x".into(), vec![1]).await.expect("stored");
    let two = connect(&url, "two").expect("nothing is left to do");
    assert_eq!(two.secret("a", "x").expect("read"), Some(vec![1]));
    assert!(two.records(0, None, 9).expect("read").is_empty());
}

#[test]
fn a_database_server_that_is_not_there_is_named() {
    let error = connect("host=/nonexistent user=nobody dbname=x", "one").err().expect("refused");
    assert!(error.to_string().contains("database.url"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p08_everything_goes_from_one_kind_of_database_to_the_other_and_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path()).expect("a new database");
    let told = [Happening::NodeMoved(State::Expected)];
    for n in 1..=3 {
        store.commit(&machine(n), 0, &told, NOW).await.expect("stored");
    }
    store.put_leases(vec![bound(1, 1, NOW), bound(2, 2, NOW)]).await.expect("stored");
    let (node, job) = (NodeId::new(NOW, 1), JobId::new(NOW, 1));
    let line = Line { level: "info", text: "a \"line\" \u{fc}".into() };
    store.put_syslog(node, job.clone(), vec![line], NOW).await.expect("stored");
    store.seal_by("one".into()).await.expect("stored");
    store.keep_secret("a".into(), "x".into(), vec![1, 0, 255]).await.expect("stored");
    let everything = |store: &Store| {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            store.secret("a", "x").expect("read"),
            store.sealed_by().expect("read"),
            store.machines().expect("read"),
            store.leases().expect("read"),
            store.events(0, None, 99).expect("read"),
            store.job_log(&job, 0, 99).expect("read"),
            store.duid().expect("read")
        )
    };
    let before = everything(&store);
    drop(store);
    let url = server::database();
    let server = Server::parse(&url).expect("parameters");
    let import = || tokio::task::block_in_place(|| import(&dir.path().join(FILE), &server));
    assert_eq!(import().expect("imported").nodes, 3);
    let refused = import().expect_err("it is not empty").to_string();
    assert!(refused.contains("nodes") && refused.contains("empty"), "{refused}");
    let shared = sealed(connect(&url, "one").expect("the database"));
    assert_eq!(everything(&shared), before);
    assert_eq!(shared.restored(Millis(9)).await.expect("read"), Some(Millis(9)), "it is a copy");
    // It goes on counting behind what came.
    shared.commit(&machine(4), 0, &told, NOW).await.expect("stored");
    let after = everything(&shared);
    let back = tempfile::tempdir().expect("a temporary directory");
    let exported = tokio::task::block_in_place(|| export(&server, &back.path().join(FILE)));
    assert_eq!(exported.expect("exported").nodes, 4);
    let store = sealed(Store::open(back.path()).expect("the copy"));
    assert_eq!(everything(&store), after);
    assert!(store.restored(Millis(10)).await.expect("read") > Some(Millis(9)), "a copy of a copy");
}

#[test]
fn p20_a_database_is_spoken_to_by_tls_and_nobody_else_in_its_place() {
    let (url, authority) = server::distant_database();
    let mut trusting = Server::parse(&url).expect("parameters");
    trusting.trust(&authority).expect("a certificate");
    drop(Store::connect(&trusting, "one").expect("the database"));
    let another = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("another"), another.cert.pem()).expect("written");
    let mut mistaken = Server::parse(&url).expect("parameters");
    mistaken.trust(&dir.path().join("another")).expect("a certificate");
    let refused = Store::connect(&mistaken, "one").err().expect("refused").to_string();
    assert!(refused.contains("certificate"), "{refused}");
    for elsewhere in [url.replace("localhost", "192.0.2.1"), format!("{url}?hostaddr=192.0.2.1")] {
        let elsewhere = Server::parse(&elsewhere).expect("parameters");
        let refused = Store::connect(&elsewhere, "one").err().expect("refused").to_string();
        assert!(refused.contains("database.authority"), "{refused}");
    }
}
