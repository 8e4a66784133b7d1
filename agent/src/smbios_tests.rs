use super::*;
use proptest::prelude::*;

/// A structure of `kind`: fields at their offsets, then strings.
fn structure(kind: u8, length: u8, fields: &[(usize, &[u8])], strings: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(length)];
    (bytes[0], bytes[1]) = (kind, length);
    for (offset, field) in fields {
        bytes[*offset..offset + field.len()].copy_from_slice(field);
    }
    for string in strings {
        bytes.extend([string.as_bytes(), &[0]].concat());
    }
    if strings.is_empty() {
        bytes.push(0);
    }
    bytes.push(0);
    bytes
}

fn memory(length: u8, fields: &[(usize, &[u8])], strings: &[&str]) -> Vec<Module> {
    read(&structure(17, length, fields, strings)).modules
}

#[test]
fn a_module_of_a_server() {
    let fields: &[(usize, &[u8])] = &[
        (0x08, &72_u16.to_le_bytes()),
        (0x0a, &64_u16.to_le_bytes()),
        (0x0c, &0x7fff_u16.to_le_bytes()),
        (0x10, &[1, 2]),
        (0x15, &4800_u16.to_le_bytes()),
        (0x17, &[3, 4, 5, 6]),
        (0x1c, &65_536_u32.to_le_bytes()),
        (0x20, &4400_u16.to_le_bytes()),
    ];
    let strings = ["A1", "_Node0", "00AD00B300AD", "8A12BC34", "AssetTag", "HMCG94AEBRA109N    "];
    let expected = Module {
        slot: "A1".into(),
        size: 64 << 30,
        speed: 4400,
        maker: "00AD00B300AD".into(),
        part: "HMCG94AEBRA109N".into(),
        serial: "8A12BC34".into(),
        ecc: Some(true),
    };
    assert_eq!(memory(0x5c, fields, &strings), [expected]);
}

#[test]
fn what_firmware_gets_wrong() {
    let mib = |size: u16| size.to_le_bytes();
    let sizes: [(u16, Option<u64>); 6] = [
        (0, None),
        (0xffff, None),
        (1024, Some(1 << 30)),
        (0x8000 | 512, Some(512 << 10)),
        (0x8000, None),
        // Sends on to a field that the structure of version 2.3 does not have.
        (0x7fff, None),
    ];
    for (size, expected) in sizes {
        let got = memory(0x1b, &[(0x0c, &mib(size))], &[]);
        assert_eq!(got.first().map(|module| module.size), expected, "{size:#x}");
    }
    // Padding, words for nothing, a string number beyond the strings, bytes of no encoding.
    for (string, expected) in [
        ("  A1B2 ", "A1B2"),
        ("Not Specified", ""),
        ("NO DIMM", ""),
        ("To Be Filled By O.E.M.", ""),
        ("Unknown", ""),
        ("12\x1b[2J34", "12 [2J34"),
    ] {
        let got = memory(0x28, &[(0x0c, &mib(8)), (0x18, &[1])], &[string]);
        assert_eq!(got[0].serial, expected, "{string:?}");
    }
    assert_eq!(memory(0x28, &[(0x0c, &mib(8)), (0x18, &[9])], &["x"])[0].serial, "");
    // Some boards name the bank alone.
    assert_eq!(memory(0x28, &[(0x0c, &mib(8)), (0x11, &[1])], &["BANK 0"])[0].slot, "BANK 0");
    // Widths that are not known say nothing about error correction.
    assert_eq!(memory(0x28, &[(0x0c, &mib(8)), (0x08, &[0xff; 4])], &[])[0].ecc, None);
}

#[test]
fn sockets_that_are_filled() {
    let processor = |status: u8, cores: u8, wide: u16| {
        let fields: &[(usize, &[u8])] = &[
            (0x04, &[1, 3]),
            (0x10, &[2]),
            (0x16, &2900_u16.to_le_bytes()),
            (0x18, &[status]),
            (0x23, &[cores]),
            (0x25, &[cores]),
            (0x2a, &wide.to_le_bytes()),
            (0x2e, &wide.to_le_bytes()),
        ];
        read(&structure(4, 0x32, fields, &["CPU1", "Processor X"])).processors
    };
    let [one] = &processor(0x41, 16, 0)[..] else { panic!("one") };
    assert_eq!((one.socket.as_str(), one.model.as_str()), ("CPU1", "Processor X"));
    assert_eq!((one.cores, one.threads, one.mhz), (16, 16, 2900));
    assert_eq!(processor(0x41, 255, 384)[0].cores, 384);
    assert_eq!(processor(0x41, 255, 0xffff)[0].cores, 0);
    assert!(processor(0x00, 16, 0).is_empty(), "an empty socket");
}

#[test]
fn the_table_ends_where_it_says_or_where_it_makes_no_sense() {
    let module = structure(17, 0x28, &[(0x0c, &[1, 0])], &["a", "b"]);
    let end = structure(127, 4, &[], &[]);
    let count = |table: &[u8]| read(table).modules.len();
    assert_eq!(count(&[module.clone(), module.clone(), end.clone(), module.clone()].concat()), 2);
    assert_eq!(count(&[module.clone(), vec![17, 3, 0, 0, 0, 0], module.clone()].concat()), 1, "too short");
    assert_eq!(count(&module[..module.len() - 1]), 0, "strings without end");
    assert_eq!(count(&[]), 0);
}

proptest! {
    #[test]
    fn no_table_makes_it_panic_or_tell_control_characters(
        pieces in prop::collection::vec(
            (prop::sample::select(vec![4_u8, 17, 0, 127]), 0_u8..=0x60, prop::collection::vec(any::<u8>(), 0..0x80)),
            0..6,
        ),
    ) {
        let mut table = Vec::new();
        for (kind, length, body) in pieces {
            table.extend([kind, length]);
            table.extend(body);
            table.extend([0, 0]);
        }
        let found = read(&table);
        for text in found.modules.iter().flat_map(|module| [&module.slot, &module.serial, &module.part]) {
            prop_assert!(text.chars().count() <= kaltstart_protocol::facts::TEXT_CHARS && !text.chars().any(char::is_control));
        }
        prop_assert!(found.modules.iter().all(|module| module.size > 0));
    }
}
