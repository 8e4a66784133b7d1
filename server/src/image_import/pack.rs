//! From the bytes of a file system to the files of an image.

use anyhow::{Context as _, Result};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::blocks::{self, Chunk, ChunkList, DataMap, ListFile};
use kaltstart_protocol::image::places::Places;
use kaltstart_protocol::image::{Compression, Format};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Bytes of a chunk: small enough that scattered changes cost little, large enough for compression and disks.
const CHUNK_SIZE: usize = 256 << 10;
/// Bytes of a frame of a stream, each of which is decompressed by itself.
const FRAME: usize = blocks::FRAME as usize;
/// Areas of zeros shorter than this are data: they are not worth an entry of the map.
const PIECE: usize = 64 << 10;
/// zstd's, as the images that are built here have it.
pub(super) const LEVEL: i32 = 9;

/// The files of an image, as its manifest names them.
pub(super) struct Packed {
    pub(super) format: Format,
    pub(super) compression: Compression,
    pub(super) file: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) unpacked_size: u64,
    pub(super) places: Places,
}

impl Packed {
    /// A file system of `unpacked_size` bytes, stored in a file with this digest and size.
    fn file_system(format: Format, file: String, stored: (Digest, u64), unpacked_size: u64) -> Self {
        let (digest, size) = stored;
        let (compression, places) = (Compression::Zstd, Places::new());
        Self { format, compression, file, digest, size, unpacked_size, places }
    }
}

/// Offset and length in bytes of what holds data, in order.
type Areas = Vec<(u64, u64)>;

/// A file that is written and hashed.
pub(super) struct Hashed<W> {
    to: W,
    hash: Sha256,
    size: u64,
}

impl Hashed<BufWriter<File>> {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { to: BufWriter::new(file), hash: Sha256::new(), size: 0 })
    }

    /// Digest and size, when all is on the disk.
    pub(super) fn finish(self) -> Result<(Digest, u64)> {
        self.to.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        Ok((Digest(self.hash.finalize().into()), self.size))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Stores the first `size` bytes of `source` in `dir` as one stream of frames.
pub(super) fn raw(source: &File, size: u64, dir: &Path) -> Result<Packed> {
    let file = "root.ext4.zst".to_owned();
    let mut out = Hashed::create(&dir.join(&file))?;
    let mut data = Areas::new();
    in_order(
        count(size, FRAME)?,
        |i| frame(source, size, i),
        |(areas, stored)| {
            for (at, length) in areas {
                match data.last_mut().filter(|(offset, before)| offset + before == at) {
                    Some(last) => last.1 += length,
                    None => data.push((at, length)),
                }
            }
            Ok(out.write_all(&stored)?)
        },
    )?;
    let format = Format::Raw(DataMap { data });
    Ok(Packed::file_system(format, file, out.finish()?, size))
}

/// Block `i` of a frame's size: the areas of it that hold data, and all of it, compressed.
fn frame(source: &File, size: u64, i: usize) -> Result<(Areas, Vec<u8>)> {
    let (at, bytes) = block(source, size, FRAME, i)?;
    let pieces = bytes.chunks(PIECE).scan(at, |next, piece| {
        let offset = *next;
        *next += piece.len() as u64;
        Some((piece, offset))
    });
    let data = pieces.filter(|(piece, _)| piece.iter().any(|byte| *byte != 0));
    let areas = data.map(|(piece, offset)| (offset, piece.len() as u64)).collect();
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    Ok((areas, compressor.compress(&bytes)?))
}

/// Stores the first `size` bytes of `source` in `dir` as chunks with their list.
pub(super) fn chunked(source: &File, size: u64, dir: &Path) -> Result<Packed> {
    let file = "root.chunks".to_owned();
    let mut out = Hashed::create(&dir.join(&file))?;
    let mut chunks = Vec::new();
    in_order(
        count(size, CHUNK_SIZE)?,
        |i| stored(source, size, i),
        |chunk| {
            let listed = chunk.map(|(digest, bytes)| -> Result<Chunk> {
                out.write_all(&bytes)?;
                Ok(Chunk(digest, bytes.len() as u64))
            });
            chunks.push(listed.transpose()?);
            Ok(())
        },
    )?;
    let stored = out.finish()?;
    let list = serde_json::to_vec(&ChunkList { chunk_size: CHUNK_SIZE as u64, chunks })?;
    let list_file = "root.chunks.json".to_owned();
    let mut out = Hashed::create(&dir.join(&list_file))?;
    out.write_all(&list)?;
    let (list_digest, list_size) = out.finish()?;
    let format = Format::Chunked(ListFile { file: list_file, digest: list_digest, size: list_size });
    Ok(Packed::file_system(format, file, stored, size))
}

/// Chunk `i` with its digest, compressed; none if it is all zeros.
fn stored(source: &File, size: u64, i: usize) -> Result<Option<(Digest, Vec<u8>)>> {
    let (_, bytes) = block(source, size, CHUNK_SIZE, i)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    Ok(Some((Digest::of(&bytes), zstd::bulk::compress(&bytes, LEVEL)?)))
}

/// How many blocks of `length` bytes there are in `size`.
fn count(size: u64, length: usize) -> Result<usize> {
    Ok(usize::try_from(size.div_ceil(length as u64))?)
}

/// Where block `i` is, and its bytes; the last one may be shorter.
fn block(source: &File, size: u64, length: usize, i: usize) -> Result<(u64, Vec<u8>)> {
    let at = i as u64 * length as u64;
    let mut bytes = vec![0; length.min(usize::try_from(size - at).unwrap_or(length))];
    source.read_exact_at(&mut bytes, at).context("cannot read the file system")?;
    Ok((at, bytes))
}

/// Does `work` with every number below `count`, on all cores, and lets `take` have the results in their order.
fn in_order<T: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = sync_channel(2 * workers);
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody takes it any more after a failure.
                    if i >= count || sender.send((i, work(i))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // They come in another order than they are taken.
        let (mut early, mut taken) = (BTreeMap::new(), 0);
        for (i, result) in receiver {
            early.insert(i, result?);
            while let Some(result) = early.remove(&taken) {
                take(result)?;
                taken += 1;
            }
        }
        Ok(())
    })
}
