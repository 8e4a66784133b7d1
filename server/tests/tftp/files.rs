//! What is asked for arrives as it is.

use crate::support::{Note, Server, client, content, fetch, memory, receive, refusal, request};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::tftp::{ErrorCode, Mode, Options, Packet, Request};
use kaltstart_server::net::tftp::{Directory, Limits, Outcome};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

#[tokio::test(flavor = "multi_thread")]
async fn p33_files_arrive_identical() {
    const SIZES: [usize; 5] = [0, 1, 512, 1_468, 2_500_000];
    let folder = tempfile::tempdir().expect("a folder");
    for size in SIZES {
        fs::write(folder.path().join(format!("f{size}")), content(size)).expect("written");
    }
    let server = Server::start(Directory::new(folder.path()).expect("opened"), Limits::default());
    for size in SIZES {
        let (name, digest) = (format!("/f{size}"), Digest::of(&content(size)));
        let plain = fetch(server.address, request(&name, &[])).await;
        assert_eq!(Digest::of(&plain), digest, "{size} without options");
        for blksize in [512, 1_468] {
            for windowsize in [1, 4, 16] {
                let options = [("tsize", 0), ("blksize", blksize), ("windowsize", windowsize)];
                let got = fetch(server.address, request(&name, &options)).await;
                assert_eq!(Digest::of(&got), digest, "{size} {options:?}");
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p33_block_sizes_up_to_the_largest_are_served_if_allowed() {
    let mut limits = Limits::default();
    limits.transfer.blksize_max = 65_464;
    let server = Server::start(memory(), limits);
    // Small blocks would take long for a big file.
    for (blksize, name) in [(8, "small"), (9_000, "big"), (65_464, "big")] {
        let got = fetch(server.address, request(name, &[("blksize", blksize), ("windowsize", 2)])).await;
        assert_eq!(Digest::of(&got), Digest::of(&memory().0[name]), "{blksize}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p33_five_clients_at_once() {
    let server = Server::start(memory(), Limits::default());
    let options = [("blksize", 1_468), ("windowsize", 4)];
    let clients: Vec<_> =
        (0..5).map(|_| tokio::spawn(fetch(server.address, request("big", &options)))).collect();
    for client in clients {
        assert_eq!(Digest::of(&client.await.expect("no panic")), Digest::of(&memory().0["big"]));
    }
    server.stop().await;
}

#[tokio::test]
async fn p33_a_size_probe_ends_at_once_and_is_no_failure() {
    let mut server = Server::start(memory(), Limits::default());
    let socket = client().await;
    let probe = Packet::Rrq(request("big", &[("tsize", 0), ("blksize", 1_468), ("windowsize", 4)]));
    socket.send_to(&probe.encode(), server.address).await.expect("sent");
    let mut buffer = [0; 2_048];
    let (oack, from) = receive(&socket, &mut buffer).await;
    let Packet::Oack(options) = oack else { panic!("no OACK: {oack:?}") };
    assert_eq!(options.number(Options::TSIZE), Some(3_000_000));
    let abort = Packet::Error { code: ErrorCode::OPTIONS, message: "User aborted the transfer".into() };
    socket.send_to(&abort.encode(), from).await.expect("sent");
    assert_eq!(server.note().await, Note::Started("big".into()));
    assert_eq!(server.note().await, Note::Finished("big".into(), Outcome::Probed, 0));
    server.stop().await;
}

#[tokio::test]
async fn p33_netascii_is_translated_and_its_size_is_true() {
    let text: Vec<u8> = (0..300_000_u32).map(|i| b"line\nof\r\ntext"[(i ^ (i >> 5)) as usize % 13]).collect();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("text"), &text).expect("written");
    let too_large = fs::File::create(folder.path().join("large")).expect("made");
    too_large.set_len((64 << 20) + 1).expect("as long as wanted");
    let on_wire = String::from_utf8(text).expect("ASCII").replace('\r', "\r\0").replace('\n', "\r\n");
    let netascii = |name, options| Request { mode: Mode::Netascii, ..request(name, options) };

    let mut server = Server::start(Directory::new(folder.path()).expect("opened"), Limits::default());
    for options in [&[][..], &[("blksize", 8)], &[("blksize", 1_001), ("windowsize", 5), ("tsize", 0)]] {
        assert!(fetch(server.address, netascii("text", options)).await == on_wire.as_bytes(), "{options:?}");
        server.wait_for(&Note::Finished("text".into(), Outcome::Complete, on_wire.len() as u64)).await;
    }
    let socket = client().await;
    let sized = Packet::Rrq(netascii("text", &[("tsize", 0)]));
    socket.send_to(&sized.encode(), server.address).await.expect("sent");
    let size = Packet::Oack(Options::new().with("tsize", on_wire.len() as u64));
    assert_eq!(receive(&socket, &mut [0; 600]).await.0, size);
    let large = Packet::Rrq(netascii("large", &[]));
    assert_eq!(refusal(server.address, &large).await.0, ErrorCode::UNDEFINED);
    server.stop().await;

    let mut server = Server::start(memory(), Limits::default());
    assert_eq!(fetch(server.address, netascii("small", &[("tsize", 0)])).await, b"one\r\ntwo\r\n");
    server.wait_for(&Note::Finished("small".into(), Outcome::Complete, 10)).await;
    server.stop().await;
}

#[tokio::test]
async fn p33_answers_come_from_the_address_asked() {
    let server = Server::start_at(Ipv4Addr::UNSPECIFIED.into(), memory(), Limits::default());
    for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        let socket = client().await;
        let to = SocketAddr::new(ip.into(), server.address.port());
        socket.send_to(&Packet::Rrq(request("small", &[])).encode(), to).await.expect("sent");
        let mut buffer = [0; 600];
        let (_, from) = receive(&socket, &mut buffer).await;
        assert_eq!(from.ip(), ip);
        assert_ne!(from.port(), to.port());
    }
    server.stop().await;
}

#[tokio::test]
async fn p33_files_travel_over_ipv6_too_and_closed_ports_are_noticed() {
    for local in [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED] {
        let mut server = Server::start_at(local.into(), memory(), Limits::default());
        for (blksize, windowsize) in [(512, 1), (1428, 4), (1448, 16), (8192, 2)] {
            let options = [("blksize", blksize), ("windowsize", windowsize), ("tsize", 0)];
            let fetched = fetch(server.address, request("big", &options)).await;
            assert_eq!(fetched, content(3_000_000), "{blksize} {windowsize}");
        }
        let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a free port");
        let packet = Packet::Rrq(request("big", &[])).encode();
        socket.send_to(&packet, server.address).await.expect("sent");
        let (_, from) = receive(&socket, &mut [0; 600]).await;
        drop(socket);
        assert_eq!(from.ip(), Ipv6Addr::LOCALHOST);
        while !matches!(server.note().await, Note::Finished(_, Outcome::Gone, _)) {}
        server.stop().await;
    }
}
