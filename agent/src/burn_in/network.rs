//! The network: an image is fetched over and over, and must be the same each time.

use super::Watch;
use crate::http_source::HttpSource;
use crate::image::fetch::{ImageSource, Part};
use kaltstart_protocol::burn_in::NetworkLoad;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// Failures in a row that are the network's fault.
const FAILURES_MAX: u32 = 10;
/// Pause after one.
const PAUSE: Duration = Duration::from_secs(2);
/// Counters of an interface that only faulty cables, ports and cards raise.
const COUNTERS: [&str; 3] = ["rx_crc_errors", "rx_frame_errors", "tx_carrier_errors"];

/// Fetches until the time is over, with pauses that keep to the load.
pub(super) fn run(load: &NetworkLoad, watch: &Watch) {
    let source = HttpSource::new(&load.url, None);
    fetch_over_and_over(&source, load, PAUSE, Path::new("/sys/class/net"), watch);
}

fn fetch_over_and_over(
    source: &dyn ImageSource,
    load: &NetworkLoad,
    pause: Duration,
    interfaces: &Path,
    watch: &Watch,
) {
    let before = errors(interfaces);
    let started = Instant::now();
    let (mut bytes, mut failures, mut in_a_row) = (0, 0, 0);
    while !watch.over() {
        if bytes as f64 > load.bytes_a_minute as f64 * started.elapsed().as_secs_f64() / 60.0 {
            thread::sleep(super::TICK);
            continue;
        }
        match fetch(source, load, &mut bytes, watch) {
            Ok(()) => in_a_row = 0,
            Err(Failure::Other(digest)) => {
                let detail = format!("{} is {digest} instead of {}", load.url, load.digest);
                return watch.fault(Finding::new(Code::NetworkFaulty, detail));
            }
            Err(Failure::Broken(why)) => {
                (failures, in_a_row) = (failures + 1, in_a_row + 1);
                if in_a_row >= FAILURES_MAX {
                    let detail = format!("{in_a_row} attempts in a row to fetch {}: {why}", load.url);
                    return watch.fault(Finding::new(Code::NetworkFaulty, detail));
                }
                thread::sleep(pause);
            }
        }
        let rate = bytes as f64 / started.elapsed().as_secs_f64() / 1e6;
        let told = format!("{} MB fetched, {rate:.0} MB/s, {failures} failures", bytes / 1_000_000);
        watch.done().network = told;
    }
    let after = errors(interfaces);
    let grown = after.iter().filter(|(name, count)| before.get(*name).is_some_and(|was| was < count));
    let grown: Vec<String> = grown.map(|(name, count)| format!("{name} is {count} now")).collect();
    if !grown.is_empty() {
        watch.fault(Finding::new(Code::NetworkFaulty, grown.join(", ")));
    }
}

enum Failure {
    /// All came, and it is something else.
    Other(Digest),
    /// Not all came.
    Broken(String),
}

fn fetch(
    source: &dyn ImageSource,
    load: &NetworkLoad,
    bytes: &mut u64,
    watch: &Watch,
) -> Result<(), Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::Broken(error.to_string());
    let mut from = source.open(Part::Image, 0, None).map_err(|error| broken(&error))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        if watch.over() {
            return Ok(());
        }
        match from.read(&mut piece).map_err(|error| broken(&error))? {
            0 => break,
            count => {
                hash.update(&piece[..count]);
                *bytes += count as u64;
            }
        }
    }
    let digest = Digest(hash.finalize().into());
    if digest == load.digest { Ok(()) } else { Err(Failure::Other(digest)) }
}

/// What the interfaces of the machine count, by name of interface and counter.
fn errors(interfaces: &Path) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(interfaces).into_iter().flatten().flatten() {
        for counter in COUNTERS {
            let text = fs::read_to_string(entry.path().join("statistics").join(counter));
            if let Some(count) = text.ok().and_then(|text| text.trim().parse().ok()) {
                all.insert(format!("{counter} of {}", entry.file_name().to_string_lossy()), count);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::fetch::FetchError;
    use std::io::{Cursor, Read};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Gives its bytes, but for some failures first.
    struct Giving(Vec<u8>, AtomicU32);

    impl ImageSource for Giving {
        fn open(&self, _: Part, _: u64, _: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
            let left = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            match left {
                Ok(_) => Err(FetchError::Transport("refused".into())),
                Err(_) => Ok(Box::new(Cursor::new(self.0.clone()))),
            }
        }
    }

    fn told(given: &[u8], failures: u32, interfaces: &Path) -> (String, Vec<Finding>) {
        let bytes = vec![7; 1_000_000];
        let load =
            NetworkLoad { url: "http://x/i".into(), digest: Digest::of(&bytes), bytes_a_minute: 300_000_000 };
        let watch = Watch::new(Duration::from_millis(300));
        let source = Giving(given.to_vec(), AtomicU32::new(failures));
        fetch_over_and_over(&source, &load, Duration::ZERO, interfaces, &watch);
        let told = watch.done().network.clone();
        (told, watch.faults.into_inner().expect("lock"))
    }

    #[test]
    fn what_is_the_same_each_time_passes_and_keeps_to_its_load() {
        let nothing = Path::new("/nonexistent");
        let (told, faults) = told(&vec![7; 1_000_000], 3, nothing);
        // Five a second would be the load.
        let paced = ["1 MB ", "2 MB "].iter().any(|words| told.starts_with(words));
        assert!(faults.is_empty() && paced && told.ends_with("3 failures"), "{told}");
    }

    #[test]
    fn other_bytes_and_a_server_that_never_answers_are_faults() {
        let nothing = Path::new("/nonexistent");
        for (given, failures) in [(vec![8; 1_000_000], 0), (vec![7; 1_000_000], 100)] {
            let (_, faults) = told(&given, failures, nothing);
            assert_eq!(faults.first().map(|finding| finding.code), Some(Code::NetworkFaulty));
        }
    }

    #[test]
    fn counters_of_a_bad_cable_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let statistics = dir.path().join("eth0/statistics");
        fs::create_dir_all(&statistics).expect("directories");
        fs::write(statistics.join("rx_crc_errors"), "3\n").expect("a file");
        assert_eq!(errors(dir.path()), BTreeMap::from([("rx_crc_errors of eth0".to_owned(), 3)]));
    }
}
