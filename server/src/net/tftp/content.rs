//! What is sent, and how it is read.

use super::Refusal;
use bytes::Bytes;
use kaltstart_core::tftp::netascii::{self, Index};
use kaltstart_protocol::tftp::Mode;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Largest file sent as text: it is read twice, first to learn how long the translation is.
const NETASCII_BYTES_MAX: u64 = 64 << 20;

/// Bytes of a text read at a time.
const TEXT_CHUNK_BYTES: usize = 64 << 10;

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

/// Content in the form in which it goes over the wire. Nothing of a file is kept in memory: the
/// kernel's page cache does that, for all transfers of the file together.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Memory(Bytes),
    File { file: Arc<File>, size: u64 },
    Text { file: Arc<File>, index: Arc<Index> },
}

impl Source {
    /// `content` in `mode`. May block for as long as it takes to read a text once.
    pub(super) fn new(content: Content, mode: Mode) -> Result<Self, Refusal> {
        Ok(match (content, mode) {
            (Content::Memory(text), Mode::Netascii) => Self::Memory(netascii::translate(&text).into()),
            (Content::File { file, size }, Mode::Netascii) => {
                if size > NETASCII_BYTES_MAX {
                    return Err(Refusal::TooLarge);
                }
                let index = index_of(&file, size).map_err(|_| Refusal::Unavailable)?;
                Self::Text { file, index: Arc::new(index) }
            }
            (Content::Memory(bytes), _) => Self::Memory(bytes),
            (Content::File { file, size }, _) => Self::File { file, size },
        })
    }

    /// The number of bytes on the wire.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
            Self::Text { index, .. } => index.translated_bytes(),
        }
    }

    /// Fills `pieces` with what lies behind `offset` if that needs no waiting; says whether it did.
    pub(super) fn read_now(&self, offset: u64, pieces: &mut [IoSliceMut<'_>]) -> bool {
        let wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
        match self {
            Self::Memory(bytes) => {
                let Some(mut bytes) = bytes.get(offset as usize..offset as usize + wanted) else {
                    return false;
                };
                for piece in pieces {
                    let (head, rest) = bytes.split_at(piece.len());
                    piece.copy_from_slice(head);
                    bytes = rest;
                }
                true
            }
            // Answers with less, or not at all, when the disk would have to be asked, or when the
            // file system knows nothing of the flag.
            Self::File { file, .. } => loop {
                match preadv2(file, pieces, offset, ReadWriteFlags::NOWAIT) {
                    Err(Errno::INTR) => {}
                    read => break read == Ok(wanted),
                }
            },
            Self::Text { .. } => wanted == 0,
        }
    }

    /// Reads `len` bytes behind `offset`, however long it takes. Fails if the file has become
    /// shorter: better no file than one with a hole.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::File { file, .. } => {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, offset).map(|()| bytes)
            }
            Self::Text { file, index } => read_text(file, index, offset, len),
        }
    }
}

fn index_of(file: &File, size: u64) -> io::Result<Index> {
    let mut index = Index::default();
    let mut chunk = vec![0; TEXT_CHUNK_BYTES];
    let mut offset = 0;
    while offset < size {
        let len = usize::try_from(size - offset).map_or(chunk.len(), |rest| rest.min(chunk.len()));
        file.read_exact_at(&mut chunk[..len], offset)?;
        index.extend(&chunk[..len]);
        offset += len as u64;
    }
    Ok(index)
}

fn read_text(file: &File, index: &Index, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let (mut at, skip) = index.locate(offset);
    let mut bytes = Vec::with_capacity(skip + len);
    let mut chunk = vec![0; TEXT_CHUNK_BYTES.min(skip + len)];
    while bytes.len() < skip + len {
        let rest = usize::try_from(index.text_bytes() - at).map_or(chunk.len(), |rest| rest.min(chunk.len()));
        if rest == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.read_exact_at(&mut chunk[..rest], at)?;
        bytes.extend(netascii::translate(&chunk[..rest]));
        at += rest as u64;
    }
    bytes.truncate(skip + len);
    bytes.drain(..skip);
    Ok(bytes)
}
