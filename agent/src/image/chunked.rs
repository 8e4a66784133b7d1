//! An image that is a file system, in chunks: only those are fetched and written that the disk does not
//! have, each is checked before it is written, and afterwards read back from the medium.
//!
//! ```text
//! compare with the disk (all cores)  →  fetch what is missing  →  decompress, check, write (all cores)
//!                                                              →  read back, check (the same threads)
//! ```
//!
//! What was written is read back while more is written: a disk that reads and writes at the same time
//! is done with both together.

use super::fetch::{FetchFailure, Meter, Part, Resuming};
use super::{Counts, Source, fetch_failed};
use crate::disk::region::{self, Buffer, Region};
use crate::install::{Observer, Stop};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::blocks::{Chunk, ChunkList, LIST_MAX, ListFile};
use kaltstart_protocol::image::{Compression, Manifest};
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// Threads for each core: some wait for the disk, while others decompress and check.
const WORKERS_A_CORE: usize = 2;
/// Most threads that decompress, check and write.
const WORKERS_MAX: usize = 16;
/// Bytes that all threads together may hold.
const MEMORY_MAX: u64 = 24 << 20;
/// Bytes that are written before they are put on the medium and read back.
const BATCH: u64 = 64 << 20;

/// Writes the file system of `manifest` to `region`. With `reuse`, what the disk has of it already is
/// looked for first.
///
/// # Errors
/// As [`super::lay_down`].
pub(super) fn write(
    manifest: &Manifest,
    file: &ListFile,
    from: Source<'_>,
    region: &Region,
    reuse: bool,
) -> Result<Counts, Stop> {
    let invalid = |problem: String| Stop::Failed(Finding::new(Code::ImageInvalid, problem));
    if manifest.compression != Compression::Zstd {
        return Err(invalid("chunks are compressed by zstd alone".to_owned()));
    }
    let list = fetch_list(file, from)?;
    let list: ChunkList =
        serde_json::from_slice(&list).map_err(|error| invalid(format!("list of chunks: {error}")))?;
    list.check(manifest).map_err(|error| invalid(format!("list of chunks: {error}")))?;
    let data = (0..list.chunks.len()).filter(|&i| list.chunks[i].is_some());
    let total = data.clone().map(|i| list.place(i, manifest.unpacked_size).1).sum();
    let work = Work {
        manifest,
        list: &list,
        region,
        observer: from.observer,
        abandon: AtomicBool::new(false),
        failure: Mutex::new(None),
        done: AtomicU64::new(0),
        meter: Mutex::new(Meter::new(total)),
        unproven: Mutex::default(),
    };
    let there: Vec<AtomicBool> = list.chunks.iter().map(|_| AtomicBool::new(false)).collect();
    if reuse {
        work.each(&(0..list.chunks.len()).collect::<Vec<_>>(), |i, hands| {
            let same = work.lies_there(i, hands)?;
            there[i].store(same, Ordering::Relaxed);
            if same && list.chunks[i].is_some() {
                work.progress(i);
            }
            Ok(())
        })?;
    }
    let missing = |i: usize| !there[i].load(Ordering::Relaxed);
    let mut counts = Counts { fetched: file.size, ..Counts::default() };
    for (offset, length) in work.zeros(missing) {
        region.zero(offset, length)?;
    }
    counts.fetched += work.fetch_and_write(from, missing)?;
    region.sync()?;
    let rest = mem::take(&mut *work.unproven());
    let rest: Vec<usize> = rest.synced.into_iter().chain(rest.written).collect();
    work.each(&rest, |i, hands| work.prove(i, hands))?;
    counts.written = data.filter(|&i| missing(i)).map(|i| work.place(i).1 as u64).sum();
    counts.kept = total - counts.written;
    Ok(counts)
}

fn fetch_list(file: &ListFile, from: Source<'_>) -> Result<Vec<u8>, Stop> {
    if file.size > LIST_MAX {
        let problem = format!("list of chunks: {} bytes, at most {LIST_MAX} are read", file.size);
        return Err(Finding::new(Code::ImageInvalid, problem).into());
    }
    let abandon = AtomicBool::new(false);
    let mut stream = from.getting(&abandon).whole(Part::List, file.size);
    let mut list = Vec::new();
    loop {
        let piece = stream.next_chunk().map_err(|failure| fetch_failed(failure, file.size))?;
        if piece.is_empty() {
            break;
        }
        list.extend(piece);
    }
    let found = Digest::of(&list);
    if found == file.digest {
        return Ok(list);
    }
    let detail = format!("list of chunks: {} expected, {found} received", file.digest);
    Err(Finding::new(Code::ImageMismatch, detail).into())
}

/// What a thread works with.
struct Hands {
    buffer: Buffer,
    decompressor: zstd::bulk::Decompressor<'static>,
}

/// Chunks that were written and not yet read back.
#[derive(Default)]
struct Unproven {
    /// Perhaps not on the medium yet.
    written: Vec<usize>,
    /// On the medium.
    synced: VecDeque<usize>,
}

struct Work<'a> {
    manifest: &'a Manifest,
    list: &'a ChunkList,
    region: &'a Region,
    observer: &'a dyn Observer,
    /// Set when a thread has failed: the others end too.
    abandon: AtomicBool,
    /// The first failure.
    failure: Mutex<Option<Stop>>,
    /// Bytes of data that are known to be on the disk, or are written.
    done: AtomicU64,
    meter: Mutex<Meter>,
    unproven: Mutex<Unproven>,
}

impl Work<'_> {
    fn place(&self, i: usize) -> (u64, usize) {
        let (offset, length) = self.list.place(i, self.manifest.unpacked_size);
        (offset, usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn workers(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        // Each holds a chunk, and up to two stored ones wait for it.
        let room = usize::try_from(MEMORY_MAX / (3 * self.list.chunk_size)).unwrap_or(1);
        (WORKERS_A_CORE * cores).min(WORKERS_MAX).min(room).max(1)
    }

    fn hands(&self) -> Result<Hands, Finding> {
        let decompressor = zstd::bulk::Decompressor::new()
            .map_err(|error| Finding::new(Code::ToolFailed, format!("zstd: {error}")))?;
        let length = usize::try_from(self.list.chunk_size).unwrap_or(0);
        Ok(Hands { buffer: Buffer::new(length), decompressor })
    }

    /// Whether the disk has chunk `i` at its place.
    fn lies_there(&self, i: usize, hands: &mut Hands) -> Result<bool, Stop> {
        let (offset, length) = self.place(i);
        self.region.read(offset, &mut hands.buffer, length)?;
        let found = &hands.buffer[..length];
        Ok(match &self.list.chunks[i] {
            Some(Chunk(digest, _)) => Digest::of(found) == *digest,
            None => region::first_not_zero(found).is_none(),
        })
    }

    /// Areas that must become zeros, as offset and length.
    fn zeros(&self, missing: impl Fn(usize) -> bool) -> Vec<(u64, u64)> {
        let mut areas: Vec<(u64, u64)> = Vec::new();
        for i in (0..self.list.chunks.len()).filter(|&i| self.list.chunks[i].is_none() && missing(i)) {
            let (offset, length) = self.list.place(i, self.manifest.unpacked_size);
            match areas.last_mut().filter(|(start, before)| start + before == offset) {
                Some(last) => last.1 += length,
                None => areas.push((offset, length)),
            }
        }
        areas
    }

    /// Does something with each of `chunks`, on all cores.
    fn each(
        &self,
        chunks: &[usize],
        work: impl Fn(usize, &mut Hands) -> Result<(), Stop> + Sync,
    ) -> Result<(), Stop> {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut hands = self.hands()?;
            while let Some(&i) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.ended()? {
                    break;
                }
                work(i, &mut hands)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            for _ in 0..self.workers() {
                scope.spawn(|| self.keep_failure(worker()));
            }
        });
        self.verdict()
    }

    /// Fetches the chunks that are missing and writes them; how many bytes were fetched.
    fn fetch_and_write(&self, from: Source<'_>, missing: impl Fn(usize) -> bool) -> Result<u64, Stop> {
        let (sender, receiver) = sync_channel(self.workers());
        let receiver = Mutex::new(receiver);
        let parts = self.list.parts(missing);
        let fetched = thread::scope(|scope| {
            for _ in 0..self.workers() {
                scope.spawn(|| self.write_received(&receiver));
            }
            let getting = from.getting(&self.abandon);
            // Moved in, so that it is dropped, and the threads end, when all is sent.
            let sender = sender;
            parts.iter().try_fold(0, |sum, part| {
                let mut stream =
                    Pieces { stream: getting.range(Part::Image, part.stored.clone()), kept: Vec::new() };
                for &i in &part.chunks {
                    let Some(Chunk(_, stored)) = &self.list.chunks[i] else { continue };
                    stream.send(i, usize::try_from(*stored).unwrap_or(usize::MAX), &sender)?;
                }
                Ok(sum + part.stored.end - part.stored.start)
            })
        });
        self.verdict()?;
        fetched.map_err(|failure| fetch_failed(failure, self.manifest.size))
    }

    /// Writes the stored chunks that come until there are no more. After a failure they are taken all the
    /// same, so that who sends never waits for nobody.
    fn write_received(&self, receiver: &Mutex<Receiver<(usize, Vec<u8>)>>) {
        let mut hands = self.hands();
        loop {
            let received = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((i, stored)) = received else { return };
            self.keep_failure(match (self.ended(), &mut hands) {
                (Err(stop), _) => Err(stop),
                (Ok(true), _) => Ok(()),
                (Ok(false), Err(finding)) => Err(finding.clone().into()),
                (Ok(false), Ok(hands)) => {
                    self.write_chunk(i, &stored, hands).and_then(|()| self.prove_another(i, hands))
                }
            });
        }
    }

    fn write_chunk(&self, i: usize, stored: &[u8], hands: &mut Hands) -> Result<(), Stop> {
        let Some(Chunk(digest, _)) = &self.list.chunks[i] else { return Ok(()) };
        let (offset, length) = self.place(i);
        let wrong = |what: String| Finding::new(Code::ImageMismatch, format!("chunk {i}: {what}"));
        match hands.decompressor.decompress_to_buffer(stored, &mut hands.buffer[..length]) {
            Err(error) => return Err(wrong(format!("decompression: {error}")).into()),
            Ok(unpacked) if unpacked != length => {
                return Err(wrong(format!("{unpacked} bytes instead of {length}")).into());
            }
            Ok(_) => {}
        }
        let found = Digest::of(&hands.buffer[..length]);
        if found != *digest {
            return Err(wrong(format!("{digest} expected, {found} received")).into());
        }
        self.region.write(offset, &hands.buffer[..length])?;
        self.progress(i);
        Ok(())
    }

    /// After chunk `i` was written: reads back another one that is on the medium, and puts what was written
    /// there when it is enough.
    fn prove_another(&self, i: usize, hands: &mut Hands) -> Result<(), Stop> {
        let (another, batch) = {
            let mut unproven = self.unproven();
            unproven.written.push(i);
            let is_enough = unproven.written.len() as u64 * self.list.chunk_size >= BATCH;
            (unproven.synced.pop_front(), is_enough.then(|| mem::take(&mut unproven.written)))
        };
        if let Some(batch) = batch {
            self.region.sync()?;
            self.unproven().synced.extend(batch);
        }
        another.map_or(Ok(()), |i| self.prove(i, hands))
    }

    fn unproven(&self) -> MutexGuard<'_, Unproven> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads chunk `i` back.
    fn prove(&self, i: usize, hands: &mut Hands) -> Result<(), Stop> {
        let (offset, length) = self.place(i);
        if self.lies_there(i, hands)? { Ok(()) } else { Err(region::differs(offset, length).into()) }
    }

    /// Counts chunk `i` as done.
    fn progress(&self, i: usize) {
        let bytes = self.place(i).1 as u64;
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).publish(done, self.observer, false);
    }

    /// Whether a thread has failed.
    ///
    /// # Errors
    /// When the job was cancelled.
    fn ended(&self) -> Result<bool, Stop> {
        match self.observer.cancelled() {
            Some(reason) => Err(Stop::Cancelled(reason)),
            None => Ok(self.abandon.load(Ordering::Relaxed)),
        }
    }

    fn keep_failure(&self, result: Result<(), Stop>) {
        if let Err(stop) = result {
            self.abandon.store(true, Ordering::Relaxed);
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stop);
        }
    }

    fn verdict(&self) -> Result<(), Stop> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// A stream, cut into stored chunks.
struct Pieces<'a> {
    stream: Resuming<'a>,
    /// Received and not yet sent on.
    kept: Vec<u8>,
}

impl Pieces<'_> {
    /// Sends the next `length` bytes on as chunk `i`.
    fn send(
        &mut self,
        i: usize,
        length: usize,
        to: &SyncSender<(usize, Vec<u8>)>,
    ) -> Result<(), FetchFailure> {
        while self.kept.len() < length {
            let piece = self.stream.next_chunk()?;
            if piece.is_empty() {
                return Err(FetchFailure::Truncated(self.kept.len() as u64));
            }
            self.kept.extend(piece);
        }
        let rest = self.kept.split_off(length);
        let chunk = mem::replace(&mut self.kept, rest);
        // Threads that fail say why by themselves.
        to.send((i, chunk)).map_err(|_| FetchFailure::Abandoned)
    }
}
