//! The audit log in the database: with the act that it tells of or not at all, and nobody changes it unnoticed.

use super::tests::{NOW, Place, machine, server};
use super::torn::closed;
use super::*;
use kaltstart_core::audit::{Act, Action, Actor, REPEATED_MS};

/// Lets `store` seal records as all of a site do.
pub(super) fn sealed(store: Store) -> Store {
    store.seal_records(Sealer::new(b"of the site"), None);
    store
}

/// Somebody's act, and the node it is about.
pub(super) fn act(n: u8) -> Act {
    let node = machine(n).node;
    let about = Some((node.id, node.name));
    Act { node: about, ..Act::new(Actor::named("me"), Action::NodeDeclared) }
}

pub(super) fn on_record(act: Act) -> Terms {
    Terms { losses_max: None, act: Some(act) }
}

impl Place {
    /// Lets somebody who has the database alone do something.
    fn meddle(&self, sql: &str) {
        match self {
            Self::Directory(dir) => {
                let database = rusqlite::Connection::open(dir.path().join(FILE)).expect("opened");
                database.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
                database.execute_batch(sql).expect("done");
            }
            Self::Server(url) => tokio::task::block_in_place(|| {
                let mut database = ::postgres::Client::connect(url, ::postgres::NoTls).expect("connected");
                database.batch_execute(sql).expect("done");
            }),
        }
    }
}

fn actions(store: &Store) -> Vec<String> {
    let all = store.records(0, None, 999).expect("read");
    all.into_iter().map(|recorded| recorded.record.action).collect()
}

fn fault(store: &Store) -> (u64, String) {
    let fault = store.verify_log().expect("read").fault.expect("something is wrong");
    (fault.number, fault.what)
}

fn whole(store: &Store) -> u64 {
    let verdict = store.verify_log().expect("read");
    assert_eq!(verdict.fault, None);
    verdict.records
}

pub(super) async fn p25_an_act_and_its_record_are_stored_together_or_not_at_all(place: Place) {
    let store = place.open();
    let told = [Happening::NodeMoved(kaltstart_core::machine::State::Expected)];
    let commit =
        async |n: u8, expected| store.commit_on(&machine(n), expected, &told, NOW, on_record(act(n))).await;
    // Who has no key does nothing.
    let error = commit(1, 0).await.expect_err("there is no key").to_string();
    assert!(error.contains("takes no record of node.declared, so it is not done"), "{error}");
    assert!(store.machines().expect("read").is_empty(), "nothing is left of it");
    store.seal_records(Sealer::new(b"of the site"), None);
    assert_eq!(commit(1, 0).await.expect("stored"), Commit::Done);
    // A decision on an older version is no act.
    assert_eq!(commit(1, 0).await.expect("decided"), Commit::Conflict);
    assert_eq!(actions(&store), ["node.declared"]);
    // An act that the database refuses leaves no record.
    let mut twin = machine(2);
    twin.node.name = "n1".into();
    store.commit_on(&twin, 0, &told, NOW, on_record(act(2))).await.expect_err("the name is taken");
    assert_eq!(whole(&store), 1);
    let (refuse, allow) = match &place {
        Place::Directory(_) => (
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END",
            "DROP TRIGGER full",
        ),
        Place::Server(_) => ("ALTER TABLE audit RENAME TO away", "ALTER TABLE away RENAME TO audit"),
    };
    place.meddle(refuse);
    let events = store.events(0, None, 99).expect("read").len();
    let error = commit(2, 0).await.expect_err("it takes no record").to_string();
    assert!(error.contains("audit log takes no record"), "{error}");
    assert!(commit(1, 1).await.is_err());
    store.record(act(1), NOW).await.expect_err("it takes no record");
    let machines = store.machines().expect("read");
    assert_eq!(machines.iter().map(|found| found.version).collect::<Vec<_>>(), [1], "nothing has changed");
    assert_eq!(store.events(0, None, 99).expect("read").len(), events, "and nothing is told");
    // What is no act goes on.
    store.note_nothing().await;
    place.meddle(allow);
    assert_eq!(commit(2, 0).await.expect("stored"), Commit::Done);
    assert_eq!(whole(&store), 2);
    // Another start goes on behind it.
    drop(store);
    let store = sealed(place.open());
    store.record(act(1), NOW).await.expect("stored");
    assert_eq!(whole(&store), 3);
    let of_two = store.records(0, Some(&machine(2).node.id), 9).expect("read");
    assert_eq!(of_two.iter().map(|one| one.record.number).collect::<Vec<_>>(), [2]);
    assert_eq!(store.records(1, None, 1).expect("read")[0].record.number, 2);
}

impl Store {
    /// Writes something that nobody did.
    async fn note_nothing(&self) {
        self.commit(&machine(9), 0, &[], NOW).await.expect("stored");
    }
}

pub(super) async fn p25_whatever_is_done_to_the_stored_log_is_found(place: Place) {
    let store = sealed(place.open());
    for n in 1..=5 {
        store.record(act(n), NOW).await.expect("stored");
    }
    place.meddle("CREATE TABLE kept AS SELECT * FROM audit");
    let hash = match &place {
        Place::Directory(_) => "zeroblob(32)",
        Place::Server(_) => "decode(repeat('00', 32), 'hex')",
    };
    let changed = |number: u64| {
        let json = if matches!(place, Place::Server(_)) { "::json" } else { "" };
        let doc = if json.is_empty() { "doc" } else { "doc::text" };
        format!("UPDATE audit SET doc = replace({doc}, '\"me\"', '\"he\"'){json} WHERE number = {number}")
    };
    for number in 1..=5 {
        for (sql, first) in [
            (format!("DELETE FROM audit WHERE number = {number}"), number),
            (format!("DELETE FROM audit WHERE number >= {number}"), number),
            (format!("DELETE FROM audit WHERE number <= {number}"), 1),
            (changed(number), number),
            (format!("UPDATE audit SET hash = {hash} WHERE number = {number}"), number),
            (format!("UPDATE audit SET seal = {hash} WHERE number = {number}"), number),
            (format!("UPDATE audit SET number = 99 WHERE number = {number}"), number),
            (
                format!(
                    "UPDATE audit SET number = 99 WHERE number = {number}; UPDATE audit SET number = {number} WHERE \
                     number = {other}; UPDATE audit SET number = {other} WHERE number = 99",
                    other = number % 5 + 1
                ),
                number.min(number % 5 + 1),
            ),
            (format!("INSERT INTO audit SELECT 6, doc, hash, seal FROM audit WHERE number = {number}"), 6),
        ] {
            place.meddle(&sql);
            assert_eq!(fault(&store).0, first, "{sql}");
            place.meddle("DELETE FROM audit; INSERT INTO audit SELECT * FROM kept");
            assert_eq!(whole(&store), 5);
        }
    }
    // Who has another key did not write it.
    drop(store);
    let stranger = place.open();
    stranger.seal_records(Sealer::new(b"another"), None);
    stranger.record(act(6), NOW).await.expect("stored");
    drop(stranger);
    let store = sealed(place.open());
    let (number, what) = fault(&store);
    assert!(number == 6 && what.contains("secrets.key"), "{what}");
    assert!(store.look_at_log().expect("read") && store.log_seen().is_none(), "nobody of ours has seen that");
}

pub(super) async fn p25_records_that_are_missing_when_the_next_is_written_are_told_for_ever(place: Place) {
    let store = sealed(place.open());
    for n in 1..=4 {
        store.record(act(n), NOW).await.expect("stored");
    }
    let seen = store.log_seen().expect("it wrote");
    assert_eq!(seen.number, 4);
    place.meddle("DELETE FROM audit WHERE number > 2");
    assert!(!store.look_at_log().expect("read") && store.log_seen() == Some(seen));
    store.record(act(5), NOW).await.expect("it goes on");
    assert_eq!(actions(&store)[2..], ["log.cut", "node.declared"]);
    drop(store);
    // The server that starts next remembers what it noted, or nothing.
    for seen in [Some(seen), None] {
        let store = place.open();
        store.seal_records(Sealer::new(b"of the site"), seen);
        let (number, what) = fault(&store);
        assert!(number <= 4 && what.contains("record"), "{what}");
    }
}

pub(super) async fn what_the_server_does_again_and_again_is_recorded_once_a_minute(place: Place) {
    let store = sealed(place.open());
    let released = |n: u8, address: &str| Act {
        by: Actor::server(),
        action: Action::DiskKeyReleased,
        ..act(n).with("address", address)
    };
    for _ in 0..3 {
        store.record(released(1, "a"), NOW).await.expect("stored");
        store.record(released(2, "a"), NOW).await.expect("stored");
    }
    assert_eq!(whole(&store), 2);
    store.record(released(1, "b"), NOW).await.expect("stored");
    store.record(released(1, "b"), NOW.plus(REPEATED_MS)).await.expect("stored");
    assert_eq!(whole(&store), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p25_servers_of_one_database_keep_one_chain() {
    let place = Place::server();
    let stores = ["one", "two"].map(|me| sealed(place.open_as(me)));
    let write = |store: &Store, n: u8| {
        let act = act(n);
        store.submit(move |transaction| transaction.record(&act, NOW), |outcome| outcome.expect("stored"))
    };
    for n in 0..60 {
        stores.iter().try_for_each(|store| write(store, n)).expect("taken");
    }
    for store in &stores {
        store.record(act(99), NOW).await.expect("stored");
    }
    let [one, two] = &stores;
    assert_eq!((whole(one), whole(two)), (122, 122));
    assert!(one.look_at_log().expect("read") && two.look_at_log().expect("read"));
    assert_eq!(one.log_seen(), two.log_seen());
    // What one has seen is missed by the other's log as well.
    place.meddle("DELETE FROM audit WHERE number > 121");
    assert_eq!((fault(one).0, fault(two).0), (122, 122));
    two.record(act(7), NOW).await.expect("it goes on");
    one.record(act(8), NOW).await.expect("it goes on");
    assert_eq!(fault(one).0, 122);
    assert!(actions(one)[121..].contains(&"log.cut".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p25_the_log_goes_from_one_kind_of_database_to_the_other_and_tells_of_it() {
    let place = Place::directory();
    let Place::Directory(dir) = &place else { unreachable!() };
    let store = sealed(place.open());
    for n in 1..=3 {
        store.record(act(n), NOW).await.expect("stored");
    }
    let (before, seen) = (store.records(0, None, 9).expect("read"), store.log_seen());
    drop(store);
    closed(dir.path(), "the file");
    let url = server::database();
    let shared = Server::parse(&url).expect("parameters");
    tokio::task::block_in_place(|| import(&dir.path().join(FILE), &shared)).expect("imported");
    let open = || {
        let store = Store::connect(&shared, "one").expect("the database");
        store.seal_records(Sealer::new(b"of the site"), seen);
        store
    };
    let store = open();
    assert_eq!(store.records(0, None, 9).expect("read"), before);
    assert_eq!(whole(&store), 3);
    let epoch = store.restored(Millis(1000)).await.expect("read").expect("it is a copy");
    let verdict = store.verify_log().expect("read");
    assert_eq!((verdict.fault, verdict.restored), (None, vec![4]));
    assert_eq!(store.records(3, None, 9).expect("read")[0].record.epoch, epoch.0);
    let seen = store.log_seen();
    drop(store);
    // And back, where somebody takes the newest record away before.
    let back = tempfile::tempdir().expect("a temporary directory");
    let export = || tokio::task::block_in_place(|| export(&shared, &back.path().join(FILE)));
    assert_eq!(export().expect("exported").nodes, 0);
    let store = Store::open(back.path()).expect("the copy");
    store.seal_records(Sealer::new(b"of the site"), seen);
    assert_eq!(whole(&store), 4);
    // A server whose own clock is behind begins a later epoch all the same.
    let later = store.restored(Millis(10)).await.expect("read").expect("a copy of a copy");
    assert!(later > epoch);
    assert_eq!(store.verify_log().expect("read").restored, [4, 5]);
    Place::Directory(back).meddle("DELETE FROM audit WHERE number = 5");
    assert_eq!(fault(&store).0, 5);
}
