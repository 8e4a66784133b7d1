//! An image that is a file system, as one stream: its data is written where the map says, and
//! everything between is made zeros.

use super::Failure;
use crate::disk::region::{Buffer, Region, first_not_zero};
use kaltstart_protocol::image::blocks::{DataMap, GRAIN};
use std::sync::mpsc::Receiver;

/// Writes the file system of `size` bytes that `pieces` give. The map was checked.
///
/// # Errors
/// See [`Failure`]; what was written until then stays.
pub(super) fn write(
    pieces: &Receiver<Buffer>,
    map: &DataMap,
    size: u64,
    region: &Region,
) -> Result<(), Failure> {
    for (offset, length) in map.gaps(size) {
        region.zero(offset, length).map_err(Failure::Disk)?;
    }
    let mut data = map.data.iter().map(|&(offset, length)| offset..offset + length).peekable();
    let mut at = 0;
    for piece in pieces {
        let mut rest = &piece[..];
        if rest.len() as u64 > size - at {
            return Err(Failure::Image(format!("it is larger than the {size} bytes its manifest says")));
        }
        // Only the end of a stream is crooked, and that of a file system never: the disk could not write it.
        if !(rest.len() as u64).is_multiple_of(GRAIN) {
            at += rest.len() as u64;
            break;
        }
        while !rest.is_empty() {
            while data.next_if(|area| area.end <= at).is_some() {}
            let (is_data, until) = match data.peek() {
                Some(area) if area.contains(&at) => (true, area.end),
                next => (false, next.map_or(size, |area| area.start)),
            };
            let length = usize::try_from(until - at).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at(length);
            if is_data {
                region.write(at, part).map_err(Failure::Disk)?;
            } else if let Some(place) = first_not_zero(part) {
                let problem = format!("byte {} is data, its map says zeros", at + place as u64);
                return Err(Failure::Image(problem));
            }
            (rest, at) = (after, at + length as u64);
        }
    }
    if at < size {
        return Err(Failure::Image(format!("it ends at byte {at} of {size}")));
    }
    region.sync().map_err(Failure::Disk)
}
