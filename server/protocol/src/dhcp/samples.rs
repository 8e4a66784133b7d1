//! Packets as real clients send them, for tests: taken down byte by byte, not made by the codec.

use alloc::vec::Vec;

/// Hardware address of every sample.
pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// A DISCOVER with these flags and option bytes (the end mark is added).
pub(crate) fn discover(flags: u16, options: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::from([1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 4]);
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.resize(28, 0);
    bytes.extend_from_slice(&MAC);
    bytes.resize(236, 0);
    bytes.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1]);
    options.iter().for_each(|option| bytes.extend_from_slice(option));
    bytes.push(255);
    bytes
}

/// An option from its code and value.
pub(crate) fn option(code: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from([code, u8::try_from(value.len()).expect("a short value")]);
    bytes.extend_from_slice(value);
    bytes
}

/// Firmware's PXE options: size, architecture, UNDI version, machine id, vendor class.
fn firmware(architecture: u16, class: &str) -> Vec<u8> {
    [
        option(57, &1472_u16.to_be_bytes()),
        option(55, &[1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59]),
        option(97, &[0; 17]),
        option(94, &[1, 3, 0]),
        option(93, &architecture.to_be_bytes()),
        option(60, class.as_bytes()),
    ]
    .concat()
}

/// OVMF, PXE.
pub(crate) fn ovmf_pxe() -> Vec<u8> {
    discover(0x8000, &[&firmware(7, "PXEClient:Arch:00007:UNDI:003000")])
}

/// OVMF, HTTP boot.
pub(crate) fn ovmf_http() -> Vec<u8> {
    discover(0x8000, &[&firmware(16, "HTTPClient:Arch:00016:UNDI:003000")])
}

/// iPXE as a BIOS option ROM.
pub(crate) fn ipxe_bios() -> Vec<u8> {
    let encapsulated = [&[0xb1][..], &[5, 1, 0x1a, 0xf4, 0x10, 0], &[0xeb, 3, 1, 21, 1]].concat();
    discover(
        0,
        &[
            &option(57, &1472_u16.to_be_bytes()),
            &option(93, &[0, 0]),
            &option(94, &[1, 2, 1]),
            &option(60, b"PXEClient:Arch:00000:UNDI:002001"),
            &option(77, b"iPXE"),
            &option(55, &[1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133]),
            &option(175, &encapsulated),
            &option(61, &[&[1][..], &MAC].concat()),
            &option(97, &[0; 17]),
        ],
    )
}

/// systemd-networkd: client identifier from a DUID.
pub(crate) fn networkd() -> Vec<u8> {
    let id = [255, 1, 2, 3, 4, 0, 2, 0, 0, 0xab, 0x11, 9, 8, 7, 6, 5, 4, 3, 2];
    discover(
        0,
        &[
            &option(61, &id),
            &option(55, &[1, 3, 6, 12, 15, 26, 33, 42, 119, 120, 121]),
            &option(57, &1472_u16.to_be_bytes()),
            &option(12, b"node1"),
        ],
    )
}

/// ISC dhclient: no client identifier, padded to 300 bytes.
pub(crate) fn dhclient() -> Vec<u8> {
    let mut bytes = discover(
        0,
        &[
            &option(50, &[10, 77, 0, 20]),
            &option(12, b"node1"),
            &option(55, &[1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42]),
        ],
    );
    bytes.resize(300, 0);
    bytes
}

/// Every sample.
pub(crate) fn all() -> [Vec<u8>; 5] {
    [ovmf_pxe(), ovmf_http(), ipxe_bios(), networkd(), dhclient()]
}
