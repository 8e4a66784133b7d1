//! LUKS2 headers as bytes (LUKS2 On-Disk Format Specification 1.1): made, read, and opened with a passphrase.
//!
//! | module | subject |
//! |---|---|
//! | this | the two copies of the header: binary part, JSON, checksum |
//! | [`slot`] | the key slot that holds the volume key, and the digest that proves it |
//!
//! The passphrase is a random key of the server's with 256 bits of its own, so nobody gains by guessing and slow key
//! derivation would protect nothing: PBKDF2 runs with the fewest rounds that `cryptsetup` accepts, and needs no
//! memory, of which a ramdisk may have little. Slots that people add with `cryptsetup` stay theirs.

mod slot;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use slot::{Digest, Slot};
use std::io;
use std::ops::Range;
use zeroize::Zeroizing;

/// Where data begins, in bytes: header, its copy and room for the slots of as many keys as LUKS2 takes.
pub const DATA_OFFSET: u64 = 16 << 20;
/// Bytes of a volume key: two keys of AES-256, for XTS (IEEE 1619).
const KEY: usize = 64;
/// The cipher, as `dm-crypt` calls it. `plain64`: sectors are numbered from the start of the data.
const CIPHER: &str = "aes-xts-plain64";

/// Bytes of the binary part, of all of a header as it is made, and of the largest that may be (§2.1, §2.2).
const BINARY: usize = 4096;
const SIZE: usize = 16 << 10;
const SIZE_MAX: usize = 4 << 20;
/// What the first and the second header begin with.
const MAGIC: [&[u8; 6]; 2] = [b"LUKS\xba\xbe", b"SKUL\xba\xbe"];
/// Fields of the binary part.
const VERSION: Range<usize> = 6..8;
const HEADER_SIZE: Range<usize> = 8..16;
const SEQUENCE: Range<usize> = 16..24;
const LABEL: Range<usize> = 24..72;
const CHECKSUM_KIND: Range<usize> = 72..104;
const SALT: Range<usize> = 104..168;
const UUID: Range<usize> = 168..208;
const OFFSET: Range<usize> = 256..264;
const CHECKSUM: Range<usize> = 448..512;
/// Numbers that tokens may have.
const TOKENS: Range<u32> = 0..32;

/// The key that data is encrypted with. It is overwritten when it goes.
pub type VolumeKey = Zeroizing<Vec<u8>>;

/// Fills a buffer with random bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> io::Result<()>;

/// The header of a partition.
#[derive(Debug, Clone)]
pub struct Header {
    binary: Vec<u8>,
    json: Value,
    size: usize,
}

/// A partition that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Byte at which data begins.
    pub offset: u64,
    /// Bytes that are encrypted as one.
    pub sector_size: u32,
    /// The cipher, as `dm-crypt` calls it.
    pub cipher: String,
    /// Its key.
    pub key: VolumeKey,
}

/// Why a partition stays closed.
#[derive(Debug, thiserror::Error)]
pub enum Locked {
    /// Neither copy of the header is whole.
    #[error("it has no LUKS2 header that is whole")]
    NoHeader,
    /// It is encrypted in a way that is not made here.
    #[error("its header has {0} that this agent does not know")]
    Unknown(&'static str),
    /// No slot opens.
    #[error("the key opens none of its slots")]
    WrongKey,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// A new partition's header.
#[derive(Debug)]
pub struct New {
    /// What to write where, in this order: byte of the partition, and bytes.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// What its data is encrypted with.
    pub opened: Opened,
}

/// Makes the header of a partition with that UUID and label, whose `passphrase` opens it, and a volume key of its own.
/// Data is encrypted in pieces of `sector_size` bytes, 512 or 4096.
///
/// # Errors
/// When there are no random bytes.
pub fn make(
    uuid: &str,
    label: &str,
    sector_size: u32,
    passphrase: &[u8],
    random: Random<'_>,
) -> io::Result<New> {
    // Whatever the machine's own randomness is worth so soon after power-on, the server's is in it.
    let mut seed = Zeroizing::new([0; 64]);
    random(&mut *seed)?;
    let mut key: VolumeKey = Zeroizing::new(vec![0; KEY]);
    pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, &*seed, 1, &mut key);

    let (slot, area) = Slot::make(&key, passphrase, SIZE as u64 * 2, random)?;
    let digest = Digest::make(&key, random)?;
    let slots = DATA_OFFSET - 2 * SIZE as u64;
    let json = json!({
        "keyslots": {"0": slot.to_json()},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt",
            "offset": DATA_OFFSET.to_string(),
            "size": "dynamic",
            "iv_tweak": "0",
            "encryption": CIPHER,
            "sector_size": sector_size,
        }},
        "digests": {"0": digest.to_json()},
        "config": {
            "json_size": (SIZE - BINARY).to_string(),
            "keyslots_size": slots.to_string(),
            // What is freed may be told to the disk, as without encryption.
            "flags": ["allow-discards"],
        },
    });
    let mut binary = vec![0; BINARY];
    binary[VERSION].copy_from_slice(&2_u16.to_be_bytes());
    binary[HEADER_SIZE].copy_from_slice(&(SIZE as u64).to_be_bytes());
    put(&mut binary[LABEL], label.get(..label.floor_char_boundary(LABEL.len() - 1)).unwrap_or_default());
    put(&mut binary[CHECKSUM_KIND], "sha256");
    put(&mut binary[UUID], uuid);
    let mut header = Header { binary, json, size: SIZE };
    let mut writes = vec![(2 * SIZE as u64, area)];
    writes.extend(header.next(random)?);
    let opened = Opened { offset: DATA_OFFSET, sector_size, cipher: CIPHER.into(), key };
    Ok(New { writes, opened })
}

impl Header {
    /// Reads the newest header that is whole. `read` fills a buffer from a byte of the partition on.
    ///
    /// # Errors
    /// [`Locked::NoHeader`], [`Locked::Read`].
    pub fn read(read: &dyn Fn(u64, &mut [u8]) -> io::Result<()>) -> Result<Self, Locked> {
        let at = |start: usize, second: bool| -> Result<Option<Self>, Locked> {
            let mut bytes = vec![0; BINARY];
            read(start as u64, &mut bytes)?;
            let Some(size) = size(&bytes, start, second) else { return Ok(None) };
            bytes.resize(size, 0);
            read((start + BINARY) as u64, &mut bytes[BINARY..])?;
            Ok(Self::parse(&bytes))
        };
        let first = at(0, false)?;
        let places = first.as_ref().map_or(SIZE..SIZE_MAX, |first| first.size..first.size);
        // Where the first is broken, the second is at one of a few places (§2.2).
        let mut place = places.start;
        let mut second = None;
        while second.is_none() && place <= places.end {
            second = at(place, true)?;
            place *= 2;
        }
        first.into_iter().chain(second).max_by_key(Self::sequence).ok_or(Locked::NoHeader)
    }

    /// The header in `bytes`, which are all of it and begin as one.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (binary, area) = bytes.split_at_checked(BINARY)?;
        if checksum(bytes).as_slice() != &binary[CHECKSUM][..32] {
            return None;
        }
        let text = area.split(|byte| *byte == 0).next()?;
        let json = serde_json::from_slice(text).ok()?;
        Some(Self { binary: binary.to_vec(), json, size: bytes.len() })
    }

    /// Its UUID.
    #[must_use]
    pub fn uuid(&self) -> String {
        text(&self.binary[UUID])
    }

    fn sequence(&self) -> u64 {
        self.binary[SEQUENCE].try_into().map_or(0, u64::from_be_bytes)
    }

    /// The next version of it: what to write where, first and second copy. With a power cut between the two one of
    /// them is whole, the newer one if both are.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn next(&mut self, random: Random<'_>) -> io::Result<[(u64, Vec<u8>); 2]> {
        let sequence = self.sequence() + 1;
        self.binary[SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
        let mut copies = [(0, Vec::new()), (self.size as u64, Vec::new())];
        for ((start, bytes), magic) in copies.iter_mut().zip(MAGIC) {
            bytes.clone_from(&self.binary);
            bytes[..6].copy_from_slice(magic);
            bytes[OFFSET].copy_from_slice(&start.to_be_bytes());
            // So that no two headers are alike in every byte.
            random(&mut bytes[SALT])?;
            bytes.extend(self.json.to_string().as_bytes());
            if bytes.len() >= self.size {
                return Err(io::Error::other("the header has no room left"));
            }
            bytes.resize(self.size, 0);
            let sum = checksum(bytes);
            bytes[CHECKSUM].fill(0);
            bytes[CHECKSUM][..32].copy_from_slice(&sum);
        }
        Ok(copies)
    }

    /// Opens the partition. Slots of other kinds, as people add them, are passed over.
    ///
    /// # Errors
    /// See [`Locked`].
    pub fn open(
        &self,
        passphrase: &[u8],
        read: &dyn Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Opened, Locked> {
        let segments = self.json["segments"].as_object().ok_or(Locked::Unknown("segments"))?;
        let (1, Some(segment)) = (segments.len(), segments.get("0")) else {
            return Err(Locked::Unknown("segments"));
        };
        let offset = number(&segment["offset"]).ok_or(Locked::Unknown("an offset"))?;
        let sector_size = segment["sector_size"].as_u64().and_then(|size| u32::try_from(size).ok());
        let sector_size = sector_size.filter(|size| [512, 1024, 2048, 4096].contains(size));
        let sector_size = sector_size.ok_or(Locked::Unknown("a sector size"))?;
        if segment["type"] != "crypt" || segment["encryption"] != CIPHER || segment["iv_tweak"] != "0" {
            return Err(Locked::Unknown("a cipher"));
        }
        let digest = Digest::of_json(&self.json["digests"]["0"]).ok_or(Locked::Unknown("a digest"))?;
        let slots = self.json["keyslots"].as_object().into_iter().flatten();
        for slot in slots.filter_map(|(_, json)| Slot::of_json(json)) {
            let mut area = vec![0; slot::LENGTH];
            read(slot.offset(), &mut area)?;
            let key = slot.open(passphrase, area);
            if digest.proves(&key) {
                return Ok(Opened { offset, sector_size, cipher: CIPHER.into(), key });
            }
        }
        Err(Locked::WrongKey)
    }

    /// The token of that type.
    #[must_use]
    pub fn token(&self, kind: &str) -> Option<&Value> {
        self.json["tokens"].as_object()?.values().find(|token| token["type"] == kind)
    }

    /// Keeps a token, in place of the one of the same type: an object with `type` and `keyslots`.
    ///
    /// # Errors
    /// When all numbers are taken.
    pub fn keep_token(&mut self, token: Value) -> io::Result<()> {
        let tokens = self.json["tokens"].as_object_mut().ok_or(io::ErrorKind::InvalidData)?;
        tokens.retain(|_, other| other["type"] != token["type"]);
        let mut free = TOKENS.map(|number| number.to_string()).filter(|number| !tokens.contains_key(number));
        let number = free.next().ok_or_else(|| io::Error::other("the header has no free token"))?;
        tokens.insert(number, token);
        Ok(())
    }
}

/// The size of the header whose binary part is `bytes`; none when it is none of a header at `start`.
fn size(bytes: &[u8], start: usize, second: bool) -> Option<usize> {
    let word = |range: Range<usize>| Some(u64::from_be_bytes(bytes.get(range)?.try_into().ok()?));
    let size = usize::try_from(word(HEADER_SIZE)?).ok()?;
    let known = bytes.starts_with(MAGIC[usize::from(second)])
        && bytes[VERSION] == [0, 2]
        && text(&bytes[CHECKSUM_KIND]) == "sha256"
        && word(OFFSET)? == start as u64
        && (!second || size == start);
    (known && size.is_power_of_two() && (SIZE..=SIZE_MAX).contains(&size)).then_some(size)
}

/// The checksum of a header (§2.1): that of all of it, with zeros where the checksum stands.
fn checksum(bytes: &[u8]) -> [u8; 32] {
    let (before, rest) = bytes.split_at(CHECKSUM.start);
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update([0; CHECKSUM.end - CHECKSUM.start]);
    hash.update(&rest[CHECKSUM.len()..]);
    hash.finalize().into()
}

/// The text in a field, up to its first zero.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn put(field: &mut [u8], text: &str) {
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// A number of 64 bits, which stands between quotes (§3.1).
fn number(json: &Value) -> Option<u64> {
    json.as_str()?.parse().ok()
}

/// Bytes in base64 in a header; none when they are more than `max`.
fn bytes(json: &Value, max: usize) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(json.as_str()?).ok()?;
    (bytes.len() <= max).then_some(bytes)
}

#[cfg(test)]
mod tests;
