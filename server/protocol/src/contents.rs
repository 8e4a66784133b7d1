//! What lies on a disk, in a form that formatting changes and use does not: no times, no counters,
//! no journal, so that a system may be started and stopped between two looks.

use crate::ids::Fingerprint;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// One thing that lies on a disk or in one of its partitions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Area {
    /// Number of the partition; none: the disk as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// `gpt`, `mbr`, [`Area::PARTITION`], `ext4`, `xfs`, `lvm`, `luks`, `md`, … ; [`Area::DATA`]
    /// when it is none that is known.
    pub kind: String,
    /// UUID or serial number, where the kind has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name, where the kind has one; type, sectors and name of a partition, as [`Entry`] has them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
}

impl Area {
    /// The kind of a table's entry.
    pub const PARTITION: &'static str = "partition";
    /// The kind of something that is not empty, and that nobody here knows.
    pub const DATA: &'static str = "data";
}

/// An entry of a partition table. Everything about it is in its [`Area`], and two entries that differ give areas that do.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its number in the table, from 1.
    pub number: u32,
    /// GUID, or what stands for it.
    pub id: &'a str,
    /// Type.
    pub kind: &'a str,
    /// First sector.
    pub first: u64,
    /// Last sector.
    pub last: u64,
    /// Bytes of the table's sectors, if they are not the disk's.
    pub sector: Option<u64>,
    /// Name; may be empty.
    pub name: &'a str,
}

impl From<Entry<'_>> for Area {
    fn from(entry: Entry<'_>) -> Self {
        let Entry { number, id, kind, first, last, sector, name } = entry;
        let sector = sector.map_or_else(String::new, |bytes| format!(" of {bytes} bytes"));
        let name = if name.is_empty() { String::new() } else { format!(", named {name}") };
        let label = format!("type {kind}, sectors {first}-{last}{sector}{name}");
        Self { partition: Some(number), kind: Self::PARTITION.into(), id: id.into(), label }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(number) if self.kind == Self::PARTITION => write!(f, "partition {number}")?,
            Some(number) => write!(f, "{} in partition {number}", self.kind)?,
            None => f.write_str(&self.kind)?,
        }
        if !self.id.is_empty() {
            write!(f, " {}", self.id)?;
        }
        if self.label.is_empty() { Ok(()) } else { write!(f, " ({})", self.label) }
    }
}

/// Everything on a disk, in order; nothing: it is blank.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Contents(pub Vec<Area>);

impl Contents {
    /// These areas, in order, each once.
    #[must_use]
    pub fn new(mut areas: Vec<Area>) -> Self {
        areas.sort();
        areas.dedup();
        Self(areas)
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.0.is_empty()
    }

    /// The first eight bytes of the SHA-256 of all areas' fields, each with its length before it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for Area { partition, kind, id, label } in &self.0 {
            hash.update(partition.map_or(0, u64::from).to_be_bytes());
            for text in [kind, id, label] {
                hash.update((text.len() as u64).to_be_bytes());
                hash.update(text.as_bytes());
            }
        }
        let mut short = [0; 8];
        short.copy_from_slice(&hash.finalize()[..8]);
        Fingerprint(short)
    }

    /// How `found` differs from these contents, for people; none when it does not.
    #[must_use]
    pub fn difference(&self, found: &Self) -> Option<String> {
        let without = |all: &Self, other: &Self| {
            Self(all.0.iter().filter(|area| !other.0.contains(area)).cloned().collect())
        };
        (self != found).then(|| format!("{}; found {}", without(self, found), without(found, self)))
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_blank() {
            return f.write_str("nothing");
        }
        for (index, area) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{area}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn area(partition: Option<u32>, kind: &str, id: &str, label: &str) -> Area {
        Area { partition, kind: kind.into(), id: id.into(), label: label.into() }
    }

    #[test]
    fn every_field_of_every_area_changes_the_fingerprint() {
        let one = area(Some(1), "ext4", "A", "root");
        let contents = Contents::new(vec![one.clone(), area(None, "gpt", "G", "")]);
        let same = Contents::new(vec![area(None, "gpt", "G", ""), one.clone(), one.clone()]);
        assert_eq!(contents.fingerprint(), same.fingerprint(), "order and repetition do not matter");
        let others = [
            vec![],
            vec![one.clone()],
            vec![area(None, "gpt", "H", ""), one.clone()],
            vec![area(None, "gpt", "G", ""), area(Some(2), "ext4", "A", "root")],
            vec![area(None, "gpt", "G", ""), area(Some(1), "ext3", "A", "root")],
            vec![area(None, "gpt", "G", ""), area(Some(1), "ext4", "B", "root")],
            vec![area(None, "gpt", "G", ""), area(Some(1), "ext4", "A", "")],
            vec![area(None, "gpt", "G", ""), area(Some(1), "ext4", "Ar", "oot")],
        ];
        for other in others {
            assert_ne!(contents.fingerprint(), Contents::new(other.clone()).fingerprint(), "{other:?}");
        }
    }

    #[test]
    fn differences_are_named() {
        let a = Contents::new(vec![area(None, "gpt", "G", ""), area(Some(1), "ext4", "A", "root")]);
        let b = Contents::new(vec![area(None, "gpt", "G", ""), area(Some(1), "ext4", "B", "")]);
        assert_eq!(a.difference(&a), None);
        let difference = a.difference(&b).expect("they differ");
        assert_eq!(difference, "ext4 in partition 1 A (root); found ext4 in partition 1 B");
        assert_eq!(Contents::default().to_string(), "nothing");
    }
}
