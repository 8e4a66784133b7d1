//! From the bytes of a file system to the files of an image.

use anyhow::{Context as _, Result};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::blocks::{Chunk, ChunkList, DataMap, ListFile};
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
}

impl Packed {
    /// A file system of `unpacked_size` bytes, stored in a file with this digest and size.
    fn file_system(format: Format, file: String, stored: (Digest, u64), unpacked_size: u64) -> Self {
        let (digest, size) = stored;
        Self { format, compression: Compression::Zstd, file, digest, size, unpacked_size }
    }
}

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

/// Stores the first `size` bytes of `source` in `dir` as one stream.
pub(super) fn raw(source: &File, size: u64, dir: &Path) -> Result<Packed> {
    let file = "root.ext4.zst".to_owned();
    let mut encoder = zstd::Encoder::new(Hashed::create(&dir.join(&file))?, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(size))?;
    let mut data: Vec<(u64, u64)> = Vec::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let length = piece.len().min(usize::try_from(size - at).unwrap_or(piece.len()));
        let bytes = &mut piece[..length];
        source.read_exact_at(bytes, at).context("cannot read the file system")?;
        encoder.write_all(bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            match data.last_mut().filter(|(offset, before)| offset + before == at) {
                Some(last) => last.1 += length as u64,
                None => data.push((at, length as u64)),
            }
        }
        at += length as u64;
    }
    let stored = encoder.finish()?.finish()?;
    let format = Format::Raw(DataMap { data });
    Ok(Packed::file_system(format, file, stored, size))
}

/// Stores the first `size` bytes of `source` in `dir` as chunks with their list.
pub(super) fn chunked(source: &File, size: u64, dir: &Path) -> Result<Packed> {
    let file = "root.chunks".to_owned();
    let mut out = Hashed::create(&dir.join(&file))?;
    let count = usize::try_from(size.div_ceil(CHUNK_SIZE as u64))?;
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = sync_channel(2 * workers);
    let mut chunks = Vec::new();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody takes it any more after a failure.
                    if i >= count || sender.send((i, stored(source, size, i))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // They come in another order than they are written.
        let mut early = BTreeMap::new();
        for (i, chunk) in receiver {
            early.insert(i, chunk?);
            while let Some(chunk) = early.remove(&chunks.len()) {
                let listed = chunk.map(|(digest, bytes): (Digest, Vec<u8>)| -> Result<Chunk> {
                    out.write_all(&bytes)?;
                    Ok(Chunk(digest, bytes.len() as u64))
                });
                chunks.push(listed.transpose()?);
            }
        }
        anyhow::Ok(())
    })?;
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
    let at = i as u64 * CHUNK_SIZE as u64;
    let mut bytes = vec![0; CHUNK_SIZE.min(usize::try_from(size - at).unwrap_or(CHUNK_SIZE))];
    source.read_exact_at(&mut bytes, at).context("cannot read the file system")?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    Ok(Some((Digest::of(&bytes), zstd::bulk::compress(&bytes, LEVEL)?)))
}
