//! The machine's disk: a sparse file, and a directory that stands for the files on it, as nobody but root may mount.

use crate::Machine;
use kaltstart_agent::contents;
use kaltstart_agent::disk::gpt::Gpt;
use kaltstart_protocol::facts::{self, Health, Verdict};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Its size in bytes; it takes what is written to it.
const SIZE: u64 = 480 << 30;
const SECTOR: u32 = 512;
/// Where the kernel of an installed system sees its root file system.
pub(crate) const ROOT_PARTITION: &str = "nvme0n1p3";

pub(crate) struct Disk {
    file: File,
    root: PathBuf,
    serial: String,
    failing: bool,
}

impl Disk {
    /// The machine's; a blank one if there was none.
    pub(crate) fn open(machine: &Machine) -> io::Result<Self> {
        fs::create_dir_all(&machine.directory)?;
        let path = machine.directory.join("disk");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(SIZE)?;
        let serial = format!("{}-NVME", machine.name.to_uppercase());
        Ok(Self { file, root: machine.directory.join("root"), serial, failing: machine.failing })
    }

    /// Where the files of its root file system lie.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// As the agent finds it: what lies on it is read by the agent's own code.
    pub(crate) fn measured(&self) -> facts::Disk {
        let health = if self.failing {
            Health {
                verdict: Verdict::Failing,
                said: "spare blocks below their threshold, read-only".into(),
                worn_percent: Some(113),
                media_errors: Some(4_711),
                ..Health::default()
            }
        } else {
            Health { worn_percent: Some(3), media_errors: Some(0), ..Health::default() }
        };
        facts::Disk {
            name: "nvme0n1".into(),
            serial: self.serial.clone(),
            model: "simulated".into(),
            size: SIZE,
            sector_size: SECTOR,
            transport: "nvme".into(),
            path: "pci0000:00/0000:00:1d.0/nvme/nvme0".into(),
            holds: contents::of_medium(&self.file, SIZE, SECTOR).ok(),
            health: Some(health),
            ..facts::Disk::default()
        }
    }

    /// Makes it blank, with an empty file system beside it.
    pub(crate) fn clear(&self) -> io::Result<()> {
        // A file that is cut off has forgotten everything.
        self.file.set_len(0)?;
        self.file.set_len(SIZE)?;
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&self.root)
    }

    /// Writes a partition table in the agent's order: the first sector last.
    pub(crate) fn partition(&self, table: &Gpt) -> io::Result<()> {
        let (first, rest) = table.primary.split_at(SECTOR as usize);
        self.file.write_all_at(&table.backup, table.backup_offset)?;
        self.file.write_all_at(rest, SECTOR.into())?;
        self.file.write_all_at(first, 0)?;
        self.file.sync_data()
    }
}
