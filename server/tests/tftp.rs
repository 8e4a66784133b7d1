//! The TFTP service over loopback, asked by a small client of its own.

use bytes::Bytes;
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::tftp::{ErrorCode, Mode, Options, Packet, Request};
use kaltstart_server::net::tftp::{
    Content, Directory, DropReason, Event, Limits, Observer, Outcome, Refusal, Resolver, bind, serve,
};
use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// An [`Event`] that can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    Started(String),
    Finished(String, Outcome, u64),
    Refused(Refusal),
    Dropped(DropReason),
}

struct Notes(UnboundedSender<Note>);

impl Observer for Notes {
    fn note(&self, event: &Event<'_>) {
        let note = match *event {
            Event::Started { name, .. } => Note::Started(name.into()),
            Event::Finished { name, outcome, report, .. } => {
                Note::Finished(name.into(), outcome.clone(), report.confirmed_bytes())
            }
            Event::Refused { reason, .. } => Note::Refused(reason),
            Event::Dropped { reason, .. } => Note::Dropped(reason),
        };
        self.0.send(note).ok();
    }
}

struct Server {
    address: SocketAddrV4,
    notes: UnboundedReceiver<Note>,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    fn start(resolver: impl Resolver, limits: Limits) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, resolver, limits)
    }

    fn start_at(ip: Ipv4Addr, resolver: impl Resolver, limits: Limits) -> Self {
        let socket = bind(SocketAddrV4::new(ip, 0)).expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        let (sender, notes) = unbounded_channel();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(socket, resolver, Notes(sender), limits, shutdown.clone()));
        Self { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), notes, shutdown, task }
    }

    async fn note(&mut self) -> Note {
        timeout(PATIENCE, self.notes.recv()).await.expect("something happens").expect("it runs")
    }

    async fn wait_for(&mut self, wanted: &Note) {
        while self.note().await != *wanted {}
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("it stops").expect("no panic").expect("no error");
    }
}

fn request(name: &str, options: &[(&str, u64)]) -> Request {
    let options = options.iter().fold(Options::new(), |all, (name, value)| all.with(name, *value));
    Request { name: name.into(), mode: Mode::Octet, options }
}

async fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.expect("a free port")
}

async fn receive<'a>(socket: &UdpSocket, buffer: &'a mut [u8]) -> (Packet<'a>, SocketAddrV4) {
    let (len, from) = timeout(PATIENCE, socket.recv_from(buffer)).await.expect("an answer").expect("open");
    let std::net::SocketAddr::V4(from) = from else { panic!("IPv6 from an IPv4 socket") };
    (Packet::decode(&buffer[..len]).expect("the server sends valid packets"), from)
}

/// Sends a request whose answer must be an error.
async fn refusal(server: SocketAddrV4, packet: &Packet<'_>) -> (ErrorCode, String) {
    let socket = client().await;
    socket.send_to(&packet.encode(), server).await.expect("sent");
    match receive(&socket, &mut [0; 2_048]).await {
        (Packet::Error { code, message }, _) => (code, message),
        (other, _) => panic!("not refused: {other:?}"),
    }
}

/// Reads a file as a client does that trusts its link to lose nothing.
async fn fetch(server: SocketAddrV4, request: Request) -> Vec<u8> {
    let socket = client().await;
    let mut buffer = vec![0; 66_000];
    socket.send_to(&Packet::Rrq(request).encode(), server).await.expect("sent");
    let (mut blksize, mut windowsize) = (512, 1);
    let (mut content, mut block, mut in_window) = (Vec::new(), 0_u16, 0);
    loop {
        let (packet, from) = receive(&socket, &mut buffer).await;
        let mut is_last = false;
        match packet {
            Packet::Oack(options) => {
                blksize = options.number(Options::BLKSIZE).unwrap_or(512) as usize;
                windowsize = options.number(Options::WINDOWSIZE).unwrap_or(1);
                in_window = windowsize;
            }
            Packet::Data { block: number, content: bytes } if number == block.wrapping_add(1) => {
                block = number;
                content.extend_from_slice(bytes);
                in_window += 1;
                is_last = bytes.len() < blksize;
            }
            Packet::Data { block: number, .. } if number == block => in_window = windowsize,
            Packet::Data { .. } => continue,
            other => panic!("no part of a transfer: {other:?}"),
        }
        if is_last || in_window >= windowsize {
            in_window = 0;
            socket.send_to(&Packet::Ack { block }.encode(), from).await.expect("sent");
        }
        if is_last {
            return content;
        }
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16).wrapping_mul(31)) as u8).collect()
}

/// Files in memory, and one name that makes the resolver panic.
struct Memory(HashMap<&'static str, Bytes>);

impl Resolver for Memory {
    async fn open(&self, _: Ipv4Addr, name: &str) -> Result<Content, Refusal> {
        assert_ne!(name, "panic", "asked to");
        self.0.get(name).cloned().map(Content::Memory).ok_or(Refusal::NotFound)
    }
}

fn memory() -> Memory {
    Memory(HashMap::from([
        ("empty", Bytes::new()),
        ("small", Bytes::from_static(b"one\ntwo\n")),
        ("big", content(3_000_000).into()),
    ]))
}

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
    let nul = Directory::new(&root).expect("opened").open(Ipv4Addr::LOCALHOST, "ok\0x").await;
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
    let mut sockets = std::collections::VecDeque::new();
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

#[tokio::test]
async fn p33_answers_come_from_the_address_asked() {
    let server = Server::start_at(Ipv4Addr::UNSPECIFIED, memory(), Limits::default());
    for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        let socket = client().await;
        let to = SocketAddrV4::new(ip, server.address.port());
        socket.send_to(&Packet::Rrq(request("small", &[])).encode(), to).await.expect("sent");
        let mut buffer = [0; 600];
        let (_, from) = receive(&socket, &mut buffer).await;
        assert_eq!(*from.ip(), ip);
        assert_ne!(from.port(), to.port());
    }
    server.stop().await;
}
