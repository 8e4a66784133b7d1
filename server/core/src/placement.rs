//! Where a layout would lie in a machine, before anything is ordered.

use crate::wipe::choose;
use alloc::vec::Vec;
use kaltstart_protocol::agent_api::DiskRule;
use kaltstart_protocol::facts::{Disk, Facts};
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::layout::Layout;
use kaltstart_protocol::layout::fit::fit;
use kaltstart_protocol::layout::plan::Plan;

/// What a job would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement<'a> {
    /// The disks; none when not exactly as many as the layout wants can be chosen.
    pub disks: Vec<&'a Disk>,
    /// What lies where on each; else the finding with which the job would fail.
    pub plan: Result<Plan, Finding>,
}

/// Decides as the server does that grants disks, and the agent that lays `layout` and `image` down on
/// them. What is on them now is not asked: that is for the job's order to give up.
#[must_use]
pub fn place<'a>(
    facts: &'a Facts,
    rule: &DiskRule,
    layout: &Layout,
    image: Option<&Manifest>,
) -> Placement<'a> {
    match choose(rule, layout, &facts.disks) {
        Ok(disks) => {
            let plan = fit(layout, image, &disks, facts.firmware);
            Placement { disks, plan }
        }
        Err(finding) => Placement { disks: Vec::new(), plan: Err(finding) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use kaltstart_protocol::facts::{Firmware, Health, Verdict};
    use kaltstart_protocol::finding::Code;
    use kaltstart_protocol::layout::{Partition, Role};

    fn layout() -> Layout {
        let root = Partition {
            label: "root".into(),
            role: Role::Root,
            min_mib: 1024,
            weight: 1,
            ..Partition::default()
        };
        Layout { name: "l".into(), partitions: vec![root], ..Layout::default() }
    }

    fn disk(serial: &str, gib: u64) -> Disk {
        Disk { serial: serial.into(), size: gib << 30, sector_size: 512, ..Disk::default() }
    }

    /// The disk's serial number, and the label of its first partition or the code.
    fn tried(disks: Vec<Disk>, rule: &DiskRule) -> (Option<alloc::string::String>, Result<u64, Code>) {
        let facts = Facts { disks, ..Facts::default() };
        let Placement { disks, plan } = place(&facts, rule, &layout(), None);
        let bytes = plan.map(|plan| plan.partitions[0].sectors * plan.sector_size);
        (disks.first().map(|disk| disk.serial.clone()), bytes.map_err(|finding| finding.code))
    }

    #[test]
    fn one_disk_is_laid_out_or_the_code_says_why_not() {
        let any = DiskRule::default();
        let named = |serial: &str| DiskRule { serial: Some(serial.into()), ..DiskRule::default() };
        let a = || Some("a".to_string());
        let both = || vec![disk("a", 8), disk("b", 16)];
        let usable = |gib: u64| (gib << 30) - (2 << 20);
        assert_eq!(tried(vec![disk("a", 8)], &any), (a(), Ok(usable(8))));
        assert_eq!(tried(both(), &named("a")), (a(), Ok(usable(8))));
        assert_eq!(tried(both(), &any), (None, Err(Code::AmbiguousDisk)));
        assert_eq!(tried(both(), &named("c")), (None, Err(Code::NoMatchingDisk)));
        assert_eq!(tried(vec![], &any), (None, Err(Code::NoDisk)));
        // A disk that does not suffice is told all the same: it is what a person wants to see.
        assert_eq!(tried(vec![disk("a", 1)], &any), (a(), Err(Code::DiskTooSmall)));
        let odd = Disk { sector_size: 520, ..disk("a", 8) };
        assert_eq!(tried(vec![odd], &any), (a(), Err(Code::DiskFailed)));
        let health = Some(Health { verdict: Verdict::Failing, ..Health::default() });
        assert_eq!(tried(vec![Disk { health, ..disk("a", 8) }], &any), (None, Err(Code::DiskFailing)));
    }

    #[test]
    fn a_layout_from_which_the_machine_cannot_start_is_refused() {
        for (firmware, partition) in [(Firmware::Uefi, "EFI system"), (Firmware::Bios, "BIOS boot")] {
            let facts = Facts { disks: vec![disk("a", 8)], firmware, ..Facts::default() };
            let placement = place(&facts, &DiskRule::default(), &layout(), None);
            let finding = placement.plan.expect_err("refused");
            assert_eq!(finding.code, Code::BootloaderFailed);
            assert!(finding.detail.contains(partition), "{finding}");
        }
    }
}
