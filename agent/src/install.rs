//! Laying down an image: the order of steps that is safe to interrupt.
//!
//! 1. Choose exactly one disk, or as many as the layout wants, hold the wipe grants against them, plan, and check
//!    that the result can start — nothing is written.
//! 2. Clear the ends of the disks: what was on them cannot start any more. Where something is kept, a table that lists
//!    it alone takes the place of what was there.
//! 3. Make the file systems on partitions that only the kernel knows, or on arrays of these, and fill them; or write the
//!    one that is the image.
//! 4. Compare size and digest of what was received with the manifest.
//! 5. Write identity and boot files; read back what must be right to start.
//! 6. Write the partition table of each disk: backup first, boot code and protective MBR last.
//!
//! Whenever the power fails, a disk holds either an empty first sector, and nothing starts from it, or
//! everything. A repetition starts from the beginning and gives the same disk; what is kept it finds where it was.

use crate::bootloader::{self, efi, grub};
use crate::disk::block::Volume;
use crate::disk::device;
use crate::disk::disks::{Boot, Disks};
use crate::disk::target::Target;
use crate::disk::{ext4, gpt, mkfs, swap};
use crate::gate::{Gate, Permit};
use crate::identity::{self, Written};
use crate::image::fetch::{ImageSource, Retry};
use crate::image::tree::Tree;
use crate::image::{self, Destination, Source};
use crate::kexec;
use crate::unlock::image as unlock;
use kaltstart_protocol::agent_api::{DiskUuids, InstallTask, Installed, ReportState};
use kaltstart_protocol::facts::{Disk, Firmware};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::keep;
use kaltstart_protocol::layout::fit::fit;
use kaltstart_protocol::layout::plan::{Plan, Planned};
use kaltstart_protocol::layout::{FileSystem, Role};
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::select::describe;
use kaltstart_protocol::time::Millis;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

/// The only form of manifest understood.
const MANIFEST_SCHEMA: u32 = 1;

/// Watches an installation and may end it. Called from several threads, often; it must not block.
pub trait Observer: Sync {
    /// How a phase stands now: `Running` when it starts and several times a second while the
    /// image flows, then `Done` or `Failed` once. A cancelled phase just ends.
    fn phase(
        &self,
        phase: Phase,
        state: ReportState,
        progress: Option<Progress>,
        detail: BTreeMap<String, String>,
    );

    /// Why the job shall end, once it shall.
    fn cancelled(&self) -> Option<String>;
}

/// Why there is no installed system. The disk cannot start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It failed; already reported to the observer.
    Failed(Finding),
    /// The observer said so, with this reason.
    Cancelled(String),
}

impl From<Finding> for Stop {
    fn from(finding: Finding) -> Self {
        Self::Failed(finding)
    }
}

/// Where things are on this machine.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Device nodes.
    pub dev: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// Where the new root file system is mounted meanwhile.
    pub mount: PathBuf,
    /// efivarfs; none on a machine that was started by BIOS.
    pub efivars: Option<PathBuf>,
    /// This program, left in the system for its first report.
    pub agent: PathBuf,
    /// Where the programs of file systems are.
    pub tools: PathBuf,
}

impl Default for Paths {
    /// Those of the ramdisk; `efivars` is none.
    fn default() -> Self {
        Self {
            dev: "/dev".into(),
            sys: "/sys".into(),
            mount: "/run/kaltstart/root".into(),
            efivars: None,
            agent: "/init".into(),
            tools: "/sbin".into(),
        }
    }
}

/// Lays down the task's image on the disk of `disks` that fits its rule and its wipe grant, or on those that do if
/// its layout wants several, as of `now`.
///
/// Other disks are only set read-only in the kernel. Threads end before this returns, and
/// nothing stays mounted.
///
/// # Errors
/// See [`Stop`]; all findings of disk, image, boot loader and tools.
pub fn install(
    gate: &Gate,
    task: &InstallTask,
    disks: &[Disk],
    now: Millis,
    source: &dyn ImageSource,
    paths: &Paths,
    observer: &dyn Observer,
) -> Result<Installed, Stop> {
    let image = in_phase(observer, Phase::Disk, || Ok(gate.image(task)?))?;
    let job = Job { task, image: &image, paths, observer };
    let (chosen, found) = job.phase(Phase::Disk, || job.choose(gate, disks, now))?;
    let prepare = || {
        chosen.clear()?;
        let mut target = chosen.stage("making file systems", job.format(&chosen))?;
        if !image.format.is_file_system() {
            chosen.stage("making file systems", target.mount())?;
        }
        Ok::<_, Stop>(target)
    };
    let target = job.phase(Phase::Disk, || {
        let target = prepare()?;
        job.done(Phase::Disk, None, details(&found, &chosen));
        Ok(target)
    })?;
    let mut target = job.phase(Phase::Image, || {
        let was_used = |disk: &Disk| disk.holds.as_ref().is_none_or(|holds| !holds.is_blank());
        let (mut target, mut reuse) = (target, task.attempt > 1 || found.iter().any(was_used));
        loop {
            let laid_down = job.lay_down(source, chosen.plan(), &mut target, reuse);
            match chosen.stage("writing the image", laid_down) {
                Err(Stop::Failed(finding))
                    if finding.code == Code::ImageMismatch && source.distrust(&finding.detail) =>
                {
                    // Nothing of what was wrong may stay: as at the beginning.
                    drop(target);
                    target = prepare()?;
                    reuse = true;
                }
                laid_down => return laid_down.map(|()| target),
            }
        }
    })?;
    job.phase(Phase::Configure, || {
        let configured = job.configure(chosen.plan(), &target, found.len());
        let (written, boots, before) = chosen.stage("writing the identity", configured)?;
        // Now the disks are told all that was written to their file systems so far.
        chosen.stage("writing the image", target.unmount())?;
        chosen.write_boot_files(&boots)?;
        let restart = chosen.stage("reading back", job.read_back(&mut target, &before))?;
        chosen.stage("reading back", target.ensure_whole())?;
        chosen.stage("reading back", chosen.ensure_kept())?;
        drop(target);
        job.check_cancelled()?;
        chosen.make_bootable(&boots)?;
        let boot_entry = job.boot_entries(chosen.plan(), found.len(), restart);
        job.done(Phase::Configure, None, BTreeMap::new());
        let identities: Vec<&str> = found.iter().map(Disk::identity).collect();
        Ok(Installed {
            job: task.job.clone(),
            attempt: task.attempt,
            disk: identities.join(", "),
            ssh_host_keys: written.ssh_host_keys,
            machine_id: written.machine_id,
            boot_entry,
            restart,
        })
    })
}

/// Runs a part of a phase: says that it runs, and if it fails, why.
pub(crate) fn in_phase<T>(
    observer: &dyn Observer,
    phase: Phase,
    work: impl FnOnce() -> Result<T, Stop>,
) -> Result<T, Stop> {
    check_cancelled(observer)?;
    observer.phase(phase, ReportState::Running, None, BTreeMap::new());
    let result = work();
    if let Err(Stop::Failed(finding)) = &result {
        let state = ReportState::Failed { finding: finding.clone() };
        observer.phase(phase, state, None, BTreeMap::new());
    }
    result
}

pub(crate) fn check_cancelled(observer: &dyn Observer) -> Result<(), Stop> {
    observer.cancelled().map_or(Ok(()), |reason| Err(Stop::Cancelled(reason)))
}

fn details(found: &[Disk], disks: &Disks) -> BTreeMap<String, String> {
    let plan = disks.plan();
    let (kept, made): (Vec<&Planned>, Vec<&Planned>) =
        plan.partitions.iter().partition(|planned| disks.is_kept(planned));
    let system = |partition: &Planned| match partition.role {
        Role::Esp => Some("vfat"),
        Role::Swap => Some("swap"),
        _ => partition.file_system.map(FileSystem::name),
    };
    let systems: Vec<&str> = made.into_iter().filter_map(system).collect();
    let mut details = BTreeMap::from([
        ("disk".to_owned(), found.iter().map(describe).collect::<Vec<_>>().join("; ")),
        ("file_systems".to_owned(), systems.join(" ")),
    ]);
    details.extend(plan.array.map(|array| ("arrays".to_owned(), array.level.name().to_owned())));
    if !kept.is_empty() {
        let labels: Vec<&str> = kept.iter().map(|planned| planned.label.as_str()).collect();
        details.insert("kept".to_owned(), labels.join(" "));
    }
    details
}

struct Job<'a> {
    task: &'a InstallTask,
    image: &'a Manifest,
    paths: &'a Paths,
    observer: &'a dyn Observer,
}

impl Job<'_> {
    fn phase<T>(&self, phase: Phase, work: impl FnOnce() -> Result<T, Stop>) -> Result<T, Stop> {
        in_phase(self.observer, phase, work)
    }

    fn done(&self, phase: Phase, progress: Option<Progress>, detail: BTreeMap<String, String>) {
        self.observer.phase(phase, ReportState::Done, progress, detail);
    }

    fn check_cancelled(&self) -> Result<(), Stop> {
        check_cancelled(self.observer)
    }

    /// Step 1: everything that can be refused before the first write.
    fn choose(&self, gate: &Gate, disks: &[Disk], now: Millis) -> Result<(Disks, Vec<Disk>), Stop> {
        let Self { task, image, .. } = self;
        if image.schema != MANIFEST_SCHEMA {
            let detail = format!("manifests of schema {} are not understood", image.schema);
            return Err(Finding::new(Code::ImageInvalid, detail).into());
        }
        let permits = gate.admit(task, disks, now)?;
        let chosen: Vec<&Disk> = permits.iter().map(Permit::disk).collect();
        let firmware = if self.paths.efivars.is_some() { Firmware::Uefi } else { Firmware::Bios };
        let plan = fit(&task.layout, Some(image), &chosen, firmware)?;
        self.ensure_keepable(&plan, &permits)?;
        identity::check(&task.identity)?;
        self.grub_files()?;
        Disks::table(&plan, &task.uuids, 0, plan.sectors, &[])?;
        for planned in &plan.partitions {
            self.uuid(planned)?;
        }
        for disk in &chosen {
            tracing::info!("{} {} goes to {}", image.name, image.version, describe(disk));
        }
        device::lock_all(&self.paths.dev, disks);
        let found = chosen.into_iter().cloned().collect();
        let places = (self.paths.dev.as_path(), self.paths.sys.as_path());
        Ok((Disks::open(&permits, plan, &task.uuids, now, places)?, found))
    }

    /// Whether what is to be kept is where the plan has it, by the agent's own look, and the system will be told its UUIDs.
    fn ensure_keepable(&self, plan: &Plan, permits: &[Permit]) -> Result<(), Finding> {
        let Self { task, .. } = self;
        for permit in permits {
            let labels = permit.kept().iter().map(|kept| kept.label.as_str());
            let found = keep::find(&task.layout, plan, labels, permit.disk())?;
            if found != permit.kept() || task.uuids.keeping(&found) != task.uuids {
                let detail = format!("{}: it keeps another partition than the task", describe(permit.disk()));
                return Err(Finding::new(Code::GrantRefused, detail));
            }
        }
        Ok(())
    }

    /// The UUID of what shall lie in a partition; none when it is of another kind.
    fn uuid(&self, planned: &Planned) -> Result<Option<(&str, gpt::Guid)>, Finding> {
        let DiskUuids { root, further, .. } = &self.task.uuids;
        let text = match planned.role {
            Role::BiosBoot | Role::Esp | Role::Lvm => return Ok(None),
            Role::Root => Some(root),
            Role::Boot | Role::Data | Role::Swap => further.get(planned.number as usize - 1),
        };
        let uuid = text.and_then(|text| Some((text.as_str(), gpt::Guid::parse(text)?)));
        let missing = || Finding::new(Code::DiskFailed, format!("partition {:?} has no UUID", planned.label));
        uuid.map(Some).ok_or_else(missing)
    }

    /// Step 3, first half: empty file systems and swap space.
    fn format(&self, disks: &Disks) -> Result<Target, Stop> {
        let mut target = Target::new(&self.paths.mount, self.image.format.is_file_system());
        let mut groups = BTreeMap::new();
        for planned in &disks.plan().partitions {
            if planned.role == Role::Lvm {
                let whole = self.encrypt(planned, disks.volume(planned)?)?;
                groups.insert(&planned.label, disks.group(planned, whole, &self.task.identity.hostname)?);
            }
            if disks.is_kept(planned) {
                target.keep(planned);
                continue;
            }
            let Some((text, uuid)) = self.uuid(planned)? else { continue };
            let volume = match planned.group.as_ref().and_then(|group| groups.get(group)) {
                Some(group) => group.volume(disks.plan(), planned)?,
                None => disks.volume(planned)?,
            };
            let volume = self.encrypt(planned, volume)?;
            if planned.role == Role::Swap {
                volume.write_at(0, &swap::encode(disks.plan().room(planned), uuid, &planned.label))?;
                volume.ensure_whole()?;
                continue;
            }
            let kind = planned.file_system.unwrap_or_default();
            let comes_whole = planned.role == Role::Root && self.image.format.is_file_system();
            if !comes_whole {
                mkfs::make(kind, &self.paths.tools, &volume.node, text, &planned.label, self.observer)?;
            }
            target.add(planned, kind, volume)?;
        }
        Ok(target)
    }

    /// The same partition, encrypted if it shall be.
    fn encrypt(&self, planned: &Planned, partition: Volume) -> Result<Volume, Finding> {
        if !planned.encrypted {
            return Ok(partition);
        }
        let key = self.task.encryption.as_ref().map(|encryption| &encryption.key);
        let uuid = self.task.uuids.partitions.get(planned.number as usize - 1);
        let (Some(key), Some(uuid)) = (key, uuid) else {
            let detail = format!("the server gave no key for partition {:?}", planned.label);
            return Err(Finding::new(Code::DiskFailed, detail));
        };
        partition.encrypt(uuid, &planned.label, key)
    }

    /// The image, onto what step 3 made.
    fn lay_down(
        &self,
        files: &dyn ImageSource,
        plan: &Plan,
        target: &mut Target,
        reuse: bool,
    ) -> Result<(), Stop> {
        let Self { task, image, paths, observer } = self;
        let source = Source { files, retry: Retry::default(), observer: *observer };
        let (done, counts) = match target.root().filter(|_| image.format.is_file_system()) {
            None => (image.size, image::lay_down(image, source, Destination::Tree(&paths.mount))?),
            Some(volume) => {
                let label = plan.role(Role::Root).map_or("", |root| root.label.as_str());
                let region = volume.region()?;
                let counts = image::lay_down(image, source, Destination::Region { region: &region, reuse })?;
                drop(region);
                ext4::adopt(&paths.tools, &volume.node, &task.uuids.root, label, *observer)?;
                target.mount()?;
                (counts.written + counts.kept, counts)
            }
        };
        let all = Progress { done, total: done, unit: Unit::Bytes };
        let detail = [("fetched_bytes", counts.fetched), ("kept_bytes", counts.kept)];
        let detail = detail.map(|(name, bytes)| (name.to_owned(), bytes.to_string()));
        self.done(Phase::Image, Some(all), BTreeMap::from(detail));
        Ok(())
    }

    /// Step 5, first half: files in the tree, and boot files out of it for each disk; with the digests of those that
    /// must be right.
    fn configure(
        &self,
        plan: &Plan,
        target: &Target,
        disks: usize,
    ) -> Result<(Written, Vec<Boot>, Vec<Digest>), Stop> {
        let Self { task, paths, .. } = self;
        let tree = self.tree(target)?;
        let written = identity::write(&tree, &task.identity, &task.layout, &task.uuids, &paths.agent)
            .map_err(|error| target.refused("cannot write the identity", &error))?;
        unlock::leave_behind(&tree, task, &paths.agent)
            .map_err(|error| target.refused(&format!("cannot write {}", unlock::PATH), &error))?;
        for (path, text) in self.grub_files()? {
            tree.write(path, text.as_bytes(), 0o644)
                .map_err(|error| target.refused(&format!("cannot write {path}"), &error))?;
        }
        let mut boots = Vec::with_capacity(disks);
        for index in 0..disks as u32 {
            let esp = task.uuids.on_disk(index).esp;
            boots.push(bootloader::prepare(&tree, self.image, plan, &self.start().boot, esp)?);
        }
        let digests = self.boot_files(&tree, target)?;
        Ok((written, boots, digests))
    }

    fn tree(&self, target: &Target) -> Result<Tree, Finding> {
        Tree::open(&self.paths.mount).map_err(|error| target.refused("cannot open the tree", &error))
    }

    /// Step 5, second half: what must be right to start is read from the disk once more; how it starts.
    fn read_back(&self, target: &mut Target, before: &[Digest]) -> Result<Restart, Finding> {
        target.mount_to_read()?;
        let tree = self.tree(target)?;
        if self.boot_files(&tree, target)? != before {
            return Err(Finding::new(Code::DiskFailed, "kernel or ramdisk read back differently"));
        }
        let restart = self.prepare_restart(&tree);
        drop(tree);
        target.unmount()?;
        Ok(restart)
    }

    fn start(&self) -> grub::Start {
        grub::Start::of(&self.task.layout, &self.task.uuids)
    }

    /// GRUB's configuration files: where, and what.
    fn grub_files(&self) -> Result<[(&'static str, String); 2], Finding> {
        let boot = &self.image.boot;
        let unquotable = |error: grub::Unquotable| Finding::new(Code::BootloaderFailed, error.to_string());
        let config = grub::config(boot, &self.start()).map_err(unquotable)?;
        let defaults = grub::defaults(boot, &self.start()).map_err(unquotable)?;
        Ok([(grub::CONFIG, config), (grub::DEFAULTS, defaults)])
    }

    /// Digests of the files that must be right for the system to start.
    fn boot_files(&self, tree: &Tree, target: &Target) -> Result<Vec<Digest>, Finding> {
        let boot = &self.image.boot;
        let first = unlock::is_needed(&self.task.layout).then_some(unlock::PATH);
        first
            .into_iter()
            .chain([boot.kernel.as_str(), &boot.initrd, grub::CONFIG])
            .map(|path| {
                let digest = tree.open_file(path).and_then(digest);
                digest.map_err(|error| match error.raw_os_error() {
                    Some(libc::EIO | libc::EUCLEAN | libc::EBADMSG) => {
                        target.refused(&format!("cannot read {path}"), &error)
                    }
                    _ => Finding::new(Code::BootloaderFailed, format!("{path}: {error}")),
                })
            })
            .collect()
    }

    /// Loads the system's kernel and ramdisk, which were just read back, if that was ordered and is
    /// possible. Nothing starts them before the disk is complete; a job that ends otherwise leaves them
    /// unused in memory.
    fn prepare_restart(&self, tree: &Tree) -> Restart {
        if self.task.restart == Restart::Firmware {
            return Restart::Firmware;
        }
        let boot = &self.image.boot;
        let open = |path: &str| tree.open_file(path).map_err(|error| format!("{path}: {error}"));
        let arguments = grub::arguments(boot, &self.start()).join(" ");
        let first = unlock::is_needed(&self.task.layout).then_some(unlock::PATH);
        let ramdisks = first.into_iter().chain([boot.initrd.as_str()]).map(open);
        let loaded = ramdisks
            .collect::<Result<Vec<_>, _>>()
            .and_then(|ramdisks| kexec::load_joined(&open(&boot.kernel)?, ramdisks, &arguments));
        match loaded {
            Ok(()) => {
                tracing::info!("the system's kernel is loaded and starts by kexec: {arguments}");
                Restart::Kexec
            }
            Err(why) => {
                tracing::warn!("no kexec, the machine restarts through its firmware: {why}");
                Restart::Firmware
            }
        }
    }

    /// Writes the UEFI boot entries, one for each disk; without any, firmware starts the removable path.
    fn boot_entries(&self, plan: &Plan, disks: usize, restart: Restart) -> bool {
        let (Some(efivars), Some(esp)) = (&self.paths.efivars, plan.role(Role::Esp)) else {
            return false;
        };
        let guid = |index| {
            let uuids = self.task.uuids.on_disk(index);
            uuids.partitions.get(esp.number as usize - 1).and_then(|text| gpt::Guid::parse(text))
        };
        let place = |guid| efi::EspPlace { number: esp.number, first: esp.first, sectors: esp.sectors, guid };
        let places: Vec<efi::EspPlace> = (0..disks as u32).filter_map(guid).map(place).collect();
        let result = efi::install(efivars, &self.image.name, &places, restart);
        if let Err(error) = &result {
            tracing::warn!(%error, "no boot entry; the firmware must start the disk by itself");
        }
        result.is_ok()
    }
}

fn digest(mut file: impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest(hash.finalize().into())),
            n => hash.update(&piece[..n]),
        }
    }
}
