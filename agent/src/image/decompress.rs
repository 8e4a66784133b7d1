//! From the bytes that were sent to the archive's bytes.

use super::frames;
use crate::disk::region::Buffer;
use flate2::bufread::MultiGzDecoder;
use kaltstart_protocol::image::Compression;
use kaltstart_protocol::image::blocks::FRAME;
use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender};

/// Largest zstd window accepted, as a power of two: what `zstd --long=31` makes.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 31;

/// Bytes of a piece that was decompressed, the last of a stream apart.
const PIECE: usize = FRAME as usize;

/// The reading end of a queue of pieces.
#[derive(Debug)]
pub(crate) struct QueueReader<T> {
    queue: Receiver<T>,
    piece: Option<T>,
    at: usize,
}

impl<T> QueueReader<T> {
    pub(crate) fn new(queue: Receiver<T>) -> Self {
        Self { queue, piece: None, at: 0 }
    }
}

impl<T: Deref<Target = [u8]>> BufRead for QueueReader<T> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.as_ref().is_none_or(|piece| self.at == piece.len()) {
            let Ok(piece) = self.queue.recv() else {
                return Ok(&[]);
            };
            (self.piece, self.at) = (Some(piece), 0);
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece[self.at..]))
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl<T: Deref<Target = [u8]>> Read for QueueReader<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let n = from.len().min(into.len());
        into[..n].copy_from_slice(&from[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// Decompresses everything from one queue into the other, in pieces whose lengths are multiples of
/// [`GRAIN`](kaltstart_protocol::image::blocks::GRAIN), the last apart; ends early, without an error, when
/// nobody takes the pieces any more.
///
/// # Errors
/// When the stream is damaged or ends in its middle.
pub(crate) fn run(kind: Compression, from: Receiver<Vec<u8>>, to: &SyncSender<Buffer>) -> io::Result<()> {
    let from = QueueReader::new(from);
    match kind {
        Compression::None => pump(from, to),
        // Parallel compressors write several members in a row.
        Compression::Gzip => pump(MultiGzDecoder::new(from), to),
        Compression::Zstd => frames::run(from, to),
    }
}

pub(super) fn pump(mut from: impl Read, to: &SyncSender<Buffer>) -> io::Result<()> {
    loop {
        let mut piece = Buffer::new(PIECE);
        let mut length = 0;
        while length < PIECE {
            match from.read(&mut piece[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        piece.truncate(length);
        if length == 0 || to.send(piece).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::mpsc::sync_channel;

    fn unpack(kind: Compression, packed: &[u8]) -> io::Result<Vec<u8>> {
        let (raw_in, raw_out) = sync_channel(packed.len() / 100 + 1);
        for piece in packed.chunks(100) {
            raw_in.send(piece.to_vec()).expect("room");
        }
        drop(raw_in);
        let (plain_in, plain_out) = sync_channel(100);
        run(kind, raw_out, &plain_in)?;
        drop(plain_in);
        Ok(plain_out.iter().flat_map(|piece| piece.to_vec()).collect())
    }

    #[test]
    fn p11_every_compression_gives_the_bytes_back_and_notices_a_missing_end() {
        let plain: Vec<u8> = (0..700_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("write");
            encoder.finish().expect("finish")
        };
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("encode");
        let (a, b) = plain.split_at(123_456);
        for (kind, packed) in [
            (Compression::None, plain.clone()),
            (Compression::Gzip, gzip(&plain)),
            (Compression::Gzip, [gzip(a), gzip(b)].concat()),
            (Compression::Zstd, zstd(&plain)),
            (Compression::Zstd, [zstd(a), zstd(b)].concat()),
        ] {
            assert!(unpack(kind, &packed).expect("unpacks") == plain, "{kind:?}");
            if kind != Compression::None {
                assert!(unpack(kind, &packed[..packed.len() - 1]).is_err(), "{kind:?}");
            }
        }
    }
}
