//! The image: fetched, verified, decompressed and written, all at the same time.
//!
//! Archives and raw images are one stream. Three threads, joined by queues of bounded length, so memory
//! does not grow with the image:
//!
//! ```text
//! fetch + SHA-256 of what was sent  →  decompress (all cores)  →  extract or write (the calling thread)
//! ```
//!
//! Writing starts long before the digest is known; that is safe because nothing on the disk can start
//! before [`lay_down`] has returned `Ok` (see [`crate::install`]). For [`chunked`] images see there.

pub mod acl;
mod chunked;
pub mod decompress;
mod entry;
pub mod extract;
pub mod fetch;
mod frames;
mod input;
mod raw;
pub mod tree;

use crate::disk::region::{Buffer, Region};
use crate::install::{Observer, Stop};
use decompress::QueueReader;
use extract::ExtractError;
use fetch::{FetchFailure, Getting, ImageSource, Retry};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::{Format, Manifest};
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Bytes of one piece as it comes.
pub(crate) const CHUNK: usize = 256 << 10;
/// Pieces that wait to be decompressed, and to be written: with those in hand about 12 MiB.
const QUEUES: (usize, usize) = (16, 4);

/// Where an image comes from, how interruptions are met, and who watches.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Its files.
    pub files: &'a dyn ImageSource,
    /// Interruptions.
    pub retry: Retry,
    /// Told of the progress; may end it.
    pub observer: &'a dyn Observer,
}

impl<'a> Source<'a> {
    fn getting(self, abandon: &'a AtomicBool) -> Getting<'a> {
        Getting { source: self.files, retry: self.retry, observer: self.observer, abandon }
    }
}

/// Where an image goes.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    /// The files of an archive: below this directory, where empty file systems are mounted.
    Tree(&'a Path),
    /// A file system: to this partition.
    Region {
        /// The partition.
        region: &'a Region,
        /// Whether it may hold parts of the image already.
        reuse: bool,
    },
}

/// Bytes of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Received from the server.
    pub fetched: u64,
    /// Written to the disk, as far as it is known.
    pub written: u64,
    /// Found on the disk, and left there.
    pub kept: u64,
}

/// Fetches the image of `manifest` and lays it down at the destination of its format.
///
/// # Errors
/// [`Code::ImageMissing`], [`Code::ImageUnfetched`], [`Code::ImageTruncated`],
/// [`Code::ImageMismatch`] when the bytes are not the manifest's; else [`Code::ImageInvalid`],
/// naming the entry or place, when they cannot be unpacked; [`Code::DiskFailed`] or
/// [`Code::DiskTooSmall`] when the disk refuses. Or cancelled.
pub fn lay_down(manifest: &Manifest, source: Source<'_>, to: Destination<'_>) -> Result<Counts, Stop> {
    let size = manifest.unpacked_size;
    match (&manifest.format, to) {
        (Format::Tar, Destination::Tree(root)) => stream(manifest, source, |pieces| {
            extract::run(QueueReader::new(pieces), size, root).map_err(|error| match error {
                ExtractError::Disk { entry, error } => {
                    let full = error.raw_os_error() == Some(libc::ENOSPC);
                    let code = if full { Code::DiskTooSmall } else { Code::DiskFailed };
                    Failure::Disk(Finding::new(code, format!("writing {entry}: {error}")))
                }
                error @ ExtractError::Archive { .. } => Failure::Image(error.to_string()),
            })
        }),
        (Format::Raw(map), Destination::Region { region, .. }) => {
            map.check(size).map_err(|error| Finding::new(Code::ImageInvalid, error.to_string()))?;
            stream(manifest, source, |pieces| raw::write(&pieces, map, size, region))
        }
        (Format::Chunked(list), Destination::Region { region, reuse }) => {
            chunked::write(manifest, list, source, region, reuse)
        }
        (format, _) => {
            let detail = format!("an image of format {} does not go there", format.name());
            Err(Finding::new(Code::ImageInvalid, detail).into())
        }
    }
}

/// Why the stream of an image was not laid down.
#[derive(Debug)]
enum Failure {
    /// The image is at fault.
    Image(String),
    /// The disk is at fault.
    Disk(Finding),
}

/// Fetches an image that is one stream, and lets `write` take what it decompresses to.
fn stream(
    manifest: &Manifest,
    source: Source<'_>,
    write: impl FnOnce(Receiver<Buffer>) -> Result<(), Failure>,
) -> Result<Counts, Stop> {
    let abandon = AtomicBool::new(false);
    let (raw_in, raw_out) = sync_channel(QUEUES.0);
    let (plain_in, plain_out) = sync_channel(QUEUES.1);
    let (fetched, unpacked, written) = thread::scope(|scope| {
        let fetch = scope.spawn(|| fetch::run(manifest, source.getting(&abandon), raw_in));
        let compression = manifest.compression;
        let unpack = scope.spawn(move || decompress::run(compression, raw_out, &plain_in));
        let written = write(plain_out);
        if matches!(written, Err(Failure::Disk(_))) {
            // No digest can explain this: do not fetch the rest.
            abandon.store(true, Ordering::Relaxed);
        }
        let unpacked = unpack.join().unwrap_or_else(|panic| resume_unwind(panic));
        (fetch.join().unwrap_or_else(|panic| resume_unwind(panic)), unpacked, written)
    });
    verdict(manifest, fetched, unpacked, written)?;
    Ok(Counts { fetched: manifest.size, written: manifest.unpacked_size, kept: 0 })
}

/// Which of several failures is the cause: wrong bytes explain why they cannot be unpacked, so
/// the digest is asked first; only the disk's own failure comes before it.
fn verdict(
    manifest: &Manifest,
    fetched: Result<Digest, FetchFailure>,
    unpacked: io::Result<()>,
    written: Result<(), Failure>,
) -> Result<(), Stop> {
    let fail = |code, detail: String| Err(Stop::Failed(Finding::new(code, detail)));
    if let Err(Failure::Disk(finding)) = written {
        return Err(finding.into());
    }
    let digest = fetched.map_err(|failure| fetch_failed(failure, manifest.size))?;
    if digest != manifest.digest {
        return fail(Code::ImageMismatch, format!("{} expected, {digest} received", manifest.digest));
    }
    if let Err(error) = unpacked {
        return fail(Code::ImageInvalid, format!("decompression: {error}"));
    }
    match written {
        Err(Failure::Image(problem)) => fail(Code::ImageInvalid, problem),
        _ => Ok(()),
    }
}

/// Why a file of `size` bytes was not received.
fn fetch_failed(failure: FetchFailure, size: u64) -> Stop {
    let (code, detail) = match failure {
        FetchFailure::Cancelled(reason) => return Stop::Cancelled(reason),
        FetchFailure::Missing(detail) => (Code::ImageMissing, detail),
        FetchFailure::Unfetched(detail) => (Code::ImageUnfetched, detail),
        FetchFailure::Truncated(bytes) => (Code::ImageTruncated, format!("{bytes} of {size} bytes")),
        FetchFailure::TooLong => (Code::ImageMismatch, format!("more than {size} bytes were sent")),
        // Whoever abandons says why before this is asked.
        FetchFailure::Abandoned => (Code::ImageUnfetched, "abandoned".to_owned()),
    };
    Finding::new(code, detail).into()
}
