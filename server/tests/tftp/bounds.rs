//! Many requests, repeated requests, and requests nobody means.

use crate::support::{Note, PATIENCE, Server, client, fetch, memory, receive, request};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::tftp::Packet;
use kaltstart_server::net::tftp::{DropReason, Limits, Outcome};
use std::collections::VecDeque;
use tokio::time::timeout;

#[tokio::test]
async fn p33_transfers_are_bounded() {
    let mut limits = Limits { workers: 1, transfers_max: 8, ..Limits::default() };
    limits.transfer.first_ack_ms = 300;
    let mut server = Server::start(memory(), limits);
    let packet = Packet::Rrq(request("big", &[("tsize", 0)])).encode();
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let socket = client().await;
        socket.send_to(&packet, server.address).await.expect("sent");
        sockets.push(socket);
    }
    let (mut started, mut busy, mut ended) = (0, 0, 0);
    while started + busy < 20 || ended < started {
        match server.note().await {
            Note::Started(_) => started += 1,
            Note::Dropped(DropReason::Busy) => busy += 1,
            Note::Finished(_, Outcome::Unanswered, 0) => ended += 1,
            other => panic!("unexpected: {other:?}"),
        }
        assert!(started - ended <= 8, "{started} started, {ended} ended");
    }
    assert!(busy > 0);
    assert_eq!(fetch(server.address, request("small", &[])).await, b"one\ntwo\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p33_ten_thousand_half_open_transfers_keep_nobody_out() {
    const REQUESTS: usize = 10_000;
    let limits = Limits { workers: 1, transfers_per_client_max: usize::MAX, ..Limits::default() };
    let most = limits.half_open_max;
    let mut server = Server::start(memory(), limits);
    let packet = Packet::Rrq(request("big", &[("tsize", 0)])).encode();
    let (mut open, mut displaced) = (0, 0);
    let mut sockets = VecDeque::new();
    for n in 0..REQUESTS {
        // Each client lives until its transfer was displaced, so none ends because its port is closed.
        let socket = client().await;
        socket.send_to(&packet, server.address).await.expect("sent");
        sockets.push_back(socket);
        loop {
            match server.note().await {
                Note::Started(_) => {
                    open += 1;
                    break;
                }
                Note::Finished(_, Outcome::Displaced, 0) => {
                    (open, displaced) = (open - 1, displaced + 1);
                    sockets.pop_front();
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
        assert!(open <= most, "{open} of {n} are open");
    }
    assert_eq!(displaced, REQUESTS - most);
    // A client that is there gets its file all the same.
    let got = fetch(server.address, request("big", &[("blksize", 1_468), ("windowsize", 16)])).await;
    assert_eq!(Digest::of(&got), Digest::of(&memory().0["big"]));
    server.stop().await;
}

#[tokio::test]
async fn p33_a_repeated_request_starts_nothing() {
    let mut server = Server::start(memory(), Limits::default());
    let socket = client().await;
    let packet = Packet::Rrq(request("big", &[("blksize", 1_468)])).encode();
    socket.send_to(&packet, server.address).await.expect("sent");
    assert_eq!(server.note().await, Note::Started("big".into()));
    socket.send_to(&packet, server.address).await.expect("sent");
    assert_eq!(server.note().await, Note::Dropped(DropReason::Duplicate));
    // A client whose port is closed does not hold its place.
    drop(socket);
    assert_eq!(server.note().await, Note::Finished("big".into(), Outcome::Gone, 0));
    server.stop().await;
}

#[tokio::test]
async fn p33_a_client_that_starts_anew_from_the_same_port_is_served() {
    let mut server = Server::start(memory(), Limits::default());
    let socket = client().await;
    let mut buffer = vec![0; 2_048];
    let ask = |name, options: &'static [(&str, u64)]| Packet::Rrq(request(name, options)).encode();
    // A size probe whose end is lost, and the request that follows from the same port.
    socket.send_to(&ask("big", &[("tsize", 0)]), server.address).await.expect("sent");
    let (probed, _) = receive(&socket, &mut buffer).await;
    assert!(matches!(probed, Packet::Oack(_)), "{probed:?}");
    socket.send_to(&ask("small", &[]), server.address).await.expect("sent");
    server.wait_for(&Note::Finished("big".into(), Outcome::Replaced, 0)).await;
    server.wait_for(&Note::Started("small".into())).await;
    loop {
        match receive(&socket, &mut buffer).await.0 {
            // Repeated before it was replaced.
            Packet::Oack(_) => {}
            data => break assert_eq!(data, Packet::Data { block: 1, content: b"one\ntwo\n" }),
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_a_rack_that_asks_all_at_once_is_heard() {
    const CLIENTS: usize = 500;
    let mut server = Server::start(memory(), Limits::default());
    let packet = Packet::Rrq(request("small", &[("tsize", 0)])).encode();
    let mut sockets = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        sockets.push(client().await);
    }
    for socket in &sockets {
        socket.send_to(&packet, server.address).await.expect("sent");
    }
    // Nobody asks twice.
    let mut started = 0;
    while started < CLIENTS {
        match server.note().await {
            Note::Started(_) => started += 1,
            other => panic!("after {started} transfers: {other:?}"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn p29_workers_end_with_the_service() {
    let Server { mut notes, task, .. } = Server::start(memory(), Limits::default());
    // Not told to stop, but gone.
    task.abort();
    let all_let_go = async { while notes.recv().await.is_some() {} };
    timeout(PATIENCE, all_let_go).await.expect("the last worker lets go of whoever takes note");
}
