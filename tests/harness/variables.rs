//! UEFI variables of a machine somebody has set up: network first, then its own disk, no more.
//!
//! QEMU's `bootindex` cannot say that. It puts all of a card's ways to boot first (PXE, HTTP over
//! IPv4, HTTP over IPv6), each of which OVMF gives a minute, and it undoes what the agent writes
//! to the boot order at every start.

use anyhow::{Context as _, Result, ensure};

/// Where OVMF's store of variables begins: after the headers of volume and store.
const FIRST_VARIABLE: usize = 0x64;
/// `EFI_GLOBAL_VARIABLE`, in the byte order of the store.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c];
/// What OVMF appends to entries it makes itself. With it our network entry is taken for OVMF's own,
/// and no second one is made.
const AUTOMATIC: [u8; 16] =
    [0x4e, 0xac, 8, 0x81, 0x11, 0x9f, 0x59, 0x4d, 0x85, 0x0e, 0xe2, 0x1a, 0x52, 0x2c, 0x59, 0xb2];
/// Non-volatile, readable at boot and at run time.
const ATTRIBUTES: u32 = 7;
/// A variable that was written completely and not deleted since (`VAR_ADDED`).
const ADDED: u8 = 0x3f;
/// Mask that deletes a variable (`VAR_DELETED`).
const DELETED: u8 = 0xfd;
/// Bytes of `AUTHENTICATED_VARIABLE_HEADER`.
const HEADER: usize = 60;
/// End of a device path (UEFI 2.10 §10.3.1).
const END: [u8; 4] = [0x7f, 0xff, 4, 0];
/// PCI device number of the network card on the root bus.
pub(crate) const NIC_SLOT: u8 = 0x10;

/// A way to start from the network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// By HTTP boot, else by PXE.
    pub(crate) http: bool,
    /// Over IPv6, else over IPv4.
    pub(crate) v6: bool,
}

/// Writes boot entries and boot order into a store, in place of those it has.
pub(crate) fn set_boot_order(store: &mut [u8], mac: &str, way: Way) -> Result<()> {
    let mac: Vec<u8> = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{mac:?} is no hardware address"))?;
    let mut records = Vec::new();
    for (name, value) in
        [("Boot0000", network_entry(&mac, way)), ("Boot0001", disk_entry()), ("BootOrder", vec![0, 0, 1, 0])]
    {
        records.extend(variable(name, &value));
    }
    let end = each_variable(store, |record, name, _| {
        let digits = name.strip_prefix("Boot").unwrap_or_default();
        if name == "BootOrder" || (digits.len() == 4 && u16::from_str_radix(digits, 16).is_ok()) {
            record[2] &= DELETED;
        }
    })?;
    append(store, end, &records)
}

/// Puts the first entry behind all others, as an update of a system does that wants to be first.
pub(crate) fn put_network_last(store: &mut [u8]) -> Result<()> {
    let mut order = Vec::new();
    let end = each_variable(store, |record, name, value| {
        if name == "BootOrder" && record[2] == ADDED {
            record[2] &= DELETED;
            order = value;
        }
    })?;
    ensure!(order.len() > 2, "there is no boot order to be changed");
    order.rotate_left(2);
    append(store, end, &variable("BootOrder", &order))
}

/// Writes records behind the last variable.
fn append(store: &mut [u8], end: usize, records: &[u8]) -> Result<()> {
    let place =
        store.get_mut(end..end + records.len()).context("the store of UEFI variables is too small")?;
    ensure!(place.iter().all(|&byte| byte == 0xff), "the store of UEFI variables has no known end");
    place.copy_from_slice(records);
    Ok(())
}

/// Shows header, name and value of each variable, deleted ones too; gives the end of the last one.
fn each_variable(store: &mut [u8], mut show: impl FnMut(&mut [u8], &str, Vec<u8>)) -> Result<usize> {
    let mut at = FIRST_VARIABLE;
    while store.get(at..at + 2) == Some(&[0xaa, 0x55]) {
        let header = store.get(at..at + HEADER).context("a UEFI variable is cut off")?;
        let number = |from: usize| -> Option<usize> {
            Some(u32::from_le_bytes(header.get(from..from + 4)?.try_into().ok()?) as usize)
        };
        let (name, value) = number(36).zip(number(40)).context("a UEFI variable is cut off")?;
        let text = store.get(at + HEADER..at + HEADER + name).context("a UEFI variable is cut off")?;
        let text: String =
            text.iter().step_by(2).take_while(|byte| **byte != 0).map(|&byte| char::from(byte)).collect();
        let from = at + HEADER + name;
        let bytes = store.get(from..from + value).context("a UEFI variable is cut off")?.to_vec();
        show(&mut store[at..at + HEADER], &text, bytes);
        at = (at + HEADER + name + value).next_multiple_of(4);
    }
    Ok(at)
}

/// OVMF's own entry for its network card.
fn network_entry(mac: &[u8], Way { http, v6 }: Way) -> Vec<u8> {
    let (kind, family, hex) = (if http { "HTTP" } else { "PXE" }, if v6 { "v6" } else { "v4" }, hex(mac));
    let mut path = vec![
        2, 1, 12, 0, 0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0, // PciRoot(0)
        1, 1, 6, 0, 0, NIC_SLOT, // Pci(NIC_SLOT, 0)
        3, 0x0b, 37, 0, // MAC, 32 bytes, type 1 = Ethernet
    ];
    path.extend(mac);
    path.extend([0; 26]);
    path.push(1);
    // IPv4 or IPv6 with nothing set (but the length of a prefix): by DHCP.
    if v6 {
        path.extend([3, 0x0d, 60, 0]);
        path.extend([0; 39]);
        path.push(64);
        path.extend([0; 16]);
    } else {
        path.extend([3, 0x0c, 27, 0]);
        path.extend([0; 23]);
    }
    if http {
        // URI, empty: from DHCP.
        path.extend([3, 0x18, 4, 0]);
    }
    path.extend(END);
    load_option(&format!("UEFI {kind}{family} (MAC:{hex})"), &path, &AUTOMATIC)
}

/// The removable path on whichever disk has it (short form, UEFI 2.10 §3.1.2).
fn disk_entry() -> Vec<u8> {
    let file = wide("\\EFI\\BOOT\\BOOTX64.EFI");
    let mut path = vec![4, 4];
    path.extend((file.len() as u16 + 4).to_le_bytes());
    path.extend(file);
    path.extend(END);
    load_option(DISK, &path, &[])
}

/// Description of the disk's entry; OVMF prints it when it tries the disk.
pub const DISK: &str = "Own disk";

fn load_option(description: &str, path: &[u8], data: &[u8]) -> Vec<u8> {
    // Active (bit 0).
    let mut option = 1_u32.to_le_bytes().to_vec();
    option.extend((path.len() as u16).to_le_bytes());
    option.extend(wide(description));
    option.extend(path);
    option.extend(data);
    option
}

/// One record of the store (`AUTHENTICATED_VARIABLE_HEADER`, name, value), with padding.
fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let name = wide(name);
    let mut record = vec![0xaa, 0x55, ADDED, 0];
    record.extend(ATTRIBUTES.to_le_bytes());
    // Counter, time stamp and key index: for authenticated variables only.
    record.extend([0; 28]);
    record.extend((name.len() as u32).to_le_bytes());
    record.extend((value.len() as u32).to_le_bytes());
    record.extend(GLOBAL);
    record.extend(name);
    record.extend(value);
    record.resize(record.len().next_multiple_of(4), 0xff);
    record
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_entry_is_the_one_ovmf_makes() {
        // Taken from the variables of a machine whose card was in slot 2, and the slot changed.
        let seen = "0100000056005500450046004900200050005800450076003400200028004d00410043003a00\
            3500320035003400300030003000300030003000300031002900000002010c00d041030a00000000\
            01010600001003\
            0b2500525400000001000000000000000000000000000000000000000000000000000001030c1b00\
            00000000000000000000000000000000000000000000007fff04004eac0881119f594d850ee21a52\
            2c59b2";
        let entry = network_entry(&[0x52, 0x54, 0, 0, 0, 1], Way { http: false, v6: false });
        assert_eq!(hex(&entry).to_lowercase(), seen);
    }

    #[test]
    fn records_are_aligned() {
        assert_eq!(variable("BootOrder", &[0, 0, 1, 0]).len() % 4, 0);
    }
}
