//! What is wrong with a node's hardware, as its own facts tell: disks and power supplies that fail, parts that are
//! gone, memory modules that differ.

use crate::machine::Node;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kaltstart_protocol::facts::{Disk, Facts, Module, PowerSupply};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::select;
use serde::{Deserialize, Serialize};

/// Missing parts that are remembered of a node, the newest of them.
const MISSING_MAX: usize = 64;

/// A part that is plugged in and can be pulled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// What tells it from others of its kind: a serial number, or the like.
    pub id: String,
    /// Where it is plugged; empty when that is not known.
    pub place: String,
    /// The part for people to read, with slot and serial number.
    pub text: String,
}

/// Kinds of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// A memory module.
    Module,
    /// A disk that is not removable.
    Disk,
    /// A network interface.
    Nic,
    /// A power supply.
    PowerSupply,
}

fn parts(facts: &Facts) -> Vec<Part> {
    let modules = facts.modules.iter().map(|module| Part {
        kind: PartKind::Module,
        id: if module.serial.is_empty() { module.slot.clone() } else { module.serial.clone() },
        place: module.slot.clone(),
        text: format!("memory module {}", describe(module)),
    });
    let disks = facts.disks.iter().filter(|disk| !disk.removable).map(|disk| Part {
        kind: PartKind::Disk,
        id: disk.identity().into(),
        place: disk.path.clone(),
        text: format!("disk {} at {}", select::describe(disk), disk.path),
    });
    let nics = facts.nics.iter().map(|nic| Part {
        kind: PartKind::Nic,
        id: nic.mac.to_string(),
        place: String::new(),
        text: format!("network interface {} ({}, {})", nic.mac, nic.name, nic.driver),
    });
    let supplies = power_supplies(facts).filter(|supply| supply.present).map(|supply| Part {
        kind: PartKind::PowerSupply,
        id: supply.name.clone(),
        place: supply.name.clone(),
        text: format!("power supply {}", supply.name),
    });
    modules.chain(disks).chain(nics).chain(supplies).collect()
}

fn power_supplies(facts: &Facts) -> impl Iterator<Item = &PowerSupply> {
    facts.bmc.iter().flat_map(|bmc| &bmc.power_supplies)
}

pub(crate) fn describe(module: &Module) -> String {
    let or = |text: &str| if text.is_empty() { "-".to_string() } else { text.to_string() };
    format!(
        "in slot {} ({} MiB, {} {}, serial {})",
        or(&module.slot),
        module.size >> 20,
        or(&module.maker),
        or(&module.part),
        or(&module.serial)
    )
}

/// The parts that `node` had before and has not `now`: those that were missing already, and those
/// of its last facts. One that comes back, in whatever place, or whose place is taken by a new one,
/// is missing no more.
#[must_use]
pub fn missing(node: &Node, now: &Facts) -> Vec<Part> {
    let before = node.facts.as_ref().map(parts).unwrap_or_default();
    let present = parts(now);
    let same = |a: &Part, b: &Part| a.kind == b.kind && a.id == b.id;
    let is_new = |part: &Part| !before.iter().any(|old| same(old, part));
    let there = |part: &Part| {
        let replaced = |other: &Part| {
            other.kind == part.kind && !part.place.is_empty() && other.place == part.place && is_new(other)
        };
        // No module at all is a table that could not be read; no power supply, a controller that was busy.
        let unreadable = match part.kind {
            PartKind::Module => now.modules.is_empty(),
            PartKind::PowerSupply => power_supplies(now).next().is_none(),
            PartKind::Disk | PartKind::Nic => false,
        };
        unreadable && !node.missing.contains(part)
            || present.iter().any(|other| same(other, part) || replaced(other))
    };
    let mut missing: Vec<Part> = Vec::new();
    for part in node.missing.iter().chain(&before) {
        if !there(part) && !missing.iter().any(|other| same(other, part)) {
            missing.push(part.clone());
        }
    }
    missing.drain(..missing.len().saturating_sub(MISSING_MAX));
    missing
}

/// Gives each interface that has a link, and of which nothing was heard in this start, the neighbour
/// it had `before`: switches tell it every 30 s only.
pub fn keep_neighbours(before: Option<&Facts>, now: &mut Facts) {
    let Some(before) = before else { return };
    for nic in now.nics.iter_mut().filter(|nic| nic.link && nic.neighbour.is_none()) {
        nic.neighbour =
            before.nics.iter().find(|old| old.mac == nic.mac).and_then(|old| old.neighbour.clone());
    }
}

/// What a disk says that fails, with where it is plugged.
pub(crate) fn failing(disk: &Disk) -> Option<Finding> {
    let health = disk.health.as_ref().filter(|_| disk.is_failing())?;
    let detail = format!("{} at {}: {}", select::describe(disk), disk.path, health.said);
    Some(Finding::new(Code::DiskFailing, detail))
}

/// What is wrong with the hardware of `node`, and needs hands.
#[must_use]
pub fn findings(node: &Node) -> Vec<Finding> {
    let gone = node.missing.iter().map(|part| Finding::new(Code::PartMissing, part.text.clone()));
    let disks = node.facts.iter().flat_map(|facts| &facts.disks).filter_map(failing);
    let supplies = node.facts.iter().flat_map(power_supplies).filter(|supply| !supply.fault.is_empty());
    let supplies = supplies
        .map(|supply| Finding::new(Code::PowerSupplyFaulty, format!("{}: {}", supply.name, supply.fault)));
    disks.chain(supplies).chain(gone).chain(node.facts.as_ref().and_then(uneven)).collect()
}

/// Modules of more than one size: a wrong or a badly seated one, or a slot that failed.
fn uneven(facts: &Facts) -> Option<Finding> {
    let first = facts.modules.first()?;
    if facts.modules.iter().all(|module| module.size == first.size) {
        return None;
    }
    let list: Vec<String> = facts.modules.iter().map(describe).collect();
    Some(Finding::new(Code::MemoryUneven, list.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::table::idle;
    use crate::machine::State;
    use alloc::vec;
    use kaltstart_protocol::facts::{Bmc, Neighbour, Nic};
    use kaltstart_protocol::ids::Mac;

    fn module(slot: &str, serial: &str) -> Module {
        Module { slot: slot.into(), serial: serial.into(), size: 8 << 30, ..Module::default() }
    }

    fn disk(serial: &str, path: &str) -> Disk {
        Disk { serial: serial.into(), path: path.into(), size: 1 << 40, ..Disk::default() }
    }

    fn nic(last: u8) -> Nic {
        Nic { name: "eth0".into(), mac: Mac([2, 0, 0, 0, 0, last]), driver: "igb".into(), ..Nic::default() }
    }

    fn facts(modules: &[(&str, &str)], disks: &[(&str, &str)], nics: &[u8]) -> Facts {
        Facts {
            modules: modules.iter().map(|(slot, serial)| module(slot, serial)).collect(),
            disks: disks.iter().map(|(serial, path)| disk(serial, path)).collect(),
            nics: nics.iter().map(|last| nic(*last)).collect(),
            ..Facts::default()
        }
    }

    /// The identifiers of what is missing after each of these starts.
    fn starts(all: &[Facts]) -> Vec<Vec<String>> {
        let mut node = idle(State::Available).node;
        node.facts = None;
        let mut seen = Vec::new();
        for facts in all {
            node.missing = missing(&node, facts);
            node.facts = Some(facts.clone());
            seen.push(node.missing.iter().map(|part| part.id.clone()).collect());
        }
        seen
    }

    #[test]
    fn a_part_is_missing_until_it_is_back_or_another_is_in_its_place() {
        let none: Vec<String> = vec![];
        let full = facts(&[("A1", "S1"), ("B1", "S2")], &[("D1", "p1"), ("D2", "p2")], &[1, 2]);
        let less = facts(&[("A1", "S1")], &[("D1", "p1")], &[1]);
        let gone: Vec<String> =
            ["S2", "D2", "02:00:00:00:00:02"].iter().map(|id| (*id).to_string()).collect();
        // A second start, and a hello that is repeated, do not forget it.
        let seen = starts(&[full.clone(), less.clone(), less.clone(), full.clone()]);
        assert_eq!(seen, [none.clone(), gone.clone(), gone, none.clone()]);
        // Moved, and replaced.
        let moved = facts(&[("A1", "S1"), ("C1", "S2")], &[("D2", "p1"), ("D1", "p2")], &[2, 1]);
        assert_eq!(starts(&[full.clone(), moved]), [none.clone(), none.clone()]);
        let replaced = facts(&[("A1", "S1"), ("B1", "S9")], &[("D1", "p1"), ("D9", "p2")], &[1, 2]);
        assert_eq!(starts(&[full.clone(), less, replaced]).last(), Some(&none));
        // What stays moves up into the place of what is gone: that is no replacement.
        let up = facts(&[("A1", "S1"), ("B1", "S2")], &[("D2", "p1")], &[1, 2]);
        assert_eq!(starts(&[full.clone(), up])[1], ["D1"]);
        // No table at all is no news of modules.
        let untold = facts(&[], &[("D1", "p1"), ("D2", "p2")], &[1, 2]);
        assert_eq!(starts(&[full, untold])[1], none);
    }

    #[test]
    fn a_neighbour_is_kept_while_there_is_a_link_and_nothing_new_is_heard() {
        let of = |port: &str, link| {
            let neighbour =
                (!port.is_empty()).then(|| Neighbour { port: port.into(), ..Neighbour::default() });
            Facts { nics: vec![Nic { neighbour, link, ..nic(1) }], ..Facts::default() }
        };
        for (now, link, kept) in [("", true, "1"), ("2", true, "2"), ("", false, "")] {
            let mut facts = of(now, link);
            keep_neighbours(Some(&of("1", true)), &mut facts);
            assert_eq!(facts, of(kept, link), "{now:?}");
        }
        let mut other = facts(&[], &[], &[2]);
        keep_neighbours(Some(&of("1", true)), &mut other);
        assert_eq!(other.nics[0].neighbour, None, "another card");
    }

    #[test]
    fn removable_disks_come_and_go() {
        let stick = Facts { disks: vec![Disk { removable: true, ..disk("U", "usb") }], ..Facts::default() };
        assert_eq!(starts(&[stick, Facts::default()])[1], Vec::<String>::new());
    }

    #[test]
    fn findings_name_slot_and_serial_number() {
        let mut node = idle(State::Available).node;
        let full = facts(&[("A1", "S1"), ("B1", "S2")], &[], &[]);
        let mut odd = facts(&[("A1", "S1")], &[], &[]);
        node.facts = Some(full.clone());
        assert!(findings(&node).is_empty());
        node.missing = missing(&node, &odd);
        odd.modules.push(Module { size: 4 << 30, ..module("C1", "S3") });
        node.facts = Some(odd);
        let [gone, uneven] = &findings(&node)[..] else { panic!("{:?}", findings(&node)) };
        assert_eq!(gone.code, Code::PartMissing);
        assert!(gone.detail.contains("slot B1") && gone.detail.contains("serial S2"), "{gone}");
        assert_eq!(uneven.code, Code::MemoryUneven);
        assert!(uneven.detail.contains("slot C1 (4096 MiB") && uneven.detail.contains("slot A1"), "{uneven}");
    }

    #[test]
    fn power_supplies_that_fail_or_are_gone_are_told_and_a_busy_controller_is_no_loss() {
        let supply = |name: &str, present, fault: &str| PowerSupply {
            name: name.into(),
            present,
            fault: fault.into(),
        };
        let facts = |power_supplies| Facts {
            bmc: Some(Bmc { power_supplies, ..Bmc::default() }),
            ..Facts::default()
        };
        let mut node = idle(State::Deployed).node;
        node.facts = Some(facts(vec![supply("PS1", true, ""), supply("PS2", true, "its input is lost")]));
        let told: Vec<String> = findings(&node).iter().map(ToString::to_string).collect();
        assert!(
            told.len() == 1 && told[0].contains("KS-2211") && told[0].ends_with("PS2: its input is lost")
        );
        let pulled = missing(&node, &facts(vec![supply("PS1", true, ""), supply("PS2", false, "")]));
        assert_eq!(pulled.iter().map(|part| part.text.as_str()).collect::<Vec<_>>(), ["power supply PS2"]);
        assert_eq!(missing(&node, &facts(Vec::new())), []);
        assert_eq!(missing(&node, &Facts::default()), []);
    }
}
