//! Over links that lose, double and reorder, in both directions.

use crate::support::{Server, client, content, request};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::tftp::{Options, Packet, Request};
use kaltstart_server::net::tftp::{Directory, Limits};
use std::fs;
use std::mem;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// After that much silence the client says again what it said last.
const REPEAT: Duration = Duration::from_millis(1_000);

/// Nothing here takes longer, however busy the machine is.
const TRANSFER_MAX: Duration = Duration::from_secs(120);

/// Percent of the packets of each direction that are lost, doubled, or overtaken by the next.
#[derive(Debug, Clone, Copy)]
struct Faults {
    lost: u64,
    doubled: u64,
    overtaken: u64,
}

/// A socket at the end of such a link. The same seed makes the same dice.
struct BadLink {
    socket: UdpSocket,
    faults: Faults,
    state: u64,
    /// Arrived, and held back so that the next one overtakes it.
    held: Option<(Vec<u8>, SocketAddr)>,
    /// To be delivered before anything is read.
    due: Vec<(Vec<u8>, SocketAddr)>,
}

impl BadLink {
    async fn new(faults: Faults, seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { socket: client().await, faults, state, held: None, due: Vec::new() }
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % 100 < percent
    }

    async fn send(&mut self, packet: &Packet<'_>, to: SocketAddr) {
        if self.happens(self.faults.lost) {
            return;
        }
        for _ in 0..=u8::from(self.happens(self.faults.doubled)) {
            // A server that has ended makes it an error; it is a packet to nobody.
            self.socket.send_to(&packet.encode(), to).await.ok();
        }
    }

    /// What arrives next, if anything does until `end`.
    async fn receive(&mut self, end: Instant) -> Option<(Vec<u8>, SocketAddr)> {
        loop {
            if let Some(packet) = self.due.pop() {
                return Some(packet);
            }
            let mut buffer = vec![0; 66_000];
            let packet = match timeout_at(end, self.socket.recv_from(&mut buffer)).await {
                Ok(Ok((len, from))) => (buffer[..len].to_vec(), from),
                Ok(Err(_)) => continue,
                Err(_) => return self.held.take(),
            };
            if self.happens(self.faults.lost) {
                continue;
            }
            if self.held.is_none() && self.happens(self.faults.overtaken) {
                self.held = Some(packet);
                continue;
            }
            self.due.extend(self.held.take());
            if self.happens(self.faults.doubled) {
                self.due.push(packet.clone());
            }
            self.due.push(packet);
        }
    }
}

/// Fetches a file as RFC 7440 §4 says: what is expected is taken, the first packet behind a gap
/// is answered with the last block before it, and so is silence.
async fn fetch(server: SocketAddr, request: Request, mut link: BadLink) -> Vec<u8> {
    let begin = Instant::now();
    let (mut blksize, mut windowsize) = (512, 1);
    let (mut content, mut block, mut in_window) = (Vec::new(), 0_u16, 0);
    let (mut peer, mut has_complained) = (None, false);
    link.send(&Packet::Rrq(request.clone()), server).await;
    loop {
        assert!(begin.elapsed() < TRANSFER_MAX, "{} bytes in {TRANSFER_MAX:?}", content.len());
        let Some((bytes, from)) = link.receive(Instant::now() + REPEAT).await else {
            match peer {
                Some(peer) => link.send(&Packet::Ack { block }, peer).await,
                None => link.send(&Packet::Rrq(request.clone()), server).await,
            }
            continue;
        };
        assert_eq!(from, *peer.get_or_insert(from), "one transfer, one port");
        let mut is_last = false;
        let is_answered;
        match Packet::decode(&bytes).expect("the server sends valid packets") {
            Packet::Oack(_) if block > 0 => continue,
            Packet::Oack(options) => {
                blksize = options.number(Options::BLKSIZE).unwrap_or(512) as usize;
                windowsize = options.number(Options::WINDOWSIZE).unwrap_or(1);
                is_answered = true;
            }
            Packet::Data { block: number, content: bytes } if number == block.wrapping_add(1) => {
                block = number;
                content.extend_from_slice(bytes);
                (in_window, has_complained) = (in_window + 1, false);
                is_last = bytes.len() < blksize;
                is_answered = is_last || in_window >= windowsize;
            }
            Packet::Data { block: number, .. } => {
                let is_ahead = number.wrapping_sub(block) < 1_000;
                is_answered = number == block || (is_ahead && !mem::replace(&mut has_complained, true));
            }
            other => panic!("no part of a transfer: {other:?}"),
        }
        if is_answered {
            in_window = 0;
            link.send(&Packet::Ack { block }, from).await;
        }
        if is_last {
            return content;
        }
    }
}

async fn check(server: &Server, size: usize, options: &[(&str, u64)], faults: Faults, seed: u64) -> Duration {
    let (begin, link) = (Instant::now(), BadLink::new(faults, seed).await);
    let got = fetch(server.address, request(&format!("f{size}"), options), link).await;
    assert_eq!(Digest::of(&got), Digest::of(&content(size)), "{size} {options:?} {faults:?} seed {seed}");
    begin.elapsed()
}

fn server_with(sizes: &[usize]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    for size in sizes {
        fs::write(folder.path().join(format!("f{size}")), content(*size)).expect("written");
    }
    (Server::start(Directory::new(folder.path()).expect("opened"), Limits::default()), folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn p33_files_arrive_identical_over_bad_links() {
    const SIZES: [usize; 4] = [1, 1_467, 1_468 * 20, 300_000];
    let (server, _folder) = server_with(&SIZES);
    let server = std::sync::Arc::new(server);
    let mut checks = tokio::task::JoinSet::new();
    for (nth, percent) in [1, 5, 10, 20].into_iter().enumerate() {
        let faults = Faults { lost: percent, doubled: percent, overtaken: percent };
        for (size, seed) in SIZES.into_iter().zip(10 * nth as u64..) {
            for windowsize in [1, 4, 16, 64] {
                let server = std::sync::Arc::clone(&server);
                checks.spawn(async move {
                    let options = [("blksize", 1_468), ("windowsize", windowsize)];
                    check(&server, size, &options, faults, seed + windowsize).await
                });
            }
        }
    }
    while let Some(checked) = checks.join_next().await {
        checked.expect("the file is whole");
    }
    std::sync::Arc::into_inner(server).expect("all are done").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p33_block_numbers_roll_over_on_a_bad_link() {
    // The smallest blocks, so that the file is small.
    const SIZE: usize = 8 * 65_700;
    let (server, _folder) = server_with(&[SIZE]);
    let faults = Faults { lost: 0, doubled: 0, overtaken: 0 };
    check(&server, SIZE, &[("blksize", 8), ("windowsize", 64)], faults, 1).await;
    let faults = Faults { lost: 1, doubled: 1, overtaken: 0 };
    check(&server, SIZE, &[("blksize", 8), ("windowsize", 16)], faults, 2).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p33_a_lost_packet_costs_milliseconds() {
    const SIZE: usize = 1 << 20;
    let (server, _folder) = server_with(&[SIZE]);
    let faults = Faults { lost: 1, doubled: 0, overtaken: 0 };
    let took = check(&server, SIZE, &[("blksize", 1_468)], faults, 3).await;
    // 14 of 715 blocks and acknowledgements are lost. At a second each it would be 14 s.
    assert!(took < Duration::from_secs(7), "{took:?}");
    server.stop().await;
}
