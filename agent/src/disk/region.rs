//! A partition or array, written and read past the kernel's cache: what is read is what the disk has.

use super::device::failed;
use crate::sys::block;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::image::blocks::GRAIN;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;

/// A partition for direct input and output: offsets and lengths are multiples of the sector size, and
/// bytes lie in a [`Buffer`].
#[derive(Debug)]
pub struct Region {
    file: File,
}

impl Region {
    /// `file` was opened with `O_DIRECT`.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file }
    }

    /// Writes `bytes`, a part of a [`Buffer`], at byte `offset`.
    ///
    /// # Errors
    /// Code `DiskFailed`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Finding> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|error| failed(&format!("write at byte {offset} of the partition"), &error))
    }

    /// Reads `length` bytes from byte `offset` into `buffer`.
    ///
    /// # Errors
    /// Code `DiskFailed`.
    pub fn read(&self, offset: u64, buffer: &mut Buffer, length: usize) -> Result<(), Finding> {
        let read = self.file.read_exact_at(&mut buffer[..length], offset);
        read.map_err(|error| failed(&format!("read at byte {offset} of the partition"), &error))
    }

    /// Makes `length` bytes from byte `offset` on zeros, by the disk itself where it can, which then stores
    /// nothing there where it can.
    ///
    /// # Errors
    /// Code `DiskFailed`.
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), Finding> {
        let zeroed = block::discard_to_zeros(&self.file, offset, length);
        zeroed.map_err(|error| failed(&format!("zeros at byte {offset} of the partition"), &error))
    }

    /// Waits until everything written is on the medium.
    ///
    /// # Errors
    /// Code `DiskFailed`.
    pub fn sync(&self) -> Result<(), Finding> {
        self.file.sync_data().map_err(|error| failed("sync of the partition", &error))
    }
}

/// Bytes in memory that begin where direct input and output wants them to.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// `length` zeros.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + GRAIN as usize];
        let start = bytes.as_ptr().align_offset(GRAIN as usize);
        Self { bytes, start, length }
    }

    /// Gives up all but the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// The place of the first byte that is not zero.
pub(crate) fn first_not_zero(bytes: &[u8]) -> Option<usize> {
    // The processor looks at many bytes at once if nothing ends its loop early.
    let is_data = |line: &[u8]| line.iter().fold(0, |all, byte| all | byte) != 0;
    let line = bytes.chunks(GRAIN as usize).position(is_data)? * GRAIN as usize;
    Some(line + bytes[line..].iter().position(|byte| *byte != 0)?)
}

/// What a failed operation of another kind says of the partition.
pub(crate) fn differs(offset: u64, length: usize) -> Finding {
    let error = io::Error::other("read back differently");
    failed(&format!("{length} bytes at byte {offset} of the partition"), &error)
}
