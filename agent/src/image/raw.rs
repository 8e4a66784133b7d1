//! An image that is a file system, as one stream: its data is written where the map says, and
//! everything between is made zeros.

use super::decompress::QueueReader;
use super::{CHUNK, Failure};
use crate::disk::region::{Buffer, Region};
use kaltstart_protocol::image::blocks::DataMap;
use std::io::{self, Read};

/// Bytes written at once.
const WRITE: usize = 1 << 20;

/// Writes the file system of `size` bytes that `input` gives. The map was checked.
///
/// # Errors
/// See [`Failure`]; what was written until then stays.
pub(super) fn write(
    mut input: QueueReader,
    map: &DataMap,
    size: u64,
    region: &Region,
) -> Result<(), Failure> {
    for (offset, length) in map.gaps(size) {
        region.zero(offset, length).map_err(Failure::Disk)?;
    }
    let mut buffer = Buffer::new(WRITE);
    let mut at = 0;
    for &(offset, length) in &map.data {
        skip_zeros(&mut input, at, offset)?;
        at = offset;
        while at < offset + length {
            let piece = WRITE.min(usize::try_from(offset + length - at).unwrap_or(WRITE));
            input.read_exact(&mut buffer[..piece]).map_err(|error| ended(at, &error))?;
            region.write(at, &buffer, piece).map_err(Failure::Disk)?;
            at += piece as u64;
        }
    }
    skip_zeros(&mut input, at, size)?;
    match input.read(&mut [0]).map_err(|error| ended(size, &error))? {
        0 => region.sync().map_err(Failure::Disk),
        _ => Err(Failure::Image(format!("it is larger than the {size} bytes its manifest says"))),
    }
}

/// Reads from byte `at` up to byte `until`, where the map says that nothing is.
fn skip_zeros(input: &mut QueueReader, mut at: u64, until: u64) -> Result<(), Failure> {
    let mut piece = vec![0; CHUNK];
    while at < until {
        let length = CHUNK.min(usize::try_from(until - at).unwrap_or(CHUNK));
        input.read_exact(&mut piece[..length]).map_err(|error| ended(at, &error))?;
        if let Some(place) = piece[..length].iter().position(|byte| *byte != 0) {
            let problem = format!("byte {} is data, its map says zeros", at + place as u64);
            return Err(Failure::Image(problem));
        }
        at += length as u64;
    }
    Ok(())
}

fn ended(at: u64, error: &io::Error) -> Failure {
    Failure::Image(format!("at byte {at} of the file system: {error}"))
}
