//! Which disk a job may wipe: chosen by its rule, and lost only if nothing foreign is on it.

use crate::hardware::failing;
use crate::machine::{Job, Node};
use alloc::format;
use alloc::string::String;
use kaltstart_protocol::agent_api::{DiskRule, DiskUuids};
use kaltstart_protocol::contents::{Area, Contents};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::select::{describe, select};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{DiskIdentity, HostIdentity, WipeGrant};

/// How long a grant may be used, in milliseconds: the agent asks when it is about to begin.
pub const LIFETIME_MS: u64 = 3_600_000;

/// The disk that a job with this rule is for, whatever is on it.
///
/// # Errors
/// Those of [`select`]; [`Code::DiskFailing`] when the disk says that it is.
pub fn choose<'a>(rule: &DiskRule, disks: &'a [Disk]) -> Result<&'a Disk, Finding> {
    let disk = select(rule, disks)?;
    // No order gives leave for this: a system on such a disk would not last.
    failing(disk).map_or(Ok(disk), Err)
}

/// The grant for `job` on the machine whose agent has just told its facts.
///
/// The disk may be lost if it is blank; if all that is on it is of an installation of this node, an
/// interrupted one of this job included; if the order gave up exactly what is on it; or if this job
/// was granted it before, and nothing has come since.
///
/// # Errors
/// Those of [`choose`]; [`Code::DiskFailed`] when the disk cannot be read, and
/// [`Code::ForeignData`] with what is on it and how to give it up.
pub fn grant(node: &Node, job: &Job, now: Millis) -> Result<WipeGrant, Finding> {
    let facts = node.facts.clone().unwrap_or_default();
    let disk = choose(&job.order.disk, &facts.disks)?;
    let contents = disk.holds.as_ref().ok_or_else(|| {
        Finding::new(Code::DiskFailed, format!("what is on {} cannot be read", describe(disk)))
    })?;
    if !may_be_lost(node, job, disk, contents) {
        return Err(Finding::new(Code::ForeignData, foreign(job, disk, contents)));
    }
    Ok(WipeGrant {
        job: job.id.clone(),
        attempt: job.attempt,
        host: HostIdentity::of(&facts),
        disk: DiskIdentity::of(disk),
        contents: contents.clone(),
        issued: now,
        expires: now.plus(LIFETIME_MS),
    })
}

fn may_be_lost(node: &Node, job: &Job, disk: &Disk, contents: &Contents) -> bool {
    let own = |uuids: &DiskUuids| contents.0.iter().all(|area| is_of(area, uuids));
    let given_up = || job.order.erase.get(disk.identity()) == Some(&contents.fingerprint());
    // An agent that was interrupted while clearing leaves a part of what was there, and pieces.
    let rest = || {
        job.wipe.as_ref().is_some_and(|before| {
            let known = |area: &Area| {
                before.contents.0.contains(area) || is_of(area, &job.order.uuids) || area.kind == Area::DATA
            };
            before.disk == DiskIdentity::of(disk) && contents.0.iter().all(known)
        })
    };
    contents.is_blank() || node.own.iter().any(own) || own(&job.order.uuids) || given_up() || rest()
}

/// Whether an installation with these UUIDs has written it.
fn is_of(area: &Area, uuids: &DiskUuids) -> bool {
    !area.id.is_empty()
        && match area.kind.as_str() {
            "gpt" => area.id == uuids.disk,
            Area::PARTITION => uuids.partitions.contains(&area.id),
            "ext4" => area.id == uuids.root || uuids.further.contains(&area.id),
            "swap" => uuids.further.contains(&area.id),
            "vfat" => area.id == format!("{:04X}-{:04X}", uuids.esp >> 16, uuids.esp & 0xffff),
            _ => false,
        }
}

fn foreign(job: &Job, disk: &Disk, contents: &Contents) -> String {
    let (identity, fingerprint) = (disk.identity(), contents.fingerprint());
    let other = match job.order.erase.get(identity) {
        Some(other) => format!(" The order gives up {other}, which is not what is there."),
        None => String::new(),
    };
    format!(
        "{} holds {contents}.{other} If all of it may be lost, order again with --erase '{identity}={fingerprint}'",
        describe(disk)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::table::{idle, job};
    use crate::machine::{JobKind, State};
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;
    use kaltstart_protocol::facts::{Facts, Health, Verdict};

    const NOW: Millis = Millis(5_000_000);

    fn area(partition: Option<u32>, kind: &str, id: &str) -> Area {
        Area { partition, kind: kind.into(), id: id.into(), label: String::new() }
    }

    fn uuids(n: u32) -> DiskUuids {
        let id = |what: &str| format!("{what}-{n}");
        DiskUuids {
            disk: id("disk"),
            partitions: vec![id("p1"), id("p2")],
            root: id("root"),
            further: vec![id("var"), id("swap")],
            esp: n << 16 | 0xab,
        }
    }

    /// What an installation with these UUIDs leaves.
    fn installed(n: u32) -> Vec<Area> {
        vec![
            area(None, "gpt", &format!("disk-{n}")),
            area(Some(1), Area::PARTITION, &format!("p1-{n}")),
            area(Some(2), Area::PARTITION, &format!("p2-{n}")),
            area(Some(1), "vfat", &format!("{n:04X}-00AB")),
            area(Some(2), "ext4", &format!("root-{n}")),
            area(Some(2), "ext4", &format!("var-{n}")),
            area(Some(2), "swap", &format!("swap-{n}")),
        ]
    }

    fn disk(serial: &str, areas: Vec<Area>) -> Disk {
        Disk { serial: serial.into(), size: 1 << 40, holds: Some(Contents::new(areas)), ..Disk::default() }
    }

    /// A node that was installed with [`uuids`] 1, its disk, and its job with [`uuids`] 2.
    fn case(disks: Vec<Disk>) -> (Node, Job) {
        let mut node = idle(State::Allocated).node;
        node.own = vec![uuids(1)];
        node.facts = Some(Facts { disks, ..Facts::default() });
        let mut job = job(JobKind::Deploy);
        job.order.uuids = uuids(2);
        (node, job)
    }

    fn code(disks: Vec<Disk>) -> Result<(), Code> {
        let (node, job) = case(disks);
        grant(&node, &job, NOW).map(drop).map_err(|finding| finding.code)
    }

    #[test]
    fn p05_only_what_is_blank_or_this_nodes_own_may_be_lost_unasked() {
        assert_eq!(code(vec![disk("a", vec![])]), Ok(()));
        for own in [installed(1), installed(2), installed(2)[..3].to_vec()] {
            assert_eq!(code(vec![disk("a", own)]), Ok(()));
        }
        let with = |mut areas: Vec<Area>, other: Area| {
            areas.push(other);
            code(vec![disk("a", areas)])
        };
        let foreign = Err(Code::ForeignData);
        assert_eq!(code(vec![disk("a", installed(3))]), foreign, "another node's system");
        for other in [
            area(Some(3), Area::PARTITION, "mine"),
            area(Some(2), "lvm", "root-1"),
            area(None, "md", "x"),
            area(None, Area::DATA, ""),
            area(Some(2), "ext4", "root-2"),
            area(None, "gpt", ""),
        ] {
            assert_eq!(with(installed(1), other.clone()), foreign, "{other}");
        }
        assert_eq!(code(vec![Disk { holds: None, ..disk("a", vec![]) }]), Err(Code::DiskFailed));
        assert_eq!(code(vec![]), Err(Code::NoDisk));
        assert_eq!(code(vec![disk("a", vec![]), disk("b", vec![])]), Err(Code::AmbiguousDisk));
    }

    #[test]
    fn p05_a_failing_disk_is_refused_whatever_the_order_gives_up_and_only_if_it_is_the_chosen_one() {
        let health = |verdict| Some(Health { verdict, said: "read-only".into(), ..Health::default() });
        let bad = || Disk { health: health(Verdict::Failing), ..disk("a", vec![]) };
        let (node, mut job) = case(vec![bad()]);
        job.order.erase.insert("a".to_string(), Contents::default().fingerprint());
        let finding = grant(&node, &job, NOW).expect_err("failing");
        assert_eq!(finding.code, Code::DiskFailing);
        assert!(finding.detail.contains("serial a") && finding.detail.contains("read-only"), "{finding}");
        let (node, mut job) = case(vec![bad(), Disk { health: health(Verdict::Good), ..disk("b", vec![]) }]);
        job.order.disk = DiskRule { serial: Some("b".into()), ..DiskRule::default() };
        assert_eq!(grant(&node, &job, NOW).expect("well").disk.serial, "b");
    }

    #[test]
    fn p05_an_order_gives_up_exactly_what_it_names_and_the_finding_says_how() {
        let foreign = || vec![area(None, "ext4", "A")];
        let (node, mut job) = case(vec![disk("a", foreign())]);
        let finding = grant(&node, &job, NOW).expect_err("foreign");
        let fingerprint = Contents::new(foreign()).fingerprint();
        assert!(finding.detail.contains("ext4 A"), "{finding}");
        assert!(finding.detail.ends_with(&format!("--erase 'a={fingerprint}'")), "{finding}");

        job.order.erase.insert("b".to_string(), fingerprint);
        assert!(grant(&node, &job, NOW).is_err(), "another disk");
        job.order.erase.insert("a".to_string(), Contents::new(installed(3)).fingerprint());
        let finding = grant(&node, &job, NOW).expect_err("other contents");
        assert!(finding.detail.contains("not what is there"), "{finding}");
        job.order.erase.insert("a".to_string(), fingerprint);
        let granted = grant(&node, &job, NOW).expect("given up");
        assert_eq!((granted.job, granted.attempt, granted.disk.serial.as_str()), (job.id, 1, "a"));
        assert_eq!((granted.issued, granted.expires), (NOW, NOW.plus(LIFETIME_MS)));
    }

    #[test]
    fn p12_a_job_that_was_interrupted_while_clearing_gets_its_right_again() {
        let before = || vec![area(None, "gpt", "G"), area(Some(1), "ext4", "A")];
        let (mut node, mut job) = case(vec![disk("a", before())]);
        job.order.erase.insert("a".to_string(), Contents::new(before()).fingerprint());
        job.wipe = Some(grant(&node, &job, NOW).expect("given up"));
        let mut now_on = |disk: Disk| {
            node.facts = Some(Facts { disks: vec![disk], ..Facts::default() });
            grant(&node, &job, NOW).map(drop).map_err(|finding| finding.code)
        };
        for rest in [before()[..1].to_vec(), vec![], vec![area(None, Area::DATA, "")], installed(2)] {
            assert_eq!(now_on(disk("a", rest)), Ok(()));
        }
        assert_eq!(now_on(disk("a", vec![area(Some(1), "ext4", "B")])), Err(Code::ForeignData), "it is new");
        assert_eq!(now_on(disk("b", before()[..1].to_vec())), Err(Code::ForeignData), "another disk");
    }

    #[test]
    fn p04_the_rule_chooses_and_not_what_is_on_the_disks() {
        let (node, mut job) = case(vec![disk("a", vec![]), disk("b", vec![area(None, "xfs", "A")])]);
        job.order.disk = DiskRule { serial: Some("b".into()), ..DiskRule::default() };
        assert_eq!(grant(&node, &job, NOW).expect_err("foreign").code, Code::ForeignData);
        job.order.disk.serial = Some("a".into());
        assert_eq!(grant(&node, &job, NOW).expect("blank").disk.serial, "a");
    }
}
