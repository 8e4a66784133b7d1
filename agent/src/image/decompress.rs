//! From the bytes that were sent to the archive's bytes.

use super::{CHUNK, frames};
use flate2::bufread::MultiGzDecoder;
use kaltstart_protocol::image::Compression;
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender};

/// Largest zstd window accepted, as a power of two: what `zstd --long=31` makes.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 31;

/// The reading end of a queue of pieces.
#[derive(Debug)]
pub(crate) struct QueueReader {
    queue: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl QueueReader {
    pub(crate) fn new(queue: Receiver<Vec<u8>>) -> Self {
        Self { queue, piece: Vec::new(), at: 0 }
    }
}

impl BufRead for QueueReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.piece.len() {
            let Ok(piece) = self.queue.recv() else {
                return Ok(&[]);
            };
            (self.piece, self.at) = (piece, 0);
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for QueueReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let n = from.len().min(into.len());
        into[..n].copy_from_slice(&from[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// Decompresses everything from one queue into the other; ends early, without an error, when
/// nobody takes the pieces any more.
///
/// # Errors
/// When the stream is damaged or ends in its middle.
pub(crate) fn run(kind: Compression, from: Receiver<Vec<u8>>, to: &SyncSender<Vec<u8>>) -> io::Result<()> {
    let from = QueueReader::new(from);
    match kind {
        Compression::None => pump(from, to),
        // Parallel compressors write several members in a row.
        Compression::Gzip => pump(MultiGzDecoder::new(from), to),
        Compression::Zstd => frames::run(from, to),
    }
}

pub(super) fn pump(mut from: impl Read, to: &SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(CHUNK);
        from.by_ref().take(CHUNK as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || to.send(piece).is_err() {
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
        Ok(plain_out.iter().flatten().collect())
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
