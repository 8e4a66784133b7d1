//! Lays down an image on a disk of this machine as a job would: for `cargo xtask bench agent`.
//!
//! Prints its largest memory use, what it fetched and what it found on the disk already, in bytes.

#[path = "../tests/common/mod.rs"]
mod common;

use kaltstart_agent::image::fetch::{FetchError, ImageSource, Part};
use kaltstart_agent::install::{self, Observer, Paths};
use kaltstart_protocol::agent_api::ReportState;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::phase::{Phase, Progress};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [image, device, mount] = args.as_slice() else {
        eprintln!("usage: lay_down IMAGE_DIRECTORY /dev/DEVICE MOUNT_POINT");
        return ExitCode::from(64);
    };
    let text = fs::read_to_string(Path::new(image).join("manifest.json")).expect("a manifest");
    let manifest: Manifest = serde_json::from_str(&text).expect("a manifest");
    let list = manifest.format.chunks().map(|list| Path::new(image).join(&list.file));
    let source = OnDisk { image: Path::new(image).join(&manifest.file), list };
    let mut ordered = common::order(&[], 0, manifest.compression);
    ordered.image = manifest;
    let name = device.trim_start_matches("/dev/");
    let size = fs::read_to_string(format!("/sys/block/{name}/size")).expect("a block device");
    let size = size.trim().parse::<u64>().expect("a number") * 512;
    let disk = Disk { name: name.into(), serial: "S1".into(), size, sector_size: 512, ..Disk::default() };
    let agent = std::env::current_exe().expect("this program");
    let paths = Paths { mount: mount.into(), agent, ..Paths::default() };
    let watch = Counting::default();
    let disks = common::measured(&[disk]);
    let task = common::granted(&ordered.signed(), &disks);
    let installed = install::install(&common::gate(), &task, &disks, common::NOW, &source, &paths, &watch);
    if let Err(stop) = installed {
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
