//! The disks of one installation: one, or several that are divided alike and carry arrays.

use super::array;
use super::block::{Block, Volume};
use super::device::Device;
use super::gpt::{self, Guid};
use super::lvm;
use super::md;
use super::spared::Spared;
use crate::gate::Permit;
use crate::install::Stop;
use kaltstart_protocol::agent_api::DiskUuids;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::layout::array::Array;
use kaltstart_protocol::layout::group::EXTENT;
use kaltstart_protocol::layout::plan::{Plan, Planned};
use kaltstart_protocol::time::Millis;
use std::path::Path;
use std::sync::Arc;

/// The name of the array of the partitions with that number, for which any host is the right one (mdadm(8),
/// `--homehost`): it becomes `/dev/mdN`.
#[must_use]
pub fn array_name(number: u32) -> String {
    format!("any:{number}")
}

/// All of them, open for writing.
#[derive(Debug)]
pub struct Disks {
    devices: Vec<Device>,
    described: String,
    plan: Plan,
    uuids: DiskUuids,
    now: Millis,
    /// What is not written of the only disk; of several nothing is kept.
    kept: Vec<Kept>,
}

/// What makes a disk start.
#[derive(Debug, Default)]
pub struct Boot {
    /// What to write where: bytes from the start of the disk.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// First bytes of the master boot record; empty without BIOS support.
    pub boot_code: Vec<u8>,
}

/// What a volume group lies on, once it is written.
#[derive(Debug)]
pub enum Group {
    /// A disk or an array.
    Block {
        /// Which.
        block: Arc<Block>,
        /// Where the group begins there, in bytes.
        start: u64,
    },
    /// What is encrypted there.
    Encrypted(Arc<Volume>),
}

impl Group {
    /// A logical volume of it: what the kernel takes for a partition, or a device of its own, until LVM knows it.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn volume(&self, plan: &Plan, planned: &Planned) -> Result<Volume, Finding> {
        let (offset, length) = plan.place(planned);
        match self {
            Self::Block { block, start } => block.part(planned.number, start + offset, length),
            Self::Encrypted(whole) => whole.part(&format!("kaltstart{}", planned.number), offset, length),
        }
    }
}

fn is_kept(kept: &[Kept], planned: &Planned) -> bool {
    kept.iter().any(|kept| kept.number == planned.number)
}

fn no_table(error: &gpt::GptError) -> Finding {
    Finding::new(Code::DiskFailed, format!("partition table: {error}"))
}

impl Disks {
    /// Opens the disks of all permits, in their order. Nothing is written before the last is open.
    ///
    /// # Errors
    /// Those of [`Device::open`].
    pub fn open(
        permits: &[Permit],
        plan: Plan,
        uuids: &DiskUuids,
        now: Millis,
        (dev, sys): (&Path, &Path),
    ) -> Result<Self, Finding> {
        let mut devices = Vec::with_capacity(permits.len());
        for permit in permits {
            let kept = plan.in_table().filter(|planned| is_kept(permit.kept(), planned));
            let spared = Spared::new(kept.map(|planned| plan.place(planned)));
            devices.push(Device::open(permit, dev, sys)?.sparing(spared));
        }
        let described = devices.iter().map(Device::described).collect::<Vec<_>>().join("; ");
        let kept = permits.iter().flat_map(Permit::kept).cloned().collect();
        Ok(Self { devices, described, plan, uuids: uuids.clone(), now, kept })
    }

    /// Whether a partition is kept as it is.
    #[must_use]
    pub fn is_kept(&self, planned: &Planned) -> bool {
        is_kept(&self.kept, planned)
    }

    /// The table that lists what is kept alone; none where nothing is.
    fn keeping(&self, index: u32, device: &Device) -> Result<Option<gpt::Gpt>, Finding> {
        if self.kept.is_empty() {
            return Ok(None);
        }
        let plan = Plan { sectors: device.size / self.plan.sector_size, ..self.plan.clone() };
        let table = gpt::encode_some(&plan, &self.uuids.on_disk(index), &[], |planned| self.is_kept(planned));
        table.map(Some).map_err(|error| no_table(&error))
    }

    /// Whether all that is kept is still there, as the medium tells.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn ensure_kept(&self) -> Result<(), Finding> {
        let all = || self.devices.iter().try_for_each(|device| device.ensure_kept(&self.kept));
        if self.kept.is_empty() { Ok(()) } else { all() }
    }

    /// What lies where on each of them.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Names disks and stage in the finding of a stage that did not come to its end, see [`Device::stage`].
    ///
    /// # Errors
    /// That of `result`.
    pub(crate) fn stage<T>(&self, stage: &str, result: Result<T, impl Into<Stop>>) -> Result<T, Stop> {
        Device::name_in(&self.described, stage, result)
    }

    /// Does a stage on each disk in turn.
    fn each(&self, stage: &str, work: impl Fn(u32, &Device) -> Result<(), Finding>) -> Result<(), Stop> {
        (0..).zip(&self.devices).try_for_each(|(index, device)| device.stage(stage, work(index, device)))
    }

    /// Clears all of them, see [`Device::clear`]: the first sectors of all before anything else.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn clear(&self) -> Result<(), Stop> {
        let stage = "clearing";
        self.each(stage, |_, device| device.clear_first_sector())?;
        let free = |planned: &&Planned| !self.is_kept(planned);
        let places: Vec<_> =
            self.plan.in_table().filter(free).map(|planned| self.plan.place(planned)).collect();
        self.each(stage, |index, device| device.clear(&places, self.keeping(index, device)?.as_ref()))
    }

    /// Where a partition's file system or swap space is made: in it, or in the array of it and its like.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn volume(&self, planned: &Planned) -> Result<Volume, Finding> {
        let (number, (start, length)) = (planned.number, self.plan.place(planned));
        let mut volumes = Vec::with_capacity(self.devices.len());
        for device in &self.devices {
            volumes.push(device.part(number, start, length)?);
        }
        match self.plan.array_of(planned) {
            Some(array) => {
                let name = array_name(number);
                for (index, device) in (0..).zip(&self.devices) {
                    for (offset, bytes) in md::encode(&self.member(planned, &name, array, index)?) {
                        device.write_at(start + offset, &bytes)?;
                    }
                    device.sync()?;
                }
                array::start(volumes).map(|block| block.whole())
            }
            None => volumes.pop().ok_or_else(|| Finding::new(Code::DiskFailed, "no disk")),
        }
    }

    /// Writes the volume group that a partition is for into `whole`, which is its [`Disks::volume`] and encrypted if it
    /// shall be, with its logical volumes; `host` is whom it is made for.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn group(&self, planned: &Planned, whole: Volume, host: &str) -> Result<Group, Finding> {
        let missing = |label: &str| Finding::new(Code::DiskFailed, format!("{label:?} has no UUID"));
        let id = |uuids: &[String], of: &Planned| {
            uuids
                .get(of.number as usize - 1)
                .and_then(|text| Guid::parse(text))
                .ok_or_else(|| missing(&of.label))
        };
        let DiskUuids { partitions, further, .. } = &self.uuids;
        let volumes = self.plan.volumes(planned).map(|volume| {
            let extents = self.plan.place(volume).1 / EXTENT;
            Ok(lvm::Logical { name: &volume.label, id: id(partitions, volume)?, extents })
        });
        let volumes: Vec<lvm::Logical<'_>> = volumes.collect::<Result<_, Finding>>()?;
        let head = lvm::encode(&lvm::Group {
            name: &planned.label,
            id: id(further, planned)?,
            physical: id(partitions, planned)?,
            bytes: self.plan.room(planned),
            host,
            created: self.now.0 / 1000,
            volumes: &volumes,
        });
        let head = head.ok_or_else(|| Finding::new(Code::DiskFailed, "too many logical volumes"))?;
        whole.write_at(0, &head)?;
        Ok(match (self.plan.array_of(planned), self.devices.first()) {
            _ if planned.encrypted => Group::Encrypted(Arc::new(whole)),
            (None, Some(device)) => {
                Group::Block { block: Arc::clone(device.block()), start: self.plan.place(planned).0 }
            }
            _ => Group::Block { block: whole.block(), start: 0 },
        })
    }

    fn member<'a>(
        &self,
        planned: &Planned,
        name: &'a str,
        array: Array,
        index: u16,
    ) -> Result<md::Member<'a>, Finding> {
        let uuid = |index| {
            let uuids = self.uuids.on_disk(index);
            let uuid = uuids.partitions.get(planned.number as usize - 1).and_then(|text| Guid::parse(text));
            uuid.ok_or_else(|| {
                Finding::new(Code::DiskFailed, format!("partition {:?} has no UUID", planned.label))
            })
        };
        Ok(md::Member {
            array_uuid: uuid(0)?,
            name,
            array,
            uuid: uuid(u32::from(index))?,
            index,
            size: self.plan.place(planned).1,
            now: self.now,
        })
    }

    /// Writes what lies outside of file systems, and compares it with what each disk then holds. `boots` are in
    /// the order of the disks.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn write_boot_files(&self, boots: &[Boot]) -> Result<(), Stop> {
        self.each("writing boot files", |index, device| {
            let writes = boots.get(index as usize).map_or(&[][..], |boot| &boot.writes);
            for (offset, bytes) in writes {
                device.write_at(*offset, bytes)?;
            }
            device.sync()?;
            device.forget_buffers()?;
            writes.iter().try_for_each(|(offset, bytes)| device.verify(*offset, bytes))
        })
    }

    /// The partition table of disk `index`, which may be larger than the plan is for.
    ///
    /// # Errors
    /// [`Code::DiskFailed`] when there is none.
    pub fn table(
        plan: &Plan,
        uuids: &DiskUuids,
        index: u32,
        sectors: u64,
        boot_code: &[u8],
    ) -> Result<gpt::Gpt, Finding> {
        gpt::encode(&Plan { sectors, ..plan.clone() }, &uuids.on_disk(index), boot_code)
            .map_err(|error| no_table(&error))
    }

    /// Writes the partition tables: all of them without their first sectors, then these. Should it fail, whatever was
    /// written of them is removed again.
    ///
    /// # Errors
    /// [`Code::DiskFailed`].
    pub fn make_bootable(&self, boots: &[Boot]) -> Result<(), Stop> {
        let table = |index: u32, device: &Device| {
            let code = boots.get(index as usize).map_or(&[][..], |boot| &boot.boot_code);
            Self::table(&self.plan, &self.uuids, index, device.size / self.plan.sector_size, code)
        };
        let first = self.plan.sector_size as usize;
        let stage = "writing the partition table";
        let written =
            self.each(stage, |index, device| device.write_table(&table(index, device)?)).and_then(|()| {
                self.each(stage, |index, device| {
                    let table = table(index, device)?;
                    device.write_at(0, &table.primary[..first])?;
                    device.sync()?;
                    device.forget_buffers()?;
                    device.verify(table.backup_offset, &table.backup)?;
                    device.verify(0, &table.primary)
                })
            });
        if written.is_err() {
            for (index, device) in (0..).zip(&self.devices) {
                let cleared = self.keeping(index, device).and_then(|table| device.clear(&[], table.as_ref()));
                if let Err(finding) = cleared {
                    tracing::error!(%finding, "the partition table could not be removed");
                }
            }
        }
        written
    }
}
