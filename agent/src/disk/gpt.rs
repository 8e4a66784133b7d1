//! GUID partition tables as bytes (UEFI 2.10 §5.2.3 protective MBR, §5.3 GPT).

use kaltstart_protocol::agent_api::DiskUuids;
use kaltstart_protocol::layout::Role;
use kaltstart_protocol::layout::plan::{Plan, Planned};

/// Entries of a table; the specification's minimum, and what everyone writes.
pub const ENTRIES: usize = 128;
/// Bytes of one entry.
const ENTRY_SIZE: usize = 128;
/// Bytes of a header (revision 1.0).
const HEADER_SIZE: u32 = 92;
/// Bytes of a master boot record in front of its disk signature: what a boot loader may fill.
pub const BOOT_CODE_SIZE: usize = 440;

/// BIOS boot partition, as GRUB knows it.
pub const TYPE_BIOS_BOOT: Guid = Guid::from_u128(0x2168_6148_6449_6E6F_744E_6565_6445_4649);
/// EFI system partition (UEFI 2.10 table 5.7).
pub const TYPE_ESP: Guid = Guid::from_u128(0xC12A_7328_F81F_11D2_BA4B_00A0_C93E_C93B);
/// Root file system of an x86-64 machine (Discoverable Partitions Specification).
pub const TYPE_ROOT_X86_64: Guid = Guid::from_u128(0x4F68_BCE3_E8CD_4DB1_96E7_FBCA_F984_B709);
/// A Linux file system.
pub const TYPE_LINUX: Guid = Guid::from_u128(0x0FC6_3DAF_8483_4772_8E79_3D69_D847_7DE4);
/// A member of an md array.
pub const TYPE_RAID: Guid = Guid::from_u128(0xA19D_880F_05FC_4D3B_A006_743F_0F84_911E);
/// A physical volume of LVM.
pub const TYPE_LVM: Guid = Guid::from_u128(0xE6D6_D379_F507_44C2_A23C_238F_2A3D_F928);
/// Swap space.
pub const TYPE_SWAP: Guid = Guid::from_u128(0x0657_FD6D_A4AB_43C4_84E5_0933_C84B_4F4F);

/// A GUID in the order its text form has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub(super) [u8; 16]);

impl Guid {
    /// From the number its hexadecimal digits make.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// From the text form 8-4-4-4-12; none when it is not that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
            return None;
        }
        let digits = groups.concat();
        let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u128::from_str_radix(&digits, 16).ok().map(Self::from_u128)).flatten()
    }

    /// As it lies in memory: the first three groups little-endian (UEFI 2.10 appendix A).
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

/// Why there is no table.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// A UUID of the task is not one.
    #[error("not a UUID: {0:?}")]
    Uuid(String),
    /// The task gives fewer or more UUIDs than the layout has partitions.
    #[error("{partitions} partitions but {uuids} UUIDs")]
    Count {
        /// Partitions of the plan.
        partitions: usize,
        /// UUIDs of the task.
        uuids: usize,
    },
    /// The plan does not fit a table of this form.
    #[error("the plan cannot be written as a GPT of 128 entries")]
    Plan,
}

/// A partition table, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    /// Sector 0 up to the end of the primary entries; starts with the protective MBR.
    pub primary: Vec<u8>,
    /// Backup entries and header.
    pub backup: Vec<u8>,
    /// Where `backup` belongs, in bytes from the start of the disk.
    pub backup_offset: u64,
}

impl Gpt {
    /// Where its two parts lie: first byte and bytes.
    #[must_use]
    pub fn places(&self) -> [(u64, u64); 2] {
        [(0, self.primary.len() as u64), (self.backup_offset, self.backup.len() as u64)]
    }
}

/// The table of `plan` with the given UUIDs. `boot_code` goes into the first
/// [`BOOT_CODE_SIZE`] bytes of the master boot record; empty = zeros.
///
/// # Errors
/// When a UUID is missing or malformed, or the plan does not fit.
pub fn encode(plan: &Plan, uuids: &DiskUuids, boot_code: &[u8]) -> Result<Gpt, GptError> {
    encode_some(plan, uuids, boot_code, |_| true)
}

/// The same with only those of its partitions that `listed` tells, each with the very entry that it has there.
///
/// # Errors
/// As [`encode`].
pub fn encode_some(
    plan: &Plan,
    uuids: &DiskUuids,
    boot_code: &[u8],
    listed: impl Fn(&Planned) -> bool,
) -> Result<Gpt, GptError> {
    let parse = |text: &String| Guid::parse(text).ok_or_else(|| GptError::Uuid(text.clone()));
    let sector = usize::try_from(plan.sector_size).map_err(|_| GptError::Plan)?;
    if !matches!(sector, 512 | 4096)
        || plan.partitions.len() > ENTRIES
        || boot_code.len() > BOOT_CODE_SIZE
        || plan.sectors < 2 * (ENTRIES * ENTRY_SIZE / sector) as u64 + 3
    {
        return Err(GptError::Plan);
    }
    if plan.partitions.len() != uuids.partitions.len() {
        return Err(GptError::Count { partitions: plan.partitions.len(), uuids: uuids.partitions.len() });
    }
    let entry_sectors = (ENTRIES * ENTRY_SIZE / sector) as u64;
    let (first_usable, last_usable) = (2 + entry_sectors, plan.sectors - entry_sectors - 2);

    let mut entries = vec![0; ENTRIES * ENTRY_SIZE];
    for (planned, uuid) in plan.in_table().zip(&uuids.partitions).filter(|(planned, _)| listed(planned)) {
        let last = planned.first + planned.sectors - 1;
        let number = planned.number as usize;
        if number == 0 || number > ENTRIES || planned.first < first_usable || last > last_usable {
            return Err(GptError::Plan);
        }
        let entry = &mut entries[(number - 1) * ENTRY_SIZE..number * ENTRY_SIZE];
        let kind = match planned.role {
            Role::BiosBoot => TYPE_BIOS_BOOT,
            Role::Esp => TYPE_ESP,
            _ if plan.array_of(planned).is_some() => TYPE_RAID,
            Role::Root => TYPE_ROOT_X86_64,
            Role::Boot | Role::Data => TYPE_LINUX,
            Role::Swap => TYPE_SWAP,
            Role::Lvm => TYPE_LVM,
        };
        entry[..16].copy_from_slice(&kind.to_bytes());
        entry[16..32].copy_from_slice(&parse(uuid)?.to_bytes());
        entry[32..40].copy_from_slice(&planned.first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (slot, unit) in entry[56..].chunks_exact_mut(2).zip(planned.label.encode_utf16()) {
            slot.copy_from_slice(&unit.to_le_bytes());
        }
    }

    let disk = parse(&uuids.disk)?;
    let entries_crc = crc32fast::hash(&entries);
    let last = plan.sectors - 1;
    let header = |this: u64, other: u64, table: u64| {
        let mut bytes = vec![0; sector];
        bytes[..8].copy_from_slice(b"EFI PART");
        bytes[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&HEADER_SIZE.to_le_bytes());
        bytes[24..32].copy_from_slice(&this.to_le_bytes());
        bytes[32..40].copy_from_slice(&other.to_le_bytes());
        bytes[40..48].copy_from_slice(&first_usable.to_le_bytes());
        bytes[48..56].copy_from_slice(&last_usable.to_le_bytes());
        bytes[56..72].copy_from_slice(&disk.to_bytes());
        bytes[72..80].copy_from_slice(&table.to_le_bytes());
        bytes[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
        bytes[84..88].copy_from_slice(&(ENTRY_SIZE as u32).to_le_bytes());
        bytes[88..92].copy_from_slice(&entries_crc.to_le_bytes());
        // The header's own sum is taken with its field zero.
        let crc = crc32fast::hash(&bytes[..HEADER_SIZE as usize]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    };

    let mut primary = protective_mbr(plan.sectors, boot_code);
    primary.resize(sector, 0);
    primary.extend(header(1, last, 2));
    primary.extend(&entries);
    let mut backup = entries;
    backup.extend(header(last, 1, last - entry_sectors));
    Ok(Gpt { primary, backup, backup_offset: (last - entry_sectors) * plan.sector_size })
}

/// UEFI 2.10 §5.2.3: one partition of type EE that covers the disk. It carries the active flag
/// only with boot code, because some BIOSes start only from an active partition.
fn protective_mbr(sectors: u64, boot_code: &[u8]) -> Vec<u8> {
    let mut mbr = vec![0; 512];
    mbr[..boot_code.len()].copy_from_slice(boot_code);
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    mbr[447..450].copy_from_slice(&[0x00, 0x02, 0x00]);
    mbr[450..454].copy_from_slice(&[0xEE, 0xFF, 0xFF, 0xFF]);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&size.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xAA]);
    mbr
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents;
    use kaltstart_protocol::facts::Disk;
    use kaltstart_protocol::keep;
    use kaltstart_protocol::layout::{Layout, Partition, plan};
    use proptest::prelude::*;
    use std::io::{Seek, SeekFrom, Write};
    use std::process::Command;

    fn layout() -> Layout {
        let partition = |label: &str, role, min_mib, weight| Partition {
            label: label.into(),
            role,
            min_mib,
            weight,
            ..Partition::default()
        };
        Layout {
            name: "t".into(),
            partitions: vec![
                partition("bios", Role::BiosBoot, 1, 0),
                partition("esp", Role::Esp, 260, 0),
                partition("wurzel-größe", Role::Root, 16, 1),
            ],
            ..Layout::default()
        }
    }

    fn uuids() -> DiskUuids {
        let uuid = |n: u8| format!("0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1{n:02x}");
        DiskUuids {
            disk: uuid(0),
            partitions: (1..4).map(uuid).collect(),
            root: uuid(9),
            further: Vec::new(),
            esp: 1,
        }
    }

    #[test]
    fn guids_are_parsed_strictly_and_stored_mixed_endian() {
        let guid = Guid::parse("C12A7328-F81F-11D2-BA4B-00A0C93EC93B").expect("well formed");
        assert_eq!(guid, TYPE_ESP);
        assert_eq!(guid.to_bytes()[..8], [0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11]);
        for bad in ["", "C12A7328F81F11D2BA4B00A0C93EC93B", "+12A7328-F81F-11D2-BA4B-00A0C93EC93B"] {
            assert_eq!(Guid::parse(bad), None, "{bad:?}");
        }
        assert_eq!(TYPE_BIOS_BOOT.to_bytes(), *b"Hah!IdontNeedEFI");
    }

    #[test]
    fn refusals() {
        let plan = plan::plan(&layout(), 1 << 30, 512).expect("fits");
        let mut few = uuids();
        few.partitions.pop();
        assert!(matches!(encode(&plan, &few, &[]), Err(GptError::Count { .. })));
        let mut bad = uuids();
        bad.partitions[1] = "x".into();
        assert!(matches!(encode(&plan, &bad, &[]), Err(GptError::Uuid(_))));
        assert_eq!(encode(&plan, &uuids(), &[0; 441]), Err(GptError::Plan));
    }

    /// A file with the table for sectors of `sector` bytes.
    fn written(sector: u64) -> tempfile::NamedTempFile {
        let plan = plan::plan(&layout(), 1 << 30, sector).expect("fits");
        let gpt = encode(&plan, &uuids(), &[0x90; BOOT_CODE_SIZE]).expect("encodes");
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(1 << 30).expect("sparse");
        file.write_all(&gpt.primary).expect("primary");
        file.seek(SeekFrom::Start(gpt.backup_offset)).expect("seek");
        file.write_all(&gpt.backup).expect("backup");
        assert_eq!(gpt.backup_offset + gpt.backup.len() as u64, 1 << 30);
        file
    }

    fn run(program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).output().expect(program);
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {text}");
        text.into_owned()
    }

    #[test]
    fn sgdisk_finds_no_fault() {
        let file = written(512);
        let path = file.path().to_str().expect("path");
        let verify = run("sgdisk", &["-v", path]);
        assert!(verify.contains("No problems found"), "{verify}");
        let print = run("sgdisk", &["-i", "3", path]);
        assert!(print.contains("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), "{print}");
        assert!(print.contains("0F1E2D3C-4B5A-4978-8796-A5B4C3D2E103"), "{print}");
        assert!(print.contains("wurzel-größe"), "{print}");
    }

    #[test]
    fn both_headers_agree_at_4096() {
        // sgdisk sees large sectors only on a block device; tests/install.rs asks it there.
        let plan = plan::plan(&layout(), 1 << 30, 4096).expect("fits");
        let gpt = encode(&plan, &uuids(), &[]).expect("encodes");
        let (header, backup) = (&gpt.primary[4096..4096 + 92], &gpt.backup[ENTRIES * ENTRY_SIZE..][..92]);
        assert_eq!(header[..8], *b"EFI PART");
        assert_eq!((&header[24..32], &header[32..40]), (&backup[32..40], &backup[24..32]));
        assert_eq!(header[40..72], backup[40..72]);
        assert_eq!(gpt.primary[2 * 4096..], gpt.backup[..ENTRIES * ENTRY_SIZE]);
        assert_eq!(gpt.backup_offset + gpt.backup.len() as u64, 1 << 30);
    }

    /// The disk of [`layout`] with two more partitions for data, after these tables were written onto it, the last of them
    /// in part: sectors for which `survives` says so.
    fn cut(tables: &[(&Gpt, bool)], survives: impl Fn(usize) -> bool, disk: &mut [u8]) {
        for (at, (gpt, is_primary)) in tables.iter().enumerate() {
            let (offset, bytes) = match is_primary {
                true => (512, &gpt.primary[512..]),
                false => (gpt.backup_offset as usize, &gpt.backup[..]),
            };
            for (sector, piece) in bytes.chunks(512).enumerate() {
                if at + 1 < tables.len() || survives(sector) {
                    disk[offset + sector * 512..][..piece.len()].copy_from_slice(piece);
                }
            }
        }
    }

    proptest! {
        /// As [`Device`](crate::disk::device::Device) writes tables: the one of before, that of what is kept, the new one.
        #[test]
        fn p12_what_is_kept_is_found_after_a_cut_in_any_table(
            (written, survives) in (0_usize..5, proptest::collection::vec(any::<bool>(), 40)),
        ) {
            let partition = |label: &str, role| Partition {
                label: label.into(),
                role,
                min_mib: 1,
                mount: (role == Role::Data).then(|| format!("/{label}")),
                ..Partition::default()
            };
            let partitions =
                vec![partition("a", Role::Data), partition("root", Role::Root), partition("b", Role::Data)];
            let layout = Layout { name: "t".into(), partitions, ..Layout::default() };
            let bytes = 5 << 20;
            let plan = plan::plan(&layout, bytes, 512).expect("fits");
            let (old, mut new) = (uuids(), uuids());
            new.disk = new.root.clone();
            new.partitions[1] = new.root.clone();
            let before = encode(&plan, &old, &[]).expect("encodes");
            let is_kept = |planned: &Planned| planned.role == Role::Data;
            let keeping = encode_some(&plan, &new, &[], is_kept).expect("encodes");
            let after = encode(&plan, &new, &[0x90; 8]).expect("encodes");

            let mut disk = vec![0; bytes as usize];
            for planned in plan.partitions.iter().filter(|planned| is_kept(planned)) {
                let start = plan.place(planned).0 as usize;
                disk[start + 1080..][..2].copy_from_slice(&[0x53, 0xef]);
                disk[start + 1120] = 0x40;
                disk[start + 1128..][..16].fill(planned.number as u8);
            }
            // The first sector is empty already.
            cut(&[(&before, false), (&before, true)], |_| true, &mut disk);
            let found = |disk: &Vec<u8>| {
                let holds = contents::of_medium(disk, bytes, 512).ok();
                let disk = Disk { size: bytes, sector_size: 512, holds, ..Disk::default() };
                keep::find(&layout, &plan, ["a", "b"], &disk)
            };
            let kept = found(&disk).expect("it is there");
            let tables = [(&keeping, false), (&keeping, true), (&after, false), (&after, true)];
            cut(&tables[..written], |sector| survives[sector], &mut disk);
            prop_assert_eq!(found(&disk), Ok(kept));
        }
    }
}
