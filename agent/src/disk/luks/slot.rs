//! Key slots: the volume key, spread over many sectors and encrypted under a passphrase.

use super::{CIPHER, KEY, Random, VolumeKey, bytes, number};
use aes::Aes256;
use aes::cipher::KeyInit as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io;
use xts_mode::{Xts128, get_tweak_default};
use zeroize::{Zeroize as _, Zeroizing};

/// Pieces the volume key is spread over (§2.3.2), as `cryptsetup` does: all of them are needed to have it.
const STRIPES: usize = 4000;
/// Bytes of a slot on the disk that are used, and those reserved.
pub(super) const LENGTH: usize = KEY * STRIPES;
const AREA: usize = LENGTH.next_multiple_of(4096);
/// Bytes that are encrypted as one in a slot, whatever the disk.
const SECTOR: usize = 512;
/// Rounds of PBKDF2 in what is made here: the fewest that `cryptsetup` accepts.
const ROUNDS: u32 = 1000;
/// Most rounds of slots and digests that others made: some seconds.
const ROUNDS_MAX: u64 = 20_000_000;
/// Bytes of a salt, and the most that are read.
const SALT: usize = 32;
const SALT_MAX: usize = 256;
/// Bytes of a hash.
const HASH: usize = 32;
/// Where slots may lie at most, in bytes.
const OFFSET_MAX: u64 = 128 << 20;

/// A slot of the only kind that is made here (§3.2).
#[derive(Debug)]
pub(super) struct Slot {
    offset: u64,
    rounds: u32,
    salt: Vec<u8>,
}

impl Slot {
    /// A slot at byte `offset` of the partition from which `passphrase` has the key; with what lies there.
    pub(super) fn make(
        key: &[u8],
        passphrase: &[u8],
        offset: u64,
        random: Random<'_>,
    ) -> io::Result<(Self, Vec<u8>)> {
        let mut salt = vec![0; SALT];
        random(&mut salt)?;
        let slot = Self { offset, rounds: ROUNDS, salt };
        let mut area = split(key, random)?;
        slot.cipher(passphrase).encrypt_area(&mut area, SECTOR, 0, get_tweak_default);
        area.resize(AREA, 0);
        Ok((slot, area))
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "type": "luks2",
            "key_size": KEY,
            "af": {"type": "luks1", "stripes": STRIPES, "hash": "sha256"},
            "area": {
                "type": "raw",
                "offset": self.offset.to_string(),
                "size": AREA.to_string(),
                "encryption": CIPHER,
                "key_size": KEY,
            },
            "kdf": {
                "type": "pbkdf2",
                "hash": "sha256",
                "iterations": self.rounds,
                "salt": STANDARD.encode(&self.salt),
            },
        })
    }

    /// None when it is of another kind.
    pub(super) fn of_json(json: &Value) -> Option<Self> {
        let (af, area, kdf) = (&json["af"], &json["area"], &json["kdf"]);
        let known = json["type"] == "luks2"
            && json["key_size"] == KEY
            && (&af["type"], &af["stripes"], &af["hash"])
                == (&json!("luks1"), &json!(STRIPES), &json!("sha256"))
            && (&area["type"], &area["encryption"]) == (&json!("raw"), &json!(CIPHER))
            && area["key_size"] == KEY
            && number(&area["size"])? >= LENGTH as u64
            && (&kdf["type"], &kdf["hash"]) == (&json!("pbkdf2"), &json!("sha256"));
        let offset = number(&area["offset"]).filter(|offset| *offset <= OFFSET_MAX)?;
        known.then_some(Self { offset, rounds: rounds(kdf)?, salt: bytes(&kdf["salt"], SALT_MAX)? })
    }

    /// Byte of the partition at which it lies.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What `passphrase` makes of the slot's bytes, [`LENGTH`] of them: the volume key, if it is the right one.
    pub(super) fn open(&self, passphrase: &[u8], area: Vec<u8>) -> VolumeKey {
        let mut area = Zeroizing::new(area);
        self.cipher(passphrase).decrypt_area(&mut area, SECTOR, 0, get_tweak_default);
        merge(&area)
    }

    fn cipher(&self, passphrase: &[u8]) -> Xts128<Aes256> {
        let mut key = Zeroizing::new([0; KEY]);
        pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, &self.salt, self.rounds, &mut *key);
        let [mut data, mut tweak] = [[0; KEY / 2]; 2];
        data.copy_from_slice(&key[..KEY / 2]);
        tweak.copy_from_slice(&key[KEY / 2..]);
        let cipher = Xts128::new(Aes256::new(&data.into()), Aes256::new(&tweak.into()));
        data.zeroize();
        tweak.zeroize();
        cipher
    }
}

/// Proves a volume key (§3.5).
pub(super) struct Digest {
    rounds: u32,
    salt: Vec<u8>,
    digest: Vec<u8>,
}

impl Digest {
    pub(super) fn make(key: &[u8], random: Random<'_>) -> io::Result<Self> {
        let mut salt = vec![0; SALT];
        random(&mut salt)?;
        let digest = digest(key, &salt, ROUNDS);
        Ok(Self { rounds: ROUNDS, salt, digest })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "type": "pbkdf2",
            "keyslots": ["0"],
            "segments": ["0"],
            "hash": "sha256",
            "iterations": self.rounds,
            "salt": STANDARD.encode(&self.salt),
            "digest": STANDARD.encode(&self.digest),
        })
    }

    /// None when it is of another kind.
    pub(super) fn of_json(json: &Value) -> Option<Self> {
        let known = (&json["type"], &json["hash"]) == (&json!("pbkdf2"), &json!("sha256"));
        let digest = bytes(&json["digest"], HASH).filter(|digest| known && digest.len() == HASH)?;
        Some(Self { rounds: rounds(json)?, salt: bytes(&json["salt"], SALT_MAX)?, digest })
    }

    pub(super) fn proves(&self, key: &[u8]) -> bool {
        digest(key, &self.salt, self.rounds) == self.digest
    }
}

fn digest(key: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
    let mut digest = vec![0; HASH];
    pbkdf2::pbkdf2_hmac::<Sha256>(key, salt, rounds, &mut digest);
    digest
}

fn rounds(json: &Value) -> Option<u32> {
    let rounds = json["iterations"].as_u64().filter(|rounds| (1..=ROUNDS_MAX).contains(rounds))?;
    u32::try_from(rounds).ok()
}

/// Spreads a key (LUKS1 On-Disk Format §2.4, `AFsplit`): pieces of random bytes, and a last one that gives the key
/// together with all of them.
fn split(key: &[u8], random: Random<'_>) -> io::Result<Vec<u8>> {
    let mut pieces = vec![0; key.len() * STRIPES];
    let last = key.len() * (STRIPES - 1);
    random(&mut pieces[..last])?;
    let mixed = mix(&pieces[..last], key.len());
    for (piece, (mixed, key)) in pieces[last..].iter_mut().zip(mixed.iter().zip(key)) {
        *piece = mixed ^ key;
    }
    Ok(pieces)
}

/// The key of pieces that [`split`] has made.
fn merge(pieces: &[u8]) -> VolumeKey {
    let (before, last) = pieces.split_at(KEY * (STRIPES - 1));
    let mut key = mix(before, KEY);
    for (byte, last) in key.iter_mut().zip(last) {
        *byte ^= last;
    }
    key
}

/// Adds up pieces of `length` bytes, each sum spread before the next piece is added.
fn mix(pieces: &[u8], length: usize) -> VolumeKey {
    let mut sum: VolumeKey = Zeroizing::new(vec![0; length]);
    for piece in pieces.chunks_exact(length) {
        for (byte, other) in sum.iter_mut().zip(piece) {
            *byte ^= other;
        }
        for (number, block) in sum.chunks_mut(HASH).enumerate() {
            let mut hash = Sha256::new();
            hash.update((number as u32).to_be_bytes());
            hash.update(&*block);
            let hash: [u8; HASH] = hash.finalize().into();
            let length = block.len();
            block.copy_from_slice(&hash[..length]);
        }
    }
    sum
}
