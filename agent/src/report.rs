//! `agent report`: the installed system tells the server once that it is up.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::node_api::{BootOrder, NodeReport, REPORT_CONFIG, ReportConfig};

use crate::backoff::Policy;
use crate::boot_order;
use crate::http;
use crate::link::CallError;
use crate::pid1::EFIVARS;
use crate::questions;
use crate::sys::kernel::{random_u32, uptime_ms};

/// Pauses between attempts.
const RETRY: Policy = Policy { first: Duration::from_secs(1), cap: Duration::from_secs(60) };
/// Longest time of one attempt.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Reports until somebody has noted it, and removes the order to report.
pub fn run() -> ExitCode {
    let path = Path::new(REPORT_CONFIG);
    let config = match read_config(path) {
        Ok(config) => config,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("nothing to report: {REPORT_CONFIG} does not exist");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{REPORT_CONFIG} cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let http = match http::pinned(config.authority, config.not_before) {
        Ok(http) => http,
        Err(error) => {
            eprintln!("cannot report: there is no TLS: {error}");
            return ExitCode::FAILURE;
        }
    };
    let order = boot_order::keep(Path::new(EFIVARS));
    println!("boot order: {order}");
    let message = send_until_noted(&http, &config, Path::new("/"), &order, std::thread::sleep);
    println!("{message}");
    if let Err(error) = fs::remove_file(path) {
        eprintln!("{REPORT_CONFIG} cannot be removed: {error}");
    }
    ExitCode::SUCCESS
}

/// Reads what the installation has left for the reporter.
///
/// # Errors
/// When it is not there, or no configuration.
pub fn read_config(path: &Path) -> io::Result<ReportConfig> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

/// Posts the report of the system under `root` until it is stored or nobody waits for it; gives what to say about it.
pub fn send_until_noted(
    http: &ureq::Agent,
    config: &ReportConfig,
    root: &Path,
    order: &BootOrder,
    pause: impl Fn(Duration),
) -> String {
    let mut failures = 0;
    loop {
        // Gathered anew each time: host keys may be made while the server is not reachable.
        let report = NodeReport { boot_order: order.clone(), ..gather(config, root) };
        let why = match send(http, config, &report) {
            Ok(message) => return message,
            Err(why) => why,
        };
        failures += 1;
        let wait = RETRY.delay(failures, random_u32());
        eprintln!("cannot report: {why}; again in {} s", wait.as_secs());
        pause(wait);
    }
}

/// Posts the report once. Gives what to say about it when it has an end, else why not.
fn send(http: &ureq::Agent, config: &ReportConfig, report: &NodeReport) -> Result<String, String> {
    match questions::ask(http, config, report, CALL_LIMIT) {
        Ok(_) => Ok("reported to the server".into()),
        Err(CallError::Unauthorized(text) | CallError::Refused { status: 404 | 410, text }) => {
            Ok(format!("nobody waits for the report: {text}"))
        }
        Err(CallError::Untrusted(why)) => Err(Finding::new(Code::ServerNotTrusted, why).to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// What the system under `root` is.
fn gather(config: &ReportConfig, root: &Path) -> NodeReport {
    let (root_device, numbers) = root_device(root);
    NodeReport {
        token: config.token.clone(),
        job: config.job.clone(),
        hostname: text(&root.join("proc/sys/kernel/hostname")),
        kernel: text(&root.join("proc/sys/kernel/osrelease")),
        root_uuid: root_uuid(root, &root_device, &numbers),
        root_device,
        os: pretty_name(&fs::read_to_string(root.join("etc/os-release")).unwrap_or_default()),
        machine_id: text(&root.join("etc/machine-id")),
        boot_id: text(&root.join("proc/sys/kernel/random/boot_id")),
        uptime_ms: uptime_ms(),
        ssh_host_keys: ssh_host_keys(&root.join("etc/ssh")),
        boot_order: BootOrder::None,
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn pretty_name(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
    value.trim().trim_matches(['"', '\'']).to_owned()
}

fn ssh_host_keys(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut keys: Vec<String> = files
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ssh_host_") && name.ends_with("_key.pub")
        })
        .map(|path| text(&path))
        .filter(|key| !key.is_empty())
        .collect();
    keys.sort();
    keys
}

/// The device of `/` and its numbers (`8:1`), from `/proc/self/mountinfo` (proc(5)).
fn root_device(root: &Path) -> (String, String) {
    let info = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    // The last one mounted there is the one seen.
    let found = info.lines().rev().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(2);
        let (numbers, point) = (head.next()?, head.nth(1)?);
        (point == "/").then(|| (tail.split(' ').nth(1).unwrap_or_default().to_owned(), numbers.to_owned()))
    });
    let Some((device, numbers)) = found else { return Default::default() };
    if device != "/dev/root" {
        return (device, numbers);
    }
    // Mounted by the kernel without a ramdisk: only the numbers say which device it is.
    let link = fs::read_link(root.join("sys/dev/block").join(&numbers)).unwrap_or_default();
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    (if name.is_empty() { device } else { format!("/dev/{name}") }, numbers)
}

/// The UUID of the root file system: by udev's links, else from its superblock.
fn root_uuid(root: &Path, device: &str, numbers: &str) -> String {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let link = fs::read_link(root.join("sys/dev/block").join(numbers)).unwrap_or_default();
    let name = link.file_name().map(PathBuf::from);
    let device = fs::canonicalize(below(Path::new(device)))
        .unwrap_or_else(|_| root.join("dev").join(name.clone().unwrap_or_default()));
    let links = fs::read_dir(root.join("dev/disk/by-uuid")).into_iter().flatten().flatten();
    let by_link = links
        .filter(|entry| fs::canonicalize(entry.path()).is_ok_and(|target| target == device))
        .find_map(|entry| entry.file_name().into_string().ok());
    by_link.or_else(|| superblock_uuid(&device)).unwrap_or_default()
}

/// The UUID in an ext2/3/4 or XFS superblock.
fn superblock_uuid(device: &Path) -> Option<String> {
    let mut head = [0; 2048];
    fs::File::open(device).ok()?.read_exact_at(&mut head, 0).ok()?;
    let uuid = if head[1080..1082] == [0x53, 0xef] {
        &head[1128..1144]
    } else if head.starts_with(b"XFSB") {
        &head[32..48]
    } else {
        return None;
    };
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
