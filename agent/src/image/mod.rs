//! The image: fetched, verified, decompressed and extracted, all at the same time.
//!
//! Three threads, joined by queues of bounded length, so memory does not grow with the image:
//!
//! ```text
//! fetch + SHA-256 of what was sent  →  decompress  →  extract (the calling thread)
//! ```
//!
//! Extraction starts long before the digest is known; that is safe because nothing on the disk
//! can start before [`lay_down`] has returned `Ok` (see [`crate::install`]).

pub mod acl;
pub mod decompress;
mod entry;
pub mod extract;
pub mod fetch;
mod input;
pub mod tree;

use crate::install::{Observer, Stop};
use extract::ExtractError;
use fetch::{FetchFailure, ImageSource, Retry};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::{Format, Manifest};
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Bytes of one piece in a queue.
pub(crate) const CHUNK: usize = 256 << 10;
/// Pieces in a queue: with two queues and pieces in hand about 10 MiB in all.
const QUEUE: usize = 16;

/// Fetches the image of `manifest` and extracts it below `root`, an empty mounted file system.
///
/// # Errors
/// [`Code::ImageMissing`], [`Code::ImageUnfetched`], [`Code::ImageTruncated`],
/// [`Code::ImageMismatch`] when the bytes are not the manifest's; else [`Code::ImageInvalid`],
/// naming the entry, when they cannot be unpacked; [`Code::DiskFailed`] or
/// [`Code::DiskTooSmall`] when the disk refuses. Or cancelled.
pub fn lay_down(
    manifest: &Manifest,
    source: &dyn ImageSource,
    retry: Retry,
    root: &Path,
    observer: &dyn Observer,
) -> Result<(), Stop> {
    // The only format so far; a new one makes this a compile error.
    let Format::Tar = manifest.format;
    let abandon = AtomicBool::new(false);
    let (raw_in, raw_out) = sync_channel(QUEUE);
    let (plain_in, plain_out) = sync_channel(QUEUE);
    let (fetched, unpacked, extracted) = thread::scope(|scope| {
        let fetch = scope.spawn(|| fetch::run(manifest, source, retry, observer, &abandon, raw_in));
        let compression = manifest.compression;
        let unpack = scope.spawn(move || decompress::run(compression, raw_out, &plain_in));
        let extracted = extract::run(decompress::QueueReader::new(plain_out), manifest.unpacked_size, root);
        if matches!(extracted, Err(ExtractError::Disk { .. })) {
            // No digest can explain this: do not fetch the rest.
            abandon.store(true, Ordering::Relaxed);
        }
        let unpacked = unpack.join().unwrap_or_else(|panic| resume_unwind(panic));
        (fetch.join().unwrap_or_else(|panic| resume_unwind(panic)), unpacked, extracted)
    });
    verdict(manifest, fetched, unpacked, extracted)
}

/// Which of several failures is the cause: wrong bytes explain why they cannot be unpacked, so
/// the digest is asked first; only the disk's own failure comes before it.
fn verdict(
    manifest: &Manifest,
    fetched: Result<Digest, FetchFailure>,
    unpacked: io::Result<()>,
    extracted: Result<(), ExtractError>,
) -> Result<(), Stop> {
    let fail = |code, detail: String| Err(Stop::Failed(Finding::new(code, detail)));
    if let Err(ExtractError::Disk { entry, error }) = &extracted {
        let full = error.raw_os_error() == Some(libc::ENOSPC);
        let code = if full { Code::DiskTooSmall } else { Code::DiskFailed };
        return fail(code, format!("writing {entry}: {error}"));
    }
    match fetched {
        Ok(digest) if digest == manifest.digest => {}
        Ok(digest) => {
            return fail(Code::ImageMismatch, format!("{} expected, {digest} received", manifest.digest));
        }
        Err(FetchFailure::Cancelled(reason)) => return Err(Stop::Cancelled(reason)),
        Err(FetchFailure::Missing(detail)) => return fail(Code::ImageMissing, detail),
        Err(FetchFailure::Unfetched(detail)) => return fail(Code::ImageUnfetched, detail),
        Err(FetchFailure::Truncated(bytes)) => {
            return fail(Code::ImageTruncated, format!("{bytes} of {} bytes", manifest.size));
        }
        Err(FetchFailure::TooLong) => {
            return fail(Code::ImageMismatch, format!("more than {} bytes were sent", manifest.size));
        }
        // Only a disk failure abandons, and that was reported above.
        Err(FetchFailure::Abandoned) => return fail(Code::ImageUnfetched, "abandoned".to_owned()),
    }
    if let Err(error) = unpacked {
        return fail(Code::ImageInvalid, format!("decompression: {error}"));
    }
    match extracted {
        Ok(()) => Ok(()),
        Err(error) => fail(Code::ImageInvalid, error.to_string()),
    }
}
