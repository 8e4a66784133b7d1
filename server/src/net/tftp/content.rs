//! What is sent, and how it is read.

use super::Refusal;
use bytes::Bytes;
use kaltstart_core::tftp::to_netascii;
use kaltstart_protocol::tftp::Mode;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Largest file sent as text: it is translated as a whole, in memory.
const NETASCII_BYTES_MAX: u64 = 1 << 20;

/// Bytes read from a file at a time, so that few blocks wait for a thread that may block.
const CHUNK_BYTES: usize = 64 << 10;

/// The bytes a name stands for.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Memory(Bytes),
    /// A file on disk, of the size it had when it was opened.
    File {
        /// The file, open for reading.
        file: Arc<File>,
        /// Its size in bytes.
        size: u64,
    },
}

impl Content {
    /// The number of bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// The content as it goes over the wire in `mode`.
    pub(super) async fn translated(self, mode: Mode) -> Result<Self, Refusal> {
        if mode != Mode::Netascii {
            return Ok(self);
        }
        let size = self.size();
        if size > NETASCII_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        let mut reader = Reader::new(self, 0);
        match reader.read(0..size).await {
            Ok(bytes) => Ok(Self::Memory(to_netascii(bytes).into())),
            Err(_) => Err(Refusal::Unavailable),
        }
    }
}

/// Reads content piece by piece.
pub(super) struct Reader {
    content: Content,
    /// The part of a file read last.
    chunk: Vec<u8>,
    chunk_offset: u64,
    chunk_bytes: usize,
}

impl Reader {
    /// A reader whose pieces have up to `piece_bytes_max` bytes.
    pub(super) fn new(content: Content, piece_bytes_max: usize) -> Self {
        Self { content, chunk: Vec::new(), chunk_offset: 0, chunk_bytes: piece_bytes_max.max(CHUNK_BYTES) }
    }

    /// The bytes of `range`, which must lie within the content.
    pub(super) async fn read(&mut self, range: Range<u64>) -> io::Result<&[u8]> {
        let len = (range.end - range.start) as usize;
        let (bytes, start) = match &self.content {
            Content::Memory(bytes) => (bytes.as_ref(), range.start),
            Content::File { file, size } => {
                let chunk_end = self.chunk_offset + self.chunk.len() as u64;
                if range.start < self.chunk_offset || range.end > chunk_end {
                    let rest = usize::try_from(size - range.start).unwrap_or(usize::MAX);
                    let (file, mut chunk) = (Arc::clone(file), std::mem::take(&mut self.chunk));
                    chunk.resize(self.chunk_bytes.max(len).min(rest), 0);
                    let offset = range.start;
                    self.chunk = tokio::task::spawn_blocking(move || {
                        // Fails if the file has shrunk: better no file than one with a hole.
                        file.read_exact_at(&mut chunk, offset).map(|()| chunk)
                    })
                    .await??;
                    self.chunk_offset = offset;
                }
                (self.chunk.as_slice(), range.start - self.chunk_offset)
            }
        };
        let start = start as usize;
        bytes.get(start..start + len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
