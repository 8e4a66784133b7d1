//! A server on loopback, and a small client that trusts its link.

use bytes::Bytes;
use kaltstart_protocol::tftp::{ErrorCode, Mode, Options, Packet, Request};
use kaltstart_server::net::tftp::{
    Content, DropReason, Event, Limits, Observer, Outcome, Refusal, Resolver, bind, serve,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An [`Event`] that can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    Started(String),
    Finished(String, Outcome, u64),
    Refused(Refusal),
    Dropped(DropReason),
}

pub(crate) struct Notes(UnboundedSender<Note>);

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

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) notes: UnboundedReceiver<Note>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) fn start(resolver: impl Resolver, limits: Limits) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), resolver, limits)
    }

    pub(crate) fn start_at(ip: IpAddr, resolver: impl Resolver, limits: Limits) -> Self {
        let socket = bind(SocketAddr::new(ip, 0)).expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        let (sender, notes) = unbounded_channel();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(socket, resolver, Notes(sender), limits, shutdown.clone()));
        Self { address: SocketAddr::new(loopback(ip), port), notes, shutdown, task }
    }

    pub(crate) async fn note(&mut self) -> Note {
        timeout(PATIENCE, self.notes.recv()).await.expect("something happens").expect("it runs")
    }

    pub(crate) async fn wait_for(&mut self, wanted: &Note) {
        while self.note().await != *wanted {}
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("it stops").expect("no panic").expect("no error");
    }
}

pub(crate) fn request(name: &str, options: &[(&str, u64)]) -> Request {
    let options = options.iter().fold(Options::new(), |all, (name, value)| all.with(name, *value));
    Request { name: name.into(), mode: Mode::Octet, options }
}

/// The loopback address of the family of `ip`.
fn loopback(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

pub(crate) async fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.expect("a free port")
}

pub(crate) async fn receive<'a>(socket: &UdpSocket, buffer: &'a mut [u8]) -> (Packet<'a>, SocketAddr) {
    let (len, from) = timeout(PATIENCE, socket.recv_from(buffer)).await.expect("an answer").expect("open");
    (Packet::decode(&buffer[..len]).expect("the server sends valid packets"), from)
}

/// Sends a request whose answer must be an error.
pub(crate) async fn refusal(server: SocketAddr, packet: &Packet<'_>) -> (ErrorCode, String) {
    let socket = client().await;
    socket.send_to(&packet.encode(), server).await.expect("sent");
    match receive(&socket, &mut [0; 2_048]).await {
        (Packet::Error { code, message }, _) => (code, message),
        (other, _) => panic!("not refused: {other:?}"),
    }
}

/// Reads a file as a client does that trusts its link to lose nothing.
pub(crate) async fn fetch(server: SocketAddr, request: Request) -> Vec<u8> {
    let socket = UdpSocket::bind((loopback(server.ip()), 0)).await.expect("a free port");
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

pub(crate) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16).wrapping_mul(31)) as u8).collect()
}

/// Files in memory, and one name that makes the resolver panic.
pub(crate) struct Memory(pub(crate) HashMap<&'static str, Bytes>);

impl Resolver for Memory {
    async fn open(&self, _: IpAddr, name: &str) -> Result<Content, Refusal> {
        assert_ne!(name, "panic", "asked to");
        self.0.get(name).cloned().map(Content::Memory).ok_or(Refusal::NotFound)
    }
}

pub(crate) fn memory() -> Memory {
    Memory(HashMap::from([
        ("empty", Bytes::new()),
        ("small", Bytes::from_static(b"one\ntwo\n")),
        ("big", content(3_000_000).into()),
    ]))
}
