//! Transfers over a link that loses, doubles and reorders, in virtual time.

use super::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::mem;
use kaltstart_protocol::tftp::BLKSIZE_DEFAULT;
use std::format;

/// Round trips and repetitions after which a test is stuck, in virtual milliseconds.
const TEST_MS_MAX: u64 = 3_600_000;

/// A small generator of reproducible randomness (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// What the link does to packets, in percent of each direction.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    loss: u64,
    doubled: u64,
    doubled_acks: u64,
    delayed: u64,
}

/// The byte of the test file at some offset: differs between neighbours and between blocks.
fn content_at(offset: u64) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 16).wrapping_mul(31)) as u8
}

fn rrq(mode: Mode, options: &[(&str, u64)]) -> Request {
    let options = options.iter().fold(Options::new(), |all, (name, value)| all.with(name, *value));
    Request { name: "f".into(), mode, options }
}

/// A receiver as RFC 7440 §4 describes it, in its plainest form.
struct Client {
    blksize: u64,
    windowsize: u64,
    has_started: bool,
    received: u64,
    bytes: u64,
    in_window: u64,
    is_done: bool,
    /// Has answered the first packet behind a gap.
    has_complained: bool,
    silent_since_ms: u64,
}

impl Client {
    /// The client's own wait before it repeats its last acknowledgement.
    const TIMEOUT_MS: u64 = 1_000;

    fn new() -> Self {
        Self {
            blksize: u64::from(BLKSIZE_DEFAULT),
            windowsize: 1,
            has_started: false,
            received: 0,
            bytes: 0,
            in_window: 0,
            is_done: false,
            has_complained: false,
            silent_since_ms: 0,
        }
    }

    fn ack(&mut self) -> Option<u16> {
        self.in_window = 0;
        Some(self.received as u16)
    }

    fn on_packet(&mut self, bytes: &[u8], size: u64) -> Option<u16> {
        match Packet::decode(bytes).expect("the sender sends valid packets") {
            Packet::Oack(options) => {
                if self.received > 0 {
                    return None;
                }
                self.has_started = true;
                self.blksize = options.number(Options::BLKSIZE).unwrap_or(self.blksize);
                self.windowsize = options.number(Options::WINDOWSIZE).unwrap_or(1);
                if let Some(tsize) = options.number(Options::TSIZE) {
                    assert_eq!(tsize, size);
                }
                self.ack()
            }
            Packet::Data { block, content } => {
                self.has_started = true;
                if block == self.received as u16 && self.received > 0 {
                    // The sender has missed the acknowledgement, or the link doubles.
                    return self.ack();
                }
                if block != (self.received + 1) as u16 {
                    let is_ahead = block.wrapping_sub(self.received as u16) < 1_000;
                    let is_news = is_ahead && !mem::replace(&mut self.has_complained, true);
                    return if is_news { self.ack() } else { None };
                }
                self.has_complained = false;
                for (i, byte) in content.iter().enumerate() {
                    assert_eq!(*byte, content_at(self.bytes + i as u64), "in block {}", self.received + 1);
                }
                self.received += 1;
                self.bytes += content.len() as u64;
                self.is_done = (content.len() as u64) < self.blksize;
                self.in_window += 1;
                if self.is_done || self.in_window == self.windowsize { self.ack() } else { None }
            }
            other => panic!("the sender sent {other:?}"),
        }
    }
}

/// What came of a whole transfer.
#[derive(Debug)]
struct Run {
    outcome: Outcome,
    bytes: u64,
    is_done: bool,
    report: Report,
    elapsed_ms: u64,
}

/// A sender and a receiver joined by a link.
struct Pair {
    transfer: Transfer,
    client: Client,
    link: Link,
    dice: Dice,
    now_ms: u64,
    /// Packets under way by arrival and order: to the client or (`None`) an acknowledgement.
    flying: BTreeMap<(u64, u64), Flying>,
    count: u64,
    size: u64,
}

#[derive(Clone)]
enum Flying {
    ToClient(Vec<u8>),
    ToServer(u16),
}

impl Pair {
    fn put(&mut self, packet: Flying) {
        if self.dice.roll(100) < self.link.loss {
            return;
        }
        let doubled = match packet {
            Flying::ToClient(_) => self.link.doubled,
            Flying::ToServer(_) => self.link.doubled_acks,
        };
        let is_doubled = self.dice.roll(100) < doubled;
        for packet in is_doubled.then(|| packet.clone()).into_iter().chain([packet]) {
            let late = if self.dice.roll(100) < self.link.delayed { self.dice.roll(30) } else { 0 };
            self.count += 1;
            self.flying.insert((self.now_ms + 1 + late, self.count), packet);
        }
    }

    fn obey(&mut self, step: Step) -> Option<Outcome> {
        match step {
            Step::Wait => {}
            Step::SendOack => {
                let bytes = self.transfer.oack().encode();
                self.put(Flying::ToClient(bytes));
            }
            Step::SendBlocks(blocks) => {
                for number in blocks {
                    let block = self.transfer.block(number);
                    let content: Vec<u8> =
                        (0..block.len as u64).map(|i| content_at(block.offset + i)).collect();
                    let bytes = Packet::Data { block: block.wire, content: &content }.encode();
                    self.put(Flying::ToClient(bytes));
                }
            }
            Step::End(outcome) => return Some(outcome),
        }
        None
    }

    fn run(request: &Request, size: u64, link: Link, seed: u64) -> Run {
        let (transfer, step) = Transfer::new(request, size, &Limits::default(), 0).expect("octet is served");
        let mut pair = Self {
            transfer,
            client: Client::new(),
            link,
            dice: Dice::new(seed),
            now_ms: 0,
            flying: BTreeMap::new(),
            count: 0,
            size,
        };
        let mut end = pair.obey(step);
        while end.is_none() {
            assert!(pair.now_ms < TEST_MS_MAX, "stuck: {:?}", pair.transfer);
            end = pair.advance();
        }
        Run {
            outcome: end.expect("the loop ends with an outcome"),
            bytes: pair.client.bytes,
            is_done: pair.client.is_done,
            report: pair.transfer.report(),
            elapsed_ms: pair.now_ms,
        }
    }

    /// Goes to whatever happens next: an arrival or a time-out of either side.
    fn advance(&mut self) -> Option<Outcome> {
        let arrival_ms = self.flying.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
        let client_ms = if self.client.has_started && !self.client.is_done {
            self.client.silent_since_ms + Client::TIMEOUT_MS
        } else {
            u64::MAX
        };
        let server_ms = self.transfer.deadline_ms();
        self.now_ms = self.now_ms.max(arrival_ms.min(client_ms).min(server_ms));
        if arrival_ms <= self.now_ms {
            let (_, packet) = self.flying.pop_first().expect("a packet arrives now");
            return match packet {
                Flying::ToClient(bytes) => {
                    self.client.silent_since_ms = self.now_ms;
                    if let Some(block) = self.client.on_packet(&bytes, self.size) {
                        self.put(Flying::ToServer(block));
                    }
                    None
                }
                Flying::ToServer(block) => {
                    let step = self.transfer.on_packet(&Packet::Ack { block }, self.now_ms);
                    self.obey(step)
                }
            };
        }
        if client_ms <= self.now_ms {
            self.client.silent_since_ms = self.now_ms;
            let block = self.client.ack().unwrap_or_default();
            self.put(Flying::ToServer(block));
            return None;
        }
        let step = self.transfer.on_timeout(self.now_ms);
        self.obey(step)
    }
}

fn check(options: &[(&str, u64)], size: u64, link: Link, seed: u64) -> Run {
    let run = Pair::run(&rrq(Mode::Octet, options), size, link, seed);
    let what = format!("{options:?} size {size} {link:?} seed {seed}: {run:?}");
    assert!(run.is_done && run.bytes == size, "{what}");
    assert!(matches!(run.outcome, Outcome::Complete | Outcome::Unconfirmed), "{what}");
    run
}

#[test]
fn p33_sizes_around_block_ends_arrive_whole() {
    for size in [0, 1, 511, 512, 513, 1467, 1468, 1469, 14_680, 100_000] {
        for options in [
            &[][..],
            &[("tsize", 0)],
            &[("blksize", 8)],
            &[("blksize", 1468)],
            &[("blksize", 1468), ("windowsize", 4)],
            &[("blksize", 512), ("windowsize", 64), ("timeout", 1)],
        ] {
            let run = check(options, size, Link::default(), 1);
            assert_eq!((run.report.resent_blocks, run.outcome), (0, Outcome::Complete));
        }
    }
}

#[test]
fn p33_lossy_links_only_cost_time() {
    for loss in [1, 5, 10, 20] {
        for (window, seed) in [(1, 1), (1, 2), (4, 3), (16, 4), (64, 5)] {
            let link = Link { loss, doubled: loss, doubled_acks: loss, delayed: loss };
            check(&[("blksize", 1468), ("windowsize", window)], 300_000, link, seed * 100 + loss);
            check(&[("windowsize", window)], 512 * 100, link, seed * 200 + loss);
        }
    }
}

#[test]
fn p33_block_numbers_roll_over_to_zero() {
    // 40 MB in blocks of 512 are 78,125 blocks and the empty last one.
    check(&[], 40_000_000, Link::default(), 1);
    check(&[("windowsize", 16)], 40_000_000, Link { loss: 1, doubled: 1, doubled_acks: 1, delayed: 1 }, 2);
}

#[test]
fn p33_one_lost_packet_does_not_cost_a_second() {
    let link = |loss| Link { loss, ..Link::default() };
    let mib = 1 << 20;
    let one = check(&[("blksize", 1468)], mib, link(1), 7);
    assert!(one.elapsed_ms < 1_200 + 2 * 715, "1 % at window 1: {one:?}");
    let five = check(&[("blksize", 1468)], mib, link(5), 8);
    assert!(five.elapsed_ms < 5_000 + 2 * 715, "5 % at window 1: {five:?}");
    let lossy = check(&[("blksize", 1468), ("windowsize", 64)], mib, link(20), 10);
    assert!(lossy.elapsed_ms < 20_000, "20 % at window 64: {lossy:?}");
    let wide = check(&[("blksize", 1468), ("windowsize", 16)], mib, link(5), 9);
    assert!(wide.elapsed_ms < 2_000, "5 % at window 16: {wide:?}");
}

#[test]
fn p33_duplicate_acknowledgements_send_nothing_again() {
    // 1,000 blocks and the empty last one.
    let (size, blocks) = (1_468_000, 1_001);
    let acks = Link { doubled_acks: 100, ..Link::default() };
    for window in [1, 4, 16, 64] {
        let run = check(&[("blksize", 1468), ("windowsize", window)], size, acks, window);
        assert_eq!(run.report.sent_blocks, blocks, "window {window}: {run:?}");
    }
    // The Sorcerer's Apprentice: each doubled packet would go on doubling.
    let both = Link { doubled: 100, ..acks };
    let run = check(&[("blksize", 1468)], size, both, 1);
    assert_eq!(run.report.sent_blocks, blocks, "{run:?}");
    // To a client with a window a doubled data packet looks like a gap, and it says so. Each
    // acknowledgement with news is then worth one window at most.
    for window in [4, 16] {
        let run = check(&[("blksize", 1468), ("windowsize", window)], size, both, window);
        assert!(run.report.sent_blocks <= blocks * window, "window {window}: {run:?}");
    }
}

fn started(options: &[(&str, u64)], size: u64) -> (Transfer, Step) {
    Transfer::new(&rrq(Mode::Octet, options), size, &Limits::default(), 0).expect("octet is served")
}

fn ack(block: u16) -> Packet<'static> {
    Packet::Ack { block }
}

#[test]
fn p33_a_request_without_known_options_gets_data_at_once() {
    for options in [&[][..], &[("multicast", 1)]] {
        let (transfer, step) = started(options, 600);
        assert_eq!(step, Step::SendBlocks(1..2));
        assert_eq!(transfer.block(1), Block { wire: 1, offset: 0, len: 512 });
        assert_eq!(transfer.block(2), Block { wire: 2, offset: 512, len: 88 });
    }
}

#[test]
fn p33_only_news_moves_the_window() {
    let (mut transfer, step) = started(&[("windowsize", 4)], 512 * 20);
    assert_eq!(step, Step::SendOack);
    assert_eq!(transfer.on_packet(&ack(1), 1), Step::Wait);
    assert_eq!(transfer.on_packet(&ack(0), 1), Step::SendBlocks(1..5));
    for stale in [0, 5, 9, u16::MAX] {
        assert_eq!(transfer.on_packet(&ack(stale), 2), Step::Wait, "{stale}");
    }
    assert_eq!(transfer.on_packet(&ack(4), 2), Step::SendBlocks(5..9));
    assert_eq!(transfer.on_packet(&ack(6), 3), Step::SendBlocks(7..11), "a gap after block 6");
    assert_eq!(transfer.on_packet(&ack(6), 3), Step::Wait);
    assert_eq!((transfer.report().resent_blocks, transfer.report().repeated_acks), (2, 2));
    assert_eq!(transfer.on_packet(&Packet::Data { block: 1, content: b"x" }, 3), Step::Wait);
    assert_eq!(transfer.deadline_ms(), 3 + 20);
    assert_eq!(transfer.on_timeout(22), Step::Wait);
    assert_eq!(transfer.on_timeout(23), Step::SendBlocks(7..11));
    assert_eq!(transfer.deadline_ms(), 23 + 40);
}

#[test]
fn p33_a_size_probe_is_no_failure_and_an_abort_ends_at_once() {
    let error = |code, message: &str| Packet::Error { code, message: message.into() };
    let aborted = error(ErrorCode::OPTIONS, "User aborted the transfer");
    let (mut probe, _) = started(&[("tsize", 0)], 9_999);
    assert_eq!(probe.oack(), Packet::Oack(Options::new().with("tsize", 9_999)));
    assert_eq!(probe.on_packet(&aborted, 1), Step::End(Outcome::Probed));
    assert_eq!(probe.on_packet(&error(ErrorCode::UNDEFINED, ""), 1), Step::End(Outcome::Probed));
    probe.on_packet(&ack(0), 1);
    let outcome = Outcome::Aborted { code: ErrorCode::OPTIONS, message: "User aborted the transfer".into() };
    assert!(outcome.is_failure());
    assert_eq!(probe.on_packet(&aborted, 2), Step::End(outcome));
    assert_eq!(probe.on_unreachable(), Outcome::Gone);
}

#[test]
fn p33_silence_ends_a_transfer() {
    let ends = |mut transfer: Transfer| {
        for _ in 0..10_000 {
            let now_ms = transfer.deadline_ms();
            if let Step::End(outcome) = transfer.on_timeout(now_ms) {
                return (outcome, now_ms, transfer.report().sent_blocks);
            }
        }
        panic!("goes on for ever: {transfer:?}")
    };
    let (outcome, at_ms, _) = ends(started(&[("tsize", 0)], 5_000).0);
    assert_eq!((outcome, at_ms), (Outcome::Unanswered, 10_000));
    let (mut transfer, _) = started(&[], 5_000);
    transfer.on_packet(&ack(1), 100);
    let (outcome, at_ms, sent) = ends(transfer);
    assert_eq!((outcome, at_ms), (Outcome::Stalled, 30_100));
    assert!(sent < 30, "{sent} packets to nobody");
    assert_eq!(ends(started(&[], 5).0).0, Outcome::Unconfirmed);
    assert_eq!(started(&[], 5).0.on_unreachable(), Outcome::Unconfirmed);
}

#[test]
fn p33_content_that_always_comes_late_keeps_no_long_wait() {
    let (mut transfer, _) = started(&[], 512 * 9);
    transfer.on_sent_late(30);
    assert_eq!(transfer.on_timeout(280), Step::SendBlocks(1..2));
    transfer.on_sent_late(310);
    assert_eq!(transfer.deadline_ms(), 310 + 500);
    transfer.on_packet(&ack(1), 311);
    transfer.on_sent_late(341);
    assert_eq!(transfer.deadline_ms(), 341 + 500, "a repetition measures nothing");
    transfer.on_packet(&ack(2), 342);
    transfer.on_sent_late(372);
    assert_eq!(transfer.deadline_ms(), 372 + 20);
}

#[test]
fn p33_silence_grows_longer_than_what_clients_wait() {
    let (mut transfer, _) = started(&[], 5_000);
    transfer.on_packet(&ack(1), 1);
    let mut last_ms = 1;
    let mut longest_ms = 0;
    while transfer.deadline_ms() < 15_000 {
        let now_ms = transfer.deadline_ms();
        transfer.on_timeout(now_ms);
        longest_ms = longest_ms.max(now_ms - mem::replace(&mut last_ms, now_ms));
    }
    assert!(longest_ms > 5_000, "{longest_ms} ms");
}

#[test]
fn p33_a_repeated_request_means_a_new_start_only_after_silence() {
    let (mut transfer, _) = started(&[("tsize", 0)], 5_000);
    assert!(!transfer.is_left_behind(9_000), "it has heard nothing yet");
    transfer.on_packet(&ack(0), 9_000);
    assert!(!transfer.is_left_behind(9_499), "the network has doubled it");
    assert!(transfer.is_left_behind(9_500));
}

#[test]
fn mail_is_refused() {
    let refusal = Transfer::new(&rrq(Mode::Mail, &[]), 1, &Limits::default(), 0).map(|_| ());
    assert_eq!(refusal, Err(Refusal::Mode));
    assert!(matches!(Refusal::Mode.packet(), Packet::Error { code: ErrorCode::ILLEGAL, .. }));
}

#[test]
fn p29_no_order_of_events_breaks_a_transfer() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed + 1);
        let size = [0, 1, 511, 512, 70_000, u64::MAX][dice.roll(6) as usize];
        let windowsize = 1 + dice.roll(64);
        let (mut transfer, _) = started(&[("windowsize", windowsize), ("blksize", 512)], size);
        let mut now_ms = 0;
        for _ in 0..200 {
            now_ms += dice.roll(500);
            let step = match dice.roll(3) {
                0 => transfer.on_timeout(now_ms),
                1 => transfer.on_packet(&ack(dice.roll(70) as u16), now_ms),
                _ => transfer.on_packet(&ack(dice.roll(65_536) as u16), now_ms),
            };
            match step {
                Step::SendBlocks(blocks) => {
                    assert!(blocks.end - blocks.start <= windowsize);
                    for number in blocks {
                        let block = transfer.block(number);
                        assert!(block.offset.checked_add(block.len as u64).is_some_and(|end| end <= size));
                    }
                }
                Step::End(_) => break,
                Step::Wait | Step::SendOack => {}
            }
        }
    }
}
