//! Promise 13 down to the sector: the writes of a store are recorded, and it is opened as a power cut after each of
//! them could have left it.
//!
//! `strace` tells the writes and syncs of a process that commits and says what was acknowledged. What was not synced at
//! the cut is there, is not, or is there in part: any of its sectors may be missing. Promise 37 in the same way: a database
//! of each older version is opened, and its migration cut.

use super::connection::to_json;
use super::cuts::Matter;
use super::migrate::{MIGRATIONS, SCHEMA_VERSION};
use super::rows::keys;
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
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("made");
    let deeds = record("commits_and_says_so", &data);
    let acknowledged = deeds.iter().filter(|deed| matches!(deed, Deed::Acknowledged(_)));
    assert_eq!(acknowledged.count(), usize::from(MACHINES));
    let tried = cut_everywhere(&deeds, None, dir.path(), check);
    assert!(tried > 200, "{tried} cuts were tried");
}

/// A part of the test below: does something only when that starts it.
#[test]
fn opens_and_says_so() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let store = Store::open(Path::new(&dir)).expect("a database");
    let mut acknowledge = File::options().append(true).open("/dev/null").expect("opened");
    acknowledge.write_all(&[1]).expect("written");
    drop(store);
    closed(Path::new(&dir), "the database");
}

#[test]
fn p37_no_power_cut_during_a_migration_takes_anything_away() {
    for version in 0..SCHEMA_VERSION {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("made");
        if version > 0 {
            make_older(&data, version);
        }
        let before = fs::read(data.join(FILE)).ok();
        let deeds = record("opens_and_says_so", &data);
        assert!(deeds.iter().any(|deed| matches!(deed, Deed::Acknowledged(_))), "it is not opened");
        let check = |deeds: &[Deed], place: &Path, what: &str| check_migrated(version, deeds, place, what);
        let tried = cut_everywhere(&deeds, before.as_deref(), dir.path(), check);
        assert!(tried > 20, "{tried} cuts of version {version} were tried");
    }
}

/// A database as the program of `version` left it, with something of all that it knew.
fn make_older(data: &Path, version: i64) {
    let mut connection = sqlite::connect(&data.join(FILE)).expect("made");
    let transaction = connection.transaction().expect("begun");
    for migration in &MIGRATIONS[..usize::try_from(version).expect("a version")] {
        migration(&transaction).expect("an older version");
    }
    transaction.pragma_update(None, "user_version", version).expect("written");
    let machine = Matter::new(1).ordered();
    let id = machine.node.id.as_str();
    let nodes = "INSERT INTO nodes VALUES (?1, 2, ?2)";
    transaction.execute(nodes, [id, &to_json(&machine.node).expect("JSON")]).expect("written");
    for key in keys(&machine) {
        let (kind, key) = key.columns();
        transaction.execute("INSERT INTO node_keys VALUES (?1, ?2, ?3)", [kind, &key, id]).expect("written");
    }
    let job = machine.job.as_ref().expect("ordered");
    let jobs = "INSERT INTO jobs (id, node, profile, state, doc) VALUES (?1, ?2, 'none', 'queued', ?3)";
    transaction.execute(jobs, [job.id.as_str(), id, &to_json(job).expect("JSON")]).expect("written");
    let events = "INSERT INTO events (time, kind, node, data) VALUES (7, 'node.expected', ?1, '{}')";
    transaction.execute(events, [id]).expect("written");
    let lines = "INSERT INTO log_lines (node, job, boot, line, time, level, text) VALUES (?1, ?2, 'b', 1, 7, 'info', 'a')";
    transaction.execute(lines, [id, job.id.as_str()]).expect("written");
    let lease = bound(1, 1, Millis(7));
    match version {
        1 => {
            let doc = r#"{"address":"10.77.0.1","lease":{"key":[1,1],"mac":"02:00:00:00:00:01","state":"bound","since":7,"expires":3600007}}"#;
            transaction.execute("INSERT INTO leases VALUES ('10.77.0.1', ?1)", [doc]).expect("written");
        }
        _ => {
            let row =
                rusqlite::params![lease.address.to_bits(), lease.lease.key.as_bytes(), [2, 0, 0, 0, 0, 1u8]];
            let sql = "INSERT INTO leases VALUES (?1, ?2, ?3, 1, 7, 3600007)";
            transaction.execute(sql, row).expect("written");
        }
    }
    transaction.commit().expect("written");
}

/// The database is of its version or of this program's, whole, becomes this program's, and goes on.
fn check_migrated(version: i64, deeds: &[Deed], place: &Path, what: &str) {
    let what = format!("from version {version}, {what}");
    if place.join(FILE).exists() {
        let raw = rusqlite::Connection::open(place.join(FILE)).expect("opened");
        let found: i64 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).expect("read");
        let acknowledged = deeds.iter().any(|deed| matches!(deed, Deed::Acknowledged(_)));
        assert!(found == SCHEMA_VERSION || found == version && !acknowledged, "{what}: version {found}");
        let sound: String = raw.pragma_query_value(None, "integrity_check", |row| row.get(0)).expect("read");
        assert_eq!(sound, "ok", "{what}");
    }
    let store = Store::open(place).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    if version > 0 {
        let machine = Matter::new(1).ordered();
        let found = store.machine(Key::Name(&machine.node.name)).expect("readable").expect("there");
        assert_eq!((&found.machine, found.version), (&machine, 2), "{what}");
        assert_eq!(store.leases().expect("readable"), [bound(1, 1, Millis(7))], "{what}");
        assert_eq!(store.events(0, None, 9).expect("readable").len(), 1, "{what}");
        let job = machine.job.expect("ordered").id;
        assert_eq!(store.job_log(&job, 0, 9).expect("readable").len(), 1, "{what}");
    }
    store.duid().unwrap_or_else(|error| panic!("{what}: {error}"));
    goes_on(store, place, &what);
}

/// What a test of this file does that finds the directory `data`.
fn record(test: &str, data: &Path) -> Vec<Deed> {
    let log = data.with_extension("log");
    let calls = "trace=pwrite64,write,ftruncate,unlink,fsync,fdatasync";
    let output = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "1000000", "-e", calls, "-o"])
        .arg(&log)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("store::torn::{test}")])
        .env(DIRECTORY, data)
        .output()
        .expect("the Debian package strace is installed");
    assert!(output.status.success(), "{output:?}");
    deeds(&fs::read_to_string(&log).expect("a log"), data)
}

/// Leaves what was in the file `before` as each cut does, in every way, for `check`; how often.
fn cut_everywhere(
    deeds: &[Deed],
    before: Option<&[u8]>,
    dir: &Path,
    check: impl Fn(&[Deed], &Path, &str),
) -> usize {
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
            let place = dir.join("cut");
            leave(&deeds[..cut], before, &place, &mut |_| match part {
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
    tried
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

/// Makes the directory `place` as it is after `deeds`, with `before` in the database's file at first; of what was not
/// synced, sectors are there for which `keep` says so.
fn leave(deeds: &[Deed], before: Option<&[u8]>, place: &Path, keep: &mut dyn FnMut(usize) -> bool) {
    fs::create_dir(place).expect("made");
    let mut files: BTreeMap<&str, (Vec<u8>, Vec<&Deed>)> = BTreeMap::new();
    files.extend(before.map(|before| (FILE, (before.to_owned(), Vec::new()))));
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
    goes_on(store, place, what);
}

fn goes_on(store: Store, place: &Path, what: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let stored = runtime.block_on(store.commit(&machine(200), 0, &[], Millis(8)));
    assert_eq!(stored.expect("it goes on"), Commit::Done, "{what}");
    drop(store);
    closed(place, what);
}

/// Waits until the writing thread has ended by itself, and SQLite has taken its log away: not before may the directory go.
pub(super) fn closed(place: &Path, what: &str) {
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
