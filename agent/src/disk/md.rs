//! Members of md arrays as bytes: superblock 1.2 (`struct mdp_superblock_1`, `linux/raid/md_p.h`) and the map of
//! what is being written (`struct bitmap_super_s`, `drivers/md/md-bitmap.h`).

use super::gpt::Guid;
use kaltstart_protocol::layout::array::{Array, CHUNK, DATA_OFFSET, Level, data_size};
use kaltstart_protocol::time::Millis;

/// Units of the superblock.
const SECTOR: u64 = 512;
/// Where a superblock of version 1.2 lies in a member, in bytes.
const SUPERBLOCK: u64 = 4096;
/// Bytes of a superblock before the roles of the members.
const HEAD: usize = 256;
/// Members for which there is room, as mdadm has it.
const ROLES: usize = (1024 - HEAD) / 2;
/// The role of a member that is none.
const NO_ROLE: u16 = 0xffff;
/// The superblock has a map (`MD_FEATURE_BITMAP_OFFSET`).
const HAS_BITMAP: u32 = 1;
/// Where the map lies, in sectors behind the superblock: the first whole page.
const BITMAP: u64 = 8;
/// Bytes of data for each bit of the map.
const BITMAP_CHUNK: u32 = 64 << 20;
/// Seconds after which bits of what is written through are cleared.
const BITMAP_DELAY: u32 = 5;
/// How often the array was changed; all members say the same.
const EVENTS: u64 = 1;
/// Each piece lies on two neighbours (`near=2`), as md counts it.
const NEAR_2: u32 = 0x102;

/// One member of an array.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The array's UUID.
    pub array_uuid: Guid,
    /// The array's name, as `host:name`; 32 bytes of it are kept.
    pub name: &'a str,
    /// Level and number of members.
    pub array: Array,
    /// The member's UUID.
    pub uuid: Guid,
    /// Which member it is, from 0.
    pub index: u16,
    /// Bytes of the member.
    pub size: u64,
    /// When the array is made.
    pub now: Millis,
}

/// What to write where in the member, in bytes from its start, besides zeros up to the data. The array counts as in step: what is read later was
/// written to all members before.
#[must_use]
pub fn encode(member: &Member<'_>) -> Vec<(u64, Vec<u8>)> {
    let mut writes = vec![(SUPERBLOCK, superblock(member))];
    if has_bitmap(member.array) {
        writes.push((SUPERBLOCK + BITMAP * SECTOR, bitmap(member)));
    }
    writes
}

/// A map spares what was not being written from being copied anew after a power cut. Without copies there is nothing to compare.
fn has_bitmap(array: Array) -> bool {
    array.level != Level::Raid0
}

fn superblock(member: &Member<'_>) -> Vec<u8> {
    let Member { array_uuid, name, array, uuid, index, size, now } = member;
    let data = data_size(*size) / SECTOR;
    let (level, layout, chunk) = match array.level {
        Level::Raid0 => (0_u32, 0, CHUNK),
        Level::Raid1 => (1, 0, 0),
        Level::Raid10 => (10, NEAR_2, CHUNK),
    };
    let mut bytes = vec![0; HEAD + 2 * ROLES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let seconds = (now.0 / 1000).to_le_bytes();
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(8, &(if has_bitmap(*array) { HAS_BITMAP } else { 0 }).to_le_bytes());
    put(16, &array_uuid.0);
    put(32, &name.as_bytes()[..name.floor_char_boundary(32)]);
    put(64, &seconds);
    put(72, &level.to_le_bytes());
    put(76, &layout.to_le_bytes());
    put(80, &data.to_le_bytes());
    put(88, &((chunk / SECTOR) as u32).to_le_bytes());
    put(92, &array.disks.to_le_bytes());
    put(96, &(if has_bitmap(*array) { BITMAP as u32 } else { 0 }).to_le_bytes());
    put(128, &(DATA_OFFSET / SECTOR).to_le_bytes());
    put(136, &data.to_le_bytes());
    put(144, &(SUPERBLOCK / SECTOR).to_le_bytes());
    put(160, &u32::from(*index).to_le_bytes());
    put(168, &uuid.0);
    put(192, &seconds);
    put(200, &EVENTS.to_le_bytes());
    // Up to where members are in step: everywhere.
    put(208, &u64::MAX.to_le_bytes());
    put(220, &(ROLES as u32).to_le_bytes());
    for (slot, role) in bytes[HEAD..].chunks_exact_mut(2).zip(0_u16..) {
        let role = if u32::from(role) < array.disks { role } else { NO_ROLE };
        slot.copy_from_slice(&role.to_le_bytes());
    }
    let sum = checksum(&bytes);
    bytes[216..220].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The sum of all words, its own being zero (`calc_sb_1_csum`).
fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u64::from(u32::from_le_bytes(*word)));
    let sum: u64 = words.sum();
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// The head of a map with no bit set.
fn bitmap(member: &Member<'_>) -> Vec<u8> {
    let data = data_size(member.size);
    // Copies of a whole are mapped by member, all else by array (`resync_max_sectors`).
    let mapped = if member.array.level == Level::Raid1 { data } else { member.array.capacity(member.size) };
    let reserved = (DATA_OFFSET - SUPERBLOCK) / SECTOR - BITMAP;
    let mut bytes = vec![0; SECTOR as usize];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"bitm");
    put(4, &4_u32.to_le_bytes());
    put(8, &member.array_uuid.0);
    put(24, &EVENTS.to_le_bytes());
    put(32, &EVENTS.to_le_bytes());
    put(40, &(mapped / SECTOR).to_le_bytes());
    put(52, &BITMAP_CHUNK.to_le_bytes());
    put(56, &BITMAP_DELAY.to_le_bytes());
    put(64, &(reserved as u32).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::process::Command;

    const ARRAY: &str = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0";
    const MEMBER: &str = "11111111-2222-4333-8444-555555555555";

    fn mdadm(args: &[&str], file: &Path) -> String {
        let output = Command::new("mdadm").args(args).arg(file).output().expect("mdadm");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {text}");
        text.into_owned()
    }

    fn member(level: Level, disks: u32, index: u16) -> Member<'static> {
        let guid = |text| Guid::parse(text).expect("a UUID");
        Member {
            array_uuid: guid(ARRAY),
            name: "any:root",
            array: Array { level, disks },
            uuid: guid(MEMBER),
            index,
            size: 301 << 20,
            now: Millis(1_800_000_000_000),
        }
    }

    fn file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(301 << 20).expect("sparse");
        file
    }

    #[test]
    fn mdadm_reads_what_is_written() {
        for (level, disks, index, words) in [
            (
                Level::Raid1,
                2,
                1,
                "Raid Level : raid1|Raid Devices : 2|Device Role : Active device 1|Array State : AA ",
            ),
            (
                Level::Raid0,
                3,
                2,
                "Raid Level : raid0|Chunk Size : 512K|Device Role : Active device 2|Array State : AAA ",
            ),
            (
                Level::Raid10,
                4,
                0,
                "Raid Level : raid10|Layout : near=2|Chunk Size : 512K|Array State : AAAA ",
            ),
        ] {
            let file = file();
            for (at, bytes) in encode(&member(level, disks, index)) {
                file.as_file().write_all_at(&bytes, at).expect("written");
            }
            let told = mdadm(&["--examine"], file.path());
            let common = "Version : 1.2|Array UUID : 0f1e2d3c:4b5a4978:8796a5b4:c3d2e1f0|Name : any:root|State : clean|\
                          Device UUID : 11111111:22224333:84445555:55555555|Data Offset : 2048 sectors|\
                          Super Offset : 8 sectors|Avail Dev Size : 614400 sectors (300.00 MiB";
            for word in words.split('|').chain(common.split('|')) {
                assert!(told.contains(word), "{word:?} is not in {told}");
            }
            let checksum = told.lines().find(|line| line.contains("Checksum")).expect("a checksum");
            assert!(checksum.ends_with("- correct"), "{checksum}");
            assert_eq!(told.contains("Internal Bitmap : 8 sectors"), level != Level::Raid0, "{told}");
        }
    }

    #[test]
    fn mdadm_reads_a_map_without_a_bit_set() {
        for (level, disks, mapped) in [(Level::Raid1, 2, "307200"), (Level::Raid10, 4, "614400")] {
            // By itself, as mdadm looks for it in members on block devices alone.
            let file = file();
            file.as_file().write_all_at(&bitmap(&member(level, disks, 0)), 0).expect("written");
            let told = mdadm(&["--examine-bitmap"], file.path());
            let sync = format!("Sync Size : {mapped}");
            for word in ["Version : 4", "UUID : 0f1e2d3c:4b5a4978", "Chunksize : 64 MB", "0 dirty", &sync] {
                assert!(told.contains(word), "{word:?} is not in {told}");
            }
        }
    }
}
