//! The agent's gate: a grant with any field changed opens no disk.

mod common;

use common::{NOW, gate, order, sign};
use ed25519_dalek::SigningKey;
use kaltstart_agent::gate::{Gate, Permit};
use kaltstart_protocol::agent_api::{DiskGrant, EraseTask, InstallTask};
use kaltstart_protocol::contents::{Area, Contents};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::image::Compression;
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::wipe::{DiskIdentity, SignedGrant};
use serde_json::{Value, json};

/// A disk of which everything is known.
fn disk() -> Disk {
    let area = Area { partition: Some(1), kind: "ext4".into(), id: "A".into(), label: "old".into() };
    Disk {
        name: "sda".into(),
        wwn: "naa.1".into(),
        serial: "S1".into(),
        model: "M1".into(),
        size: 1 << 30,
        path: "pci/1".into(),
        holds: Some(Contents::new(vec![area])),
        ..Disk::default()
    }
}

/// What the gate says to the grant as it stands in `text`, signed by the right key: for an installation, and for an erasure.
fn answers(gate: &Gate, grant: &SignedGrant) -> [Result<Permit, Finding>; 2] {
    let disks = vec![DiskGrant { disk: DiskIdentity::of(&disk()), grant: grant.clone() }];
    let task = InstallTask { grants: disks.clone(), ..order(b"", 0, Compression::None).task };
    let erase = EraseTask { job: task.job.clone(), attempt: task.attempt, disks };
    let erased = gate.admit_all(&erase, &[disk()], NOW).map(|mut all| all.remove(0));
    [gate.admit(&task, &[disk()], NOW).map(|mut all| all.remove(0)), erased]
}

/// Every value of a grant, by its path.
fn leaves(value: &Value, path: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), all))
        }
        Value::Array(list) if !list.is_empty() => {
            all.push(path.to_owned());
            list.iter().enumerate().for_each(|(n, value)| leaves(value, &format!("{path}/{n}"), all));
        }
        _ => all.push(path.to_owned()),
    }
}

/// Other values in place of one.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::String(text) => vec![json!(""), json!(format!("{text}2")), Value::Null],
        Value::Number(number) => {
            let number = number.as_u64().expect("no sign");
            vec![json!(number + 1), json!(number - 1), json!(0), json!(u64::MAX)]
        }
        Value::Array(list) => vec![json!([]), json!([list.clone(), list.clone()].concat()), Value::Null],
        other => panic!("no grant has such a value: {other}"),
    }
}

#[test]
fn p03_no_field_of_a_grant_can_be_another() {
    let job = order(b"", 0, Compression::None).task.job;
    let good = common::grant(&job, 1, &disk());
    for answer in answers(&gate(), &good) {
        assert_eq!(answer.expect("it is right").contents(), &disk().holds.expect("read"));
    }
    let grant: Value = serde_json::from_str(&good.grant).expect("JSON");
    let mut paths = Vec::new();
    leaves(&grant, "", &mut paths);
    for known in ["/job", "/host/macs/0", "/disk/wwn", "/contents/0/id", "/approver", "/epoch", "/expires"] {
        assert!(paths.iter().any(|path| path == known), "{known}: {paths:?}");
    }
    for path in &paths {
        for other in others(grant.pointer(path).expect("there")) {
            let mut changed = grant.clone();
            *changed.pointer_mut(path).expect("there") = other.clone();
            let [text, unsigned] = [changed.to_string(), good.grant.clone()];
            // Nothing in the machine says who may approve, and times hold for a while: these are the signature's to guard.
            let free = match path.as_str() {
                "/approver" => other.as_str().is_some_and(|who| !who.is_empty()),
                "/issued" => other.as_u64().is_some_and(|at| NOW.0.abs_diff(at) <= 1),
                "/expires" => other.as_u64().is_some_and(|at| (NOW.0 + 999..=NOW.0 + 1001).contains(&at)),
                _ => false,
            };
            for answer in answers(&gate(), &sign(text.clone())) {
                match answer {
                    Ok(_) => assert!(free, "{path} = {other} is taken"),
                    Err(finding) => {
                        assert!(!free, "{path} = {other}: {finding}");
                        assert_eq!(finding.code, Code::GrantRefused);
                    }
                }
            }
            // Changed on the way.
            let forged = SignedGrant { grant: text, signature: sign(unsigned).signature };
            for answer in answers(&gate(), &forged) {
                assert!(answer.expect_err(path).detail.contains("signature"), "{path} = {other}");
            }
        }
    }
}

#[test]
fn p03_grants_of_another_key_or_epoch_open_nothing() {
    let good = common::grant(&order(b"", 0, Compression::None).task.job, 1, &disk());
    let mut other = gate();
    other.grants.key.0 = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
    let mut later = gate();
    later.grants.epoch += 1;
    for (gate, named) in [(other, "signature"), (later, "epoch")] {
        for answer in answers(&gate, &good) {
            let finding = answer.expect_err(named);
            assert!(finding.code == Code::GrantRefused && finding.detail.contains(named), "{finding}");
        }
    }
}

#[test]
fn p05_a_grant_that_keeps_something_erases_nothing() {
    let area = disk().holds.expect("read").0.remove(0);
    let entry = Area { kind: Area::PARTITION.into(), ..area.clone() };
    let both = Disk { holds: Some(Contents::new(vec![entry.clone(), area.clone()])), ..disk() };
    let kept = Kept { number: 1, label: "data".into(), entry, file_system: area };
    let (disks, kept) = (std::slice::from_ref(&both), std::slice::from_ref(&kept));
    let task = common::granted_but(&order(b"", 0, Compression::None).task, disks, kept);
    let permits = gate().admit(&task, disks, NOW).expect("granted");
    assert_eq!((permits[0].kept(), Some(permits[0].contents())), (kept, both.holds.as_ref()));
    let erase = EraseTask { job: task.job, attempt: task.attempt, disks: task.grants };
    let finding = gate().admit_all(&erase, disks, NOW).expect_err("a part is kept");
    assert!(finding.code == Code::GrantRefused && finding.detail.contains("is kept"), "{finding}");
}
