//! The bytes of an archive: buffered for its headers, handed through for its contents, counted.

use super::CHUNK;
use std::io::{self, Read};

/// Why an entry was not extracted; whose fault an I/O error is, is decided once, at the end.
pub(super) enum Problem {
    Archive(String),
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<nix::errno::Errno> for Problem {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Io(errno.into())
    }
}

pub(super) fn wrong<T>(problem: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Archive(problem.into()))
}

/// The archive's bytes, counted.
pub(super) struct Input<R> {
    pub(super) from: R,
    /// Headers not yet parsed.
    pub(super) buffer: Vec<u8>,
    pub(super) read: u64,
    pub(super) max: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, Problem> {
        let n = match self.from.read(into) {
            // The error of the stream itself is reported by whoever decompresses it.
            Err(error) => return wrong(format!("cannot be read: {error}")),
            Ok(n) => n,
        };
        self.read += n as u64;
        if self.read > self.max {
            return wrong(format!("the archive is larger than the {} bytes its manifest allows", self.max));
        }
        Ok(n)
    }

    /// Fills the buffer up to `bytes`.
    pub(super) fn fill(&mut self, bytes: usize) -> Result<(), Problem> {
        let mut at = self.buffer.len();
        self.buffer.resize(bytes.max(at), 0);
        while at < bytes {
            let mut piece = std::mem::take(&mut self.buffer);
            let n = self.read(&mut piece[at..]);
            self.buffer = piece;
            match n? {
                0 => return wrong("the archive ends in its middle"),
                n => at += n,
            }
        }
        Ok(())
    }

    /// Takes the next `bytes` bytes of contents in pieces.
    pub(super) fn take(
        &mut self,
        mut bytes: u64,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Problem> {
        if !self.buffer.is_empty() {
            let n = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
            sink(&self.buffer[..n])?;
            self.buffer.drain(..n);
            bytes -= n as u64;
        }
        if bytes == 0 {
            return Ok(());
        }
        let mut piece = vec![0; CHUNK.min(usize::try_from(bytes).unwrap_or(CHUNK))];
        while bytes > 0 {
            let most = piece.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match self.read(&mut piece[..most])? {
                0 => return wrong("the archive ends in its middle"),
                n => {
                    sink(&piece[..n])?;
                    bytes -= n as u64;
                }
            }
        }
        Ok(())
    }
}
