//! What the store keeps at most, shown with both databases.

use super::tests::{NOW, Place, machine};
use super::*;
use futures_util::future::join_all;
use kaltstart_core::machine::{BurnInOrder, JobKind, JobState, Order, State};
use kaltstart_core::observing::{Difference, Kind};
use kaltstart_protocol::syslog::Line;
use std::time::Duration;

pub(super) async fn p08_what_is_noted_of_a_copy_has_limits_whoever_makes_it_up(place: Place) {
    let store = place.open();
    let difference = |node: Option<u8>, address: u32| Difference {
        kind: Kind::Address,
        node: node.map(|n| NodeId::new(NOW, u128::from(n))),
        mac: None,
        address: Some(Ipv4Addr::from_bits(address).into()),
        job: None,
        detail: "it goes on using it".into(),
        at: NOW,
    };
    let (mut of_one, mut of_another, mut of_strangers) = (0, 0, 0);
    for address in 0..20 {
        of_one += usize::from(store.note(difference(Some(1), address)).await.expect("noted"));
        of_another += usize::from(store.note(difference(Some(2), address)).await.expect("noted"));
    }
    assert_eq!((of_one, of_another), (16, 16));
    for first in (0..OF_STRANGERS_MAX as u32 + 50).step_by(50) {
        let notes = (first..first + 50).map(|address| store.note(difference(None, address)));
        for noted in join_all(notes).await {
            of_strangers += usize::from(noted.expect("noted"));
        }
    }
    assert_eq!(of_strangers, OF_STRANGERS_MAX);
    // What is there may still be told anew.
    let newer = Difference { detail: "it goes on".into(), ..difference(Some(1), 0) };
    assert!(store.note(newer.clone()).await.expect("noted") && !store.note(newer).await.expect("noted"));
}

/// Lets the numbers of what comes next go on behind `last`, as after years.
async fn go_on_behind(store: &Store, place: &Place, last: i64) {
    match place {
        Place::Directory(dir) => {
            let file = rusqlite::Connection::open(dir.path().join(FILE)).expect("opened");
            file.busy_timeout(Duration::from_secs(10)).expect("set");
            file.execute_batch(&format!("UPDATE sqlite_sequence SET seq = {last}")).expect("written");
        }
        Place::Server(_) => {
            let set = move |transaction: &mut Transaction<'_>| {
                let sql = "SELECT setval(pg_get_serial_sequence('events', 'id'), ?1), \
                           setval(pg_get_serial_sequence('log_lines', 'id'), ?1)";
                transaction.connection().all(sql, &[last.into()], |_| Ok(())).map(|_| ())
            };
            store.transact(set).await.expect("set");
        }
    }
}

pub(super) async fn the_newest_events_jobs_and_lines_are_kept(place: Place) {
    let store = place.open();
    let (node, job) = (NodeId::new(NOW, 1), JobId::new(NOW, 1));
    let line = |text: &str| vec![Line { level: "info", text: text.into() }];
    store.put_syslog(node.clone(), job.clone(), line("old"), NOW).await.expect("stored");
    let told = [Happening::NodeMoved(State::Expected)];
    store.commit(&machine(1), 0, &told, NOW).await.expect("stored");
    go_on_behind(&store, &place, 1_000_000).await;
    // The line behind the oldest pushes it out; events go by the hundred.
    for n in 0..2 {
        store.put_syslog(node.clone(), job.clone(), line("new"), NOW).await.expect("stored");
        let lines = store.job_log(&job, 0, 10).expect("read");
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), vec!["new"; n + 1]);
    }
    for version in 1..=100 {
        let told = [Happening::NodeMoved(State::Broken)];
        store.commit(&machine(1), version, &told, NOW).await.expect("stored");
    }
    let events = store.events(0, None, 200).expect("read");
    assert!(events.len() == 100 && events[0].kind == "node.broken", "{}", events.len());
    // Of a node's jobs 50, with the one that was just ordered.
    let (mut cancelled, mut version) = (machine(1), 101);
    for n in 1..=60u64 {
        let (id, order) = (JobId::new(Millis(n), 1), Order::BurnIn(BurnInOrder { minutes: 1 }));
        let mut job = Job::queued(id, node.clone(), State::Available, JobKind::BurnIn, order, Millis(n));
        for state in [JobState::Queued, JobState::Cancelled] {
            job.state = state;
            cancelled.job = Some(job.clone());
            store.commit(&cancelled, version, &[], NOW).await.expect("stored");
            version += 1;
        }
    }
    let jobs = store.jobs(100).expect("read");
    assert_eq!(jobs.len(), 50);
    assert_eq!(jobs.last().map(|job| job.created_at), Some(Millis(11)));
}
