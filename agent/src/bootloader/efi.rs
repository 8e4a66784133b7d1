//! UEFI boot entries and boot order (UEFI 2.10 §3.1, §3.3, §10.3), through efivarfs.
//!
//! Afterwards the machine starts the disk once at once (`BootNext`), and from then on the entry
//! it came by first (the network, where the server answers "start from your disk" or not at all),
//! then the disk, or one disk after the other; [`boot_order`] keeps it so. All of this is a convenience: a disk also starts by
//! its removable path.

use crate::boot_order;
use crate::disk::gpt::Guid;
use crate::sys::block;
use kaltstart_protocol::layout::fit::REMOVABLE_PATH;
use kaltstart_protocol::restart::Restart;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// What all global variables' names end with (`EFI_GLOBAL_VARIABLE`).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, readable at boot and at run time.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
/// `LOAD_OPTION_ACTIVE`.
const ACTIVE: u32 = 1;
/// What the descriptions of this project's entries start with; such an entry is used again, so
/// that repeated installations do not fill the firmware's memory.
const PREFIX: &str = "Kaltstart";

/// The EFI system partition, as a boot entry names it.
#[derive(Debug, Clone, Copy)]
pub struct EspPlace {
    /// Number of the partition.
    pub number: u32,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub sectors: u64,
    /// GUID of the partition.
    pub guid: Guid,
}

/// What the firmware has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// `Boot####`: load options.
    pub entries: BTreeMap<u16, Vec<u8>>,
    /// `BootOrder`.
    pub order: Vec<u16>,
    /// `BootCurrent`: the entry this start came by.
    pub current: Option<u16>,
}

/// A load option (`EFI_LOAD_OPTION`) of that name for `\EFI\BOOT\BOOTX64.EFI` of that partition.
pub fn load_option(name: &str, esp: &EspPlace) -> Vec<u8> {
    let wide = |text: &str| -> Vec<u8> {
        text.encode_utf16().filter(|&unit| unit != 0).chain([0]).flat_map(u16::to_le_bytes).collect()
    };
    // Hard drive media device path (§10.3.5.1): type 4, sub-type 1, 42 bytes, GPT, GUID.
    let mut path = vec![4, 1, 42, 0];
    path.extend(esp.number.to_le_bytes());
    path.extend(esp.first.to_le_bytes());
    path.extend(esp.sectors.to_le_bytes());
    path.extend(esp.guid.to_bytes());
    path.extend([2, 2]);
    // File path media device path (§10.3.5.4): type 4, sub-type 4.
    let file = wide(&format!("\\{}", REMOVABLE_PATH.replace('/', "\\")));
    path.extend([4, 4]);
    path.extend((file.len() as u16 + 4).to_le_bytes());
    path.extend(file);
    // End of the whole path (§10.3.1).
    path.extend([0x7F, 0xFF, 4, 0]);
    let mut option = ACTIVE.to_le_bytes().to_vec();
    option.extend((path.len() as u16).to_le_bytes());
    option.extend(wide(&format!("{PREFIX} {name}")));
    option.extend(path);
    option
}

/// Description of a load option; empty when it is malformed.
fn description(option: &[u8]) -> String {
    let units = option.get(6..).unwrap_or_default().chunks_exact(2);
    let units: Vec<u16> =
        units.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|&u| u != 0).collect();
    String::from_utf16_lossy(&units)
}

/// The numbers of `count` entries of ours and the new boot order; none when all 65,536 numbers are taken.
pub fn arrange(now: &Variables, count: usize) -> Option<(Vec<u16>, Vec<u16>)> {
    let ours =
        |number: &u16| now.entries.get(number).is_some_and(|entry| description(entry).starts_with(PREFIX));
    // The agent was started by the system of an earlier installation: its entry and order stay.
    let own = now.current.filter(|current| ours(current) && now.order.contains(current));
    let old = now.entries.keys().copied().filter(|number| ours(number) && Some(*number) != now.current);
    let free = (0..=u16::MAX).filter(|n| !now.entries.contains_key(n) && !now.order.contains(n));
    let numbers: Vec<u16> = own.into_iter().chain(old).chain(free).take(count).collect();
    if numbers.len() < count {
        return None;
    }
    let mut order = Vec::new();
    let mut add = |numbers: &[u16]| {
        for number in numbers {
            if !order.contains(number) {
                order.push(*number);
            }
        }
    };
    match own.and_then(|own| now.order.iter().position(|number| *number == own)) {
        Some(place) => add(&now.order[..place]),
        None => add(now.current.filter(|current| now.order.contains(current)).as_slice()),
    }
    add(&numbers);
    add(&now.order);
    Some((numbers, order))
}

/// Writes a boot entry for each of `places`, the boot order and `BootNext` below `efivars`, the mounted efivarfs.
///
/// Without firmware `BootNext` would be left for a later start, which may be meant for the network.
///
/// # Errors
/// As the firmware says; what was written until then does no harm.
pub fn install(efivars: &Path, image: &str, places: &[EspPlace], restart: Restart) -> io::Result<()> {
    let now = read(efivars)?;
    let (numbers, order) =
        arrange(&now, places.len()).ok_or_else(|| io::Error::other("no boot entry is free"))?;
    for (disk, (number, place)) in (1..).zip(numbers.iter().zip(places)) {
        let name = if disk == 1 { image.to_owned() } else { format!("{image}, disk {disk}") };
        set(efivars, &global(&format!("Boot{number:04X}")), &load_option(&name, place))?;
    }
    if let (Restart::Firmware, Some(first)) = (restart, numbers.first()) {
        set(efivars, &global("BootNext"), &first.to_le_bytes())?;
    }
    set(efivars, &global("BootOrder"), &bytes(&order))?;
    let until_last = order.iter().rposition(|other| numbers.contains(other)).map_or(0, |place| place + 1);
    boot_order::remember(efivars, &order[..until_last])
}

/// The file of a global variable.
pub(crate) fn global(name: &str) -> String {
    format!("{name}-{GLOBAL}")
}

/// Numbers of entries as they stand in a variable.
pub(crate) fn bytes(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Value of the variable with the file `name`.
fn value(efivars: &Path, name: &str) -> io::Result<Vec<u8>> {
    fs::read(efivars.join(name)).map(|bytes| bytes.get(4..).unwrap_or_default().to_vec())
}

/// Numbers of entries in the variable with the file `name`; empty without it.
pub(crate) fn numbers(efivars: &Path, name: &str) -> Vec<u16> {
    let bytes = value(efivars, name).unwrap_or_default();
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Boot entries and boot order below `efivars`.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn read(efivars: &Path) -> io::Result<Variables> {
    let mut entries = BTreeMap::new();
    for file in fs::read_dir(efivars)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        let digits = name.strip_prefix("Boot").and_then(|rest| rest.strip_suffix(GLOBAL)?.strip_suffix('-'));
        if let Some(digits) = digits.filter(|text| text.len() == 4)
            && let Ok(number) = u16::from_str_radix(digits, 16)
        {
            entries.insert(number, value(efivars, &name)?);
        }
    }
    let order = numbers(efivars, &global("BootOrder"));
    let current = numbers(efivars, &global("BootCurrent")).first().copied();
    Ok(Variables { entries, order, current })
}

/// Sets the variable with the file `name`.
///
/// # Errors
/// As the firmware says.
pub(crate) fn set(efivars: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = efivars.join(name);
    let bytes = [&ATTRIBUTES, value].concat();
    if let Ok(file) = File::open(&path) {
        // Each write wears the firmware's flash.
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        // Elsewhere than on efivarfs there is no such flag.
        block::clear_immutable(&file).ok();
    }
    // One write(2) per variable: efivarfs sets it at once.
    OpenOptions::new().write(true).create(true).truncate(false).open(&path)?.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn esp() -> EspPlace {
        EspPlace {
            number: 2,
            first: 4096,
            sectors: 0x10_0000,
            guid: Guid::from_u128(0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF),
        }
    }

    #[test]
    fn a_load_option_is_laid_out_as_the_specification_says() {
        let option = load_option("x", &esp());
        let mut want = vec![1, 0, 0, 0, 42 + 48 + 4, 0];
        want.extend("Kaltstart x\0".encode_utf16().flat_map(u16::to_le_bytes));
        want.extend([4, 1, 42, 0, 2, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0]);
        want.extend([
            0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF,
        ]);
        want.extend([2, 2, 4, 4, 48, 0]);
        want.extend("\\EFI\\BOOT\\BOOTX64.EFI\0".encode_utf16().flat_map(u16::to_le_bytes));
        want.extend([0x7F, 0xFF, 4, 0]);
        assert_eq!(option, want);
        assert_eq!(description(&option), "Kaltstart x");
        assert_eq!(description(&[1]), "");
    }

    #[test]
    fn the_order_keeps_everything_and_puts_the_entry_it_came_by_first() {
        let other = || {
            load_option("", &esp()).iter().map(|b| if *b == b'K' { b'X' } else { *b }).collect::<Vec<u8>>()
        };
        let mut now = Variables {
            entries: [(0, other()), (1, other()), (5, other())].into(),
            order: vec![0, 5, 1],
            current: Some(5),
        };
        assert_eq!(arrange(&now, 1), Some((vec![2], vec![5, 2, 0, 1])));
        assert_eq!(arrange(&now, 2), Some((vec![2, 3], vec![5, 2, 3, 0, 1])));
        now.entries.insert(7, load_option("old", &esp()));
        now.order = vec![0, 7, 5, 1];
        assert_eq!(arrange(&now, 1), Some((vec![7], vec![5, 7, 0, 1])));
        // An entry that is not in the order, such as a one-time one, is not added to it.
        now.current = Some(9);
        assert_eq!(arrange(&now, 1), Some((vec![7], vec![7, 0, 5, 1])));
        assert_eq!(arrange(&Variables::default(), 1), Some((vec![0], vec![0])));
        // It came from its own disk.
        now.current = Some(7);
        assert_eq!(arrange(&now, 1), Some((vec![7], vec![0, 7, 5, 1])));
        assert_eq!(arrange(&now, 2), Some((vec![7, 2], vec![0, 7, 2, 5, 1])));
    }

    #[test]
    fn variables_are_written_with_their_attributes() {
        let directory = tempfile::tempdir().expect("directory");
        let file = |name: &str| directory.path().join(format!("{name}-{GLOBAL}"));
        fs::write(file("BootOrder"), [7, 0, 0, 0, 3, 0, 4, 0]).expect("write");
        fs::write(file("BootCurrent"), [6, 0, 0, 0, 4, 0]).expect("write");
        fs::write(file("Boot0003"), [7, 0, 0, 0, 1]).expect("write");
        fs::write(file("BootOptionSupport"), [6, 0, 0, 0, 1, 3, 0, 0]).expect("write");
        install(directory.path(), "debian", &[esp()], Restart::Kexec).expect("installs");
        assert!(!file("BootNext").exists(), "the firmware is not asked");
        install(directory.path(), "debian", &[esp()], Restart::Firmware).expect("installs");
        assert_eq!(fs::read(file("BootOrder")).expect("read"), [7, 0, 0, 0, 4, 0, 0, 0, 3, 0]);
        assert_eq!(fs::read(file("BootNext")).expect("read"), [7, 0, 0, 0, 0, 0]);
        let entry = fs::read(file("Boot0000")).expect("read");
        assert_eq!(entry[4..], load_option("debian", &esp()));
        assert_eq!(boot_order::look(directory.path()), kaltstart_protocol::node_api::BootOrder::Kept);
    }
}
