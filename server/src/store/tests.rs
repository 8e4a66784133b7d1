use super::*;
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_core::machine::{Node, State};
use std::net::Ipv6Addr;

const NOW: Millis = Millis(7);

fn machine(n: u8) -> Machine {
    let id = NodeId::new(NOW, u128::from(n));
    Machine { node: Node::new(id, format!("n{n}"), Mac([2, 0, 0, 0, 0, n]), true), job: None }
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path()).expect("a new database");
    (dir, store)
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let (dir, store) = open();
    let told = [Happening::NodeMoved(State::Expected)];
    assert_eq!(store.commit(&machine(1), 0, &told, NOW).await.expect("stored"), Commit::Done);
    drop(store);
    let store = Store::open(dir.path()).expect("the same database");
    let found = store.machine(Key::Mac(Mac([2, 0, 0, 0, 0, 1]))).expect("read").expect("found by MAC");
    assert_eq!(found.machine, machine(1));
    assert_eq!(store.machine(Key::Name("n1")).expect("read").map(|found| found.version), Some(1));
    let events = store.events(0, None, 10).expect("read");
    assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["node.expected"]);
    assert_eq!(*store.newest_event().borrow(), events[0].id);
}

#[tokio::test]
async fn a_decision_on_an_older_version_is_a_conflict_and_changes_nothing() {
    let (_dir, store) = open();
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

#[tokio::test]
async fn two_nodes_cannot_share_a_name_and_the_refused_one_leaves_nothing() {
    let (_dir, store) = open();
    store.commit(&machine(1), 0, &[], NOW).await.expect("stored");
    let mut second = machine(2);
    second.node.name = "n1".into();
    assert!(store.commit(&second, 0, &[], NOW).await.is_err());
    assert!(store.machine(Key::Id(&second.node.id)).expect("read").is_none());
}

#[tokio::test]
async fn subscribers_hear_of_a_change_whose_caller_has_gone() {
    let (_dir, store) = open();
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

#[tokio::test]
async fn a_repeated_log_batch_is_stored_once() {
    let (_dir, store) = open();
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
    let (dir, store) = open();
    drop(store);
    let connection = Connection::open(dir.path().join("kaltstart.db")).expect("opened");
    connection.pragma_update(None, "user_version", 99).expect("written");
    let error = Store::open(dir.path()).err().expect("refused").to_string();
    assert!(error.contains("99") && error.contains("newer"), "{error}");
}

#[tokio::test]
async fn p31_dhcpv6_leases_and_the_servers_duid_outlive_it() {
    let (dir, store) = open();
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
    let store = Store::open(dir.path()).expect("the same database");
    assert_eq!(store.leases6().expect("read"), leases);
    assert_eq!(store.lessee(leases[0].address.into()).expect("read"), Some(mac));
    assert_eq!(store.lessee(leases[1].address.into()).expect("read"), None);
    assert_eq!(store.duid().expect("read"), duid);
}

#[tokio::test]
async fn p31_a_database_knows_that_it_is_a_copy() {
    let (dir, store) = open();
    assert_eq!(store.restored(Millis(1)).await.expect("read"), None, "new");
    drop(store);
    let reopened = Store::open(dir.path()).expect("the same database");
    assert_eq!(reopened.restored(Millis(2)).await.expect("read"), None, "the same");
    drop(reopened);
    // The writing thread ends by itself; with the last connection SQLite takes the log away.
    let (wal, began) = (dir.path().join("kaltstart.db-wal"), std::time::Instant::now());
    while wal.exists() {
        assert!(began.elapsed().as_secs() < 10, "the database is not closed");
        std::thread::yield_now();
    }
    let (file, copy) = (dir.path().join("kaltstart.db"), dir.path().join("copy"));
    std::fs::copy(&file, &copy).expect("copied");
    std::fs::rename(&copy, &file).expect("restored");
    for now in [Millis(3), Millis(4)] {
        let store = Store::open(dir.path()).expect("the copy");
        assert_eq!(store.restored(now).await.expect("read"), Some(Millis(3)), "and goes on knowing it");
    }
}

#[tokio::test]
async fn addresses_that_hosts_unknown_here_answered_for_are_counted_while_they_are_held() {
    let (_dir, store) = open();
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
