//! Promise 13 down to the sector: the writes of a store are recorded, and it is opened as a power cut after each of
//! them could have left it.
//!
//! `strace` tells the writes and syncs of a process that commits and says what was acknowledged. What was not synced at
//! the cut is there, is not, or is there in part: any of its sectors may be missing.

use super::tests::{bound, machine};
use super::*;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::process::Command;

/// Set for the process that commits.
const DIRECTORY: &str = "KALTSTART_TORN_DIRECTORY";
/// What it commits.
const MACHINES: u8 = 12;
/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// Ways to lose a part of what was not synced, for each cut.
const PARTS: u64 = 3;

/// Something the process did.
#[derive(Debug)]
enum Deed {
    Write {
        file: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: String,
        length: usize,
    },
    Remove {
        file: String,
    },
    /// Whatever was done to the file before is on the medium; to the directory, if it has no name.
    Synced {
        file: String,
    },
    /// So many machines were acknowledged.
    Acknowledged(u8),
}

/// A part of the test below: does something only when that starts it.
#[tokio::test]
async fn commits_and_says_so() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let store = Store::open(Path::new(&dir)).expect("a database");
    // Nobody sees these lines but strace.
    let mut acknowledge = File::options().append(true).create(true).open("/dev/null").expect("opened");
    for n in 1..=MACHINES {
        let told = [Happening::NodeMoved(kaltstart_core::machine::State::Expected)];
        let (node, lease) = (machine(n), vec![bound(n, n, Millis(7))]);
        let (one, two) = tokio::join!(store.commit(&node, 0, &told, Millis(7)), store.put_leases(lease));
        assert_eq!(one.expect("stored"), Commit::Done);
        two.expect("stored");
        acknowledge.write_all(&[n]).expect("written");
    }
}

#[test]
fn p13_no_power_cut_takes_away_what_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    fs::create_dir(&data).expect("made");
    let calls = "trace=pwrite64,write,ftruncate,unlink,fsync,fdatasync";
    let output = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "1000000", "-e", calls, "-o"])
        .arg(&log)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "store::torn::commits_and_says_so"])
        .env(DIRECTORY, &data)
        .output()
        .expect("the Debian package strace is installed");
    assert!(output.status.success(), "{output:?}");
    let deeds = deeds(&fs::read_to_string(&log).expect("a log"), &data);
    let acknowledged = deeds.iter().filter(|deed| matches!(deed, Deed::Acknowledged(_)));
    assert_eq!(acknowledged.count(), usize::from(MACHINES));
    let mut random = 7;
    let mut tried = 0;
    for cut in 0..=deeds.len() {
        // Without an open write a cut leaves what the one before it left.
        if !matches!(
            deeds[..cut].last(),
            Some(Deed::Write { .. } | Deed::Truncate { .. } | Deed::Remove { .. } | Deed::Acknowledged(_))
        ) {
            continue;
        }
        for part in 0..PARTS {
            let place = dir.path().join("cut");
            leave(&deeds[..cut], &place, &mut |_| match part {
                0 => false,
                1 => true,
                _ => {
                    random = u64::wrapping_add(random, 0x9E37_79B9_7F4A_7C15);
                    (random ^ (random >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 63 == 0
                }
            });
            check(&deeds[..cut], &place, &format!("cut after deed {cut}, part {part}"));
            fs::remove_dir_all(&place).expect("removed");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried} cuts were tried");
}

/// What the log tells of the files in `data`.
fn deeds(log: &str, data: &Path) -> Vec<Deed> {
    let mut deeds = Vec::new();
    // Calls that another thread's interrupt in the log, by thread.
    let mut begun: BTreeMap<&str, String> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(start) = call.strip_suffix(" <unfinished ...>") {
            // What it writes may be on its way from now on.
            if !start.contains("sync(") {
                deeds.extend(deed(start, data));
            }
            begun.insert(thread, start.to_owned());
        } else if call.starts_with("<...") {
            let Some(start) = begun.remove(thread) else { continue };
            // What it synced is safe only now.
            if start.contains("sync(") && call.ends_with("= 0") {
                deeds.extend(deed(&start, data));
            }
        } else {
            deeds.extend(deed(call, data));
        }
    }
    deeds
}

fn deed(call: &str, data: &Path) -> Option<Deed> {
    let (name, rest) = call.split_once('(')?;
    let bytes = |text: &str| text.split('"').nth(1).map(unhex);
    if name == "unlink" {
        let path = String::from_utf8(bytes(rest)?).ok()?;
        let file = Path::new(&path).strip_prefix(data).ok()?.to_str()?.to_owned();
        return Some(Deed::Remove { file });
    }
    let (_, rest) = rest.split_once('<')?;
    let (path, rest) = rest.split_once('>')?;
    let path = String::from_utf8(unhex(path)).ok()?;
    if path == "/dev/null" && name == "write" {
        return Some(Deed::Acknowledged(*bytes(rest)?.first()?));
    }
    let file = Path::new(&path).strip_prefix(data).ok()?.to_str()?.to_owned();
    // SQLite makes this anew from the log.
    if file.ends_with("-shm") {
        return None;
    }
    match name {
        "fsync" | "fdatasync" => Some(Deed::Synced { file }),
        "ftruncate" => Some(Deed::Truncate { file, length: number(rest.split(", ").nth(1)?)? }),
        "pwrite64" => {
            let offset = number(rest.rsplit('"').next()?.split(", ").nth(2)?)?;
            Some(Deed::Write { file, offset, bytes: bytes(rest)? })
        }
        _ => panic!("{name} of {file} is not understood"),
    }
}

/// The number at the beginning of a text.
fn number(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().ok()
}

/// The bytes of `\x61\x62`; any other text is itself.
fn unhex(text: &str) -> Vec<u8> {
    if !text.starts_with("\\x") {
        return text.as_bytes().to_vec();
    }
    text.split("\\x").skip(1).filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

/// Makes the directory `place` as it is after `deeds`; of what was not synced, sectors are there for which `keep` says so.
fn leave(deeds: &[Deed], place: &Path, keep: &mut dyn FnMut(usize) -> bool) {
    fs::create_dir(place).expect("made");
    let mut files: BTreeMap<&str, (Vec<u8>, Vec<&Deed>)> = BTreeMap::new();
    let mut removed = Vec::new();
    for deed in deeds {
        match deed {
            Deed::Write { file, .. } | Deed::Truncate { file, .. } => {
                files.entry(file).or_default().1.push(deed);
            }
            Deed::Remove { file } => removed.push(file.as_str()),
            Deed::Synced { file } if file.is_empty() => {
                removed.drain(..).for_each(|file| drop(files.remove(file)));
            }
            Deed::Synced { file } => {
                let (content, open) = files.entry(file).or_default();
                open.drain(..).for_each(|deed| carry_out(deed, content, &mut |_| true));
            }
            Deed::Acknowledged(_) => {}
        }
    }
    removed.retain(|_| keep(0));
    removed.into_iter().for_each(|file| drop(files.remove(file)));
    for (file, (mut content, open)) in files {
        open.into_iter().for_each(|deed| carry_out(deed, &mut content, keep));
        fs::write(place.join(file), content).expect("written");
    }
}

fn carry_out(deed: &Deed, content: &mut Vec<u8>, keep: &mut dyn FnMut(usize) -> bool) {
    match deed {
        Deed::Write { offset, bytes, .. } => {
            let mut at = *offset;
            let end = at + bytes.len();
            while at < end {
                let until = ((at / SECTOR + 1) * SECTOR).min(end);
                if keep(at / SECTOR) {
                    content.resize(content.len().max(until), 0);
                    content[at..until].copy_from_slice(&bytes[at - offset..until - offset]);
                }
                at = until;
            }
        }
        Deed::Truncate { length, .. } if keep(0) => content.resize(*length, 0),
        _ => {}
    }
}

/// The store opens, has all that was acknowledged and nothing by halves, and goes on.
fn check(deeds: &[Deed], place: &Path, what: &str) {
    let acknowledged = deeds.iter().filter_map(|deed| match deed {
        Deed::Acknowledged(n) => Some(*n),
        _ => None,
    });
    let acknowledged = acknowledged.max().unwrap_or(0);
    // What is there before the first acknowledgement may be no database at all.
    if !place.join(FILE).exists() {
        assert_eq!(acknowledged, 0, "{what}: there is no database");
        return;
    }
    let store = Store::open(place).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    for n in 1..=MACHINES {
        let found = store.machine(Key::Name(&format!("n{n}"))).expect("readable");
        let by_mac = store.machine(Key::Mac(Mac([2, 0, 0, 0, 0, n]))).expect("readable");
        assert_eq!(found.is_some(), by_mac.is_some(), "{what}: n{n} is there by half");
        let lease = store.find_leases(Wanted::Address([10, 77, 0, n].into()), 1).expect("readable");
        if n <= acknowledged {
            assert_eq!(found.map(|found| found.machine), Some(machine(n)), "{what}: n{n} is lost");
            assert_eq!(lease.len(), 1, "{what}: the lease of n{n} is lost");
        }
    }
    let events = store.events(0, None, 99).expect("readable").len();
    assert_eq!(events, store.machines().expect("readable").len(), "{what}: events and machines differ");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let stored = runtime.block_on(store.commit(&machine(200), 0, &[], Millis(8)));
    assert_eq!(stored.expect("it goes on"), Commit::Done, "{what}");
    // The writing thread ends by itself, and takes SQLite's log away: not before the directory goes.
    drop(store);
    let began = std::time::Instant::now();
    while fs::read_dir(place)
        .expect("readable")
        .flatten()
        .any(|it| it.path().extension() == Some(OsStr::new("db-wal")))
    {
        assert!(began.elapsed().as_secs() < 10, "{what}: the database is not closed");
        std::thread::yield_now();
    }
}
