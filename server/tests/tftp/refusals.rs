//! What is not served, and why.

use crate::support::{Note, Server, client, fetch, memory, receive, refusal, request};
use kaltstart_protocol::tftp::{ErrorCode, Mode, Packet, Request};
use kaltstart_server::net::tftp::{Directory, DropReason, Limits, Refusal, Resolver as _};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;

#[tokio::test]
async fn p33_the_jail_holds() {
    // Not a hidden one, whose absolute path would be refused for that.
    let folder = tempfile::Builder::new().prefix("jail").tempdir().expect("a folder");
    let root = folder.path().join("tftp");
    fs::create_dir_all(root.join("sub")).expect("made");
    fs::create_dir(folder.path().join("tftp-secret")).expect("made");
    fs::write(folder.path().join("tftp-secret/key"), b"secret").expect("written");
    fs::write(folder.path().join("secret"), b"secret").expect("written");
    fs::write(root.join("ok"), b"ok").expect("written");
    fs::write(root.join(".hidden"), b"secret").expect("written");
    symlink("../secret", root.join("out")).expect("linked");
    symlink(folder.path().join("secret"), root.join("absolute")).expect("linked");
    symlink("..", root.join("up")).expect("linked");
    symlink("loop", root.join("loop")).expect("linked");
    symlink("ok", root.join("inside")).expect("linked");
    let _listening = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("made");

    let server = Server::start(Directory::new(&root).expect("opened"), Limits::default());
    let secret = folder.path().join("secret");
    let secret = secret.to_str().expect("UTF-8");
    let path = folder.path().to_str().expect("UTF-8");
    for (name, code) in [
        ("../secret", ErrorCode::ACCESS),
        ("/../secret", ErrorCode::ACCESS),
        ("sub/../../secret", ErrorCode::ACCESS),
        ("../tftp-secret/key", ErrorCode::ACCESS),
        ("..\\secret", ErrorCode::ACCESS),
        ("sub\\ok", ErrorCode::ACCESS),
        ("out", ErrorCode::ACCESS),
        ("absolute", ErrorCode::ACCESS),
        ("up/secret", ErrorCode::ACCESS),
        ("loop", ErrorCode::ACCESS),
        (".hidden", ErrorCode::ACCESS),
        ("socket", ErrorCode::ACCESS),
        ("sub", ErrorCode::ACCESS),
        ("/", ErrorCode::ACCESS),
        // Inside of the folder there is no such path.
        (secret, ErrorCode::NOT_FOUND),
        ("-secret/key", ErrorCode::NOT_FOUND),
        ("ok/more", ErrorCode::NOT_FOUND),
        ("missing", ErrorCode::NOT_FOUND),
    ] {
        let (got, message) = refusal(server.address, &Packet::Rrq(request(name, &[("tsize", 0)]))).await;
        assert_eq!(got, code, "{name:?}: {message}");
        assert!(!message.contains(path), "{message}");
    }
    assert_eq!(fetch(server.address, request("//ok", &[])).await, b"ok");
    assert_eq!(fetch(server.address, request("inside", &[])).await, b"ok");
    let nul = Directory::new(&root).expect("opened").open(Ipv4Addr::LOCALHOST.into(), "ok\0x").await;
    assert!(matches!(nul, Err(Refusal::Denied)), "{nul:?}");
    server.stop().await;
}

#[tokio::test]
async fn p33_writing_and_mail_are_refused() {
    let mut server = Server::start(memory(), Limits::default());
    let write = Packet::Wrq(request("small", &[]));
    assert_eq!(refusal(server.address, &write).await.0, ErrorCode::ACCESS);
    assert_eq!(server.note().await, Note::Refused(Refusal::ReadOnly));
    let mail = Packet::Rrq(Request { mode: Mode::Mail, ..request("small", &[]) });
    assert_eq!(refusal(server.address, &mail).await.0, ErrorCode::ILLEGAL);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p29_ten_thousand_malformed_packets_change_nothing() {
    let mut server = Server::start(memory(), Limits::default());
    let socket = client().await;
    let mut state = 0x9e37_79b9_u32;
    for i in 0..10_000_usize {
        let mut bytes: Vec<u8> = (0..i % 700)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        // Half of them begin like a packet.
        if let (true, [first, second, ..]) = (i % 2 == 0, bytes.as_mut_slice()) {
            (*first, *second) = (0, (i / 2 % 7) as u8);
        }
        let is_request = matches!(Packet::decode(&bytes), Ok(Packet::Rrq(_) | Packet::Wrq(_)));
        assert!(!is_request, "a request by chance: {bytes:?}");
        socket.send_to(&bytes, server.address).await.expect("sent");
    }
    server.wait_for(&Note::Dropped(DropReason::Malformed)).await;
    assert_eq!(fetch(server.address, request("small", &[])).await, b"one\ntwo\n");
    let answer = socket.try_recv(&mut [0; 600]).map_err(|error| error.kind());
    assert_eq!(answer, Err(std::io::ErrorKind::WouldBlock), "garbage was answered");
    server.stop().await;
}

#[tokio::test]
async fn p29_a_panic_ends_one_request_only() {
    let server = Server::start(memory(), Limits::default());
    let socket = client().await;
    let mut buffer = [0; 600];
    for (name, is_served) in [("panic", false), ("small", true)] {
        // From the same port: its place is given back although the resolver panics.
        let packet = Packet::Rrq(request(name, &[])).encode();
        socket.send_to(&packet, server.address).await.expect("sent");
        let (answer, _) = receive(&socket, &mut buffer).await;
        if is_served {
            assert_eq!(answer, Packet::Data { block: 1, content: b"one\ntwo\n" });
        } else {
            assert!(matches!(answer, Packet::Error { code: ErrorCode::UNDEFINED, .. }), "{answer:?}");
        }
    }
    server.stop().await;
}
