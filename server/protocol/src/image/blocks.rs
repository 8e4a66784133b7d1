//! Images that are file systems: which of their bytes are data, and in which chunks they come.
//!
//! What is no data is zeros, and must be zeros on the disk too: file systems rely on it, and nothing of
//! what was there before shall show through.

use super::Manifest;
use crate::ids::Digest;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// Data begins and ends at multiples of this many bytes: the larger sector of disks, and ext4's block.
pub const GRAIN: u64 = 4096;
/// Smallest and largest chunks, in bytes.
pub const CHUNK_SIZES: Range<u64> = 64 << 10..(4 << 20) + 1;
/// Most bytes of a zstd frame, unpacked, that is decompressed beside others. Streams that are made of such
/// frames, each with its size in its header, come out on all cores; others on one.
pub const FRAME: u64 = 1 << 20;
/// Most bytes of a list: some 400,000 chunks.
pub const LIST_MAX: u64 = 32 << 20;
/// What compression may add to a chunk that cannot be compressed, in bytes.
const OVERHEAD_MAX: u64 = 1 << 10;

/// Where the data of a raw image lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataMap {
    /// Offset and length in bytes, in order, without overlap.
    pub data: Vec<(u64, u64)>,
}

/// The file with a [`ChunkList`], beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListFile {
    /// Its name.
    pub file: String,
    /// Its digest, by which it is fetched.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// The chunks of an image, in the order of its bytes, which is that of the file with the stored ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkList {
    /// Bytes of each chunk; the last one may be shorter.
    pub chunk_size: u64,
    /// One for each `chunk_size` bytes of the image; none where they are all zero.
    pub chunks: Vec<Option<Chunk>>,
}

/// A chunk that holds data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk(
    /// Digest of its bytes as they lie on the disk.
    pub Digest,
    /// Bytes as it is stored and sent: one zstd frame.
    pub u64,
);

/// Why a map or list is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlocksError {
    /// The size of the file system is no multiple of [`GRAIN`].
    #[error("a file system of {0} bytes: no multiple of 4096")]
    Size(u64),
    /// An area of a map is empty, crooked, out of order or outside.
    #[error("data of {length} bytes at byte {offset}: not in order, not a multiple of 4096, or outside")]
    Area {
        /// Its first byte.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// Chunks of a size that is no power of two, too small or too large.
    #[error("chunks of {0} bytes")]
    ChunkSize(u64),
    /// The list has more or fewer chunks than the image.
    #[error("{found} chunks, the image has {expected}")]
    Count {
        /// As the list says.
        found: u64,
        /// As the image's size says.
        expected: u64,
    },
    /// A chunk that is stored in no bytes, or in more than compression can give.
    #[error("chunk {0} is stored in {1} bytes")]
    Stored(usize, u64),
    /// The stored chunks are more or fewer bytes than the file.
    #[error("chunks of {found} bytes are stored in a file of {expected}")]
    Sum {
        /// All chunks of the list.
        found: u64,
        /// As the manifest says.
        expected: u64,
    },
}

impl DataMap {
    /// Checks it against the size of its file system.
    ///
    /// # Errors
    /// [`BlocksError::Size`], [`BlocksError::Area`].
    pub fn check(&self, size: u64) -> Result<(), BlocksError> {
        check_size(size)?;
        let mut end = 0;
        for &(offset, length) in &self.data {
            let crooked = (offset | length) % GRAIN != 0 || length == 0 || offset < end;
            match offset.checked_add(length).filter(|end| *end <= size && !crooked) {
                Some(next) => end = next,
                None => return Err(BlocksError::Area { offset, length }),
            }
        }
        Ok(())
    }

    /// The areas between the data, as offset and length: zeros. The map was checked.
    #[must_use]
    pub fn gaps(&self, size: u64) -> Vec<(u64, u64)> {
        let starts = self.data.iter().map(|&(offset, _)| offset).chain([size]);
        let ends = [0].into_iter().chain(self.data.iter().map(|&(offset, length)| offset + length));
        ends.zip(starts).filter(|(end, start)| end < start).map(|(end, start)| (end, start - end)).collect()
    }
}

impl ChunkList {
    /// Checks it against the manifest whose chunks it lists.
    ///
    /// # Errors
    /// See [`BlocksError`].
    pub fn check(&self, manifest: &Manifest) -> Result<(), BlocksError> {
        check_size(manifest.unpacked_size)?;
        if !CHUNK_SIZES.contains(&self.chunk_size) || !self.chunk_size.is_power_of_two() {
            return Err(BlocksError::ChunkSize(self.chunk_size));
        }
        let (found, expected) = (self.chunks.len() as u64, manifest.unpacked_size.div_ceil(self.chunk_size));
        if found != expected {
            return Err(BlocksError::Count { found, expected });
        }
        let mut sum = 0u64;
        for (i, chunk) in self.chunks.iter().enumerate() {
            let Some(Chunk(_, stored)) = chunk else { continue };
            if *stored == 0 || *stored > self.chunk_size + OVERHEAD_MAX {
                return Err(BlocksError::Stored(i, *stored));
            }
            sum += stored;
        }
        if sum == manifest.size {
            return Ok(());
        }
        Err(BlocksError::Sum { found: sum, expected: manifest.size })
    }

    /// Where chunk `i` lies in a file system of `size` bytes: offset and length.
    #[must_use]
    pub fn place(&self, i: usize, size: u64) -> (u64, u64) {
        let offset = i as u64 * self.chunk_size;
        (offset, self.chunk_size.min(size.saturating_sub(offset)))
    }

    /// Which parts of the stored file hold the chunks that `wanted` says: those that lie side by side are
    /// one part, to be fetched at once.
    #[must_use]
    pub fn parts(&self, wanted: impl Fn(usize) -> bool) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut at = 0;
        for (i, chunk) in self.chunks.iter().enumerate() {
            let Some(Chunk(_, stored)) = chunk else { continue };
            if wanted(i) {
                match parts.last_mut().filter(|part| part.stored.end == at) {
                    Some(part) => {
                        part.chunks.push(i);
                        part.stored.end += stored;
                    }
                    None => parts.push(Part { chunks: [i].into(), stored: at..at + stored }),
                }
            }
            at += stored;
        }
        parts
    }
}

/// Chunks that are stored side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which, in order.
    pub chunks: Vec<usize>,
    /// Where they lie in the stored file.
    pub stored: Range<u64>,
}

fn check_size(size: u64) -> Result<(), BlocksError> {
    if size > 0 && size.is_multiple_of(GRAIN) { Ok(()) } else { Err(BlocksError::Size(size)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::places::Places;
    use crate::image::{Boot, Compression, Format};
    use alloc::vec;
    use proptest::prelude::*;

    fn manifest(size: u64, unpacked_size: u64) -> Manifest {
        let file = ListFile { file: "l".into(), digest: Digest::of(b""), size: 1 };
        Manifest {
            schema: 1,
            name: "i".into(),
            version: "1".into(),
            digest: Digest::of(b""),
            size,
            unpacked_size,
            format: Format::Chunked(file),
            compression: Compression::Zstd,
            file: "i".into(),
            min_disk: 0,
            boot: Boot {
                kernel: "/k".into(),
                initrd: "/i".into(),
                cmdline: String::new(),
                efi: Vec::new(),
                bios: None,
            },
            packages: Vec::new(),
            places: Places::new(),
        }
    }

    fn chunk(stored: u64) -> Option<Chunk> {
        Some(Chunk(Digest::of(b""), stored))
    }

    #[test]
    fn p11_maps_that_reach_out_overlap_or_are_crooked_are_refused() {
        let check = |data: &[(u64, u64)]| DataMap { data: data.to_vec() }.check(16 * GRAIN);
        assert_eq!(check(&[(0, GRAIN), (GRAIN, GRAIN), (15 * GRAIN, GRAIN)]), Ok(()));
        for bad in [
            (16 * GRAIN, GRAIN),
            (15 * GRAIN, 2 * GRAIN),
            (GRAIN, 0),
            (GRAIN, 512),
            (512, GRAIN),
            (0, GRAIN),
            (u64::MAX - GRAIN + 1, GRAIN),
        ] {
            assert_eq!(
                check(&[(0, GRAIN), bad]),
                Err(BlocksError::Area { offset: bad.0, length: bad.1 }),
                "{bad:?}"
            );
        }
        for size in [0, 512, GRAIN + 1] {
            assert_eq!(DataMap { data: Vec::new() }.check(size), Err(BlocksError::Size(size)));
        }
    }

    #[test]
    fn p11_lists_that_do_not_fit_their_manifest_are_refused() {
        let size = 64 << 10;
        let list = |chunks: Vec<Option<Chunk>>| ChunkList { chunk_size: size, chunks };
        let good = list(vec![chunk(5), None, chunk(6)]);
        assert_eq!(good.check(&manifest(11, 2 * size + GRAIN)), Ok(()));
        assert_eq!(good.check(&manifest(11, 3 * size)), Ok(()));
        assert_eq!(
            good.check(&manifest(11, 3 * size + GRAIN)),
            Err(BlocksError::Count { found: 3, expected: 4 })
        );
        assert_eq!(good.check(&manifest(12, 3 * size)), Err(BlocksError::Sum { found: 11, expected: 12 }));
        for stored in [0, size + OVERHEAD_MAX + 1, u64::MAX] {
            let bad = list(vec![chunk(stored)]);
            assert_eq!(bad.check(&manifest(stored, size)), Err(BlocksError::Stored(0, stored)));
        }
        for chunk_size in [0, 1, 32 << 10, 3 << 16, 8 << 20] {
            let bad = ChunkList { chunk_size, chunks: Vec::new() };
            assert_eq!(bad.check(&manifest(0, GRAIN)), Err(BlocksError::ChunkSize(chunk_size)));
        }
    }

    #[test]
    fn the_form_of_manifests_is_fixed() {
        let text = |format: &Format| serde_json::to_string(format).expect("JSON");
        assert_eq!(text(&Format::Tar), "\"tar\"");
        let raw = Format::Raw(DataMap { data: vec![(0, 4096)] });
        assert_eq!(text(&raw), "{\"raw\":{\"data\":[[0,4096]]}}");
        let list = ChunkList { chunk_size: 65536, chunks: vec![None, chunk(7)] };
        let text = serde_json::to_string(&list).expect("JSON");
        let digest = Digest::of(b"");
        assert_eq!(text, alloc::format!("{{\"chunk_size\":65536,\"chunks\":[null,[\"{digest}\",7]]}}"));
        assert_eq!(serde_json::from_str::<ChunkList>(&text).expect("reads"), list);
    }

    proptest! {
        #[test]
        fn p11_data_and_gaps_are_the_whole(
            pieces in prop::collection::vec((0u64..5, 1u64..5), 0..20),
            tail in 0u64..5,
        ) {
            let (mut data, mut end) = (Vec::new(), 0);
            for (gap, length) in pieces {
                data.push(((end + gap) * GRAIN, length * GRAIN));
                end += gap + length;
            }
            let size = (end + tail).max(1) * GRAIN;
            let map = DataMap { data };
            prop_assert_eq!(map.check(size), Ok(()));
            let mut all: Vec<(u64, u64)> = map.gaps(size).into_iter().chain(map.data.clone()).collect();
            all.sort_unstable();
            let mut at = 0;
            for (offset, length) in all {
                prop_assert_eq!(offset, at);
                prop_assert!(length > 0);
                at += length;
            }
            prop_assert_eq!(at, size);
        }

        #[test]
        fn p11_parts_hold_what_is_wanted_once_and_in_order(
            stored in prop::collection::vec(prop::option::of(1u64..9), 0..40),
            wanted in prop::collection::vec(any::<bool>(), 40),
        ) {
            let chunks = stored.iter().map(|stored| stored.and_then(chunk)).collect();
            let list = ChunkList { chunk_size: 64 << 10, chunks };
            let parts = list.parts(|i| wanted[i]);
            let got: Vec<usize> = parts.iter().flat_map(|part| part.chunks.clone()).collect();
            let want: Vec<usize> = (0..stored.len()).filter(|&i| stored[i].is_some() && wanted[i]).collect();
            prop_assert_eq!(got, want);
            for part in &parts {
                let before: u64 = stored[..part.chunks[0]].iter().flatten().sum();
                let length: u64 = part.chunks.iter().filter_map(|&i| stored[i]).sum();
                prop_assert_eq!(part.stored.clone(), before..before + length);
            }
            prop_assert!(parts.windows(2).all(|pair| pair[0].stored.end < pair[1].stored.start));
        }
    }
}
