use super::*;
use proptest::prelude::*;

fn tlv_of(kind: u8, value: &[u8]) -> Vec<u8> {
    let head = u16::from(kind) << 9 | u16::try_from(value.len()).expect("short");
    [&head.to_be_bytes()[..], value].concat()
}

/// Chassis, port and time to live, then `further`.
fn pdu(chassis: &[u8], port: &[u8], seconds: u16, further: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = [tlv_of(CHASSIS, chassis), tlv_of(PORT, port)].concat();
    bytes.extend(tlv_of(TIME_TO_LIVE, &seconds.to_be_bytes()));
    for (kind, value) in further {
        bytes.extend(tlv_of(*kind, value));
    }
    bytes.extend([0, 0]);
    bytes
}

const MAC: &[u8] = &[4, 0, 0x1c, 0x73, 1, 2, 3];

#[test]
fn a_switch_names_itself_its_port_and_its_vlan() {
    let further: &[(u8, &[u8])] = &[
        (PORT_DESCRIPTION, b"to rack 7, u12"),
        (SYSTEM_NAME, b"leaf-3"),
        (6, b"maker and version"),
        (7, &[0, 0x14, 0, 4]),
        (8, &[5, 1, 10, 0, 0, 1, 2, 0, 0, 0, 1, 0]),
        (ORGANISATION, &[0x00, 0x12, 0x0f, 1, 3, 0x6c, 0, 0, 0x1e]),
        (ORGANISATION, &[0x00, 0x80, 0xc2, 1, 0, 42]),
    ];
    let expected = Neighbour {
        switch: "leaf-3".into(),
        chassis: "00:1c:73:01:02:03".into(),
        port: "Ethernet12".into(),
        port_description: "to rack 7, u12".into(),
        vlan: Some(42),
    };
    let whole = pdu(MAC, b"\x05Ethernet12", 120, further);
    assert_eq!(read(&whole), Some(expected.clone()));
    // Padding to the shortest frame, whatever it holds, and a missing end.
    assert_eq!(read(&[&whole[..], &[0xff; 20]].concat()), Some(expected.clone()));
    assert_eq!(read(&whole[..whole.len() - 2]), Some(expected));
}

#[test]
fn identifiers_of_every_kind() {
    for (value, told) in [
        (&[3, 0xaa, 0xbb, 0xcc, 0, 0, 1][..], "aa:bb:cc:00:00:01"),
        (&[4, 1, 10, 0, 0, 7], "10.0.0.7"),
        (&[4, 2, 0xfd, 0], "02fd00"),
        (b"\x01 alias ", "alias"),
        (b"\x07" as &[u8], ""),
        (b"\x0517", "17"),
        (b"\x05ge-0/0/1\0", "ge-0/0/1"),
        (b"\x05a\x1b[2Jb", "a [2Jb"),
    ] {
        let got = read(&pdu(MAC, value, 120, &[])).map(|neighbour| neighbour.port);
        assert_eq!(got.as_deref(), (!told.is_empty()).then_some(told), "{value:?}");
    }
}

#[test]
fn what_is_not_a_neighbour() {
    assert_eq!(read(&[]), None);
    assert_eq!(read(&pdu(MAC, b"\x05p", 0, &[])), None, "it says goodbye");
    assert_eq!(read(&[tlv_of(PORT, b"\x05p"), tlv_of(TIME_TO_LIVE, &[0, 9])].concat()), None, "no chassis");
    assert_eq!(read(&[tlv_of(CHASSIS, MAC), tlv_of(PORT, b"\x05p")].concat()), None, "no time to live");
    let vlan = |bytes: [u8; 2]| {
        let value = [&PORT_VLAN[..], &bytes].concat();
        read(&pdu(MAC, b"\x05p", 9, &[(ORGANISATION, &value)])).and_then(|neighbour| neighbour.vlan)
    };
    assert_eq!([vlan([0, 0]), vlan([0, 1]), vlan([0x0f, 0xff])], [None, Some(1), None]);
    // Of two names the first counts.
    let twice = pdu(MAC, b"\x05p", 9, &[(SYSTEM_NAME, b"first"), (SYSTEM_NAME, b"second")]);
    assert_eq!(read(&twice).map(|neighbour| neighbour.switch), Some("first".into()));
}

proptest! {
    #[test]
    fn no_frame_makes_it_panic_or_tell_control_characters(
        further in prop::collection::vec((0_u8..=127, prop::collection::vec(any::<u8>(), 0..300)), 0..6),
        cut in 0_usize..400,
    ) {
        let further: Vec<(u8, &[u8])> = further.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        let whole = pdu(MAC, b"\x05p", 9, &further);
        if let Some(found) = read(&whole[..cut.min(whole.len())]) {
            for text in [&found.switch, &found.chassis, &found.port, &found.port_description] {
                prop_assert!(text.chars().count() <= kaltstart_protocol::facts::TEXT_CHARS && !text.chars().any(char::is_control));
            }
        }
    }
}
