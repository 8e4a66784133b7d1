//! A FAT32 file system as bytes: makes it and fills it in one pass.
//!
//! The EFI system partition is written once, from empty, with a few files. Doing that here needs
//! neither `mkfs.fat` nor the kernel's vfat and its code pages, gives the same bytes for the same
//! input, and can be checked on any machine. Names are 8.3 (FAT has no case; NT's two case flags
//! keep lower case visible), which fits all that firmware and GRUB look for.
//!
//! Source: Microsoft, *FAT: General Overview of On-Disk Format*, 1.03; ECMA-107.

use std::collections::BTreeMap;

/// Sectors before the first table; FAT32's customary 32, holding boot sector, FSInfo and backup.
const RESERVED_SECTORS: u64 = 32;
/// Bytes of a cluster.
const CLUSTER: u64 = 4096;
/// FAT32 means at least this many clusters; with fewer, firmware reads it as FAT16.
const CLUSTERS_MIN: u64 = 65_525;
/// Cluster numbers from here on are reserved.
const CLUSTERS_MAX: u64 = 0x0FFF_FFF0;
/// End of a chain.
const END: u32 = 0x0FFF_FFFF;
/// First cluster of the root directory.
const ROOT: u32 = 2;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_ARCHIVE: u8 = 0x20;
/// 1980-01-01, the first day FAT knows: the same input gives the same bytes.
const DATE: u16 = 0x0021;

/// Where the file system lies.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Bytes of a sector, 512 or 4096.
    pub sector_size: u64,
    /// First sector on the disk.
    pub first: u64,
    /// Sectors.
    pub sectors: u64,
}

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// A path is empty or has a component that is not 8.3.
    #[error("{0:?} is not a path of 8.3 names")]
    Name(String),
    /// Two files have one name, or a file stands where a directory must.
    #[error("{0:?} occurs twice")]
    Twice(String),
    /// Too small for FAT32, or for the files.
    #[error("{needed} clusters are needed, the partition holds {available}")]
    TooSmall {
        /// Clusters needed.
        needed: u64,
        /// Clusters available.
        available: u64,
    },
    /// More than 4 GiB per file, or more sectors than FAT32 can count.
    #[error("too large for FAT32")]
    TooLarge,
}

/// A name as it lies in a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    bytes: [u8; 11],
    /// NT's flags: 0x08 = base is lower case, 0x10 = extension is.
    case: u8,
}

enum Node<'a> {
    File(&'a [u8]),
    Directory(BTreeMap<[u8; 11], (Name, Node<'a>)>),
}

/// What to write where (bytes from the start of the disk) for a FAT32 file system with `files`
/// (path, contents) at `place`. Nothing else on the partition needs to be written.
///
/// # Errors
/// When a name is not 8.3, or the place too small.
pub fn encode(
    place: Place,
    volume_id: u32,
    files: &[(String, Vec<u8>)],
) -> Result<Vec<(u64, Vec<u8>)>, FatError> {
    let mut root = BTreeMap::new();
    for (path, contents) in files {
        insert(&mut root, path, contents)?;
    }
    let sector = place.sector_size;
    let total = u32::try_from(place.sectors).map_err(|_| FatError::TooLarge)?;
    let (clusters, fat_sectors) = geometry(place);
    let mut volume = Volume { chains: vec![0x0FFF_FFF8, END], writes: Vec::new() };
    volume.directory(&root, None)?;
    let needed = (volume.chains.len() as u64 - 2).max(CLUSTERS_MIN);
    if clusters < needed {
        return Err(FatError::TooSmall { needed, available: clusters });
    }
    if clusters > CLUSTERS_MAX {
        return Err(FatError::TooLarge);
    }

    let free = u32::try_from(clusters - (volume.chains.len() as u64 - 2)).map_err(|_| FatError::TooLarge)?;
    let next = u32::try_from(volume.chains.len()).map_err(|_| FatError::TooLarge)?;
    let boot = boot_sector(place, total, fat_sectors, volume_id)?;
    let info = info_sector(free, next);
    let mut reserved = vec![0; (RESERVED_SECTORS * sector) as usize];
    for (at, bytes) in [(0, &boot), (1, &info), (6, &boot), (7, &info)] {
        let start = at * sector as usize;
        reserved[start..start + 512].copy_from_slice(bytes);
    }
    let mut table: Vec<u8> = volume.chains.iter().flat_map(|link| link.to_le_bytes()).collect();
    table.resize((fat_sectors * sector) as usize, 0);
    let base = place.first * sector;
    let tables = base + RESERVED_SECTORS * sector;
    let mut writes = vec![(base, reserved), (tables, [&table[..], &table].concat())];
    let data = tables + 2 * fat_sectors * sector;
    for (cluster, bytes) in volume.writes {
        let mut bytes = bytes.into_owned();
        bytes.resize(bytes.len().next_multiple_of(CLUSTER as usize), 0);
        writes.push((data + u64::from(cluster - ROOT) * CLUSTER, bytes));
    }
    Ok(writes)
}

/// Clusters, and sectors of one table, for a place: the largest number of clusters whose table
/// still fits beside them.
fn geometry(place: Place) -> (u64, u64) {
    let per_cluster = CLUSTER / place.sector_size;
    let room = place.sectors.saturating_sub(RESERVED_SECTORS);
    let entries = place.sector_size / 4;
    // Each table sector serves `entries` clusters; two clusters of every table are reserved.
    let fat_sectors = (room / per_cluster + 2).div_ceil(entries);
    (room.saturating_sub(2 * fat_sectors) / per_cluster, fat_sectors)
}

struct Volume<'a> {
    /// The table: for each cluster, the next one.
    chains: Vec<u32>,
    /// What is written from which cluster on.
    writes: Vec<(u32, std::borrow::Cow<'a, [u8]>)>,
}

impl<'a> Volume<'a> {
    /// Takes clusters in a row for `bytes` bytes, at least `least`; 0 when there are none.
    fn allocate(&mut self, bytes: usize, least: usize) -> Result<u32, FatError> {
        let count = bytes.div_ceil(CLUSTER as usize).max(least);
        let first = u32::try_from(self.chains.len()).map_err(|_| FatError::TooLarge)?;
        for i in 0..count {
            let next = u32::try_from(self.chains.len() + 1).map_err(|_| FatError::TooLarge)?;
            self.chains.push(if i + 1 == count { END } else { next });
        }
        Ok(if count == 0 { 0 } else { first })
    }

    /// Lays out a directory and what is below it; returns its first cluster. `parent` is none
    /// for the root directory, which instead of "." and ".." has the volume's label.
    fn directory(
        &mut self,
        nodes: &BTreeMap<[u8; 11], (Name, Node<'a>)>,
        parent: Option<u32>,
    ) -> Result<u32, FatError> {
        let extra = if parent.is_some() { 2 } else { 1 };
        let this = self.allocate((nodes.len() + extra) * 32, 1)?;
        let mut bytes = Vec::new();
        match parent {
            None => bytes.extend(entry(Name { bytes: *b"ESP        ", case: 0 }, ATTRIBUTE_VOLUME, 0, 0)),
            Some(parent) => {
                let dot = |text: &[u8; 11]| Name { bytes: *text, case: 0 };
                // ".." to the root directory is written as cluster 0.
                let up = if parent == ROOT { 0 } else { parent };
                bytes.extend(entry(dot(b".          "), ATTRIBUTE_DIRECTORY, this, 0));
                bytes.extend(entry(dot(b"..         "), ATTRIBUTE_DIRECTORY, up, 0));
            }
        }
        for (name, node) in nodes.values() {
            let (attribute, first, size) = match node {
                Node::Directory(below) => (ATTRIBUTE_DIRECTORY, self.directory(below, Some(this))?, 0),
                Node::File(contents) => {
                    let size = u32::try_from(contents.len()).map_err(|_| FatError::TooLarge)?;
                    let first = self.allocate(contents.len(), 0)?;
                    if size > 0 {
                        self.writes.push((first, (*contents).into()));
                    }
                    (ATTRIBUTE_ARCHIVE, first, size)
                }
            };
            bytes.extend(entry(*name, attribute, first, size));
        }
        self.writes.push((this, bytes.into()));
        Ok(this)
    }
}

/// A 32-byte directory entry.
fn entry(name: Name, attribute: u8, cluster: u32, size: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..11].copy_from_slice(&name.bytes);
    bytes[11] = attribute;
    bytes[12] = name.case;
    for date in [16, 18, 24] {
        bytes[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    bytes[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
    bytes[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
    bytes[28..].copy_from_slice(&size.to_le_bytes());
    bytes
}

fn insert<'a>(
    nodes: &mut BTreeMap<[u8; 11], (Name, Node<'a>)>,
    path: &str,
    contents: &'a [u8],
) -> Result<(), FatError> {
    let components: Vec<&str> = path.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let Some((last, parents)) = components.split_last() else {
        return Err(FatError::Name(path.to_owned()));
    };
    let named = |part: &str| parse_name(part).ok_or_else(|| FatError::Name(path.to_owned()));
    let mut here = nodes;
    for part in parents {
        let name = named(part)?;
        let (_, node) = here.entry(name.bytes).or_insert_with(|| (name, Node::Directory(BTreeMap::new())));
        match node {
            Node::Directory(below) => here = below,
            Node::File(_) => return Err(FatError::Twice(path.to_owned())),
        }
    }
    let name = named(last)?;
    if here.insert(name.bytes, (name, Node::File(contents))).is_some() {
        return Err(FatError::Twice(path.to_owned()));
    }
    Ok(())
}

/// An 8.3 name whose base and extension are each of one case.
fn parse_name(text: &str) -> Option<Name> {
    let (base, extension) = text.split_once('.').unwrap_or((text, ""));
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"$%'-_@~`!(){}^#&".contains(&b);
    let part = |text: &str, max| !text.is_empty() && text.len() <= max && text.bytes().all(legal);
    if !part(base, 8) || (text.contains('.') && !part(extension, 3)) {
        return None;
    }
    let mut name = Name { bytes: [b' '; 11], case: 0 };
    for (at, text, flag) in [(0, base, 0x08), (8, extension, 0x10)] {
        name.bytes[at..at + text.len()].copy_from_slice(text.to_ascii_uppercase().as_bytes());
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            name.case |= flag;
        }
    }
    Some(name)
}

/// Boot sector with the FAT32 parameter block.
fn boot_sector(place: Place, total: u32, fat_sectors: u64, volume_id: u32) -> Result<[u8; 512], FatError> {
    let small = |value: u64| u8::try_from(value).map_err(|_| FatError::TooLarge);
    let mut b = [0; 512];
    b[..3].copy_from_slice(&[0xEB, 0x58, 0x90]);
    b[3..11].copy_from_slice(b"KALTST  ");
    b[11..13].copy_from_slice(&(place.sector_size as u16).to_le_bytes());
    b[13] = small(CLUSTER / place.sector_size)?;
    b[14..16].copy_from_slice(&(RESERVED_SECTORS as u16).to_le_bytes());
    b[16] = 2;
    b[21] = 0xF8;
    // Sectors per track and heads: unused since LBA, but some firmware divides by them.
    b[24..26].copy_from_slice(&63u16.to_le_bytes());
    b[26..28].copy_from_slice(&255u16.to_le_bytes());
    b[28..32].copy_from_slice(&u32::try_from(place.first).unwrap_or(0).to_le_bytes());
    b[32..36].copy_from_slice(&total.to_le_bytes());
    b[36..40].copy_from_slice(&u32::try_from(fat_sectors).map_err(|_| FatError::TooLarge)?.to_le_bytes());
    b[44..48].copy_from_slice(&ROOT.to_le_bytes());
    b[48..50].copy_from_slice(&1u16.to_le_bytes());
    b[50..52].copy_from_slice(&6u16.to_le_bytes());
    b[64] = 0x80;
    b[66] = 0x29;
    b[67..71].copy_from_slice(&volume_id.to_le_bytes());
    b[71..82].copy_from_slice(b"ESP        ");
    b[82..90].copy_from_slice(b"FAT32   ");
    // Whoever starts this sector: int 18h, "no boot device", then halt.
    b[90..95].copy_from_slice(&[0xCD, 0x18, 0xF4, 0xEB, 0xFD]);
    b[510..].copy_from_slice(&[0x55, 0xAA]);
    Ok(b)
}

fn info_sector(free: u32, next: u32) -> [u8; 512] {
    let mut b = [0; 512];
    b[..4].copy_from_slice(b"RRaA");
    b[484..488].copy_from_slice(b"rrAa");
    b[488..492].copy_from_slice(&free.to_le_bytes());
    b[492..496].copy_from_slice(&next.to_le_bytes());
    b[510..].copy_from_slice(&[0x55, 0xAA]);
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn check(sector_size: u64, mib: u64) {
        let offset = 2 << 20;
        let place = Place { sector_size, first: offset / sector_size, sectors: (mib << 20) / sector_size };
        let big: Vec<u8> = (0..1_000_003u32).map(|n| (n % 251) as u8).collect();
        let mut files = vec![
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), big.clone()),
            ("EFI/BOOT/grubx64.efi".to_owned(), vec![7; 4096]),
            ("/EFI/debian/grub.cfg".to_owned(), b"configfile\n".to_vec()),
            ("EFI/debian/empty".to_owned(), Vec::new()),
        ];
        // A directory of more than one cluster.
        files.extend((0..200).map(|n| (format!("many/f{n}"), vec![n as u8; 10])));
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("disk");
        let disk = std::fs::File::create(&path).expect("file");
        disk.set_len(offset + (mib << 20)).expect("sparse");
        for (at, bytes) in encode(place, 0x1234_ABCD, &files).expect("fits") {
            std::os::unix::fs::FileExt::write_all_at(&disk, &bytes, at).expect("written");
        }

        // fsck.fat reads no offset, so it gets the partition alone.
        let alone = directory.path().join("part");
        let part = std::fs::File::create(&alone).expect("file");
        part.set_len(mib << 20).expect("sparse");
        for (at, bytes) in encode(place, 0x1234_ABCD, &files).expect("fits") {
            std::os::unix::fs::FileExt::write_all_at(&part, &bytes, at - offset).expect("written");
        }
        let fsck = Command::new("fsck.fat").args(["-nv"]).arg(&alone).output().expect("fsck.fat");
        let text = String::from_utf8_lossy(&fsck.stdout) + String::from_utf8_lossy(&fsck.stderr);
        assert!(fsck.status.success(), "{text}");
        assert!(text.contains("32 bit entries"), "{text}");
        for (name, contents) in &files {
            let image = format!("{}@@{offset}", path.display());
            let target = format!("::/{}", name.trim_start_matches('/'));
            let got = Command::new("mtype").args(["-i", &image, &target]).output().expect("mtype");
            assert!(got.status.success(), "{name}: {}", String::from_utf8_lossy(&got.stderr));
            assert!(got.stdout == *contents, "{name} differs");
        }
        let list = Command::new("mdir")
            .args(["-i", &format!("{}@@{offset}", path.display()), "-b", "-/", "::EFI"])
            .output()
            .expect("mdir");
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(list.contains("EFI/BOOT/grubx64.efi") && list.contains("EFI/BOOT/BOOTX64.EFI"), "{list}");
    }

    #[test]
    fn fsck_and_mtools_agree_at_512() {
        check(512, 260);
    }

    #[test]
    fn fsck_and_mtools_agree_at_4096() {
        check(4096, 260);
    }

    #[test]
    fn refusals() {
        let place = Place { sector_size: 512, first: 0, sectors: 260 * 2048 };
        let attempt = |place, names: &[&str]| {
            let files: Vec<_> = names.iter().map(|name| ((*name).to_owned(), vec![1])).collect();
            encode(place, 1, &files)
        };
        assert!(matches!(attempt(place, &["a.b.c"]), Err(FatError::Name(_))));
        assert!(matches!(attempt(place, &["waytoolong.efi"]), Err(FatError::Name(_))));
        assert!(matches!(attempt(place, &["../x"]), Err(FatError::Name(_))));
        assert!(matches!(attempt(place, &["/"]), Err(FatError::Name(_))));
        assert!(matches!(attempt(place, &["a/b", "A/B"]), Err(FatError::Twice(_))));
        assert!(matches!(attempt(place, &["a", "a/b"]), Err(FatError::Twice(_))));
        let small = Place { sectors: 100 * 2048, ..place };
        assert!(matches!(attempt(small, &["a"]), Err(FatError::TooSmall { .. })));
    }
}
