//! Which disks a job may wipe: chosen by its rule and layout, and lost only if nothing foreign is on them.

use crate::hardware::{PartKind, failing};
use crate::machine::{Job, Node, Order, SystemOrder};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::agent_api::{DiskRule, DiskUuids};
use kaltstart_protocol::contents::{Area, Contents};
use kaltstart_protocol::facts::{Disk, Facts, Firmware, Nic};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::keep::{self, Kept};
use kaltstart_protocol::layout::Layout;
use kaltstart_protocol::layout::array::DISKS_MAX;
use kaltstart_protocol::layout::fit::fit;
use kaltstart_protocol::select::{describe, fixed, select_all};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{DiskIdentity, HostIdentity, WipeGrant};

/// How long a grant may be used, in milliseconds: the agent asks when it is about to begin.
pub const LIFETIME_MS: u64 = 3_600_000;

/// The disks that a job with this rule and layout is for, whatever is on them: one, or several for arrays.
///
/// # Errors
/// Those of [`select_all`]; [`Code::DiskFailing`] when a disk says that it is.
pub fn choose<'a>(rule: &DiskRule, layout: &Layout, disks: &'a [Disk]) -> Result<Vec<&'a Disk>, Finding> {
    let chosen = select_all(rule, layout.array, disks)?;
    // No order gives leave for this: a system on such a disk would not last.
    chosen.iter().find_map(|disk| failing(disk)).map_or(Ok(chosen), Err)
}

/// Why `job` must not go on, if it was ordered before the database was restored, in another epoch than `epoch`: the
/// copy does not know what became of it, and its machine may have been somebody's for long. Once the disk is complete
/// nothing is lost any more, and the job may end.
///
/// # Errors
/// [`Code::OrderOutdated`].
pub fn is_of_now(job: &Job, epoch: u64) -> Result<(), Finding> {
    if job.epoch == epoch || job.installed.is_some() {
        return Ok(());
    }
    let detail = "the database was restored from a copy since the order; nothing more is written";
    Err(Finding::new(Code::OrderOutdated, detail))
}

/// Whether the agent that told `facts` runs on `node`: one of its interfaces has an address that the node is known by.
pub(crate) fn is_of_node(node: &Node, facts: &Facts) -> bool {
    let own = |nic: &Nic| {
        node.macs.contains(&nic.mac) || nic.permanent_mac.is_some_and(|mac| node.macs.contains(&mac))
    };
    facts.nics.iter().any(own)
}

fn ensure_is_of_node(node: &Node, facts: &Facts) -> Result<(), Finding> {
    if is_of_node(node, facts) {
        return Ok(());
    }
    let list = |macs: &mut dyn Iterator<Item = &Mac>| macs.map(|mac| format!(" {mac}")).collect::<String>();
    let (known, found) = (list(&mut node.macs.iter()), list(&mut facts.nics.iter().map(|nic| &nic.mac)));
    let found = if found.is_empty() { " none" } else { &found };
    let detail = format!("{} is known by{known}, and its agent found{found}", node.name);
    Err(Finding::new(Code::OtherMachine, detail))
}

/// The grants for `job` on the machine whose agent has just told its facts, in the server's `epoch`: for a system the
/// disks that its rule chooses, for a release every disk.
///
/// A disk may be lost if it is blank; if all that is on it is of an installation of this node, an
/// interrupted one of this job included; if the order gave up exactly what is on it; or if this job
/// was granted it before, and nothing has come since. What the order keeps is not lost, whosever it is.
///
/// # Errors
/// That of [`is_of_now`]; [`Code::OtherMachine`] when the agent runs elsewhere; those of [`choose`]; [`Code::DiskFailed`] when a disk cannot be read, or is to be erased and cannot be written;
/// [`Code::PartMissing`] or [`Code::NoDisk`] when those that are to be erased are not there; those of [`fit`] and [`keep::find`] for what is to be kept; and [`Code::ForeignData`] with what is
/// on the disks and how to give it up.
pub fn grants(node: &Node, job: &Job, epoch: u64, now: Millis) -> Result<Vec<WipeGrant>, Finding> {
    let facts = node.facts.clone().unwrap_or_default();
    is_of_now(job, epoch)?;
    ensure_is_of_node(node, &facts)?;
    let disks = match &job.order {
        Order::System(order) => choose(&order.disk, &order.layout, &facts.disks)?,
        Order::Release(_) => all_disks(node, &facts)?,
        // A person is no grant: which disks may be written to says the order.
        Order::Rescue(_) | Order::BurnIn(_) => Vec::new(),
    };
    let mut all = Vec::with_capacity(disks.len());
    let mut foreign = Vec::new();
    for disk in disks {
        let contents = disk.holds.as_ref().ok_or_else(|| {
            Finding::new(Code::DiskFailed, format!("what is on {} cannot be read", describe(disk)))
        })?;
        let keep = kept(job, disk, facts.firmware)?;
        let lost = |area: &&Area| !keep.iter().any(|kept| kept.areas().contains(area));
        let lost = Contents::new(contents.0.iter().filter(lost).cloned().collect());
        let given_up = job.order.given_up(disk.identity()) == Some(&contents.fingerprint());
        if !given_up && !may_be_lost(node, job, disk, &lost) {
            foreign.push((disk, contents));
        }
        all.push(WipeGrant {
            job: job.id.clone(),
            attempt: job.attempt,
            host: HostIdentity::of(&facts),
            disk: DiskIdentity::of(disk),
            contents: lost,
            keep,
            approver: job.approvers(),
            epoch,
            issued: now,
            expires: now.plus(LIFETIME_MS),
        });
    }
    if foreign.is_empty() { Ok(all) } else { Err(foreign_data(job, &foreign)) }
}

/// What `job` keeps of a disk that it chose.
fn kept(job: &Job, disk: &Disk, firmware: Firmware) -> Result<Vec<Kept>, Finding> {
    match job.order.system().filter(|order| !order.keep.is_empty()) {
        Some(SystemOrder { layout, .. }) => {
            // Of several disks none is kept of: then there are arrays.
            let plan = fit(layout, None, &[disk], firmware)?;
            keep::find(layout, &plan, job.order.keep(), disk)
        }
        None => Ok(Vec::new()),
    }
}

/// Every disk of a node that is released.
fn all_disks<'a>(node: &Node, facts: &'a Facts) -> Result<Vec<&'a Disk>, Finding> {
    if let Some(part) = node.missing.iter().find(|part| part.kind == PartKind::Disk) {
        let detail =
            format!("{} cannot be erased: it is not there; put it back, or `ks node accept`", part.text);
        return Err(Finding::new(Code::PartMissing, detail));
    }
    let disks: Vec<&Disk> = fixed(&facts.disks).collect();
    if disks.is_empty() {
        return Err(Finding::new(Code::NoDisk, "no disk to erase was found: is its controller seen?"));
    }
    match disks.iter().find(|disk| disk.read_only) {
        Some(disk) => {
            let detail = format!("{} cannot be erased: it is read-only", describe(disk));
            Err(Finding::new(Code::DiskFailed, detail))
        }
        None => Ok(disks),
    }
}

/// Whether what is lost of a disk may be, without that it was given up.
fn may_be_lost(node: &Node, job: &Job, disk: &Disk, contents: &Contents) -> bool {
    let uuids = job.order.system().map(|order| &order.uuids);
    // An agent that was interrupted while clearing leaves a part of what was there, and pieces.
    let rest = || {
        job.wipe.iter().filter(|before| before.disk == DiskIdentity::of(disk)).any(|before| {
            contents.0.iter().all(|area| {
                before.contents.0.contains(area)
                    || uuids.is_some_and(|uuids| is_of_any(area, uuids))
                    || area.kind == Area::DATA
            })
        })
    };
    is_own(node, contents) || uuids.is_some_and(|uuids| is_all_of(contents, uuids)) || rest()
}

/// Whether nothing is there but of an installation of `node`.
pub(crate) fn is_own(node: &Node, contents: &Contents) -> bool {
    contents.is_blank() || node.own.iter().any(|uuids| is_all_of(contents, uuids))
}

/// Whether all of it is of the installation with these UUIDs.
fn is_all_of(contents: &Contents, uuids: &DiskUuids) -> bool {
    // Any disk of the installation: since then it may have been plugged in elsewhere.
    (0..DISKS_MAX)
        .map(|index| uuids.on_disk(index))
        .any(|disk| contents.0.iter().all(|area| is_of(area, &disk) || is_array_of(area, uuids)))
}

/// Whether an installation with these UUIDs has written it on any of its disks.
fn is_of_any(area: &Area, uuids: &DiskUuids) -> bool {
    is_array_of(area, uuids) || (0..DISKS_MAX).any(|index| is_of(area, &uuids.on_disk(index)))
}

/// Whether it is a member of an array of an installation with these UUIDs.
fn is_array_of(area: &Area, uuids: &DiskUuids) -> bool {
    area.kind == "md" && !area.id.is_empty() && uuids.partitions.contains(&area.id)
}

/// Whether an installation has written it on the disk with these UUIDs.
fn is_of(area: &Area, uuids: &DiskUuids) -> bool {
    !area.id.is_empty()
        && match area.kind.as_str() {
            "gpt" => area.id == uuids.disk,
            Area::PARTITION => uuids.partitions.contains(&area.id),
            // LVM groups the digits of its own otherwise.
            "lvm" => {
                let digits = |id: &str| id.replace('-', "");
                uuids.partitions.iter().any(|uuid| digits(uuid) == digits(&area.id))
            }
            "ext4" | "xfs" | "btrfs" => area.id == uuids.root || uuids.further.contains(&area.id),
            "swap" => uuids.further.contains(&area.id),
            "luks" => uuids.partitions.contains(&area.id),
            "vfat" => area.id == format!("{:04X}-{:04X}", uuids.esp >> 16, uuids.esp & 0xffff),
            _ => false,
        }
}

fn foreign_data(job: &Job, disks: &[(&Disk, &Contents)]) -> Finding {
    let (mut words, mut options) = (Vec::new(), Vec::new());
    for (disk, contents) in disks {
        let (identity, fingerprint) = (disk.identity(), contents.fingerprint());
        let other = match job.order.given_up(identity) {
            Some(other) => format!(" The order gives up {other}, which is not what is there."),
            None => String::new(),
        };
        words.push(format!("{} holds {contents}.{other}", describe(disk)));
        options.push(format!("--erase '{identity}={fingerprint}'"));
    }
    let (words, options) = (words.join(" "), options.join(" "));
    let detail = format!("{words} If all of it may be lost, order again with {options}");
    Finding::new(Code::ForeignData, detail)
}

#[cfg(test)]
mod keep_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Part;
    use crate::lifecycle::table::{EPOCH, MAC, idle, installed, job};
    use crate::machine::{JobKind, ReleaseOrder, State};
    use alloc::collections::BTreeMap;
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;
    use kaltstart_protocol::facts::{Facts, Health, Verdict};
    use kaltstart_protocol::ids::Mac;
    use kaltstart_protocol::layout::array::{Array, Level};

    pub(super) const NOW: Millis = Millis(5_000_000);

    pub(super) fn area(partition: Option<u32>, kind: &str, id: &str) -> Area {
        Area { partition, kind: kind.into(), id: id.into(), label: String::new() }
    }

    pub(super) fn uuids(n: u32) -> DiskUuids {
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
    pub(super) fn leaves(n: u32) -> Vec<Area> {
        vec![
            area(None, "gpt", &format!("disk-{n}")),
            area(Some(1), Area::PARTITION, &format!("p1-{n}")),
            area(Some(2), Area::PARTITION, &format!("p2-{n}")),
            area(Some(1), "vfat", &format!("{n:04X}-00AB")),
            area(Some(2), "ext4", &format!("root-{n}")),
            area(Some(2), "ext4", &format!("var-{n}")),
            area(Some(2), "xfs", &format!("root-{n}")),
            area(Some(2), "btrfs", &format!("root-{n}")),
            area(Some(2), "btrfs", &format!("var-{n}")),
            area(Some(2), "swap", &format!("swap-{n}")),
            area(Some(2), "luks", &format!("p2-{n}")),
            area(Some(2), "lvm", &format!("p2{n}")),
        ]
    }

    pub(super) fn disk(serial: &str, areas: Vec<Area>) -> Disk {
        Disk { serial: serial.into(), size: 1 << 40, holds: Some(Contents::new(areas)), ..Disk::default() }
    }

    /// The node's machine with these disks.
    fn facts(disks: Vec<Disk>) -> Facts {
        Facts { disks, nics: vec![nic(MAC)], ..Facts::default() }
    }

    fn nic(mac: Mac) -> Nic {
        Nic { mac, ..Nic::default() }
    }

    /// A node that was installed with [`uuids`] 1, its disk, and its job with [`uuids`] 2.
    pub(super) fn case(disks: Vec<Disk>) -> (Node, Job) {
        let mut node = idle(State::Allocated).node;
        node.own = vec![uuids(1)];
        node.facts = Some(facts(disks));
        let mut job = job(JobKind::Deploy);
        system(&mut job).uuids = uuids(2);
        (node, job)
    }

    pub(super) fn system(job: &mut Job) -> &mut SystemOrder {
        match &mut job.order {
            Order::System(order) => order,
            Order::Release(_) | Order::Rescue(_) | Order::BurnIn(_) => panic!("no system"),
        }
    }

    /// The only grant.
    pub(super) fn grant(node: &Node, job: &Job, now: Millis) -> Result<WipeGrant, Finding> {
        let all = grants(node, job, EPOCH, now)?;
        let [grant] = <[WipeGrant; 1]>::try_from(all).expect("one disk");
        Ok(grant)
    }

    fn code(disks: Vec<Disk>) -> Result<(), Code> {
        let (node, job) = case(disks);
        grant(&node, &job, NOW).map(drop).map_err(|finding| finding.code)
    }

    #[test]
    fn p05_only_what_is_blank_or_this_nodes_own_may_be_lost_unasked() {
        assert_eq!(code(vec![disk("a", vec![])]), Ok(()));
        for own in [leaves(1), leaves(2), leaves(2)[..3].to_vec()] {
            assert_eq!(code(vec![disk("a", own)]), Ok(()));
        }
        let with = |mut areas: Vec<Area>, other: Area| {
            areas.push(other);
            code(vec![disk("a", areas)])
        };
        let foreign = Err(Code::ForeignData);
        assert_eq!(code(vec![disk("a", leaves(3))]), foreign, "another node's system");
        for other in [
            area(Some(3), Area::PARTITION, "mine"),
            area(Some(2), "lvm", "root-1"),
            area(Some(2), "luks", "root-1"),
            area(None, "md", "x"),
            area(None, Area::DATA, ""),
            area(Some(2), "ext4", "root-2"),
            area(None, "gpt", ""),
        ] {
            assert_eq!(with(leaves(1), other.clone()), foreign, "{other}");
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
        system(&mut job).erase.insert("a".to_string(), Contents::default().fingerprint());
        let finding = grant(&node, &job, NOW).expect_err("failing");
        assert_eq!(finding.code, Code::DiskFailing);
        assert!(finding.detail.contains("serial a") && finding.detail.contains("read-only"), "{finding}");
        let (node, mut job) = case(vec![bad(), Disk { health: health(Verdict::Good), ..disk("b", vec![]) }]);
        system(&mut job).disk = DiskRule { serial: Some("b".into()), ..DiskRule::default() };
        assert_eq!(grant(&node, &job, NOW).expect("well").disk.serial, "b");
    }

    #[test]
    fn p05_every_disk_of_an_array_is_this_nodes_own_or_the_job_fails() {
        let array = Some(Array { level: Level::Raid1, disks: 2 });
        let of = |installation: u32, index: u32, md: &str| {
            let uuids = uuids(installation).on_disk(index);
            vec![
                area(None, "gpt", &uuids.disk),
                area(Some(1), Area::PARTITION, &uuids.partitions[0]),
                area(Some(1), "vfat", &format!("{:04X}-{:04X}", uuids.esp >> 16, uuids.esp & 0xffff)),
                area(Some(2), Area::PARTITION, &uuids.partitions[1]),
                area(Some(2), "md", md),
            ]
        };
        let granted = |disks: Vec<Disk>| {
            let (node, mut job) = case(disks);
            system(&mut job).layout.array = array;
            let serials =
                |all: Vec<WipeGrant>| all.into_iter().map(|one| one.disk.serial).collect::<String>();
            grants(&node, &job, EPOCH, NOW).map(serials).map_err(|finding| (finding.code, finding.detail))
        };
        let own = |serial, index| disk(serial, of(1, index, "p2-1"));
        assert_eq!(granted(vec![disk("a", vec![]), disk("b", vec![])]), Ok("ab".into()));
        assert_eq!(granted(vec![own("a", 0), own("b", 1)]), Ok("ab".into()));
        assert_eq!(granted(vec![own("a", 5), disk("b", vec![])]), Ok("ab".into()), "one was replaced");
        for foreign in [
            of(1, 1, "another-array"),
            of(3, 1, "p2-1"),
            of(1, 0, "p2-1").into_iter().chain(of(1, 1, "p2-1")).collect(),
            vec![area(None, "md", "somebody")],
        ] {
            let (code, detail) = granted(vec![own("a", 0), disk("b", foreign)]).expect_err("foreign");
            assert_eq!(code, Code::ForeignData);
            assert!(detail.contains("--erase 'b=") && !detail.contains("--erase 'a="), "{detail}");
        }
        assert_eq!(granted(vec![own("a", 0)]).map_err(|(code, _)| code), Err(Code::DiskCount));
    }

    #[test]
    fn p05_an_order_gives_up_exactly_what_it_names_and_the_finding_says_how() {
        let foreign = || vec![area(None, "ext4", "A")];
        let (node, mut job) = case(vec![disk("a", foreign())]);
        let finding = grant(&node, &job, NOW).expect_err("foreign");
        let fingerprint = Contents::new(foreign()).fingerprint();
        assert!(finding.detail.contains("ext4 A"), "{finding}");
        assert!(finding.detail.ends_with(&format!("--erase 'a={fingerprint}'")), "{finding}");

        system(&mut job).erase.insert("b".to_string(), fingerprint);
        assert!(grant(&node, &job, NOW).is_err(), "another disk");
        system(&mut job).erase.insert("a".to_string(), Contents::new(leaves(3)).fingerprint());
        let finding = grant(&node, &job, NOW).expect_err("other contents");
        assert!(finding.detail.contains("not what is there"), "{finding}");
        system(&mut job).erase.insert("a".to_string(), fingerprint);
        let granted = grant(&node, &job, NOW).expect("given up");
        assert_eq!((granted.job, granted.attempt, granted.disk.serial.as_str()), (job.id, 1, "a"));
        assert_eq!((granted.issued, granted.expires), (NOW, NOW.plus(LIFETIME_MS)));
    }

    #[test]
    fn p12_a_job_that_was_interrupted_while_clearing_gets_its_right_again() {
        let before = || vec![area(None, "gpt", "G"), area(Some(1), "ext4", "A")];
        let (mut node, mut job) = case(vec![disk("a", before())]);
        system(&mut job).erase.insert("a".to_string(), Contents::new(before()).fingerprint());
        job.wipe = grants(&node, &job, EPOCH, NOW).expect("given up");
        let mut now_on = |disk: Disk| {
            node.facts = Some(facts(vec![disk]));
            grant(&node, &job, NOW).map(drop).map_err(|finding| finding.code)
        };
        for rest in [before()[..1].to_vec(), vec![], vec![area(None, Area::DATA, "")], leaves(2)] {
            assert_eq!(now_on(disk("a", rest)), Ok(()));
        }
        assert_eq!(now_on(disk("a", vec![area(Some(1), "ext4", "B")])), Err(Code::ForeignData), "it is new");
        assert_eq!(now_on(disk("b", before()[..1].to_vec())), Err(Code::ForeignData), "another disk");
    }

    #[test]
    fn p04_the_rule_chooses_and_not_what_is_on_the_disks() {
        let (node, mut job) = case(vec![disk("a", vec![]), disk("b", vec![area(None, "xfs", "A")])]);
        system(&mut job).disk = DiskRule { serial: Some("b".into()), ..DiskRule::default() };
        assert_eq!(grant(&node, &job, NOW).expect_err("foreign").code, Code::ForeignData);
        system(&mut job).disk.serial = Some("a".into());
        assert_eq!(grant(&node, &job, NOW).expect("blank").disk.serial, "a");
    }

    #[test]
    fn p10_a_release_is_granted_all_fixed_disks_or_none() {
        let of = |disks: Vec<Disk>| {
            let (node, _) = case(disks);
            (node, job(JobKind::Release))
        };
        let removable = Disk { removable: true, ..disk("stick", vec![area(None, "ext4", "A")]) };
        let (node, release) = of(vec![disk("a", leaves(1)), removable, disk("b", vec![])]);
        let serials = |all: Vec<WipeGrant>| all.into_iter().map(|one| one.disk.serial).collect::<Vec<_>>();
        assert_eq!(
            grants(&node, &release, EPOCH, NOW).map(serials),
            Ok(vec!["a".to_string(), "b".to_string()])
        );

        let foreign = || disk("b", vec![area(None, "xfs", "A")]);
        let (node, mut release) = of(vec![disk("c", vec![area(None, "lvm", "L")]), foreign()]);
        let finding = grants(&node, &release, EPOCH, NOW).expect_err("foreign");
        assert_eq!(finding.code, Code::ForeignData);
        let options = finding.detail.rsplit_once("order again with ").expect("how").1.to_string();
        let given_up: BTreeMap<_, _> = node
            .facts
            .iter()
            .flat_map(|facts| &facts.disks)
            .map(|disk| {
                let fingerprint = disk.holds.as_ref().expect("read").fingerprint();
                assert!(options.contains(&format!("--erase '{}={fingerprint}'", disk.serial)), "{options}");
                (disk.serial.clone(), fingerprint)
            })
            .collect();
        release.order = Order::Release(ReleaseOrder { erase: given_up });
        assert_eq!(
            grants(&node, &release, EPOCH, NOW).map(serials),
            Ok(vec!["c".to_string(), "b".to_string()])
        );

        let refused = |node: &Node| grants(node, &release, EPOCH, NOW).map_err(|finding| finding.code);
        let (node, _) = of(vec![Disk { read_only: true, ..disk("a", vec![]) }]);
        assert_eq!(refused(&node), Err(Code::DiskFailed), "it cannot be erased");
        assert_eq!(refused(&of(vec![]).0), Err(Code::NoDisk), "it had one when it was deployed");
        let (mut node, _) = of(vec![disk("a", vec![])]);
        let part = |kind| Part { kind, id: "z".into(), place: String::new(), text: "disk z".into() };
        node.missing = vec![part(PartKind::Module)];
        assert!(refused(&node).is_ok(), "memory keeps nothing");
        node.missing = vec![part(PartKind::Disk)];
        assert_eq!(refused(&node), Err(Code::PartMissing), "what is on it is not erased");
    }

    #[test]
    fn p03_a_machine_without_the_address_that_its_node_is_known_by_is_granted_nothing() {
        let other = Mac([2, 0, 0, 0, 0, 9]);
        let with = |nics: Vec<Nic>| {
            let (mut node, job) = case(vec![disk("a", vec![])]);
            node.facts = Some(Facts { nics, ..facts(vec![disk("a", vec![])]) });
            grant(&node, &job, NOW).map(drop)
        };
        for nics in
            [vec![nic(MAC)], vec![nic(other), nic(MAC)], vec![Nic { permanent_mac: Some(MAC), ..nic(other) }]]
        {
            assert_eq!(with(nics), Ok(()));
        }
        for (nics, found) in [(vec![nic(other)], "found 02:00:00:00:00:09"), (vec![], "found none")] {
            let finding = with(nics).expect_err("another machine");
            assert_eq!(finding.code, Code::OtherMachine);
            assert!(
                finding.detail.contains(&format!("known by {MAC}")) && finding.detail.ends_with(found),
                "{finding}"
            );
        }
    }

    #[test]
    fn p08_what_was_ordered_in_another_epoch_is_granted_nothing_and_may_end_if_its_disk_is_complete() {
        let (node, mut job) = case(vec![disk("a", vec![])]);
        let at = |job: &Job, epoch| grants(&node, job, epoch, NOW).map_err(|finding| finding.code);
        let granted = at(&job, EPOCH).expect("of now");
        assert_eq!((granted[0].epoch, granted[0].approver.as_str()), (EPOCH, job.approver.as_str()));
        for epoch in [0, EPOCH - 1, EPOCH + 1] {
            assert_eq!(at(&job, epoch), Err(Code::OrderOutdated));
        }
        job.installed = Some(installed(1));
        assert!(is_of_now(&job, EPOCH + 1).is_ok());
    }
}
