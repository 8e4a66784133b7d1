//! Lays down an image on a disk of this machine as a job would, or alone and without anything besides, as programs that
//! copy images do: for `cargo xtask bench agent`.
//!
//! Prints its largest memory use, what it fetched and what it found on the disk already, in bytes.

#[path = "../tests/common/mod.rs"]
mod common;

use kaltstart_agent::disk::region::Region;
use kaltstart_agent::image::fetch::{FetchError, ImageSource, Part, Retry};
use kaltstart_agent::image::{self, Destination, Source};
use kaltstart_agent::install::{self, Observer, Paths, Stop};
use kaltstart_protocol::agent_api::ReportState;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::phase::{Phase, Progress};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

/// In place of a mount point: the image alone.
const ALONE: &str = "--alone";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, device, mount] = args.as_slice() else {
        eprintln!("usage: lay_down IMAGE_DIRECTORY /dev/DEVICE MOUNT_POINT|{ALONE}");
        return ExitCode::from(64);
    };
    let text = fs::read_to_string(Path::new(directory).join("manifest.json")).expect("a manifest");
    let manifest: Manifest = serde_json::from_str(&text).expect("a manifest");
    let list = manifest.format.chunks().map(|list| Path::new(directory).join(&list.file));
    let source = OnDisk { image: Path::new(directory).join(&manifest.file), list };
    let watch = Counting::default();
    let done = match mount.as_str() {
        ALONE => alone(&manifest, device, &source, &watch),
        mount => as_a_job(manifest, device, mount, &source, &watch),
    };
    if let Err(stop) = done {
        eprintln!("not installed: {stop:?}");
        return ExitCode::FAILURE;
    }
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024;
    let told = watch.0.into_inner().expect("lock");
    let told = |name: &str| told.get(name).cloned().unwrap_or_default();
    println!("{peak} {} {}", told("fetched_bytes"), told("kept_bytes"));
    ExitCode::SUCCESS
}

/// The whole of it, with table, boot files and identity.
fn as_a_job(
    manifest: Manifest,
    device: &str,
    mount: &str,
    source: &OnDisk,
    watch: &Counting,
) -> Result<(), Stop> {
    let mut ordered = common::order(&[], 0, manifest.compression);
    ordered.image = manifest;
    let name = device.trim_start_matches("/dev/");
    let size = fs::read_to_string(format!("/sys/block/{name}/size")).expect("a block device");
    let size = size.trim().parse::<u64>().expect("a number") * 512;
    let disk = Disk { name: name.into(), serial: "S1".into(), size, sector_size: 512, ..Disk::default() };
    let agent = std::env::current_exe().expect("this program");
    let paths = Paths { mount: mount.into(), agent, ..Paths::default() };
    let disks = common::measured(&[disk]);
    let task = common::granted(&ordered.signed(), &disks);
    install::install(&common::gate(), &task, &disks, common::NOW, source, &paths, watch).map(drop)
}

/// The image from the first byte of the disk on, checked as in a job.
fn alone(manifest: &Manifest, device: &str, files: &OnDisk, watch: &Counting) -> Result<(), Stop> {
    let disk = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(device);
    let region = Region::new(disk.expect("a block device"));
    let source = Source { files, retry: Retry::default(), observer: watch };
    image::lay_down(manifest, source, Destination::Region { region: &region, reuse: false })?;
    region.sync()?;
    Ok(())
}

/// Remembers what the phases told at their end.
#[derive(Default)]
struct Counting(Mutex<BTreeMap<String, String>>);

impl Observer for Counting {
    fn phase(&self, _: Phase, _: ReportState, _: Option<Progress>, detail: BTreeMap<String, String>) {
        self.0.lock().expect("lock").extend(detail);
    }

    fn cancelled(&self) -> Option<String> {
        None
    }
}

/// An image in files.
struct OnDisk {
    image: PathBuf,
    list: Option<PathBuf>,
}

impl ImageSource for OnDisk {
    fn open(&self, part: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
        let path = match part {
            Part::Image => &self.image,
            Part::List => self.list.as_ref().expect("an image in chunks"),
        };
        let open = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset)).map(|_| file)
        };
        let file = open().map_err(|error| FetchError::Transport(error.to_string()))?;
        Ok(Box::new(file.take(end.map_or(u64::MAX, |end| end - offset))))
    }
}
