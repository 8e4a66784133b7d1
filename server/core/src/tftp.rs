//! One TFTP transfer, from the server's side: events in, steps out.
//!
//! [`Transfer`] holds the state of one file on its way to one client. It owns neither a socket,
//! nor a clock, nor the file: callers pass the packets that came and the time, and get told
//! which blocks to send and when to come back. The rules come from RFC 1350 (with the repair of
//! the "Sorcerer's Apprentice" of RFC 1123 §4.2.3.1), RFC 2347, 2348, 2349 and 7440.
//!
//! Two rules keep a slow or doubled packet from multiplying: an acknowledgement that brings
//! nothing new is ignored, and only silence makes the sender repeat what it sent.

mod negotiate;
pub mod netascii;
mod rto;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use core::ops::{Range, RangeInclusive};
use kaltstart_protocol::tftp::{BLKSIZE_MAX, BLKSIZE_MIN, ErrorCode, Mode, Options, Packet, Request};
use negotiate::Agreement;
use rto::Rto;

/// Longest way of a request that the network has doubled. Clients wait longer before they repeat
/// one themselves.
const DOUBLED_REQUEST_MS_MAX: u64 = 500;

/// Block sizes that can be agreed on (RFC 2348).
pub const BLKSIZE_RANGE: RangeInclusive<u16> = BLKSIZE_MIN..=BLKSIZE_MAX;
/// Windows that are offered: RFC 7440 allows more, but whoever sends more than this at once
/// only fills the buffers on the way.
pub const WINDOWSIZE_RANGE: RangeInclusive<u16> = 1..=64;

/// What a server lets a client have, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest block size agreed to. The default fits an Ethernet frame: larger blocks arrive
    /// in fragments, which most boot firmware cannot put together.
    pub blksize_max: u16,
    /// Most blocks sent per acknowledgement.
    pub windowsize_max: u16,
    /// Wait before the first repetition, while no round trip has been measured.
    pub rto_initial_ms: u64,
    /// Shortest wait before a repetition; covers the scheduling delays of both sides.
    pub rto_min_ms: u64,
    /// Longest wait before a repetition, if the client asked for no shorter one. Longer than the five
    /// seconds that many clients wait: atftp answers a repeated block once, ignores further
    /// repetitions, and yet starts its own wait anew with each, so that it would never speak again.
    pub rto_max_ms: u64,
    /// Ends a transfer whose client has not confirmed anything yet: it may not exist.
    pub first_ack_ms: u64,
    /// Ends a transfer that makes no progress.
    pub give_up_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blksize_max: 1468,
            windowsize_max: *WINDOWSIZE_RANGE.end(),
            rto_initial_ms: 250,
            rto_min_ms: 20,
            rto_max_ms: 6_000,
            first_ack_ms: 10_000,
            give_up_ms: 30_000,
        }
    }
}

/// Why a request is not served. The texts go to the client and name nothing of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No such file. Firmware tries the next name, so it must be told at once.
    #[error("file not found")]
    NotFound,
    /// The file is not for this client, or the name leaves the served tree.
    #[error("access denied")]
    Denied,
    /// A write request.
    #[error("this server is read-only")]
    ReadOnly,
    /// A transfer mode that is not offered.
    #[error("transfer mode not supported")]
    Mode,
    /// The file cannot be sent in the mode asked for.
    #[error("file too large for this mode")]
    TooLarge,
    /// The server cannot open a file that it should have.
    #[error("file not readable")]
    Unreadable,
    /// The server cannot answer now.
    #[error("temporarily unavailable")]
    Unavailable,
}

impl Refusal {
    /// The packet that tells the client.
    #[must_use]
    pub fn packet(self) -> Packet<'static> {
        let code = match self {
            Self::NotFound => ErrorCode::NOT_FOUND,
            Self::Denied | Self::ReadOnly => ErrorCode::ACCESS,
            Self::Mode => ErrorCode::ILLEGAL,
            Self::TooLarge | Self::Unreadable | Self::Unavailable => ErrorCode::UNDEFINED,
        };
        Packet::Error { code, message: self.to_string() }
    }

    /// A word for metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::ReadOnly => "read_only",
            Self::Mode => "mode",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The client has confirmed the last block.
    Complete,
    /// Every block was sent, but nobody confirmed the last one: a client that starts what it
    /// loaded as soon as it has it does not wait for a repetition.
    Unconfirmed,
    /// The client wanted the size only. Firmware does so before the real transfer.
    Probed,
    /// The client ended it with an error packet.
    Aborted {
        /// Its number.
        code: ErrorCode,
        /// Its text.
        message: String,
    },
    /// The client has confirmed nothing: it may not exist, may be behind a firewall, or does not
    /// take blocks of this size.
    Unanswered,
    /// The client has confirmed something and then fell silent. [`Report::acked_block`] says after
    /// which block.
    Stalled,
    /// The client asked again from the same port: it has started anew.
    Replaced,
    /// Too many transfers were waiting for a first answer, and this one waited longest.
    Displaced,
    /// The client's port is closed.
    Gone,
    /// The content could not be read to its end. Only callers find out.
    Unreadable,
}

impl Outcome {
    /// A word for metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Unconfirmed => "unconfirmed",
            Self::Probed => "probed",
            Self::Aborted { .. } => "aborted",
            Self::Unanswered => "unanswered",
            Self::Stalled => "stalled",
            Self::Replaced => "replaced",
            Self::Displaced => "displaced",
            Self::Gone => "gone",
            Self::Unreadable => "unreadable",
        }
    }

    /// Whether the client did not get what it wanted.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        !matches!(self, Self::Complete | Self::Unconfirmed | Self::Probed)
    }
}

/// What the caller does next. After any step but [`End`](Step::End) it waits for a packet until
/// [`Transfer::deadline_ms`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Send [`Transfer::oack`].
    SendOack,
    /// Send these blocks, in order; [`Transfer::block`] says what is in them.
    SendBlocks(Range<u64>),
    /// The transfer is over.
    End(Outcome),
}

/// Where a block's content lies, and its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The number modulo 65,536.
    pub wire: u16,
    /// Of the first byte in the file.
    pub offset: u64,
    /// Bytes in the block; 0 in the last block of a file whose size the block size divides.
    pub len: usize,
}

/// What both sides agreed on and how far the transfer came. It tells a client that never got a
/// packet through from one that stopped in the middle, and loss from silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Bytes of content.
    pub size: u64,
    /// Bytes in every block but the last.
    pub blksize: u16,
    /// Blocks per acknowledgement.
    pub windowsize: u16,
    /// Wait after which the client wants a repetition, if it asked for one.
    pub timeout_ms: Option<u64>,
    /// The server has answered options (RFC 2347) before any block.
    pub has_options: bool,
    /// The client has confirmed the options or a block.
    pub is_answered: bool,
    /// The number of the last block, without roll-over.
    pub last_block: u64,
    /// The last block the client has confirmed; 0 before the first.
    pub acked_block: u64,
    /// Data packets sent.
    pub sent_blocks: u64,
    /// Data packets among them that were sent before.
    pub resent_blocks: u64,
    /// Waits that ended without an answer, each followed by a repetition or the end.
    pub timeouts: u64,
    /// Acknowledgements of the block before: the client still waits for the next, or the network doubled one.
    pub repeated_acks: u64,
    /// The smoothed round trip (RFC 6298), if one was measured.
    pub round_trip_ms: Option<u64>,
}

impl Report {
    /// Bytes of content the client has confirmed.
    #[must_use]
    pub fn confirmed_bytes(&self) -> u64 {
        self.size.min(self.acked_block.saturating_mul(self.blksize.into()))
    }
}

/// One file on its way to one client. Blocks are counted from 1 without roll-over.
#[derive(Debug, Clone)]
pub struct Transfer {
    size: u64,
    agreed: Agreement,
    tsize_asked: bool,
    give_up_ms: u64,
    first_ack_ms: u64,
    rto: Rto,
    /// The OACK was sent and not confirmed.
    in_handshake: bool,
    /// The client has confirmed something.
    is_confirmed: bool,
    /// The last block the client has confirmed.
    acked: u64,
    /// The block after the last one of the window under way.
    next: u64,
    /// The block after the last one ever sent.
    highest: u64,
    /// When the client last brought something new.
    progress_ms: u64,
    /// When the OACK or the window was sent last.
    sent_ms: u64,
    /// What is under way was not sent because of silence, so its answer measures a round trip
    /// (Karn's rule). What a client asks for again by an acknowledgement counts: it had dropped the
    /// first sending. Otherwise a window that is never without a loss is never measured, and
    /// keeps the doubled wait.
    is_measured: bool,
    sent_blocks: u64,
    resent_blocks: u64,
    timeouts: u64,
    repeated_acks: u64,
}

impl Transfer {
    /// Starts to answer a read request for `size` bytes; of translated content if the mode
    /// translates. `now_ms` counts from any fixed point.
    ///
    /// # Errors
    /// When the request's mode is not served.
    pub fn new(request: &Request, size: u64, limits: &Limits, now_ms: u64) -> Result<(Self, Step), Refusal> {
        if request.mode == Mode::Mail {
            return Err(Refusal::Mode);
        }
        let agreed = Agreement::on(&request.options, size, limits);
        // A client that asks for repetitions each second gets them no later than that.
        let rto_max_ms = agreed.timeout_ms.map_or(limits.rto_max_ms, |ms| ms.min(limits.rto_max_ms));
        let mut transfer = Self {
            size,
            tsize_asked: request.options.number(Options::TSIZE).is_some(),
            give_up_ms: limits.give_up_ms,
            first_ack_ms: limits.first_ack_ms,
            rto: Rto::new(limits.rto_initial_ms, limits.rto_min_ms, rto_max_ms),
            in_handshake: !agreed.oack.is_empty(),
            is_confirmed: false,
            acked: 0,
            next: 1,
            highest: 1,
            progress_ms: now_ms,
            sent_ms: now_ms,
            is_measured: true,
            sent_blocks: 0,
            resent_blocks: 0,
            timeouts: 0,
            repeated_acks: 0,
            agreed,
        };
        let step = if transfer.in_handshake { Step::SendOack } else { transfer.send_window(now_ms) };
        Ok((transfer, step))
    }

    /// Takes a packet of the client. Packets that have no place in a read are ignored.
    pub fn on_packet(&mut self, packet: &Packet<'_>, now_ms: u64) -> Step {
        match packet {
            Packet::Ack { block } => self.on_ack(*block, now_ms),
            Packet::Error { code, message } => Step::End(self.on_error(*code, message)),
            Packet::Rrq(_) | Packet::Wrq(_) | Packet::Data { .. } | Packet::Oack(_) => Step::Wait,
        }
    }

    fn on_ack(&mut self, wire: u16, now_ms: u64) -> Step {
        if self.in_handshake {
            if wire != 0 {
                return Step::Wait;
            }
            self.in_handshake = false;
            self.note_progress(now_ms);
            return self.send_window(now_ms);
        }
        // How far the acknowledgement goes beyond the last one, on a circle of 65,536. Windows
        // are far smaller than half of it, so old and wrong numbers fall outside.
        let news = u64::from(wire.wrapping_sub(self.acked as u16));
        if news == 0 || self.acked + news >= self.next {
            // Nothing new. To answer by sending again would double all that follows: the
            // Sorcerer's Apprentice. A lost first block of a window costs one time-out.
            self.repeated_acks += u64::from(news == 0);
            return Step::Wait;
        }
        self.acked += news;
        self.note_progress(now_ms);
        if self.acked == self.last_block() {
            return Step::End(Outcome::Complete);
        }
        // Also when the acknowledgement is for the middle of the window: the client has seen a
        // gap there and dropped the rest (RFC 7440 §4).
        self.send_window(now_ms)
    }

    fn on_error(&self, code: ErrorCode, message: &str) -> Outcome {
        // ROMs end a size probe with code 8 or with code 0, iPXE does the latter.
        if self.in_handshake && (self.tsize_asked || code == ErrorCode::OPTIONS) {
            return Outcome::Probed;
        }
        Outcome::Aborted { code, message: message.to_string() }
    }

    /// Takes the news that the client's port is closed.
    #[must_use]
    pub fn on_unreachable(&self) -> Outcome {
        match (self.is_all_sent(), self.in_handshake && self.tsize_asked) {
            (true, _) => Outcome::Unconfirmed,
            (_, true) => Outcome::Probed,
            _ => Outcome::Gone,
        }
    }

    /// Tells that time has passed. May be called early: before the deadline it changes nothing.
    pub fn on_timeout(&mut self, now_ms: u64) -> Step {
        if now_ms < self.deadline_ms() {
            return Step::Wait;
        }
        if now_ms >= self.end_ms() {
            return Step::End(match (self.is_all_sent(), self.is_confirmed) {
                (true, _) => Outcome::Unconfirmed,
                (false, true) => Outcome::Stalled,
                (false, false) => Outcome::Unanswered,
            });
        }
        self.timeouts += 1;
        self.rto.back_off();
        let step = if self.in_handshake { Step::SendOack } else { self.send_window(now_ms) };
        self.sent_ms = now_ms;
        self.is_measured = false;
        step
    }

    /// Whether a request that comes again from the same port, word for word, means that the client
    /// has started anew. One that has confirmed nothing has only not heard yet; one whose
    /// transfer is going on was doubled by the network.
    #[must_use]
    pub const fn is_left_behind(&self, now_ms: u64) -> bool {
        self.is_confirmed && now_ms.saturating_sub(self.progress_ms) >= DOUBLED_REQUEST_MS_MAX
    }

    /// Tells that what the last step named was sent only now, because the content came late.
    pub fn on_sent_late(&mut self, now_ms: u64) {
        self.sent_ms = self.sent_ms.max(now_ms);
    }

    /// Bytes in every block but the last.
    #[must_use]
    pub const fn blksize(&self) -> u16 {
        self.agreed.blksize
    }

    /// Whether the client has confirmed the options or a block.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.is_confirmed
    }

    /// When to call [`on_timeout`](Self::on_timeout) if nothing comes before.
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        self.end_ms().min(self.sent_ms.saturating_add(self.rto.current_ms()))
    }

    /// The answer to the request's options. Empty if none was taken up; then nobody asks for it.
    #[must_use]
    pub fn oack(&self) -> Packet<'static> {
        Packet::Oack(self.agreed.oack.clone())
    }

    /// What is in block `number`, which must be one the last step named.
    #[must_use]
    pub fn block(&self, number: u64) -> Block {
        let blksize = u64::from(self.agreed.blksize);
        let offset = number.saturating_sub(1).saturating_mul(blksize).min(self.size);
        Block { wire: number as u16, offset, len: (self.size - offset).min(blksize) as usize }
    }

    /// What was agreed and how far it came.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            size: self.size,
            blksize: self.agreed.blksize,
            windowsize: self.agreed.windowsize,
            timeout_ms: self.agreed.timeout_ms,
            has_options: !self.agreed.oack.is_empty(),
            is_answered: self.is_confirmed,
            last_block: self.last_block(),
            acked_block: self.acked,
            sent_blocks: self.sent_blocks,
            resent_blocks: self.resent_blocks,
            timeouts: self.timeouts,
            repeated_acks: self.repeated_acks,
            round_trip_ms: self.rto.round_trip_ms(),
        }
    }

    const fn last_block(&self) -> u64 {
        self.size / self.agreed.blksize as u64 + 1
    }

    const fn is_all_sent(&self) -> bool {
        self.highest > self.last_block()
    }

    const fn end_ms(&self) -> u64 {
        let patience_ms = if self.is_confirmed { self.give_up_ms } else { self.first_ack_ms };
        self.progress_ms.saturating_add(patience_ms)
    }

    fn note_progress(&mut self, now_ms: u64) {
        if self.is_measured {
            self.rto.measure(now_ms.saturating_sub(self.sent_ms));
        }
        self.is_confirmed = true;
        self.progress_ms = now_ms;
    }

    /// Sends everything the window allows behind the last confirmed block.
    fn send_window(&mut self, now_ms: u64) -> Step {
        let first = self.acked + 1;
        self.next = (first + u64::from(self.agreed.windowsize)).min(self.last_block() + 1);
        let sent = self.next - first;
        let resent = self.highest.clamp(first, self.next) - first;
        self.highest = self.highest.max(self.next);
        self.sent_blocks += sent;
        self.resent_blocks += resent;
        self.is_measured = true;
        self.sent_ms = now_ms;
        Step::SendBlocks(first..self.next)
    }
}
