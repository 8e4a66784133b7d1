//! Getting the bytes: resumed after each interruption, hashed as they come.

use super::CHUNK;
use crate::install::Observer;
use kaltstart_protocol::agent_api::ReportState;
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

/// How often progress is published.
const PUBLISH: Duration = Duration::from_millis(200);
/// Longest pause between two looks at whether the job was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(200);

/// Which of an image's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The image itself, as [`Manifest::file`] names it.
    Image,
    /// The list of its chunks.
    List,
}

/// Where an image comes from.
pub trait ImageSource: Sync {
    /// The bytes of a file from `offset` on, up to `end` if there is one. The reader ends there, or where
    /// the file ends; it reports an interrupted or stalled connection as an error, within a time of its own.
    ///
    /// # Errors
    /// Why there are none.
    fn open(&self, part: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError>;

    /// Asks another place from now on, because of `why`; whether there is another one.
    fn elsewhere(&self, _why: &str) -> bool {
        false
    }

    /// Asks the site's servers alone from now on, as what came was wrong; whether any of it came from elsewhere.
    fn distrust(&self, _why: &str) -> bool {
        false
    }
}

/// Why a source gives no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// There is no such image, and asking again will not help (404, 410).
    #[error("not there: {0}")]
    Missing(String),
    /// The image ends before the offset (416).
    #[error("it ends before the offset")]
    PastEnd,
    /// Anything else; asked again.
    #[error("{0}")]
    Transport(String),
}

/// How interruptions are met: after the n-th failure in a row without a byte in between, a pause
/// of a random part of `first` × 2ⁿ, at most `cap`; after `failures_max`, an end.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Failures in a row that are too many.
    pub failures_max: u32,
    /// Upper limit of the first pause.
    pub first: Duration,
    /// Upper limit of all pauses.
    pub cap: Duration,
}

impl Default for Retry {
    /// Some five minutes on average: a server may be restarted meanwhile.
    fn default() -> Self {
        Self { failures_max: 40, first: Duration::from_millis(250), cap: Duration::from_secs(15) }
    }
}

/// Why the image's digest is not known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FetchFailure {
    Cancelled(String),
    Missing(String),
    /// No answer, or none that helps, until the limit: `ImageUnfetched`.
    Unfetched(String),
    /// It ended after so many bytes.
    Truncated(u64),
    TooLong,
    Abandoned,
}

/// Fetches the whole image and hands it on. When nobody takes the pieces any more, it goes on
/// for the digest's sake, until it is abandoned.
pub(crate) fn run(
    manifest: &Manifest,
    getting: Getting<'_>,
    out: SyncSender<Vec<u8>>,
) -> Result<Digest, FetchFailure> {
    let observer = getting.observer;
    let mut stream = getting.whole(Part::Image, manifest.size);
    let mut hash = Sha256::new();
    let mut meter = Meter::new(manifest.size);
    let mut out = Some(out);
    loop {
        let chunk = stream.next_chunk()?;
        if chunk.is_empty() {
            break;
        }
        hash.update(&chunk);
        meter.publish(stream.offset, observer, false);
        if let Some(queue) = &out
            && queue.send(chunk).is_err()
        {
            out = None;
        }
    }
    meter.publish(stream.offset, observer, true);
    Ok(Digest(hash.finalize().into()))
}

/// How bytes are got, and what ends it.
#[derive(Clone, Copy)]
pub(crate) struct Getting<'a> {
    pub(crate) source: &'a dyn ImageSource,
    pub(crate) retry: Retry,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) abandon: &'a AtomicBool,
}

impl<'a> Getting<'a> {
    /// A whole file of `size` bytes.
    pub(crate) fn whole(self, part: Part, size: u64) -> Resuming<'a> {
        Resuming { getting: self, part, offset: 0, size, end: None, open: None, failures: 0 }
    }

    /// Some bytes of a file.
    pub(crate) fn range(self, part: Part, bytes: Range<u64>) -> Resuming<'a> {
        let Range { start, end } = bytes;
        Resuming { getting: self, part, offset: start, size: end, end: Some(end), open: None, failures: 0 }
    }

    fn check(&self) -> Result<(), FetchFailure> {
        if self.abandon.load(Ordering::Relaxed) {
            return Err(FetchFailure::Abandoned);
        }
        self.observer.cancelled().map_or(Ok(()), |reason| Err(FetchFailure::Cancelled(reason)))
    }
}

/// Bytes of a file as one stream over as many connections as it takes.
pub(crate) struct Resuming<'a> {
    getting: Getting<'a>,
    part: Part,
    offset: u64,
    /// Where the stream ends.
    size: u64,
    /// The same, if the file goes on there.
    end: Option<u64>,
    /// The connection, and whether it has given a byte yet.
    open: Option<(Box<dyn Read + Send>, bool)>,
    failures: u32,
}

impl Resuming<'_> {
    /// The next piece; empty at the end.
    pub(crate) fn next_chunk(&mut self) -> Result<Vec<u8>, FetchFailure> {
        self.getting.check()?;
        let size = self.size;
        let mut chunk = vec![0; CHUNK];
        loop {
            let (reader, fruitful) = match &mut self.open {
                Some(open) => (&mut open.0, &mut open.1),
                None => {
                    self.connect()?;
                    continue;
                }
            };
            match reader.read(&mut chunk) {
                Ok(0) if self.offset == size => return Ok(Vec::new()),
                // A fresh connection that is at its end: the image itself is.
                Ok(0) if !*fruitful => {
                    if !self.elsewhere("the file ends there") {
                        return Err(FetchFailure::Truncated(self.offset));
                    }
                }
                Ok(0) => self.failed("the connection ended early")?,
                Ok(n) if self.offset + n as u64 > size => {
                    if !self.elsewhere("the file goes on after its end") {
                        return Err(FetchFailure::TooLong);
                    }
                }
                Ok(n) => {
                    *fruitful = true;
                    self.failures = 0;
                    self.offset += n as u64;
                    chunk.truncate(n);
                    return Ok(chunk);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // All bytes are here; what the connection says now does not matter.
                Err(_) if self.offset == size => return Ok(Vec::new()),
                Err(error) => self.failed(&error.to_string())?,
            }
        }
    }

    fn connect(&mut self) -> Result<(), FetchFailure> {
        match self.getting.source.open(self.part, self.offset, self.end) {
            Ok(reader) => {
                self.open = Some((reader, false));
                Ok(())
            }
            Err(error) if self.elsewhere(&error.to_string()) => Ok(()),
            Err(FetchError::Missing(detail)) => Err(FetchFailure::Missing(detail)),
            Err(FetchError::PastEnd) => Err(FetchFailure::Truncated(self.offset)),
            Err(FetchError::Transport(detail)) => self.pause(&detail),
        }
    }

    /// Goes on at another place, from the same byte; whether there is one. What was in vain counts on: after the last of
    /// the servers the first is asked again.
    fn elsewhere(&mut self, why: &str) -> bool {
        let goes_on = self.getting.source.elsewhere(&format!("byte {}: {why}", self.offset));
        if goes_on {
            self.open = None;
        }
        goes_on
    }

    /// Goes on at another place, or after a pause.
    fn failed(&mut self, detail: &str) -> Result<(), FetchFailure> {
        if self.elsewhere(detail) { Ok(()) } else { self.pause(detail) }
    }

    /// Counts a failure of all places, and waits before the next attempt.
    fn pause(&mut self, detail: &str) -> Result<(), FetchFailure> {
        self.open = None;
        self.failures += 1;
        let retry = self.getting.retry;
        if self.failures >= retry.failures_max {
            let text = format!("{} attempts in a row at byte {}: {detail}", self.failures, self.offset);
            return Err(FetchFailure::Unfetched(text));
        }
        tracing::warn!(offset = self.offset, failures = self.failures, detail, "image interrupted");
        let most = retry.first.saturating_mul(1 << (self.failures - 1).min(16)).min(retry.cap);
        // Full jitter, from the standard library's random hasher: many machines meet one server.
        let random = RandomState::new().hash_one(self.offset) as u32;
        let until = Instant::now() + most.mul_f64(f64::from(random) / f64::from(u32::MAX));
        loop {
            self.getting.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(CANCEL_POLL));
        }
    }
}

/// Publishes bytes and rate, not too often.
pub(crate) struct Meter {
    total: u64,
    start: Instant,
    last: Option<Instant>,
}

impl Meter {
    pub(crate) fn new(total: u64) -> Self {
        Self { total, start: Instant::now(), last: None }
    }

    pub(crate) fn publish(&mut self, done: u64, observer: &dyn Observer, always: bool) {
        let now = Instant::now();
        if !always && self.last.is_some_and(|last| now - last < PUBLISH) {
            return;
        }
        self.last = Some(now);
        let seconds = (now - self.start).as_secs_f64();
        let mut detail = BTreeMap::new();
        if seconds > 0.0 {
            let rate = done as f64 / seconds;
            detail.insert("rate_bytes_per_second".to_owned(), format!("{rate:.0}"));
        }
        let progress = Progress { done, total: self.total, unit: Unit::Bytes };
        observer.phase(Phase::Image, ReportState::Running, Some(progress), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::image::{Boot, Compression, Format};
    use proptest::prelude::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::sync_channel;

    /// A server whose connections each break after a number of bytes.
    struct Breaking {
        bytes: Vec<u8>,
        breaks: Mutex<Vec<usize>>,
        clean: bool,
    }

    struct Piece {
        bytes: Vec<u8>,
        at: usize,
        broken: bool,
    }

    impl Read for Piece {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = into.len().min(self.bytes.len() - self.at);
            into[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
            self.at += n;
            if n == 0 && self.broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(n) }
        }
    }

    impl ImageSource for Breaking {
        fn open(&self, _: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
            let end = end.map_or(self.bytes.len(), |end| end as usize);
            let rest = self.bytes.get(offset as usize..end).ok_or(FetchError::PastEnd)?;
            let limit = self.breaks.lock().expect("lock").pop();
            if limit == Some(0) {
                return Err(FetchError::Transport("refused".into()));
            }
            let bytes = rest[..limit.unwrap_or(rest.len()).min(rest.len())].to_vec();
            let broken = limit.is_some() && !self.clean;
            Ok(Box::new(Piece { bytes, at: 0, broken }))
        }
    }

    struct Quiet(Option<&'static str>);

    impl Observer for Quiet {
        fn phase(&self, _: Phase, _: ReportState, _: Option<Progress>, _: BTreeMap<String, String>) {}
        fn cancelled(&self) -> Option<String> {
            self.0.map(str::to_owned)
        }
    }

    const EAGER: Retry = Retry { failures_max: 5, first: Duration::ZERO, cap: Duration::ZERO };

    fn fetch(
        source: &dyn ImageSource,
        size: u64,
        observer: &dyn Observer,
    ) -> (Result<Digest, FetchFailure>, Vec<u8>) {
        let manifest = Manifest {
            schema: 1,
            name: "x".into(),
            version: "1".into(),
            digest: Digest([0; 32]),
            size,
            unpacked_size: 0,
            format: Format::Tar,
            compression: Compression::None,
            file: "x".into(),
            min_disk: 0,
            boot: Boot {
                kernel: String::new(),
                initrd: String::new(),
                cmdline: String::new(),
                efi: vec![],
                bios: None,
            },
            packages: vec![],
            places: std::collections::BTreeMap::new(),
        };
        let (out, queue) = sync_channel(1000);
        let abandon = AtomicBool::new(false);
        let getting = Getting { source, retry: EAGER, observer, abandon: &abandon };
        let digest = run(&manifest, getting, out);
        (digest, queue.iter().flatten().collect())
    }

    proptest! {
        #[test]
        fn p12_an_interrupted_image_is_resumed_and_whole(
            bytes in prop::collection::vec(any::<u8>(), 1..2000),
            breaks in prop::collection::vec(1usize..300, 0..20),
            clean in any::<bool>(),
        ) {
            let source = Breaking { bytes: bytes.clone(), breaks: Mutex::new(breaks), clean };
            let (digest, got) = fetch(&source, bytes.len() as u64, &Quiet(None));
            prop_assert_eq!(digest, Ok(Digest::of(&bytes)));
            prop_assert_eq!(got, bytes);
        }
    }

    #[test]
    fn p12_a_server_that_stays_away_is_given_up() {
        let source = Breaking { bytes: vec![1; 100], breaks: Mutex::new(vec![0; 5]), clean: false };
        assert!(matches!(fetch(&source, 100, &Quiet(None)).0, Err(FetchFailure::Unfetched(_))));
        // A byte in between starts the count again.
        let breaks = Mutex::new(vec![0, 0, 0, 10, 0, 0, 0, 10]);
        let source = Breaking { bytes: vec![1; 100], breaks, clean: false };
        assert_eq!(fetch(&source, 100, &Quiet(None)).0, Ok(Digest::of(&[1; 100])));
    }

    #[test]
    fn p36_servers_that_all_stay_away_are_given_up() {
        /// Two of them: which is asked, and how often each was.
        #[derive(Default)]
        struct Away(AtomicUsize, [AtomicUsize; 2]);
        impl ImageSource for Away {
            fn open(&self, _: Part, _: u64, _: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
                self.1[self.0.load(Ordering::Relaxed)].fetch_add(1, Ordering::Relaxed);
                Err(FetchError::Transport("refused".into()))
            }
            fn elsewhere(&self, _: &str) -> bool {
                self.0.fetch_xor(1, Ordering::Relaxed) == 0
            }
        }
        let away = Away::default();
        assert!(matches!(fetch(&away, 100, &Quiet(None)).0, Err(FetchFailure::Unfetched(_))));
        assert_eq!(away.1.map(AtomicUsize::into_inner), [5, 5], "all, before each pause");
    }

    #[test]
    fn p11_wrong_lengths_are_noticed() {
        let source = |length| Breaking { bytes: vec![1; length], breaks: Mutex::new(vec![]), clean: true };
        assert_eq!(fetch(&source(99), 100, &Quiet(None)).0, Err(FetchFailure::Truncated(99)));
        assert_eq!(fetch(&source(0), 100, &Quiet(None)).0, Err(FetchFailure::Truncated(0)));
        assert_eq!(fetch(&source(101), 100, &Quiet(None)).0, Err(FetchFailure::TooLong));
    }

    #[test]
    fn p12_some_bytes_of_a_file_are_got_over_interruptions_and_never_more() {
        let bytes: Vec<u8> = (0..100).collect();
        let range = |source: &dyn ImageSource| {
            let abandon = AtomicBool::new(false);
            let getting = Getting { source, retry: EAGER, observer: &Quiet(None), abandon: &abandon };
            let (mut stream, mut got) = (getting.range(Part::Image, 10..60), Vec::new());
            loop {
                match stream.next_chunk() {
                    Ok(piece) if piece.is_empty() => return Ok(got),
                    Ok(piece) => got.extend(piece),
                    Err(failure) => return Err(failure),
                }
            }
        };
        for clean in [true, false] {
            let source = Breaking { bytes: bytes.clone(), breaks: Mutex::new(vec![30, 0, 7]), clean };
            assert_eq!(range(&source), Ok(bytes[10..60].to_vec()));
        }
        struct Deaf(Vec<u8>);
        impl ImageSource for Deaf {
            fn open(&self, _: Part, from: u64, _: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
                Ok(Box::new(io::Cursor::new(self.0[from as usize..].to_vec())))
            }
        }
        assert_eq!(range(&Deaf(bytes)), Err(FetchFailure::TooLong));
    }

    #[test]
    fn a_cancelled_fetch_stops() {
        let source = Breaking { bytes: vec![1; 100], breaks: Mutex::new(vec![]), clean: true };
        let (stopped, got) = fetch(&source, 100, &Quiet(Some("by hand")));
        assert_eq!(stopped, Err(FetchFailure::Cancelled("by hand".into())));
        assert!(got.is_empty());
    }
}
