use super::*;
use proptest::prelude::*;
use std::process::Command;

const MIB: usize = 1 << 20;

impl Medium for Vec<u8> {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// What is on a disk of zeros but for `parts`, a line each.
fn on(mib: usize, parts: &[(usize, &[u8])]) -> Vec<String> {
    let mut disk = vec![0; mib * MIB];
    for (offset, bytes) in parts {
        disk[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    lines(&disk, 512)
}

fn lines(disk: &Vec<u8>, sector_size: u32) -> Vec<String> {
    let contents = of_medium(disk, disk.len() as u64, sector_size).expect("read");
    contents.0.iter().map(ToString::to_string).collect()
}

#[test]
fn what_has_magic_bytes_is_recognised_with_its_identity() {
    let id: &[u8] = &[0x11; 16];
    let uuid = "11111111-1111-1111-1111-111111111111";
    for (parts, expected) in [
        (vec![], vec![]),
        (vec![(1080, &[0x53, 0xef][..]), (1128, id), (1144, b"old")], vec![format!("ext2 {uuid} (old)")]),
        (vec![(1080, &[0x53, 0xef]), (1116, &[4]), (1128, id)], vec![format!("ext3 {uuid}")]),
        (vec![(1080, &[0x53, 0xef]), (1120, &[0x40]), (1128, id)], vec![format!("ext4 {uuid}")]),
        (vec![(0, b"XFSB"), (32, id), (108, b"data")], vec![format!("xfs {uuid} (data)")]),
        (vec![(65_600, b"_BHRfS_M"), (65_568, id)], vec![format!("btrfs {uuid}")]),
        (vec![(0, b"LUKS\xba\xbe"), (168, b"1-2-3")], vec!["luks 1-2-3".into()]),
        (vec![(4086, b"SWAPSPACE2"), (1036, id)], vec![format!("swap {uuid}")]),
        (
            vec![(82, b"FAT32   "), (67, &[4, 3, 2, 1]), (71, b"EFI\x07SYS    ")],
            vec!["vfat 0102-0304 (EFI SYS)".into()],
        ),
        (
            vec![(4096, &[0xfc, 0x4e, 0x2b, 0xa9, 1]), (4112, id), (4128, b"h:0")],
            vec![format!("md {uuid} (h:0)")],
        ),
        (
            vec![(4 * MIB - 8192, &[0xfc, 0x4e, 0x2b, 0xa9, 1]), (4 * MIB - 8176, id)],
            vec![format!("md {uuid}")],
        ),
        (vec![(512, b"LABELONE")], vec!["lvm".into()]),
        (vec![(MIB, &[0x0d, 0xd0, 0x01, 0xc0]), (MIB + 130, id)], vec![format!("vmfs {uuid}")]),
        (vec![(133 << 10, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0])], vec!["zfs".into()]),
        (vec![(0, b"bluestore block device\n12-34\n")], vec!["ceph 12-34".into()]),
        (vec![(4 * MIB - 512, b"\xde\x11\xde\x11")], vec!["ddf-raid".into()]),
        (vec![(700, b"?")], vec!["data".into()]),
        (vec![(4 * MIB - 1, b"?")], vec!["data".into()]),
    ] {
        assert_eq!(on(4, &parts), expected, "{parts:?}");
    }
    assert!(lines(&vec![0xff; 4 * MIB], 512).is_empty(), "erased flash");
}

#[test]
fn a_medium_that_cannot_be_read_is_not_blank() {
    struct Bad;
    impl Medium for Bad {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    assert!(of_medium(&Bad, 1 << 30, 512).is_err());
    assert!(of_device(Path::new("/nonexistent"), 1 << 20, 512).is_err());
}

/// A file of `mib` MiB, worked on by programs; the last argument of each is the file's path.
fn made(mib: u64, programs: &[&[&str]]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(mib << 20).expect("grown");
    for words in programs {
        let output =
            Command::new(words[0]).args(&words[1..]).arg(file.path()).output().expect("the program runs");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::read(file.path()).expect("read")
}

const ID: &str = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0";

#[test]
fn tables_are_read_with_what_is_in_their_partitions() {
    let gpt: &[&str] = &[
        "sgdisk",
        "-U",
        ID,
        "-n",
        "1:2048:+1M",
        "-n",
        "5:0:+4M",
        "-t",
        "5:8300",
        "-c",
        "5:daten größe",
        "-u",
        "1:1e1e1e1e-0000-4000-8000-000000000001",
        "-u",
        "5:1e1e1e1e-0000-4000-8000-000000000005",
    ];
    let offset = format!("offset={}", 4096 * 512);
    let ext: &[&str] = &["mke2fs", "-q", "-F", "-t", "ext4", "-U", ID, "-L", "old", "-E", &offset];
    let disk = made(16, &[gpt]);
    let mut expected = vec![
        format!("gpt {ID}"),
        "partition 1 1e1e1e1e-0000-4000-8000-000000000001 (type 0fc63daf-8483-4772-8e79-3d69d8477de4, sectors 2048-4095)".into(),
        "partition 5 1e1e1e1e-0000-4000-8000-000000000005 (type 0fc63daf-8483-4772-8e79-3d69d8477de4, sectors 4096-12287, named daten größe)".into(),
    ];
    assert_eq!(lines(&disk, 512), expected);
    // The size of a file system follows the path.
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &disk).expect("written");
    let output = Command::new("mke2fs").args(&ext[1..]).arg(file.path()).arg("4M").output().expect("mke2fs");
    assert!(output.status.success(), "{output:?}");
    let mut disk = std::fs::read(file.path()).expect("read");
    expected.insert(2, format!("ext4 in partition 5 {ID} (old)"));
    expected.sort_by_key(|line| {
        (!line.starts_with("gpt"), line.contains("partition 5"), line.starts_with("part"))
    });
    assert_eq!(lines(&disk, 512), expected);
    let other =
        |line: &String| line.replace("-4095", "-4095 of 512 bytes").replace("-12287", "-12287 of 512 bytes");
    let others: Vec<String> = expected.iter().map(other).collect();
    assert_eq!(lines(&disk, 4096), others, "though the disk has other sectors");
    // The copy at the end tells the same.
    disk[..2048].fill(0);
    assert_eq!(lines(&disk, 512), expected);
}

#[test]
fn logical_partitions_are_followed_and_a_chain_that_bites_its_tail_ends() {
    let entry = |kind: u8, first: u32, sectors: u32| {
        let mut raw = vec![0; 16];
        raw[4] = kind;
        raw[8..12].copy_from_slice(&first.to_le_bytes());
        raw[12..].copy_from_slice(&sectors.to_le_bytes());
        raw
    };
    let end: &[u8] = &[0x55, 0xaa];
    let (a, b) = (entry(0x83, 2048, 2048), entry(0x05, 4096, 4096));
    let (c, d) = (entry(0x82, 8, 100), entry(0x05, 0, 0));
    let found = on(
        8,
        &[
            (440, &[4, 3, 2, 1]),
            (446, &a),
            (462, &b),
            (510, end),
            (4096 * 512 + 446, &c),
            (4096 * 512 + 462, &d),
            (4096 * 512 + 510, end),
            (4104 * 512 + 4086, b"SWAPSPACE2"),
        ],
    );
    assert_eq!(
        found,
        [
            "mbr 01020304",
            "partition 1 01020304-01 (type 83, sectors 2048-4095)",
            "partition 2 01020304-02 (type 05, sectors 4096-8191)",
            "partition 5 01020304-05 (type 82, sectors 4104-4203)",
            "swap in partition 5 00000000-0000-0000-0000-000000000000",
        ]
    );
    // The next record is the first one again.
    let tail = entry(0x05, 4096, 1);
    let chain =
        on(8, &[(446, &tail), (510, end), (4096 * 512 + 462, &entry(0x05, 1, 1)), (4096 * 512 + 510, end)]);
    assert!(chain.len() <= 2 + 128, "{chain:?}");
}

#[test]
fn names_of_volume_groups_arrays_and_pools_are_found() {
    let mut label = b"LABELONE".to_vec();
    label.resize(24, 0);
    label[20..].copy_from_slice(&32_u32.to_le_bytes());
    label.extend(b"LVM2 001aaaaaabbbbccccddddeeeeffffgggggg");
    label.extend(8_u64.to_le_bytes());
    for (offset, size) in [(MIB as u64, 0_u64), (0, 0), (4096, 8192), (0, 0)] {
        label.extend(offset.to_le_bytes());
        label.extend(size.to_le_bytes());
    }
    let mut metadata = vec![0; 40];
    metadata[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    metadata.extend(512_u64.to_le_bytes());
    let text = b"vg0 {\nid = \"abcdef-0000\"\nseqno = 7\n";
    assert_eq!(
        on(4, &[(512, &label), (4096, &metadata), (4608, text)]),
        ["lvm aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg (vg0 abcdef-0000)"]
    );

    let mut pairs = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut pair = |key: &[u8], kind: u32, value: &[u8]| {
        let mut rest = (key.len() as u32).to_be_bytes().to_vec();
        rest.extend(key);
        rest.resize(rest.len().next_multiple_of(4), 0);
        rest.extend(kind.to_be_bytes());
        rest.extend(1_u32.to_be_bytes());
        rest.extend(value);
        pairs.extend((rest.len() as u32 + 8).to_be_bytes());
        pairs.extend(0_u32.to_be_bytes());
        pairs.extend(rest);
    };
    pair(b"version", 8, &5000_u64.to_be_bytes());
    pair(b"name", 9, b"\0\0\0\x04tank");
    pair(b"pool_guid", 8, &77_u64.to_be_bytes());
    let uberblock = &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0];
    assert_eq!(on(4, &[(16 << 10, &pairs), (128 << 10, uberblock)]), ["zfs 77 (tank)"]);
}

#[test]
fn p03_use_does_not_change_what_is_found_and_formatting_does() {
    let make = |id: &str| made(16, &[&["mke2fs", "-q", "-F", "-t", "ext4", "-U", id]]);
    let contents = |disk: &Vec<u8>| of_medium(disk, disk.len() as u64, 512).expect("read");
    let mut disk = make(ID);
    let before = contents(&disk);
    // What mounting changes: times, counts, "clean", "must be recovered", the last mount point, checksum.
    for (offset, length) in
        [(1024 + 44, 8), (1024 + 52, 4), (1024 + 58, 2), (1024 + 136, 64), (1024 + 1020, 4)]
    {
        disk[offset..offset + length].iter_mut().for_each(|byte| *byte ^= 0x5a);
    }
    disk[1024 + 96] ^= 4;
    assert_eq!(contents(&disk).fingerprint(), before.fingerprint());
    let again = make("1f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0");
    assert_ne!(contents(&again).fingerprint(), before.fingerprint());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn p29_bytes_of_a_disk_cannot_stop_the_agent(
        head in prop::collection::vec(any::<u8>(), 0..600),
        places in prop::collection::vec((0_usize..40, prop::collection::vec(any::<u8>(), 1..200)), 0..8),
        size in 0_usize..300_000,
        sector in prop_oneof![Just(0_u32), Just(512), Just(4096), any::<u32>()],
    ) {
        // Random bytes behind real beginnings: what they say about lengths and places is random.
        let starts: [(usize, &[u8]); 8] = [
            (0, b""), (512, b"EFI PART"), (4096, b"EFI PART"), (510, b"\x55\xaa"), (512, b"LABELONE"),
            (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"), (128 << 10, b"\x0c\xb1\xba\0\0\0\0\0"), (1080, b"\x53\xef"),
        ];
        let mut disk = vec![0; size];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (place, byte) in disk.iter_mut().skip(offset).zip(bytes) {
                *place = *byte;
            }
        };
        put(0, &head);
        for (start, bytes) in &places {
            let (offset, magic) = starts[start % starts.len()];
            put(offset, magic);
            put(offset + magic.len(), bytes);
        }
        let contents = of_medium(&disk, size as u64, sector).expect("memory can be read");
        prop_assert_eq!(&contents, &of_medium(&disk, size as u64, sector).expect("read"));
        // A table may tell anything of a disk's size.
        let _ = of_medium(&disk, u64::MAX, sector);
    }
}
