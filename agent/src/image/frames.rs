//! A zstd stream on all cores: frames that are small and tell their size, a multiple of [`GRAIN`], are
//! decompressed beside each other and handed on in their order. From the first other frame on, the stream comes out on one core.

use super::CHUNK;
use super::decompress::{QueueReader, ZSTD_WINDOW_LOG_MAX, pump};
use crate::disk::region::Buffer;
use kaltstart_protocol::image::blocks::{FRAME, GRAIN};
use std::collections::VecDeque;
use std::io::{self, BufRead as _, Cursor, Read as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

/// Most threads that decompress. With what is under way they hold at most 20 MiB.
const WORKERS_MAX: usize = 8;
/// Bytes of the longest header of a frame (RFC 8878 §3.1.1.1).
const HEADER_MAX: usize = 18;

/// A frame, the size of what is in it, and where that goes.
type Job = (Vec<u8>, usize, SyncSender<io::Result<Buffer>>);
/// The result of a job, in time.
type Promise = Receiver<io::Result<Buffer>>;

/// Decompresses everything from the queue into `to`; ends early, without an error, when nobody takes the
/// pieces any more.
///
/// # Errors
/// When the stream is damaged or ends in its middle.
pub(super) fn run(from: QueueReader<Vec<u8>>, to: &SyncSender<Buffer>) -> io::Result<()> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let mut frames = Frames { from, kept: Vec::new() };
    let (jobs, queue) = sync_channel(0);
    let queue = Mutex::new(queue);
    let taken = thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(&queue));
        }
        // Moved in, so that it is dropped, and the threads end, with this.
        let jobs = jobs;
        let mut under_way: VecDeque<Promise> = VecDeque::new();
        loop {
            let next = frames.next()?;
            let is_last = next.is_none();
            if let Some((frame, size)) = next {
                let (reply, promise) = sync_channel(1);
                jobs.send((frame, size, reply)).map_err(|_| lost())?;
                under_way.push_back(promise);
            }
            while under_way.len() > if is_last { 0 } else { workers } {
                let Some(promise) = under_way.pop_front() else { break };
                let plain = promise.recv().map_err(|_| lost())??;
                if to.send(plain).is_err() {
                    return Ok(false);
                }
            }
            if is_last {
                return io::Result::Ok(true);
            }
        }
    })?;
    let Frames { from, kept } = frames;
    if !taken || kept.is_empty() {
        return Ok(());
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(Cursor::new(kept).chain(from))?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    pump(decoder, to)
}

/// Decompresses what comes until nothing more can come.
fn work(queue: &Mutex<Receiver<Job>>) {
    let mut decompressor = Decompressor::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((frame, size, reply)) = job else { return };
        let plain = match &mut decompressor {
            Ok(decompressor) => decompress(decompressor, &frame, size),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        // Nobody waits for it any more after a failure.
        let _ = reply.send(plain);
    }
}

fn decompress(decompressor: &mut Decompressor<'_>, frame: &[u8], size: usize) -> io::Result<Buffer> {
    let mut plain = Buffer::new(size);
    let length = decompressor.decompress_to_buffer(frame, &mut plain[..])?;
    if length == size { Ok(plain) } else { Err(io::Error::other("a frame is shorter than it says")) }
}

/// A thread has ended that should not.
fn lost() -> io::Error {
    io::Error::other("a thread that decompresses has ended")
}

/// A stream, cut into small frames.
struct Frames {
    from: QueueReader<Vec<u8>>,
    /// Read, and not yet cut off.
    kept: Vec<u8>,
}

impl Frames {
    /// The next frame with the size of what is in it. None at the end of the stream, when nothing is kept, or
    /// in front of a frame that is large or crooked, tells no size, or is none.
    fn next(&mut self) -> io::Result<Option<(Vec<u8>, usize)>> {
        while self.kept.len() < HEADER_MAX && self.read()? {}
        let told = zstd_safe::get_frame_content_size(&self.kept);
        let Some(size) = told.ok().flatten().filter(|size| *size <= FRAME && size.is_multiple_of(GRAIN))
        else {
            return Ok(None);
        };
        let Ok(size) = usize::try_from(size) else { return Ok(None) };
        loop {
            if let Ok(end) = zstd_safe::find_frame_compressed_size(&self.kept) {
                let rest = self.kept.split_off(end);
                return Ok(Some((std::mem::replace(&mut self.kept, rest), size)));
            }
            if self.kept.len() > HEADER_MAX + zstd_safe::compress_bound(size) + CHUNK || !self.read()? {
                return Ok(None);
            }
        }
    }

    /// Whether there was more.
    fn read(&mut self) -> io::Result<bool> {
        let piece = self.from.fill_buf()?;
        self.kept.extend_from_slice(piece);
        let length = piece.len();
        self.from.consume(length);
        Ok(length > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let (sender, receiver) = sync_channel(packed.len() / 1000 + 1);
        for piece in packed.chunks(1000) {
            sender.send(piece.to_vec()).expect("room");
        }
        drop(sender);
        let (to, plain) = sync_channel(0);
        thread::scope(|scope| {
            let all = scope.spawn(move || {
                let pieces: Vec<Buffer> = plain.iter().collect();
                let (_, whole) = pieces.split_last().unzip();
                let whole = whole.unwrap_or_default();
                assert!(whole.iter().all(|piece| (piece.len() as u64).is_multiple_of(GRAIN)));
                pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>()
            });
            run(QueueReader::new(receiver), &to)?;
            drop(to);
            Ok(all.join().expect("it takes all"))
        })
    }

    /// Bytes that compress a little.
    fn plain(length: usize, seed: u32) -> Vec<u8> {
        (0..length as u32).map(|n| (n.wrapping_mul(n ^ seed) >> 9) as u8 & 0x3f).collect()
    }

    /// A frame that tells its size, or not.
    fn frame(plain: &[u8], tells: bool) -> Vec<u8> {
        if !tells {
            return zstd::stream::encode_all(plain, 1).expect("compresses");
        }
        let mut compressor = zstd::bulk::Compressor::new(1).expect("a compressor");
        compressor.include_checksum(true).expect("a checksum");
        compressor.compress(plain).expect("compresses")
    }

    /// Straight and crooked ones.
    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![(0usize..75).prop_map(|grains| grains * GRAIN as usize), 0usize..300_000]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn p11_any_frames_in_a_row_give_their_bytes_in_order_and_a_missing_end_is_noticed(
            frames in prop::collection::vec((lengths(), any::<bool>(), any::<u32>()), 1..8),
            large in prop::option::of(0usize..8),
            cut in 1usize..1000,
        ) {
            let mut parts: Vec<(Vec<u8>, bool)> =
                frames.iter().map(|&(length, tells, seed)| (plain(length, seed), tells)).collect();
            if let Some(at) = large.filter(|at| *at < parts.len()) {
                parts[at].0 = plain(FRAME as usize + 1, 7);
            }
            let packed: Vec<Vec<u8>> = parts.iter().map(|(plain, tells)| frame(plain, *tells)).collect();
            let whole: Vec<u8> = parts.into_iter().flat_map(|(plain, _)| plain).collect();
            prop_assert!(unpack(&packed.concat()).expect("unpacks") == whole);
            let last = packed.last().map_or(0, Vec::len);
            let packed = packed.concat();
            let cut = cut.min(last - 1).max(1);
            prop_assert!(unpack(&packed[..packed.len() - cut]).is_err(), "{cut} bytes are missing");
        }
    }

    #[test]
    fn p11_a_frame_that_is_not_as_it_says_is_an_error() {
        let good = frame(&plain(100_000, 1), true);
        let mut damaged = [good.clone(), good.clone(), good.clone()].concat();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 64].fill(0xff);
        assert!(unpack(&damaged).is_err());
        assert!(unpack(&[&good[..], b"what is this, and how long is it?"].concat()).is_err());
        assert!(unpack(b"not a frame").is_err());
        assert_eq!(unpack(b"").expect("nothing"), b"");
    }

    #[test]
    fn nobody_who_takes_the_pieces_is_no_error() {
        let packed = frame(&plain(FRAME as usize, 3), true).repeat(30);
        let (sender, receiver) = sync_channel(packed.len() / 1000 + 1);
        for piece in packed.chunks(1000) {
            sender.send(piece.to_vec()).expect("room");
        }
        drop(sender);
        let (to, taken) = sync_channel(0);
        thread::scope(|scope| {
            scope.spawn(move || taken.iter().take(3).for_each(drop));
            assert!(run(QueueReader::new(receiver), &to).is_ok());
        });
    }
}
