//! One transfer with all it needs: what it says is read and sent here.

use super::content::Source;
use super::inbox::Post;
use super::link::{CALL_BYTES_MAX, Cut, Link, SEGMENTS_MAX};
use super::worker::Done;
use kaltstart_core::tftp::{Block, Outcome, Refusal, Step, Transfer};
use kaltstart_protocol::tftp::{DATA_HEADER_BYTES, Request, data_header};
use nix::errno::Errno;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;
use tokio::runtime::Handle;

/// What all transfers of a worker send and read with.
pub(super) struct Tools {
    pub(super) link: Link,
    /// Opens what is asked for, and reads what a disk must be waited for.
    pub(super) main: Handle,
    /// Takes what `main` has done.
    pub(super) post: Post,
    /// The packets being put together.
    packets: Vec<u8>,
}

impl Tools {
    pub(super) fn new(link: Link, main: Handle, post: Post) -> Self {
        Self { link, main, post, packets: Vec::new() }
    }
}

/// Content that came from a disk, for the blocks from `first` on.
pub(super) struct Read {
    pub(super) client: SocketAddr,
    pub(super) id: u64,
    first: u64,
    content: io::Result<Vec<u8>>,
}

/// A transfer that is under way.
pub(super) struct Session {
    /// Unlike that of every other transfer of the worker.
    pub(super) id: u64,
    pub(super) client: SocketAddr,
    /// The address the client asked.
    pub(super) local: IpAddr,
    pub(super) request: Request,
    pub(super) begin: Instant,
    pub(super) transfer: Transfer,
    /// When the worker's timer will look at it.
    pub(super) wake_ms: u64,
    pub(super) source: Source,
    /// Blocks that are still to be sent.
    unsent: Range<u64>,
    /// Their content is being read from a disk.
    is_reading: bool,
    /// The kernel cuts the packets of this client's blocks.
    is_cut: bool,
}

impl Session {
    pub(super) fn new(
        id: u64,
        (client, local): (SocketAddr, IpAddr),
        request: Request,
        source: Source,
        transfer: Transfer,
        begin: Instant,
    ) -> Self {
        Self {
            id,
            client,
            local,
            request,
            begin,
            transfer,
            wake_ms: u64::MAX,
            source,
            unsent: 0..0,
            is_reading: false,
            is_cut: true,
        }
    }

    /// Whether it waits for a disk, and time does not count.
    pub(super) const fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// Does what the transfer says. Answers with the end, if this is it.
    pub(super) fn obey(&mut self, step: Step, tools: &mut Tools) -> Option<Outcome> {
        match step {
            Step::Wait => None,
            Step::SendOack => {
                let oack = self.transfer.oack().encode();
                // A packet that cannot be sent is a lost packet.
                tools.link.send(self.local, self.client, &oack, Cut::Not).ok();
                None
            }
            Step::SendBlocks(blocks) => {
                self.unsent = blocks;
                if !self.is_reading {
                    self.send_blocks(tools);
                }
                None
            }
            Step::End(outcome) => Some(outcome),
        }
    }

    /// Takes what was read for it, and goes on.
    pub(super) fn on_read(&mut self, read: Read, now_ms: u64, tools: &mut Tools) -> Option<Outcome> {
        self.is_reading = false;
        let content = match read.content {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!(client = %self.client, %error, "cannot read a file served by TFTP");
                let refusal = Refusal::Unavailable.packet().encode();
                tools.link.send(self.local, self.client, &refusal, Cut::Not).ok();
                return Some(Outcome::Unreadable);
            }
        };
        self.transfer.on_sent_late(now_ms);
        // The client may have gone on meanwhile.
        if read.first == self.unsent.start && !self.unsent.is_empty() {
            let blocks = self.next_blocks();
            let mut rest = content.as_slice();
            self.frame(&blocks, &mut tools.packets);
            for piece in pieces(&mut tools.packets, self.stride()) {
                let (head, tail) = rest.split_at_checked(piece.len()).unwrap_or_default();
                piece.get_mut(..head.len())?.copy_from_slice(head);
                rest = tail;
            }
            self.send_packets(blocks, tools);
        }
        self.send_blocks(tools);
        None
    }

    /// Sends what is to be sent, up to the first block for which a disk must be waited for.
    fn send_blocks(&mut self, tools: &mut Tools) {
        while !self.unsent.is_empty() {
            let blocks = self.next_blocks();
            let bytes = self.frame(&blocks, &mut tools.packets);
            let Block { offset, .. } = self.transfer.block(blocks.start);
            let mut empty: Vec<_> = pieces(&mut tools.packets, self.stride()).map(IoSliceMut::new).collect();
            if !self.source.read_now(offset, &mut empty) {
                let (source, client, id, first) = (self.source.clone(), self.client, self.id, blocks.start);
                self.is_reading = true;
                let post = tools.post.clone();
                tools.main.spawn_blocking(move || {
                    post.leave(Done::Read(Read { client, id, first, content: source.read(offset, bytes) }));
                });
                return;
            }
            drop(empty);
            self.send_packets(blocks, tools);
        }
    }

    /// As many of the blocks to be sent as one call takes.
    fn next_blocks(&self) -> Range<u64> {
        let most = (CALL_BYTES_MAX / self.stride()).clamp(1, SEGMENTS_MAX) as u64;
        self.unsent.start..self.unsent.end.min(self.unsent.start + most)
    }

    /// Bytes of a packet with a full block.
    fn stride(&self) -> usize {
        DATA_HEADER_BYTES + usize::from(self.transfer.blksize())
    }

    /// Lays out the packets of `blocks` without their content. Answers with the content's length.
    fn frame(&self, blocks: &Range<u64>, packets: &mut Vec<u8>) -> usize {
        let mut content_bytes = 0;
        // What was there is overwritten, so only what was never there is cleared.
        packets.resize(self.stride() * (blocks.end - blocks.start) as usize, 0);
        for (number, packet) in blocks.clone().zip(packets.chunks_mut(self.stride())) {
            let block = self.transfer.block(number);
            packet[..DATA_HEADER_BYTES].copy_from_slice(&data_header(block.wire));
            content_bytes += block.len;
        }
        packets.truncate(DATA_HEADER_BYTES * (blocks.end - blocks.start) as usize + content_bytes);
        content_bytes
    }

    fn send_packets(&mut self, blocks: Range<u64>, tools: &mut Tools) {
        self.unsent.start = blocks.end;
        let Tools { link, packets, .. } = tools;
        let stride = self.stride();
        if self.is_cut && blocks.end - blocks.start > 1 {
            match link.send(self.local, self.client, packets, Cut::Every(stride as u16)) {
                // Too long for a frame, or the network card cannot: the kernel does not cut such.
                Err(Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO | Errno::EOPNOTSUPP) => self.is_cut = false,
                // Another error is a lost packet.
                Ok(()) | Err(_) => return,
            }
        }
        for packet in packets.chunks(stride) {
            link.send(self.local, self.client, packet, Cut::Not).ok();
        }
    }
}

/// The room for content in `packets`.
fn pieces(packets: &mut [u8], stride: usize) -> impl Iterator<Item = &mut [u8]> {
    packets.chunks_mut(stride).map(|packet| &mut packet[DATA_HEADER_BYTES..])
}
