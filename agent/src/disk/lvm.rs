//! A volume group of LVM 2 on one physical volume, as bytes: label, metadata area and the text in it
//! (`lib/format_text/layout.h`, `lib/label/label.h` and `lib/format_text/export.c` of LVM 2.03).
//!
//! Every logical volume is one run of extents, so that it can be used before any device mapper knows it.

use super::gpt::Guid;
use kaltstart_protocol::layout::group::{DATA_START, EXTENT};
use std::fmt::Write as _;

/// Bytes in which LVM counts.
const SECTOR: u64 = 512;
/// Where the label is: the second sector, whatever those of the disk.
const LABEL_OFFSET: usize = 512;
/// Where the metadata area begins; it reaches to the first extent.
const AREA_OFFSET: usize = 4096;
/// Bytes of the metadata area.
const AREA_SIZE: usize = DATA_START as usize - AREA_OFFSET;
/// Bytes of the area's header; the text follows it.
const AREA_HEADER_SIZE: usize = 512;
/// What an area's header has behind its checksum.
const AREA_MAGIC: [u8; 16] = *b" LVM2 x[5A%r0N*>";
/// Start of LVM's checksums, which are CRC-32 without the last inversion.
const CHECKSUM_START: u32 = 0xF597_A6CF;

/// A volume group.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its identity.
    pub id: Guid,
    /// Identity of the physical volume.
    pub physical: Guid,
    /// Bytes of the physical volume.
    pub bytes: u64,
    /// The host that it is made for.
    pub host: &'a str,
    /// When it is made, in seconds since 1970.
    pub created: u64,
    /// Its logical volumes, in the order they lie in.
    pub volumes: &'a [Logical<'a>],
}

/// A logical volume.
#[derive(Debug, Clone, Copy)]
pub struct Logical<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its identity.
    pub id: Guid,
    /// How many extents it has. The first volume begins with the first extent, every other behind its
    /// predecessor.
    pub extents: u64,
}

/// The first bytes of the physical volume; none when the text is larger than the metadata area, which
/// has room for thousands of volumes.
#[must_use]
pub fn encode(group: &Group<'_>) -> Option<Vec<u8>> {
    let mut text = text(group).into_bytes();
    text.push(0);
    // LVM writes the next text behind this one, and goes around at the end.
    if text.len() > (AREA_SIZE - AREA_HEADER_SIZE) / 2 {
        return None;
    }
    let mut bytes = vec![0; AREA_OFFSET];
    bytes[LABEL_OFFSET..LABEL_OFFSET + SECTOR as usize].copy_from_slice(&label(group));
    bytes.extend(area_header(&text));
    bytes.extend(text);
    Some(bytes)
}

/// The sector by which LVM knows a physical volume.
fn label(group: &Group<'_>) -> Vec<u8> {
    const HEADER_SIZE: u32 = 32;
    let place = |offset: u64, size: u64| [offset, size].map(u64::to_le_bytes).concat();
    let end = || place(0, 0);
    let content = [
        HEADER_SIZE.to_le_bytes().to_vec(),
        b"LVM2 001".to_vec(),
        digits(group.physical).into_bytes(),
        group.bytes.to_le_bytes().to_vec(),
        // One area of data, without an end of its own; one of metadata.
        [place(DATA_START, 0), end()].concat(),
        [place(AREA_OFFSET as u64, AREA_SIZE as u64), end()].concat(),
        // The extension (version 2): in use by a group, and no area for boot loaders.
        [2_u32, 1].map(u32::to_le_bytes).concat(),
        end(),
    ];
    let mut content = content.concat();
    content.resize(SECTOR as usize - 20, 0);
    [
        b"LABELONE".to_vec(),
        (LABEL_OFFSET as u64 / SECTOR).to_le_bytes().to_vec(),
        checksum(&content).to_le_bytes().to_vec(),
        content,
    ]
    .concat()
}

/// The header of the metadata area: where the text is that counts.
fn area_header(text: &[u8]) -> Vec<u8> {
    let content = [
        AREA_MAGIC.to_vec(),
        1_u32.to_le_bytes().to_vec(),
        [AREA_OFFSET as u64, AREA_SIZE as u64].map(u64::to_le_bytes).concat(),
        [AREA_HEADER_SIZE as u64, text.len() as u64].map(u64::to_le_bytes).concat(),
        checksum(text).to_le_bytes().to_vec(),
    ];
    let mut content = content.concat();
    content.resize(AREA_HEADER_SIZE - 4, 0);
    [checksum(&content).to_le_bytes().to_vec(), content].concat()
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!CHECKSUM_START);
    hasher.update(bytes);
    !hasher.finalize()
}

/// An identity without dashes: as the label has it. LVM takes any letters and digits.
fn digits(id: Guid) -> String {
    id.0.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// An identity as the text has it: in groups of 6, 4, 4, 4, 4, 4 and 6.
fn dashed(id: Guid) -> String {
    let digits = digits(id);
    let mut rest = digits.as_str();
    let mut groups = Vec::new();
    for length in [6, 4, 4, 4, 4, 4, 6] {
        let (group, others) = rest.split_at(length);
        groups.push(group);
        rest = others;
    }
    groups.join("-")
}

/// The text that describes the group. Names are those that layouts may have, and need no escapes; nor do
/// host names.
fn text(group: &Group<'_>) -> String {
    let Group { name, id, physical, bytes, host, created, volumes } = group;
    let mut text = format!(
        "{name} {{\n\
         id = \"{id}\"\n\
         seqno = 1\n\
         format = \"lvm2\"\n\
         status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\n\
         flags = []\n\
         extent_size = {extent}\n\
         max_lv = 0\n\
         max_pv = 0\n\
         metadata_copies = 0\n\
         \n\
         physical_volumes {{\n\
         pv0 {{\n\
         id = \"{physical}\"\n\
         status = [\"ALLOCATABLE\"]\n\
         flags = []\n\
         dev_size = {size}\n\
         pe_start = {start}\n\
         pe_count = {count}\n\
         }}\n\
         }}\n\
         \n\
         logical_volumes {{\n",
        id = dashed(*id),
        extent = EXTENT / SECTOR,
        physical = dashed(*physical),
        size = bytes / SECTOR,
        start = DATA_START / SECTOR,
        count = bytes.saturating_sub(DATA_START) / EXTENT,
    );
    let mut first = 0;
    for Logical { name, id, extents } in *volumes {
        let _ = write!(
            text,
            "{name} {{\n\
             id = \"{id}\"\n\
             status = [\"READ\", \"WRITE\", \"VISIBLE\"]\n\
             flags = []\n\
             creation_time = {created}\n\
             creation_host = \"{host}\"\n\
             segment_count = 1\n\
             segment1 {{\n\
             start_extent = 0\n\
             extent_count = {extents}\n\
             type = \"striped\"\n\
             stripe_count = 1\n\
             stripes = [\n\"pv0\", {first}\n]\n\
             }}\n\
             }}\n",
            id = dashed(*id),
        );
        first += extents;
    }
    let _ = write!(
        text,
        "}}\n\
         }}\n\
         contents = \"Text Format Volume Group\"\n\
         version = 1\n\
         description = \"Kaltstart\"\n\
         creation_host = \"{host}\"\n\
         creation_time = {created}\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    /// Runs one of LVM's programs on that device alone, without its usual configuration.
    fn lvm(device: &str, arguments: &[&str]) -> String {
        let config =
            "devices { use_devicesfile = 0 } global { use_lvmpolld = 0 } activation { udev_sync = 0 }";
        let (program, rest) = arguments.split_first().expect("a program");
        let output = Command::new(program)
            .args(["--config", config, "--devices", device])
            .args(rest)
            .output()
            .expect("lvm2 is installed");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn id(n: u128) -> Guid {
        Guid::from_u128(0xAB_CDEF_0123_0000 << 64 | n)
    }

    fn group<'a>(bytes: u64, volumes: &'a [Logical<'a>]) -> Group<'a> {
        Group {
            name: "system",
            id: id(1),
            physical: id(2),
            bytes,
            host: "node7.lab.example",
            created: 1_800_000_000,
            volumes,
        }
    }

    #[test]
    fn the_tools_of_lvm_read_it_and_find_nothing_wrong() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root for loop devices");
            return;
        }
        let bytes: u64 = (256 << 20) + (3 << 20);
        let volumes = [("root", 10), ("var-log", 1), ("swap", 53)];
        let volumes = volumes.map(|(name, extents)| Logical { name, id: id(extents.into()), extents });
        for sector in ["512", "4096"] {
            let file = tempfile::NamedTempFile::new().expect("a file");
            file.as_file().set_len(bytes).expect("sparse");
            let head = encode(&group(bytes, &volumes)).expect("it fits");
            file.as_file().write_all_at(&head, 0).expect("written");
            let path = file.path().to_str().expect("a path");
            let output = Command::new("losetup")
                .args(["--find", "--show", "--sector-size", sector, path])
                .output()
                .expect("losetup");
            let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let _attached = Attached(device.clone());

            lvm(&device, &["pvck", &device]);
            lvm(&device, &["vgck", "system"]);
            let told = lvm(
                &device,
                &[
                    "vgs",
                    "--noheadings",
                    "--units",
                    "m",
                    "-o",
                    "vg_name,vg_uuid,pv_count,lv_count,vg_extent_size,vg_free_count",
                ],
            );
            let words: Vec<&str> = told.split_whitespace().collect();
            let uuid = dashed(id(1));
            assert_eq!(words, ["system", uuid.as_str(), "1", "3", "4.00m", "0"], "{sector}");
            let told = lvm(
                &device,
                &[
                    "lvs",
                    "--noheadings",
                    "--units",
                    "m",
                    "-o",
                    "lv_name,lv_size,seg_pe_ranges",
                    "--sort",
                    "lv_size",
                    "system",
                ],
            );
            let words: Vec<&str> = told.split_whitespace().collect();
            let range = |from: u64, to: u64| format!("{device}:{from}-{to}");
            let ranges = [range(0, 9), range(10, 10), range(11, 63)];
            let want =
                ["var-log", "4.00m", &ranges[1], "root", "40.00m", &ranges[0], "swap", "212.00m", &ranges[2]];
            assert_eq!(words, want, "{sector}");
            // They can change it: what they write next counts.
            lvm(&device, &["vgrename", "system", "renamed"]);
            lvm(&device, &["vgck", "renamed"]);
        }
    }

    /// A loop device, detached on drop.
    struct Attached(String);

    impl Drop for Attached {
        fn drop(&mut self) {
            let detached = Command::new("losetup").args(["--detach", &self.0]).status();
            assert!(detached.is_ok_and(|status| status.success()) || std::thread::panicking());
        }
    }

    #[test]
    fn a_group_that_the_metadata_area_cannot_hold_is_none() {
        let volume = Logical { name: "volume", id: id(9), extents: 1 };
        assert!(encode(&group(1 << 40, &[volume; 1000])).is_some());
        assert!(encode(&group(1 << 40, &[volume; 3000])).is_none());
    }
}
