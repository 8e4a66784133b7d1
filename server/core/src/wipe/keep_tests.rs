//! Disks of which something is kept.

use super::tests::{NOW, area, case, disk, grant, leaves, system, uuids};
use super::*;
use crate::lifecycle::table::{EPOCH, apply, situations, system_report};
use alloc::collections::BTreeSet;
use alloc::vec;
use kaltstart_protocol::contents::Entry;
use kaltstart_protocol::layout::{Partition, Role};

/// The system of [`leaves`] with a partition for data, as the table has it, and an order that keeps that.
fn keeping(n: u32, change: impl Fn(&mut Vec<Area>)) -> (Node, Job) {
    let mut areas = leaves(n);
    areas.retain(|area| area.partition != Some(2));
    let of_data = Entry {
        number: 2,
        id: "old-p2",
        kind: keep::DATA_TYPE,
        first: 2048 * 1025,
        last: 2048 * 2049 - 1,
        sector: None,
        name: "data",
    };
    areas.extend([Area::from(of_data), area(Some(2), "ext4", "old-data")]);
    change(&mut areas);
    let (node, mut job) = case(vec![Disk { size: 8 << 30, sector_size: 512, ..disk("a", areas) }]);
    let partition = |label: &str, role, mount: Option<&str>| Partition {
        label: label.into(),
        role,
        mount: mount.map(Into::into),
        min_mib: 1024,
        ..Partition::default()
    };
    let order = system(&mut job);
    order.layout.partitions =
        vec![partition("root", Role::Root, None), partition("data", Role::Data, Some("/srv"))];
    order.keep.insert("data".into());
    (node, job)
}

#[test]
fn p05_what_is_kept_is_not_lost_and_a_disk_that_does_not_have_it_is_refused() {
    let (node, mut job) = keeping(1, |_| ());
    let granted = grant(&node, &job, NOW).expect("kept");
    let kept: Vec<_> = granted.keep.iter().flat_map(Kept::areas).map(|area| area.id.as_str()).collect();
    assert_eq!(kept, ["old-p2", "old-data"]);
    assert!(granted.contents.0.iter().all(|area| area.partition != Some(2)), "{}", granted.contents);
    let disk = node.facts.as_ref().expect("facts").disks[0].clone();
    assert_eq!(Some(granted.all()), disk.holds, "nothing of the disk is in neither");
    // Without the word the same disk is foreign: the data is not of an installation that the node is known to have.
    system(&mut job).keep.clear();
    let refused = grant(&node, &job, NOW).expect_err("foreign");
    assert!(refused.code == Code::ForeignData && refused.detail.contains("old-data"), "{refused}");

    let code = |change: &dyn Fn(&mut Vec<Area>)| {
        let (node, job) = keeping(1, change);
        grant(&node, &job, NOW).map(drop).map_err(|finding| finding.code)
    };
    for gone in [Area::PARTITION, "ext4"] {
        let is_gone = |area: &Area| area.partition == Some(2) && area.kind == gone;
        assert_eq!(code(&|areas| areas.retain(|area| !is_gone(area))), Err(Code::CannotKeep), "{gone}");
    }
    assert_eq!(code(&|areas| areas.clear()), Err(Code::CannotKeep), "another disk, and a blank one");
    assert_eq!(
        code(&|areas| areas.push(area(Some(3), "xfs", "X"))),
        Err(Code::ForeignData),
        "the rest counts"
    );
}

#[test]
fn p12_a_job_that_keeps_something_goes_on_after_any_cut_and_never_without_it() {
    let (mut node, mut job) = keeping(1, |_| ());
    job.wipe = grants(&node, &job, EPOCH, NOW).expect("kept");
    node.own.push(system(&mut job).uuids.clone());
    let kept = job.kept();
    let mut with = |areas: Vec<Area>| {
        let disk = node.facts.as_mut().and_then(|facts| facts.disks.first_mut()).expect("a disk");
        disk.holds = Some(Contents::new(areas));
        grant(&node, &job, NOW).map(|granted| granted.keep).map_err(|finding| finding.code)
    };
    let data = || kept.iter().flat_map(Kept::areas).cloned();
    let new = || leaves(2).into_iter().filter(|area| area.partition != Some(2));
    // The table of the kept alone, that of before, those of both torn, and the whole new one.
    for rest in [
        leaves(2)[..1].to_vec(),
        leaves(1)[..2].to_vec(),
        [&leaves(2)[..1], &leaves(1)[1..2]].concat(),
        new().collect(),
    ] {
        assert_eq!(with(rest.iter().cloned().chain(data()).collect()), Ok(kept.clone()));
        assert_eq!(with(rest), Err(Code::CannotKeep));
    }
}

#[test]
fn p05_an_order_that_forgets_what_the_last_one_kept_loses_it_only_if_it_says_so() {
    let (mut node, mut job) = keeping(1, |_| ());
    job.wipe = grants(&node, &job, EPOCH, NOW).expect("kept");
    // The job was granted, wrote its table, and failed.
    let order = system(&mut job).clone();
    node.own.push(order.uuids.clone());
    let of_new = leaves(2).into_iter().filter(|area| area.partition != Some(2));
    let on_disk = Contents::new(of_new.chain(job.kept().iter().flat_map(Kept::areas).cloned()).collect());
    let disk = node.facts.as_mut().and_then(|facts| facts.disks.first_mut()).expect("a disk");
    disk.holds = Some(on_disk.clone());
    let (_, mut next) = case(vec![]);
    *system(&mut next) = SystemOrder { uuids: uuids(3), keep: BTreeSet::new(), ..order };
    let refused = grant(&node, &next, NOW).expect_err("forgotten");
    assert!(refused.code == Code::ForeignData && refused.detail.contains("old-data"), "{refused}");
    system(&mut next).keep.insert("data".into());
    assert_eq!(grant(&node, &next, NOW).map(|granted| granted.keep), Ok(job.kept()));
    system(&mut next).keep.clear();
    system(&mut next).erase.insert("a".into(), on_disk.fingerprint());
    assert!(grant(&node, &next, NOW).expect("given up").keep.is_empty());
    // Once that system had reported, all of it is the node's own.
    node.own = vec![uuids(2).keeping(&job.kept())];
    system(&mut next).erase.clear();
    assert!(grant(&node, &next, NOW).is_ok());
}

#[test]
fn p05_a_system_that_has_reported_makes_what_it_keeps_its_nodes_own() {
    let (_, mut waiting) = situations()
        .into_iter()
        .find(|(situation, _)| situation.ends_with("job in handoff"))
        .expect("there is one");
    let (node, keeping) = keeping(1, |_| ());
    let job = waiting.job.as_mut().expect("it has one");
    job.wipe = grants(&node, &keeping, EPOCH, NOW).expect("kept");
    let order = DiskUuids { root: "root".into(), ..uuids(2) };
    system(job).uuids = order.clone();
    let kept = job.kept();
    let own = apply(waiting, &[system_report("root")]).node.own;
    assert_eq!(own, [order.keeping(&kept)]);
    assert!(own[0].partitions[1] == "old-p2" && own[0].further[1] == "old-data", "{own:?}");
}
