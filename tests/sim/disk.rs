//! A modelled disk: what lies on it, whether it starts, and what a cut in the middle leaves.
//!
//! Single writes are whole or not at all; a power cut comes between any two of them.

use kaltstart_protocol::agent_api::{DiskUuids, InstallTask};
use kaltstart_protocol::contents::{Area, Contents};
use kaltstart_protocol::facts::Disk as Measured;
use kaltstart_protocol::node_api::ReportConfig;

/// Pieces of an image.
pub(crate) const PIECES: u8 = 4;

/// A system on a disk.
#[derive(Debug, Clone)]
pub(crate) struct System {
    /// UUID of its root file system; of a foreign one that of the file system that was found.
    pub(crate) root: String,
    pub(crate) hostname: String,
    pub(crate) machine_id: String,
    /// How it reports, until that was noted.
    pub(crate) report: Option<ReportConfig>,
    /// Pieces of its image that are there.
    pieces: u8,
    configured: bool,
}

impl System {
    /// Whether all of it is there.
    pub(crate) fn is_whole(&self) -> bool {
        self.pieces == PIECES && self.configured
    }
}

/// One write, or some that a cut does not part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    /// The first sector is emptied.
    FirstSector,
    /// Both ends are emptied; halfway, something is left that nobody knows.
    Ends { halfway: bool },
    /// Empty file systems, in partitions that only the kernel knows.
    Format,
    /// A piece of the image.
    Piece(u8),
    /// Who the system is, and how it starts.
    Identity,
    /// The partition table.
    Table,
    /// The first sector: from now on the disk starts.
    Bootable,
}

/// The writes of an installation, in the order of the agent's `install`.
pub(crate) fn installation() -> Vec<Write> {
    let mut writes = erasure();
    writes.push(Write::Format);
    writes.extend((1..=PIECES).map(Write::Piece));
    writes.extend([Write::Identity, Write::Table, Write::Bootable]);
    writes
}

/// The writes of an erasure.
pub(crate) fn erasure() -> Vec<Write> {
    vec![Write::FirstSector, Write::Ends { halfway: true }, Write::Ends { halfway: false }]
}

/// A disk in a machine.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) serial: String,
    size: u64,
    path: String,
    areas: Vec<Area>,
    /// Whether its first sector starts something.
    pub(crate) starts: bool,
    pub(crate) system: Option<System>,
}

fn area(partition: Option<u32>, kind: &str, id: &str) -> Area {
    Area { partition, kind: kind.into(), id: id.into(), label: String::new() }
}

impl Disk {
    /// An empty one.
    pub(crate) fn blank(serial: String, gib: u64, path: &str) -> Self {
        let (areas, starts, system) = (Vec::new(), false, None);
        Self { serial, size: gib << 30, path: path.into(), areas, starts, system }
    }

    /// One with somebody's system.
    pub(crate) fn foreign(serial: String, gib: u64, path: &str) -> Self {
        let root = format!("foreign-{serial}");
        let areas = vec![area(None, "mbr", &root), area(Some(1), "ext4", &root)];
        let (hostname, machine_id) = (String::from("somebody"), root.clone());
        let system = System { root, hostname, machine_id, report: None, pieces: PIECES, configured: true };
        Self { areas, starts: true, system: Some(system), ..Self::blank(serial, gib, path) }
    }

    /// As an agent finds it.
    pub(crate) fn measured(&self, name: String) -> Measured {
        Measured {
            name,
            serial: self.serial.clone(),
            model: "simulated".into(),
            size: self.size,
            sector_size: 512,
            transport: "sata".into(),
            path: self.path.clone(),
            holds: Some(self.contents()),
            ..Measured::default()
        }
    }

    /// What lies on it.
    pub(crate) fn contents(&self) -> Contents {
        Contents::new(self.areas.clone())
    }

    /// Writes for an installation by `task`, or for an erasure without one.
    pub(crate) fn write(&mut self, write: &Write, task: Option<&InstallTask>) {
        match write {
            Write::FirstSector => {
                self.starts = false;
                self.areas.retain(|area| area.kind != "mbr");
            }
            Write::Ends { halfway } => {
                self.system = None;
                self.areas.clear();
                if *halfway {
                    self.areas.push(area(None, Area::DATA, ""));
                }
            }
            Write::Format => self.system = task.map(fresh),
            Write::Piece(number) => {
                if let Some(system) = &mut self.system {
                    system.pieces = *number;
                }
            }
            Write::Identity => {
                if let (Some(system), Some(task)) = (&mut self.system, task) {
                    system.configured = true;
                    system.report = Some(task.identity.report.clone());
                }
            }
            Write::Table => self.areas = task.map(|task| table(&task.uuids)).unwrap_or_default(),
            Write::Bootable => self.starts = true,
        }
    }
}

/// A new system without contents.
fn fresh(task: &InstallTask) -> System {
    System {
        root: task.uuids.root.clone(),
        hostname: task.identity.hostname.clone(),
        machine_id: machine_id(task),
        report: None,
        pieces: 0,
        configured: false,
    }
}

/// The machine id that the agent gives: the same for each attempt of a job.
pub(crate) fn machine_id(task: &InstallTask) -> String {
    task.uuids.disk.replace('-', "")
}

/// What an installation with these UUIDs shows once its table is written.
fn table(uuids: &DiskUuids) -> Vec<Area> {
    let mut areas = vec![area(None, "gpt", &uuids.disk)];
    for (uuid, number) in uuids.partitions.iter().zip(1..) {
        areas.push(area(Some(number), Area::PARTITION, uuid));
    }
    let esp = format!("{:04X}-{:04X}", uuids.esp >> 16, uuids.esp & 0xffff);
    areas.extend([area(Some(2), "vfat", &esp), area(Some(3), "ext4", &uuids.root)]);
    areas
}
