//! Archives of root file systems, read entry by entry. What is copied is copied as it is: no attribute is
//! lost that only another program would understand.

use super::pack::Hashed;
use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use kaltstart_protocol::image::places::{Places, place};
use kaltstart_protocol::image::{Boot, Compression};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, Write};
use tar_core::EntryType;
use tar_core::parse::{Limits, ParseEvent, Parser};

/// Bytes of a tar block.
const BLOCK: u64 = 512;
/// Largest zstd window accepted, as a power of two; agents accept the same.
const ZSTD_WINDOW_LOG_MAX: u32 = 31;
/// More places are not told: agents and servers read all of a manifest.
const PLACES_MAX: usize = 1000;
/// As many symbolic links are followed in one path.
const LINKS_MAX: usize = 40;

/// How a file is compressed, by its first bytes.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn compression(file: &File) -> io::Result<Compression> {
    let mut magic = [0; 4];
    let read = io::Read::by_ref(&mut &*file).take(4).read(&mut magic)?;
    (&*file).rewind()?;
    Ok(match &magic[..read] {
        [0x28, 0xB5, 0x2F, 0xFD] => Compression::Zstd,
        [0x1F, 0x8B, ..] => Compression::Gzip,
        _ => Compression::None,
    })
}

/// The decompressed bytes of `from`.
///
/// # Errors
/// When zstd cannot be set up.
pub(super) fn plain<'a>(compression: Compression, from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(from),
        Compression::Gzip => Box::new(MultiGzDecoder::new(from)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(from)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// What an entry is, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// Another name of the file with this path.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    /// Anything with contents or none.
    Other,
}

/// An entry without its contents.
#[derive(Debug)]
pub(super) struct Head {
    /// Its name: without `.`, and without slashes at the ends; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Bytes of its contents.
    pub(super) size: u64,
    /// All its headers as they stand in the archive.
    pub(super) raw: Vec<u8>,
}

/// An archive, read from its beginning to its end.
pub(super) struct Archive<R> {
    from: R,
    parser: Parser,
    buffer: Vec<u8>,
    /// Bytes of the last entry's contents and padding that were not taken yet.
    left: u64,
    /// Bytes read in all.
    read: u64,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, parser: Parser::new(Limits::default()), buffer: Vec::new(), left: 0, read: 0 }
    }

    /// The next entry; none at the end, which is the end of the stream too.
    ///
    /// # Errors
    /// When it is no archive, ends in its middle, or has a name that leads out of its root.
    pub(super) fn next(&mut self) -> Result<Option<Head>> {
        self.copy_contents(&mut io::sink())?;
        loop {
            let (consumed, entry, size) = match self.parser.parse(&self.buffer) {
                Ok(ParseEvent::NeedData { min_bytes }) => {
                    self.fill(min_bytes)?;
                    continue;
                }
                Ok(ParseEvent::Entry { consumed, entry }) => {
                    let size = entry.size;
                    (consumed, entry, size)
                }
                Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, .. }) => {
                    let size = sparse_map.iter().try_fold(0u64, |sum, area| sum.checked_add(area.length));
                    (consumed, entry, size.context("a sparse map overflows")?)
                }
                Ok(ParseEvent::GlobalExtensions { consumed, .. }) => {
                    // Agents refuse any but comments; so what is here stays without them.
                    self.buffer.drain(..consumed);
                    continue;
                }
                Ok(ParseEvent::End { .. }) => {
                    self.buffer.clear();
                    self.read += io::copy(&mut self.from, &mut io::sink())?;
                    return Ok(None);
                }
                Err(error) => bail!("it is no archive: {error}"),
            };
            let link = || entry.link_target.as_deref().unwrap_or_default();
            let kind = match entry.entry_type {
                EntryType::Directory => Kind::Directory,
                EntryType::Regular if entry.path.ends_with(b"/") => Kind::Directory,
                EntryType::Link => Kind::HardLink(normal(link())?),
                EntryType::Symlink => Kind::Symlink(link().to_vec()),
                _ => Kind::Other,
            };
            let path = normal(&entry.path)?;
            self.left = size.checked_next_multiple_of(BLOCK).context("a size overflows")?;
            let raw = self.buffer.drain(..consumed).collect();
            return Ok(Some(Head { path, kind, size, raw }));
        }
    }

    /// Copies the contents of the last entry, with their padding.
    ///
    /// # Errors
    /// When they end early, or `to` takes no more.
    pub(super) fn copy_contents(&mut self, to: &mut impl Write) -> Result<()> {
        let buffered = self.buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        to.write_all(&self.buffer[..buffered])?;
        self.buffer.drain(..buffered);
        self.left -= buffered as u64;
        let copied = io::copy(&mut self.from.by_ref().take(self.left), to)?;
        self.read += copied;
        ensure!(copied == self.left, "it ends in its middle");
        self.left = 0;
        Ok(())
    }

    /// Bytes of the whole archive, once it was read to its end.
    pub(super) fn length(&self) -> u64 {
        self.read
    }

    fn fill(&mut self, bytes: usize) -> Result<()> {
        let wanted = bytes.saturating_sub(self.buffer.len()) as u64;
        let read = self.from.by_ref().take(wanted).read_to_end(&mut self.buffer)?;
        self.read += read as u64;
        ensure!(read as u64 == wanted, "it is no archive, or ends in its middle");
        Ok(())
    }
}

/// A name without `.` and superfluous slashes.
fn normal(path: &[u8]) -> Result<Vec<u8>> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.'])).collect();
    ensure!(!parts.contains(&&b".."[..]), "{} leads out of the archive", String::from_utf8_lossy(path));
    Ok(parts.join(&b'/'))
}

/// What lies where in a tree.
#[derive(Debug, Default)]
pub(super) struct Listing(BTreeMap<Vec<u8>, (Kind, u64)>);

impl Listing {
    /// Notes an entry; a later one of the same name replaces it.
    pub(super) fn add(&mut self, head: &Head) {
        self.0.insert(head.path.clone(), (head.kind.clone(), head.size));
    }

    /// Checks that everything is there by which the system starts.
    ///
    /// # Errors
    /// With all that is missing.
    pub(super) fn check(&self, boot: &Boot) -> Result<()> {
        let efi = boot.efi.iter().map(|(from, _)| from);
        let bios = boot.bios.iter().flat_map(|(boot, core)| [boot, core]);
        let wanted = [&boot.kernel, &boot.initrd].into_iter().chain(efi).chain(bios);
        let missing: Vec<&str> = wanted.filter(|path| !self.has_file(path)).map(String::as_str).collect();
        ensure!(
            missing.is_empty(),
            "it has no {}; install what is missing into the tree, or name the right files in --about",
            missing.join(", ")
        );
        Ok(())
    }

    /// Whether `path` leads to a file, over symbolic links as within the tree.
    fn has_file(&self, path: &str) -> bool {
        let mut todo: Vec<Vec<u8>> = parts(path.as_bytes());
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                at.pop();
                continue;
            }
            at.push(part);
            if let Some((Kind::Symlink(target), _)) = self.0.get(&at.join(&b'/')) {
                links += 1;
                if links > LINKS_MAX {
                    return false;
                }
                at.pop();
                if target.starts_with(b"/") {
                    at.clear();
                }
                todo.extend(parts(target));
            }
        }
        matches!(self.0.get(&at.join(&b'/')), Some((Kind::Other | Kind::HardLink(_), _)))
    }

    /// How much lies where; nothing if in too many places.
    pub(super) fn places(&self) -> Places {
        let mut places = Places::new();
        for (path, (_, size)) in self.0.iter().filter(|(_, (kind, size))| *kind == Kind::Other && *size > 0) {
            *places.entry(place(&String::from_utf8_lossy(path))).or_default() += size;
        }
        if places.len() > PLACES_MAX { Places::new() } else { places }
    }
}

/// The parts of a path, the first one last.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.']));
    parts.rev().map(<[u8]>::to_vec).collect()
}

/// What an archive is, besides its bytes.
pub(super) struct Checked {
    pub(super) compression: Compression,
    pub(super) unpacked_size: u64,
    pub(super) places: Places,
}

/// Copies the archive in `source`, compressed or not, and checks it on the way.
///
/// # Errors
/// When it is no archive, or lacks what `boot` names.
pub(super) fn copy(source: &File, boot: &Boot, to: &mut Hashed<impl Write>) -> Result<Checked> {
    let compression = compression(source)?;
    let copying = Copying { from: BufReader::new(source), to };
    let mut archive = Archive::new(plain(compression, copying)?);
    let mut listing = Listing::default();
    while let Some(head) = archive.next()? {
        listing.add(&head);
    }
    listing.check(boot)?;
    Ok(Checked { compression, unpacked_size: archive.length(), places: listing.places() })
}

/// Writes whatever is read.
struct Copying<'a, R, W> {
    from: BufReader<R>,
    to: &'a mut Hashed<W>,
}

impl<R: Read, W: Write> Read for Copying<'_, R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.from.fill_buf()?;
        let n = bytes.len().min(into.len());
        into[..n].copy_from_slice(&bytes[..n]);
        self.to.write_all(&bytes[..n])?;
        self.from.consume(n);
        Ok(n)
    }
}
