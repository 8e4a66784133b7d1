use super::*;
use crate::lifecycle::event::{Event, Happening, Move};
use crate::lifecycle::table::{EPOCH as JOBS_EPOCH, events, situations};
use crate::lifecycle::{Step, step};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NOW: Millis = Millis(1_000_000);

/// What is stored of a record; seals are made of a hash and a key.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    number: u64,
    text: String,
    hash: Digest,
    seal: Digest,
}

fn seal(key: &str, hash: &Digest) -> Digest {
    Digest::of(&[key.as_bytes(), &hash.0].concat())
}

/// Somebody who writes to a log with a key.
struct Writer {
    rows: Vec<Row>,
    head: Option<Head>,
    key: &'static str,
}

impl Writer {
    fn write(&mut self, act: &Act) {
        let Entry { text, head } = append(self.head.as_ref(), act, NOW.plus(self.rows.len() as u64));
        self.rows.push(Row { number: head.number, text, hash: head.hash, seal: seal(self.key, &head.hash) });
        self.head = Some(head);
    }
}

fn act(n: usize) -> Act {
    Act::new(Actor::named("me"), Action::JobOrdered).with("n", n)
}

/// A log of so many records by whoever has the site's key.
fn log(records: usize) -> Writer {
    let mut writer = Writer { rows: Vec::new(), head: None, key: "site" };
    (0..records).for_each(|n| writer.write(&act(n)));
    writer
}

fn verdict(rows: &[Row], seen: Option<Head>) -> Verdict {
    let mut chain = Chain::new(seen);
    for row in rows {
        if !chain.look(row.number, &row.text, &row.hash, seal("site", &row.hash) == row.seal) {
            break;
        }
    }
    chain.end()
}

/// The number of the first record that is wrong, and in what words.
fn fault(rows: &[Row], seen: Option<Head>) -> (u64, String) {
    let fault = verdict(rows, seen).fault.expect("something is wrong");
    (fault.number, fault.what)
}

/// Chains rows anew, as somebody could who knows all but the key.
fn chained(mut rows: Vec<Row>) -> Vec<Row> {
    let mut before = None;
    for (number, row) in (1..).zip(&mut rows) {
        let mut record: Record = serde_json::from_str(&row.text).expect("a record");
        (row.number, record.number) = (number, number);
        row.text = serde_json::to_string(&record).expect("JSON");
        row.hash = hash(before.as_ref(), &row.text);
        before = Some(row.hash);
    }
    rows
}

/// What somebody does to a log.
type Change<'a> = &'a dyn Fn(&mut Vec<Row>);

proptest! {
    #[test]
    fn p25_whatever_is_changed_in_a_log_is_found_wherever_it_is(
        records in 1_usize..12,
        at in any::<proptest::sample::Index>(),
        to in any::<proptest::sample::Index>(),
        bit in 0_usize..4096,
    ) {
        let Writer { rows, head, .. } = log(records);
        let whole = verdict(&rows, head);
        prop_assert_eq!((whole.fault, whole.records, whole.newest), (None, records as u64, head));
        let (at, to) = (at.index(records), to.index(records));
        let first = |number: usize| number as u64 + 1;
        let ways: [(&str, Change<'_>); 7] = [
            ("deleted", &|rows| drop(rows.remove(at))),
            ("truncated", &|rows| rows.truncate(at)),
            ("a bit of the text", &|rows| {
                let mut bytes = rows[at].text.clone().into_bytes();
                let place = bit % (bytes.len() * 7);
                bytes[place / 7] ^= 1 << (place % 7);
                rows[at].text = String::from_utf8(bytes).expect("ASCII");
            }),
            ("a bit of the hash", &|rows| rows[at].hash.0[bit / 8 % 32] ^= 1 << (bit % 8)),
            ("a bit of the seal", &|rows| rows[at].seal.0[bit / 8 % 32] ^= 1 << (bit % 8)),
            ("moved", &|rows| {
                let row = rows.remove(at);
                rows.insert(to, row);
                for (number, row) in (1..).zip(rows) {
                    row.number = number;
                }
            }),
            ("twice", &|rows| {
                let row = rows[at].clone();
                rows.insert(to, Row { number: rows[to].number, ..row });
            }),
        ];
        for (way, change) in ways {
            let mut changed = rows.clone();
            change(&mut changed);
            if changed == rows {
                continue;
            }
            let (number, what) = fault(&changed, head);
            let expected = if way == "moved" { at.min(to) } else { at };
            if way == "twice" {
                prop_assert!(number <= first(to) + 1, "{}: {} {}", way, number, what);
            } else {
                prop_assert_eq!(number, first(expected), "{}: {}", way, what);
            }
            // Who chains all of it anew has no key to seal it with.
            if !way.contains("bit") || serde_json::from_str::<Record>(&changed[at].text).is_ok() {
                let anew = chained(changed);
                if anew != rows {
                    fault(&anew, head);
                }
            }
        }
    }
}

#[test]
fn p25_a_record_that_is_added_without_the_key_is_found() {
    let Writer { rows, head, .. } = log(3);
    let mut stranger = Writer { rows: rows.clone(), head, key: "another" };
    stranger.write(&act(9));
    assert_eq!(fault(&stranger.rows, head).0, 4);
    // He cannot say that the key was given up, nor that a copy was restored.
    for act in
        [Act::new(Actor::named("me"), Action::SecretsForgotten), restored(Millis(9), Millis(8), None, None)]
    {
        let mut stranger = Writer { rows: rows[..2].to_vec(), head: None, key: "another" };
        stranger.head = Some(Head { number: 2, hash: rows[1].hash, epoch: 0 });
        stranger.write(&act);
        let (number, what) = fault(&stranger.rows, head);
        assert!(
            number == 3 && what.contains("secrets.key") || what.contains("not the one"),
            "{number} {what}"
        );
    }
}

#[test]
fn p25_a_restored_copy_says_so_once_and_is_no_fault_for_ever() {
    let mut before = log(9);
    let seen = before.head;
    // A copy of when there were five.
    let mut copy = Writer { rows: before.rows[..5].to_vec(), ..log(5) };
    assert_eq!(fault(&copy.rows, seen).0, 6);
    copy.write(&restored(Millis(77), Millis(5), seen.as_ref(), copy.head.as_ref()));
    let told: Record = serde_json::from_str(&copy.rows[5].text).expect("a record");
    assert_eq!((told.epoch, told.action.as_str()), (77, "restored.found"));
    assert!(told.detail["log_seen_before"].contains("record 9"), "{told:?}");
    (0..9).for_each(|n| copy.write(&act(n)));
    for seen in [seen, copy.head, None] {
        let found = verdict(&copy.rows, seen);
        assert_eq!((found.fault, found.restored), (None, vec![6]));
    }
    // The original is of before for whoever has seen the copy, however it goes on.
    (0..20).for_each(|n| before.write(&act(n)));
    fault(&before.rows, copy.head);
    assert!(is_cut(before.head.as_ref(), &copy.head.expect("an end"), None));
    assert!(!is_cut(copy.head.as_ref(), &seen.expect("an end"), Some(&copy.rows[8].hash)));
}

#[test]
fn p25_records_of_before_are_vouched_for_when_the_key_is_lost() {
    let mut lost = Writer { key: "lost", ..log(0) };
    (0..3).for_each(|n| lost.write(&act(n)));
    assert_eq!(fault(&lost.rows, lost.head).0, 1);
    let mut anew = Writer { key: "site", ..lost };
    anew.write(&Act::new(Actor::named("me"), Action::SecretsForgotten));
    anew.write(&act(4));
    let found = verdict(&anew.rows, anew.head);
    assert_eq!((found.fault, found.forgotten), (None, Some(4)));
    let mut changed = anew.rows.clone();
    changed[1].text = changed[1].text.replace("me", "he");
    assert_eq!(fault(&changed, anew.head).0, 2);
    // Also by somebody who chains it anew: he has none of the keys.
    assert_eq!(fault(&chained(changed), None).0, 1);
}

#[test]
fn p25_a_log_that_was_cut_stays_so_though_it_goes_on() {
    let mut log = log(5);
    let seen = log.head.expect("an end");
    log.rows.truncate(3);
    log.head = Some(Head { number: 3, hash: log.rows[2].hash, epoch: 0 });
    assert!(is_cut(log.head.as_ref(), &seen, None));
    log.write(&log_cut(&seen, log.head.as_ref()));
    (0..9).for_each(|n| log.write(&act(n)));
    let (number, what) = fault(&log.rows, log.head);
    assert!(number == 4 && what.contains("record 5") && what.contains("record 3"), "{what}");
    // Another record in its place is as bad as none.
    assert!(is_cut(log.head.as_ref(), &seen, Some(&log.rows[4].hash)));
    assert!(!is_cut(log.head.as_ref(), &seen, Some(&seen.hash)));
    assert!(is_cut(None, &seen, None));
}

#[test]
fn what_the_server_does_again_within_a_minute_is_recorded_once() {
    let released = Act::new(Actor::server(), Action::DiskKeyReleased).with("address", "10.0.0.9");
    let Entry { text, .. } = append(None, &released, NOW);
    let last: Record = serde_json::from_str(&text).expect("a record");
    assert!(released.repeats(&last, NOW.plus(REPEATED_MS - 1)));
    assert!(!released.repeats(&last, NOW.plus(REPEATED_MS)));
    assert!(!released.clone().with("address", "10.0.0.8").repeats(&last, NOW));
    let theirs = Act { by: Actor::named("me"), ..released };
    let Entry { text, .. } = append(None, &theirs, NOW);
    assert!(
        !theirs.repeats(&serde_json::from_str(&text).expect("a record"), NOW),
        "people are always recorded"
    );
}

#[test]
fn texts_of_others_are_cut_and_are_text() {
    let reason = Some(format!("\0\n{}", "\u{fc}".repeat(9999)));
    let by = Actor { name: "x".repeat(9999), from: None, reason };
    let Entry { text, .. } =
        append(None, &Act::new(by, Action::JobFailed).with("finding", "\0".repeat(999)), NOW);
    assert!(text.len() < 4000 && !text.contains("\\u0000") && !text.contains("\\n"), "{text}");
}

/// What is recorded of every event in every situation.
fn recorded() -> Vec<(String, Event, Act)> {
    let by = Actor { name: "somebody".into(), from: None, reason: None };
    let mut all = Vec::new();
    for (situation, machine) in situations() {
        for (_, event) in events() {
            if let Step::Changed { machine, happenings } = step(&machine, &event, NOW) {
                let act = super::act(&by, &machine, &event, &happenings);
                let acts: BTreeSet<_> = happenings.iter().map(Happening::kind).collect();
                let ends = ["job.failed", "job.cancelled", "job.queued", "node.key_released"];
                assert!(
                    act.is_some() || acts.iter().all(|kind| !ends.contains(kind)),
                    "{situation}: {event:?} leaves no record"
                );
                all.extend(act.map(|act| (situation.clone(), event.clone(), act)));
            }
        }
    }
    all
}

#[test]
fn p25_every_order_grant_move_and_end_leaves_a_record_with_who_and_what() {
    let all = recorded();
    for (situation, event, act) in &all {
        assert_eq!(act.by.name, "somebody");
        assert!(act.node.is_some(), "{situation}: {event:?}");
        if act.action.name().starts_with("job.") {
            assert!(act.job.is_some() && act.detail.contains_key("kind"), "{situation}: {act:?}");
        }
        match event {
            Event::TaskTaken { wipe, .. } => {
                assert_eq!(act.action, Action::WipeGranted);
                for grant in wipe {
                    let disk = &act.detail[&disk_name(&grant.disk)];
                    assert!(disk.contains(&grant.all().fingerprint().to_string()), "{disk}");
                }
                assert!(act.detail.contains_key("approver"), "{act:?}");
                assert_eq!(act.detail["job_epoch"], JOBS_EPOCH.to_string());
            }
            Event::Operator(Move::Retire) => assert_eq!(act.action, Action::NodeRetired),
            Event::JobCancelled => assert_eq!(act.action, Action::JobCancelled),
            _ => {}
        }
    }
    let words: BTreeSet<&str> = all.iter().map(|(_, _, act)| act.action.name()).collect();
    for word in [
        "node.powered_on",
        "node.accepted",
        "node.rejected",
        "node.broken",
        "node.repaired",
        "node.retired",
        "node.edited",
        "node.locked",
        "node.unlocked",
        "node.approved",
        "job.ordered",
        "job.cancelled",
        "job.succeeded",
        "job.failed",
        "wipe.granted",
        "wipe.refused",
        "disks.erased",
        "disk_key.released",
        "disk_key.refused",
        "rescue.code_issued",
        "rescue.shell_opened",
        "rescue.shell_refused",
    ] {
        assert!(words.contains(word), "{word} is never recorded: {words:?}");
    }
}

#[test]
fn p25_no_fingerprint_of_a_token_is_in_any_record() {
    for (situation, event, act) in recorded() {
        let Entry { text, .. } = append(None, &act, NOW);
        let secret = match &event {
            Event::TaskTaken { report_token, recall_token, unlock_token, .. } => {
                [*report_token, *recall_token, *unlock_token].into_iter().flatten().collect()
            }
            Event::CodeTried(code) => vec![*code],
            _ => Vec::new(),
        };
        for digest in secret {
            assert!(!text.contains(&digest.to_string()), "{situation}: {text}");
        }
    }
}
