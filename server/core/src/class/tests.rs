//! `golden/class.txt` has what is said of machines that differ from their class in one way each.
//! `KALTSTART_GOLDEN=1 cargo test -p kaltstart-core` writes it anew.

use super::*;
use alloc::vec;
use kaltstart_protocol::facts::{Module, Nic, Processor, System};
use kaltstart_protocol::ids::Mac;
use std::fmt::Write as _;

fn class() -> Class {
    let nvme = DiskRule { transport: Some("nvme".into()), min_gib: Some(800), ..DiskRule::default() };
    let sata = DiskRule { transport: Some("sata".into()), rotational: Some(true), ..DiskRule::default() };
    Class {
        name: "db-2026".into(),
        vendor: Some("Maker".into()),
        product: Some("S1".into()),
        nodes: vec!["odd-one".into()],
        memory_gib: Some(64),
        modules: Some(4),
        sockets: Some(2),
        cores: Some(32),
        nics: Some(2),
        firmware: Some("2.10.0".into()),
        disks: vec![DiskGroup { count: 2, rule: nvme }, DiskGroup { count: 1, rule: sata }],
    }
}

fn disk(serial: &str, transport: &str, gib: u64) -> Disk {
    Disk {
        name: serial.to_lowercase(),
        serial: serial.into(),
        model: "MODEL".into(),
        transport: transport.into(),
        rotational: transport == "sata",
        size: gib * GIB,
        path: format!("slot-of-{serial}"),
        ..Disk::default()
    }
}

/// A machine that is as its class says.
fn facts() -> Facts {
    let module = |slot: &str| Module {
        slot: slot.into(),
        size: 16 * GIB,
        maker: "Samsung".into(),
        part: "M393".into(),
        serial: format!("SN-{slot}"),
        ..Module::default()
    };
    let processor = |socket: &str| Processor {
        socket: socket.into(),
        model: "Xeon".into(),
        cores: 16,
        threads: 32,
        mhz: 2400,
    };
    let nic = |last: u8| Nic {
        name: format!("eth{last}"),
        mac: Mac([2, 0, 0, 0, 0, last]),
        driver: "ice".into(),
        ..Nic::default()
    };
    Facts {
        system: System {
            vendor: "Maker".into(),
            product: "S1".into(),
            bios_version: "2.10.0".into(),
            ..System::default()
        },
        modules: ["A1", "A2", "B1", "B2"].map(module).into(),
        processors: ["CPU1", "CPU2"].map(processor).into(),
        nics: [0, 1].map(nic).into(),
        memory_bytes: 62 * GIB,
        disks: vec![disk("D1", "nvme", 894), disk("D2", "nvme", 894), disk("D3", "sata", 3725)],
        ..Facts::default()
    }
}

/// What is changed, and the machine then.
fn cases() -> Vec<(&'static str, Facts)> {
    let mut all = vec![("as it should be", facts())];
    let mut change = |what, change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        all.push((what, facts));
    };
    change("a module is gone", &|facts| drop(facts.modules.remove(1)));
    change("a module is too small", &|facts| facts.modules[2].size = 8 * GIB);
    change("a module too many", &|facts| facts.modules.push(facts.modules[0].clone()));
    change("no table of modules, and enough memory", &|facts| facts.modules.clear());
    change("no table of modules, and too little memory", &|facts| {
        facts.modules.clear();
        facts.memory_bytes = 46 * GIB;
    });
    change("a processor is gone", &|facts| facts.processors.truncate(1));
    change("cores are switched off", &|facts| facts.processors[1].cores = 8);
    change("no table of processors", &|facts| facts.processors.clear());
    change("an interface is gone", &|facts| facts.nics.truncate(1));
    change("a disk is gone", &|facts| drop(facts.disks.remove(1)));
    change("a disk is too small", &|facts| facts.disks[0].size = 400 * GIB);
    change("a disk of another kind", &|facts| facts.disks[2].rotational = false);
    change("a stick is plugged in", &|facts| {
        facts.disks.push(Disk { removable: true, ..disk("U1", "nvme", 900) });
    });
    change("older firmware", &|facts| facts.system.bios_version = "2.9.7".into());
    change("newer firmware", &|facts| facts.system.bios_version = "2.10.1".into());
    change("firmware without a version", &|facts| facts.system.bios_version.clear());
    all
}

#[test]
fn what_differs_is_named_with_slot_and_serial_number() {
    let mut text = String::new();
    for (what, facts) in cases() {
        writeln!(text, "{what}").expect("text");
        let found = findings(&class(), &facts);
        if found.is_empty() {
            writeln!(text, "    nothing").expect("text");
        }
        for finding in found {
            writeln!(text, "    {} {}", finding.code, finding.detail).expect("text");
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/class.txt");
    if std::env::var_os("KALTSTART_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("writable");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text == golden, "write {path} anew with KALTSTART_GOLDEN=1 and look at what differs");
    for code in [Code::ClassDiffers, Code::FirmwareOld] {
        assert!(text.contains(code.number()), "no case gives {code}");
    }
}

#[test]
fn a_class_that_says_nothing_is_kept_by_all() {
    let says_nothing = Class { name: "any".into(), ..Class::default() };
    for (_, facts) in cases() {
        assert_eq!(findings(&says_nothing, &facts), []);
    }
    assert_eq!(findings(&says_nothing, &Facts::default()), []);
}

#[test]
fn a_machine_is_of_the_class_that_names_it_or_fits_it() {
    let other = Class { name: "other".into(), product: Some("S2".into()), ..Class::default() };
    let named = Class { name: "named".into(), nodes: vec!["a".into()], ..Class::default() };
    let classes = [other, class(), named];
    let of = |name: &str, facts: &Facts| {
        let model = (facts.system.vendor.as_str(), facts.system.product.as_str());
        of(&classes, name, Some(model)).map(|class| class.name.clone())
    };
    assert_eq!(of("a", &facts()), Some("named".into()), "its name counts more");
    assert_eq!(of("b", &facts()), Some("db-2026".into()));
    assert_eq!(of("b", &Facts::default()), None, "a class by names alone fits no other machine");
    assert_eq!(of("odd-one", &Facts::default()), Some("db-2026".into()));
    let mut elsewhere = facts();
    elsewhere.system.vendor = "Another".into();
    assert_eq!(of("b", &elsewhere), None);
}

#[test]
fn versions_are_compared_by_their_numbers() {
    for (older, newer) in [("2.9.7", "2.10.0"), ("U46 v1.9", "U46 v1.10"), ("", "1"), ("1.2", "1.2.1")] {
        assert!(numbers(older) < numbers(newer), "{older} {newer}");
    }
    assert_eq!(numbers("v02.01 (x)"), numbers("2.1"));
    assert_eq!(numbers("99999999999999999999999"), [u64::MAX]);
}
